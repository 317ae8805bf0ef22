//! Manifests that a cluster keeps: those that `kubectl apply` records in an object, and those that Helm records of a release.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use super::kstatus::ObjectFields;
use super::model::InventoryEntry;

/// The annotation in which `kubectl apply` records what it applied.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The largest unpacked record of Helm, in bytes: a small one may unpack to any size.
const RECORD_MOST: u64 = 16 * 1024 * 1024;
/// How many manifests of one record are read.
const DOCUMENTS_MOST: usize = 1000;
/// The field managers of dry runs: fields that they applied before and no longer contain are removed.
const KUBECTL: &str = "kubectl";
const HELM: &str = "helm-controller";

/// A manifest, and the object that it describes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    pub(super) entry: InventoryEntry,
    pub(super) body: Value,
    pub(super) manager: &'static str,
}

/// The manifest that `kubectl apply` recorded in an object; `None` if there is none.
pub(super) fn last_applied(object: &Value) -> Option<Result<Manifest, &'static str>> {
    let note = object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    let (own, malformed) = (ObjectFields(object), "what kubectl noted at it is not a manifest of the object");
    let Ok(body) = serde_json::from_str::<Value>(note) else { return Some(Err(malformed)) };
    let noted = manifest(body, own.text("/metadata/namespace"), KUBECTL);
    // Anyone who may write annotations may write anything here: it must not lead to another object.
    let of_it = noted.filter(|noted| {
        noted.entry.kind == own.text("/kind")
            && noted.entry.name == own.text("/metadata/name")
            && noted.entry.namespace == own.text("/metadata/namespace")
            && noted.entry.group == group_and_version(own.text("/apiVersion")).0
    });
    Some(of_it.ok_or(malformed))
}

/// The text in which Helm keeps a release: all of its manifests.
///
/// # Errors
/// What is wrong with the record, which is a Secret: the reason reveals none of its content.
pub(super) fn record(secret: &Value) -> Result<String, &'static str> {
    #[derive(Deserialize)]
    struct Record {
        manifest: String,
    }
    let malformed = "the record of the installation is not one that Helm writes";
    let data = secret.pointer("/data/release").and_then(Value::as_str).ok_or(malformed)?;
    let inner = BASE64.decode(data).map_err(|_| malformed)?;
    let packed = BASE64.decode(inner.trim_ascii()).map_err(|_| malformed)?;
    let mut text = Vec::new();
    GzDecoder::new(packed.as_slice()).take(RECORD_MOST + 1).read_to_end(&mut text).map_err(|_| malformed)?;
    if text.len() as u64 > RECORD_MOST {
        return Err("the record of the installation is longer than 16 MiB");
    }
    serde_json::from_slice::<Record>(&text).map(|record| record.manifest).map_err(|_| malformed)
}

/// The manifests in a record, and how many of its parts are invalid; those without a namespace get the release's.
pub(super) fn manifests(text: &str, namespace: &str) -> (Vec<Manifest>, usize) {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let has_content = |part: &String| part.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let parts: Vec<String> = parts.into_iter().filter(has_content).collect();
    let all = parts.len();
    let read = parts.iter().take(DOCUMENTS_MOST).filter_map(|part| {
        let body: Value = serde_saphyr::from_str(part).ok()?;
        manifest(body, namespace, HELM)
    });
    let read: Vec<Manifest> = read.collect();
    let none = all - read.len();
    (read, none)
}

fn manifest(mut body: Value, namespace: &str, manager: &'static str) -> Option<Manifest> {
    let fields = ObjectFields(&body);
    let (group, version) = group_and_version(fields.text("/apiVersion"));
    let (group, version) = (group.to_owned(), version.to_owned());
    let (kind, name) = (fields.text("/kind").to_owned(), fields.text("/metadata/name").to_owned());
    let own = fields.text("/metadata/namespace");
    let namespace = if own.is_empty() { namespace } else { own }.to_owned();
    if version.is_empty() || kind.is_empty() || name.is_empty() {
        return None;
    }
    // Fields that the server sets; it refuses a manifest with some of them.
    if let Some(fields) = body.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        for own in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
            metadata.remove(own);
        }
    }
    Some(Manifest { entry: InventoryEntry { group, version, kind, namespace, name }, body, manager })
}

fn group_and_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::json;

    use super::*;

    fn packed(bytes: &[u8]) -> Value {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        json!({"data": {"release": BASE64.encode(BASE64.encode(encoder.finish().unwrap()))}})
    }

    #[test]
    fn a_record_of_helm_is_unpacked_and_read_part_by_part() {
        let text = "---\n# Source: a/templates/x.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\nspec:\n  note: \"a --- b\"\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: other, resourceVersion: \"7\"}\nstatus: {}\n---\njust words\n";
        let record = record(&packed(json!({"name": "a", "manifest": text}).to_string().as_bytes())).unwrap();
        let (found, none) = manifests(&record, "shop");
        let names: Vec<_> = found
            .iter()
            .map(|one| format!("{} {} {}/{}", one.entry.group, one.entry.kind, one.entry.namespace, one.entry.name))
            .collect();
        assert_eq!((names, none), (vec!["apps Deployment shop/a".to_owned(), " Service other/b".to_owned()], 1));
        assert_eq!(
            found[1].body,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b", "namespace": "other"}})
        );
    }

    #[test]
    fn a_record_that_unpacks_without_end_is_given_up() {
        let bomb = packed(&vec![b' '; usize::try_from(RECORD_MOST).unwrap() + 10]);
        assert!(record(&bomb).unwrap_err().contains("16 MiB"));
        for malformed in
            [json!({}), json!({"data": {"release": "!"}}), packed(b"[]"), json!({"data": {"release": "AAAA"}})]
        {
            assert!(record(&malformed).unwrap_err().contains("not one that Helm writes"), "{malformed}");
        }
    }

    #[test]
    fn a_note_of_kubectl_leads_to_no_other_object() {
        let object = |note: Value| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                   "metadata": {"name": "a", "namespace": "b", "annotations": {LAST_APPLIED: note.to_string()}}})
        };
        let note = |name: &str, kind: &str, group: &str| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name, "namespace": "b"}});
        assert!(last_applied(&object(note("a", "Deployment", "apps"))).unwrap().is_ok());
        for other in [
            note("z", "Deployment", "apps"),
            note("a", "Secret", "apps"),
            note("a", "Deployment", "extensions"),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "kube-system"}}),
            json!(7),
        ] {
            assert!(last_applied(&object(other.clone())).unwrap().is_err(), "{other}");
        }
        assert!(last_applied(&json!({"metadata": {}})).is_none());
    }
}
