//! What a provider says of somebody, as JSON that nobody has made sense of yet.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Claims of an ID token, of UserInfo, or of nobody.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// Whether the claim is there and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Whether the claim is there, be it null.
    pub(super) fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The claim's value; null counts as absent.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The claim, where it is text that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// The claim as strings: those of an array, or a single one. Anything else in it is nobody's group.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(ToOwned::to_owned).collect()
            }
            Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) | None => {
                Vec::new()
            }
        }
    }

    /// Whether the claim is `true`, or the text `"true"`, which AWS Cognito sends for `email_verified`. Nothing else is:
    /// not `"True"`, not 1.
    pub(super) fn is_true(&self, name: &str) -> bool {
        match self.value(name) {
            Some(Value::Bool(truth)) => *truth,
            Some(Value::String(text)) => text == "true",
            Some(Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }

    /// The claim as whole seconds since 1970; `None` where it is not a number that time can be (RFC 7519 §2, NumericDate).
    pub(super) fn seconds(&self, name: &str) -> Option<u64> {
        let value = self.value(name)?;
        value.as_u64().or_else(|| {
            // A NumericDate may have a fraction; a negative or endless one is no date of ours.
            let fractional = value.as_f64()?;
            std::time::Duration::try_from_secs_f64(fractional).ok().map(|since| since.as_secs())
        })
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        Self(claims)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_true_and_its_exact_text_are_true() {
        assert!(claims(json!({"v": true})).is_true("v"));
        assert!(claims(json!({"v": "true"})).is_true("v"));
        for not in [json!(false), json!("false"), json!("True"), json!(1), json!("1"), json!([true]), json!(null)] {
            assert!(!claims(json!({ "v": not })).is_true("v"), "{not}");
        }
        assert!(!Claims::default().is_true("v"));
    }

    #[test]
    fn groups_are_an_array_of_strings_or_one_string() {
        assert_eq!(claims(json!({"g": ["a", 1, "", null, "b"]})).list("g"), ["a", "b"]);
        assert_eq!(claims(json!({"g": "a"})).list("g"), ["a"]);
        for none in [json!(1), json!({"a": "b"}), json!(null), json!(""), json!(true)] {
            assert!(claims(json!({ "g": none })).list("g").is_empty(), "{none}");
        }
    }

    #[test]
    fn moments_are_numbers() {
        assert_eq!(claims(json!({"t": 5})).seconds("t"), Some(5));
        assert_eq!(claims(json!({"t": 5.9})).seconds("t"), Some(5));
        for none in [json!("5"), json!(-1), json!(1e300), json!([5]), json!(null)] {
            assert_eq!(claims(json!({ "t": none })).seconds("t"), None, "{none}");
        }
    }
}
