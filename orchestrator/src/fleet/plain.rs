//! An object as YAML for people: without fields for machines only, and without anything that looks like a secret.

use serde_json::Value;

use super::kept::LAST_APPLIED;

/// The longest YAML of an object, in bytes.
const YAML_MOST: usize = 512 * 1024;
/// Replaces a value that looks like a secret.
const LEFT_OUT: &str = "(left out)";
/// Parts of names whose values are left out.
const SECRET_WORDS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "privatekey", "credential"];

/// The YAML of an object.
pub(super) fn yaml(mut object: Value) -> String {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    // Fields with free content: a chart's values, and substitutions in manifests.
    for pointer in ["/spec/values", "/spec/postBuild/substitute"] {
        if let Some(values) = object.pointer_mut(pointer) {
            leave_out_secrets(values, false, 0);
        }
    }
    cut_at(written(&object), YAML_MOST)
}

fn written(object: &Value) -> String {
    serde_saphyr::to_string(object).unwrap_or_else(|_| "# this object cannot be shown as YAML\n".to_owned())
}

/// Cuts a text, and marks the cut.
pub(super) fn cut_at(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= most).last().unwrap_or(0);
        text.truncate(end);
        text.push_str("\n# cut off here: it is longer than is shown\n");
    }
    text
}

/// An object without the fields that its server sets: only the desired state is left.
pub(super) fn comparable(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for own in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
            metadata.remove(own);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    object
}

/// The YAML of an object of any kind, without anything that looks like a secret.
pub(super) fn without_secrets(mut object: Value) -> String {
    leave_out_secrets(&mut object, false, 0);
    leave_out_of_texts(&mut object, 0);
    written(&object)
}

/// Removes what looks like a secret from environment variables, arguments and URLs.
fn leave_out_of_texts(value: &mut Value, depth: usize) {
    if depth > 100 {
        return;
    }
    match value {
        Value::Object(fields) => {
            let named = fields.get("name").and_then(Value::as_str).is_some_and(names_a_secret);
            if let Some(value) = fields.get_mut("value").filter(|value| named && !value.is_object()) {
                *value = LEFT_OUT.into();
            }
            fields.values_mut().for_each(|value| leave_out_of_texts(value, depth + 1));
        }
        Value::Array(items) => {
            let mut after = false;
            for item in items {
                let flag = item.as_str().is_some_and(|text| text.starts_with('-') && names_a_secret(text));
                // `--password`, and the word after it.
                if after && item.as_str().is_some_and(|text| !text.starts_with('-')) {
                    *item = LEFT_OUT.into();
                }
                after = flag && item.as_str().is_some_and(|text| !text.contains('='));
                leave_out_of_texts(item, depth + 1);
            }
        }
        Value::String(text) => {
            if let Some(kept) = without_secret(text) {
                *text = kept;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text without what looks like a secret; `None` if there is nothing to remove.
fn without_secret(text: &str) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut changed = false;
    for line in text.split('\n') {
        let found = of_assignment(line).or_else(|| of_address(line));
        changed |= found.is_some();
        lines.push(found.unwrap_or_else(|| line.to_owned()));
    }
    changed.then(|| lines.join("\n"))
}

/// `--db-password=…`, `DB_PASSWORD=…`, and `password: …` in an embedded file.
fn of_assignment(line: &str) -> Option<String> {
    let at = line.find(['=', ':'])?;
    let (name, rest) = line.split_at_checked(at)?;
    let value = rest.get(1..)?;
    let last = name.rsplit([' ', '"', '\'']).find(|word| !word.is_empty())?;
    (names_a_secret(last) && !value.trim().is_empty() && !value.starts_with("//"))
        .then(|| format!("{name}{} {LEFT_OUT}", rest.get(..1).unwrap_or_default()))
}

/// `scheme://user:password@host`.
fn of_address(line: &str) -> Option<String> {
    let (scheme, rest) = line.split_once("://")?;
    let authority = rest.split(['/', ' ', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.contains(':').then(|| format!("{scheme}://{LEFT_OUT}{}", rest.get(user.len()..).unwrap_or_default()))
}

/// `named`: the value, or the list that it is in, has the name of a secret.
fn leave_out_secrets(value: &mut Value, named: bool, depth: usize) {
    // Deeper than anyone writes by hand: `serde_json` itself stops parsing at 128.
    if depth > 100 {
        *value = LEFT_OUT.into();
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leave_out_secrets(value, names_a_secret(name), depth + 1);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| leave_out_secrets(item, named, depth + 1)),
        Value::Number(_) | Value::String(_) if named => *value = LEFT_OUT.into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn names_a_secret(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).map(|char| char.to_ascii_lowercase()).collect();
    // The name of a Secret is not secret.
    let names_one = name.ends_with("ref") || name.ends_with("name");
    !names_one && SECRET_WORDS.iter().any(|names_a_secret| name.contains(names_a_secret))
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
            "apiTokens": ["hidden", ["hidden"], {"label": "shown"}], "ports": ["http"],
        });
        let text = yaml(json!({"spec": {"values": values, "secretRef": {"name": "git"}}}));
        assert!(!text.contains("hidden") && text.contains(LEFT_OUT), "{text}");
        assert!(
            text.contains("grafana") && text.contains("name: git") && text.contains("createSecret: true"),
            "{text}"
        );
        assert!(text.contains("label: shown") && text.contains("- http"), "{text}");
    }

    #[test]
    fn in_an_object_of_any_kind_variables_arguments_and_addresses_are_looked_at_too() {
        let text = without_secrets(json!({"spec": {
            "env": [{"name": "DB_PASSWORD", "value": "hidden"}, {"name": "LEVEL", "value": "debug"},
                    {"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "api"}}}],
            "args": ["--db-password=hidden", "--port=80", "--token", "hidden", "--level", "info", "TOKEN=hidden"],
            "url": "postgres://app:hidden@db:5432/app", "home": "https://example.com/a:b@c",
            "file": "port: 80\npassword: hidden\n",
        }}));
        assert!(!text.contains("hidden"), "{text}");
        for kept in ["debug", "--port=80", "info", "@db:5432/app", "https://example.com/a:b@c", "port: 80", "name: api"]
        {
            assert!(text.contains(kept), "{kept}: {text}");
        }
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
