//! A provider's claims about a user, as uninterpreted JSON.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::quote::quote;
use crate::domain::claims as domain;
use crate::domain::identity::Email;

/// The claims of an ID token or of UserInfo; empty by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct TokenClaims(Map<String, Value>);

impl TokenClaims {
    /// Whether the claim is present and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Whether the claim is present, even if null.
    pub(super) fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of the claim with that name, else of the path from object to object (`realm_access.roles`); null counts as absent.
    /// Everything that reads a claim reads it by this, so that a path is everywhere a path.
    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        find(&self.0, path).filter(|value| !value.is_null())
    }

    /// The claim, if it is a non-empty string.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// The claim as strings: one string, which is never split, or a list of strings, or of objects with a `name` or else an `id`. Anything
    /// else in it is ignored.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let items = match self.value(name) {
            Some(Value::Array(items)) => items.as_slice(),
            Some(text @ Value::String(_)) => std::slice::from_ref(text),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => &[],
        };
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        let of_object = |item: &Value| ["name", "id"].into_iter().find_map(|name| item.get(name).and_then(text));
        items.iter().filter_map(|item| text(item).or_else(|| of_object(item))).collect()
    }

    /// Describes what of the claim is no list of strings, and so ignored; `None` if nothing is, or the claim is absent.
    pub(super) fn left_out(&self, name: &str) -> Option<String> {
        let (value, taken) = (self.value(name)?, self.list(name).len());
        let Some(items) = value.as_array() else {
            let odd = || format!("`{name}` is {}, where a text or a list of names is expected", kind(value));
            return (taken == 0).then(odd);
        };
        let left_out = items.len().saturating_sub(taken);
        let odd = items.iter().find(|item| !item.is_string()).map_or("an empty text", kind);
        (left_out > 0).then(|| format!("{left_out} of the {} entries of `{name}` are not names: {odd}", items.len()))
    }

    /// What the claim is instead of text; `None` if it is text, or absent.
    pub(super) fn no_text(&self, name: &str) -> Option<&'static str> {
        self.value(name).filter(|value| !value.is_string()).map(kind)
    }

    /// Why the email in the claim `name` does not count; `None` if it does.
    pub(super) fn unverified_email(&self, name: &str) -> Option<String> {
        let Some(email) = self.value(name) else {
            return Some("the provider sent none: is the scope `email` in OAUTH_SCOPES?".to_owned());
        };
        let Some(address) = email.as_str() else { return Some(format!("it is {}, not text", kind(email))) };
        if self.is_true("email_verified") {
            return Email::parse(address).err().map(|_| format!("{} is no address", quote(address)));
        }
        Some(match self.value("email_verified") {
            None => format!("the provider sent {} without `email_verified`", quote(address)),
            Some(Value::Bool(false)) => format!("`email_verified` of {} is false", quote(address)),
            Some(other) => format!("`email_verified` of {} is {}, not true", quote(address), kind(other)),
        })
    }

    /// Whether the claim is `true`, or the string `"true"`, which AWS Cognito sends for `email_verified`. Nothing else counts: not
    /// `"True"`, not 1.
    pub(super) fn is_true(&self, name: &str) -> bool {
        match self.value(name) {
            Some(Value::Bool(truth)) => *truth,
            Some(Value::String(text)) => text == "true",
            Some(Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }

    /// The claim as whole seconds since 1970; `None` if it is no valid time (RFC 7519 §2, NumericDate).
    pub(super) fn seconds(&self, name: &str) -> Option<u64> {
        let value = self.value(name)?;
        value.as_u64().or_else(|| {
            // A NumericDate may have a fraction; a negative or infinite one is not accepted.
            let fractional = value.as_f64()?;
            std::time::Duration::try_from_secs_f64(fractional).ok().map(|since| since.as_secs())
        })
    }
}

/// A claim by its name, else by the names of its enclosing objects, which may contain dots themselves (`kubernetes.io.namespace`).
fn find<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    object.get(path).or_else(|| {
        path.match_indices('.').find_map(|(dot, _)| {
            let inner = object.get(path.get(..dot)?)?.as_object()?;
            find(inner, path.get(dot + 1..)?)
        })
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl TokenClaims {
    /// The claims that rules refer to, each as strings; from `self`, else from `other`.
    pub(super) fn named(&self, names: &[String], other: &Self) -> domain::Claims {
        let mut found = domain::Claims::default();
        for name in names {
            found.set(name, self.or(other, name).list(name));
        }
        found
    }

    /// The one of both that supplies the claim: `self`, else `other`.
    pub(super) fn or<'a>(&'a self, other: &'a Self, name: &str) -> &'a Self {
        if self.has(name) { self } else { other }
    }
}

impl From<Map<String, Value>> for TokenClaims {
    fn from(claims: Map<String, Value>) -> Self {
        Self(claims)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> TokenClaims {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_true_and_its_exact_text_are_true() {
        assert!(claims(json!({"v": true})).is_true("v"));
        assert!(claims(json!({"v": "true"})).is_true("v"));
        for not in [json!(false), json!("false"), json!("True"), json!(1), json!("1"), json!([true]), json!(null)] {
            assert!(!claims(json!({ "v": not })).is_true("v"), "{not}");
        }
        assert!(!TokenClaims::default().is_true("v"));
    }

    #[test]
    fn groups_are_one_text_or_a_list_of_texts_or_objects() {
        assert_eq!(claims(json!({"g": ["a", 1, "", null, "b"]})).list("g"), ["a", "b"]);
        assert_eq!(claims(json!({"g": "a"})).list("g"), ["a"]);
        assert_eq!(claims(json!({"g": "a, b;c d"})).list("g"), ["a, b;c d"], "one text is never split");
        let objects = json!([{"name": "a", "id": "1"}, {"id": "2"}, {"name": "", "id": "3"}, {"name": 4}, {"id": 5}, {}, "b", ["c"]]);
        assert_eq!(claims(json!({ "g": objects })).list("g"), ["a", "2", "3", "b"]);
        for none in [json!(1), json!({"a": "b"}), json!(null), json!(""), json!(true)] {
            assert!(claims(json!({ "g": none })).list("g").is_empty(), "{none}");
        }
    }

    #[test]
    fn what_is_not_taken_is_named() {
        let left = |groups: Value| claims(json!({ "g": groups })).left_out("g");
        for taken in [json!(["a", "b"]), json!("a"), json!([]), json!(null)] {
            assert_eq!(left(taken.clone()), None, "{taken}");
        }
        assert_eq!(left(json!(["a", 7])).unwrap(), "1 of the 2 entries of `g` are not names: a number");
        assert_eq!(left(json!([true, "a", [1]])).unwrap(), "2 of the 3 entries of `g` are not names: true or false");
        assert_eq!(left(json!({"a": 1})).unwrap(), "`g` is an object, where a text or a list of names is expected");
    }

    #[test]
    fn why_an_address_does_not_count_is_said() {
        let why = |value| claims(value).unverified_email("email");
        assert_eq!(why(json!({"email": "a@b.c", "email_verified": true})), None);
        for (value, says) in [
            (json!({}), "sent none"),
            (json!({"email": ["a@b.c"], "email_verified": true}), "a list"),
            (json!({"email": "a@b.c"}), "a@b.c without `email_verified`"),
            (json!({"email": "a@b.c", "email_verified": false}), "`email_verified` of a@b.c is false"),
            (json!({"email": "a@b.c", "email_verified": "yes"}), "is a text, not true"),
            (json!({"email": "a", "email_verified": true}), "a is no address"),
        ] {
            let reason = why(value.clone()).unwrap();
            assert!(reason.contains(says), "{value}: {reason}");
        }
    }

    #[test]
    fn a_name_with_dots_is_a_claim_or_a_way_through_objects() {
        let claims = claims(json!({
            "realm_access": {"roles": ["a"]},
            "kubernetes.io": {"namespace": "ci", "serviceaccount": {"name": "deployer"}},
            "https://acme.example/roles": ["b"],
            "a.b": "whole", "a": {"b": "way"},
        }));
        for (path, texts) in [
            ("realm_access.roles", vec!["a"]),
            ("kubernetes.io.namespace", vec!["ci"]),
            ("kubernetes.io.serviceaccount.name", vec!["deployer"]),
            ("https://acme.example/roles", vec!["b"]),
            ("a.b", vec!["whole"]),
            ("kubernetes.io", vec![]),
            ("kubernetes.io.", vec![]),
            ("realm_access.roles.0", vec![]),
            (".", vec![]),
        ] {
            assert_eq!(claims.list(path), texts, "{path}");
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
