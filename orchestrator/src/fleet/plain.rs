//! An object as YAML for people: without what only Kubernetes reads, and without what looks like a secret.

use serde_json::Value;

/// How long the YAML of an object may be, in bytes.
const YAML_MOST: usize = 512 * 1024;
/// What stands in the place of what looks like a secret.
const LEFT_OUT: &str = "(left out)";
/// Parts of names whose values are left out.
const TELLTALES: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "privatekey", "credential"];

/// The YAML of an object.
pub(super) fn yaml(mut object: Value) -> String {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    // Where people put what they please: a chart's values, and what is substituted in manifests.
    for pointer in ["/spec/values", "/spec/postBuild/substitute"] {
        if let Some(values) = object.pointer_mut(pointer) {
            leave_out_secrets(values, 0);
        }
    }
    let text =
        serde_saphyr::to_string(&object).unwrap_or_else(|_| "# this object cannot be shown as YAML\n".to_owned());
    cut(text)
}

fn cut(mut text: String) -> String {
    if text.len() > YAML_MOST {
        let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= YAML_MOST).last().unwrap_or(0);
        text.truncate(end);
        text.push_str("\n# cut off here: the object is longer than is shown\n");
    }
    text
}

fn leave_out_secrets(value: &mut Value, depth: usize) {
    // Deeper than anybody writes by hand: serde_json itself stops reading at 128.
    if depth > 100 {
        *value = LEFT_OUT.into();
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let scalar = !value.is_object() && !value.is_array() && !value.is_null() && !value.is_boolean();
                if telltale(name) && scalar {
                    *value = LEFT_OUT.into();
                } else {
                    leave_out_secrets(value, depth + 1);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| leave_out_secrets(item, depth + 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn telltale(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).map(|char| char.to_ascii_lowercase()).collect();
    // The name of a Secret is none.
    let names_one = name.ends_with("ref") || name.ends_with("name");
    !names_one && TELLTALES.iter().any(|telltale| name.contains(telltale))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_kubernetes_reads_is_left_out() {
        let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": "hidden", "note": "kept"});
        let text = yaml(json!({"metadata": {"name": "a", "managedFields": ["hidden"], "annotations": annotations}}));
        assert!(text.contains("note: kept") && !text.contains("hidden"), "{text}");
    }

    #[test]
    fn values_with_the_name_of_a_secret_are_left_out() {
        let values = json!({
            "adminPassword": "hidden", "api": {"API_KEY": "hidden", "private-key": "hidden"}, "list": [{"token": "hidden"}],
            "existingSecretName": "grafana", "createSecret": true, "replicas": 2,
        });
        let text = yaml(json!({"spec": {"values": values, "secretRef": {"name": "git"}}}));
        assert!(!text.contains("hidden") && text.contains(LEFT_OUT), "{text}");
        assert!(
            text.contains("grafana") && text.contains("name: git") && text.contains("createSecret: true"),
            "{text}"
        );
    }

    #[test]
    fn texts_that_look_like_something_else_keep_being_texts() {
        let text = yaml(json!({"a": "yes", "b": "1.0", "c": "line\nline", "d": "- x", "e": "null", "f": ": #"}));
        assert!(!text.contains("a: yes\n") && !text.contains("b: 1.0\n") && !text.contains("e: null\n"), "{text}");
        assert!(!text.contains("d: - x"), "{text}");
    }

    #[test]
    fn a_huge_object_is_cut_off_and_says_so() {
        let text = yaml(json!({"data": "ü".repeat(YAML_MOST)}));
        assert!(text.len() < YAML_MOST + 100 && text.contains("# cut off here"));
    }
}
