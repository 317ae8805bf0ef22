//! A field that tolerates values of the wrong form, without a second pass over the input.
//!
//! A value of the wrong form is skipped and becomes [`Field::Malformed`]; only invalid JSON fails.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

/// A field that may have the wrong form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<T> {
    /// Its value; the default if the field is missing, or `null`, which some programs write instead.
    Read(T),
    /// The value has the wrong form.
    Malformed,
}

impl<T: Default> Default for Field<T> {
    fn default() -> Self {
        Self::Read(T::default())
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Seed(PhantomData::<Option<T>>).deserialize(deserializer)?;
        Ok(read.map_or(Self::Malformed, |value| Self::Read(value.unwrap_or_default())))
    }
}

/// Why a value is not read.
#[derive(Debug)]
enum Fault<E> {
    /// The value has the wrong form, and was read to its end.
    Form,
    /// The input around it cannot be parsed further.
    Syntax(E),
}

impl<E: Error> fmt::Display for Fault<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("another form was expected"),
            Self::Syntax(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl<E: Error> std::error::Error for Fault<E> {}

impl<E: Error> Error for Fault<E> {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Form
    }
}

/// The value; `None` if it has the wrong form.
fn read<T, E>(outcome: Result<T, Fault<E>>) -> Result<Option<T>, E> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Form) => Ok(None),
        Err(Fault::Syntax(error)) => Err(error),
    }
}

/// The inverse of `read`.
fn expected<T, E>(outcome: Result<Option<T>, E>) -> Result<T, Fault<E>> {
    outcome.map_err(Fault::Syntax)?.ok_or(Fault::Form)
}

/// Deserializes with another seed.
struct Seed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<S::Value>, D::Error> {
        read(self.0.deserialize(Reader(deserializer)))
    }
}

/// Deserializes any value, whatever type was requested: the visitor decides whether the form is right.
struct Reader<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reader<D> {
    type Error = Fault<D::Error>;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        expected(self.0.deserialize_any(Either::new(visitor)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        // A struct would also accept a list, with its elements in the order of the fields.
        expected(self.0.deserialize_any(Either { visitor, takes_lists: false }))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        expected(self.0.deserialize_option(Either::new(visitor)))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.0.deserialize_ignored_any(visitor).map_err(Fault::Syntax)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier
    }
}

/// A visitor that accepts every form: values that its inner visitor rejects are skipped.
struct Either<V> {
    visitor: V,
    takes_lists: bool,
}

impl<V> Either<V> {
    fn new(visitor: V) -> Self {
        Self { visitor, takes_lists: true }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Either<V> {
    type Value = Option<V::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        read(self.visitor.visit_bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        read(self.visitor.visit_i64(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        read(self.visitor.visit_u64(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        read(self.visitor.visit_f64(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        read(self.visitor.visit_str(value))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        read(self.visitor.visit_borrowed_str(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        read(self.visitor.visit_string(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        read(self.visitor.visit_unit())
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        read(self.visitor.visit_none())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        read(self.visitor.visit_some(Reader(deserializer)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let value = if self.takes_lists { read(self.visitor.visit_seq(Elements(&mut elements)))? } else { None };
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Entries { map, in_value: false };
        let mut value = read(self.visitor.visit_map(&mut entries))?;
        // A duplicate key is rejected before its value is read.
        if entries.in_value {
            value = None;
            entries.map.next_value::<IgnoredAny>()?;
        }
        while entries.map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(value)
    }
}

struct Elements<'a, A>(&'a mut A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = Fault<A::Error>;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Self::Error> {
        let element = self.0.next_element_seed(Seed(seed)).map_err(Fault::Syntax)?;
        element.map(|value| value.ok_or(Fault::Form)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

struct Entries<A> {
    map: A,
    /// True between a key and its value.
    in_value: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for &mut Entries<A> {
    type Error = Fault<A::Error>;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Self::Error> {
        let key = self.map.next_key_seed(Seed(seed)).map_err(Fault::Syntax)?;
        self.in_value = key.is_some();
        key.map(|key| key.ok_or(Fault::Form)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Self::Error> {
        self.in_value = false;
        expected(self.map.next_value_seed(Seed(seed)))
    }

    fn size_hint(&self) -> Option<usize> {
        self.map.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq, Eq)]
    #[serde(default)]
    struct Inner {
        a: i64,
        b: Option<Vec<String>>,
        c: BTreeMap<String, bool>,
    }

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    struct Outer {
        #[serde(default)]
        field: Field<Inner>,
        after: u8,
    }

    fn field(json: &str) -> Field<Inner> {
        // As text, as it comes from a cluster, and as an already parsed value.
        let text = format!(r#"{{"field": {json}, "after": 1}}"#);
        let outer: Outer = serde_json::from_str(&text).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        if !json.contains(r#""a": 1, "a""#) {
            assert_eq!(serde_json::from_value::<Outer>(value).unwrap(), outer, "{text}");
        }
        assert_eq!(outer.after, 1, "{text}");
        outer.field
    }

    #[test]
    fn what_has_its_form_is_read_and_what_is_null_is_not_there() {
        let inner = Inner { a: -1, b: Some(vec!["x\n".into()]), c: [("y".into(), true)].into() };
        assert_eq!(
            field(r#"{"a": -1, "b": ["x\n"], "other": [{}, [1.5, "z"]], "c": {"y": true}}"#),
            Field::Read(inner)
        );
        assert_eq!(field(r#"{"b": null}"#), Field::Read(Inner::default()));
        assert_eq!(field("null"), Field::default());
        let absent: Outer = serde_json::from_str(r#"{"after": 1}"#).unwrap();
        assert_eq!(absent.field, Field::default());
    }

    #[test]
    fn what_has_another_form_is_read_to_its_end() {
        for malformed in [
            "7",
            "-1.5",
            "true",
            r#""text""#,
            "[]",
            r#"[1, {"a": [2, "]"]}]"#,
            r#"{"a": "1", "b": ["x"], "c": {}}"#,
            r#"{"a": null}"#,
            r#"{"a": 1.5, "c": {"x": {"y": [true]}}}"#,
            r#"{"b": ["x", 1, ["y", {}], "z"], "c": {"y": true}}"#,
            r#"{"b": {"x": [1]}, "a": 1}"#,
            r#"{"c": {"x": true, "y": 1, "z": {"a": []}}, "a": 1}"#,
            r#"{"a": 1, "a": {"x": [2]}, "b": []}"#,
        ] {
            assert_eq!(field(malformed), Field::Malformed, "{malformed}");
        }
    }

    #[test]
    fn what_is_no_json_fails() {
        for broken in [
            r#"{"field": {"a": 1, "after": 1"#,
            r#"{"field": {"b": ["\q"]}, "after": 1}"#,
            r#"{"field": {"b": 1], "after": 1}"#,
            r#"{"field": {"a": "x" "b": 1}, "after": 1}"#,
            r#"{"field": tru, "after": 1}"#,
        ] {
            assert!(serde_json::from_str::<Outer>(broken).is_err(), "{broken}");
        }
    }
}
