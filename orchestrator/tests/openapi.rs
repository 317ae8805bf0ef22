//! The document of the API, and whether an answer is what it says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The document at `/api/v1/openapi.json`.
pub(crate) struct Document(pub(crate) Value);

impl Document {
    /// Every method and path.
    pub(crate) fn routes(&self) -> BTreeSet<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap();
        let methods = |(path, item): (&String, &Value)| {
            let methods: Vec<_> =
                item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())).collect();
            methods
        };
        paths.iter().flat_map(methods).collect()
    }

    /// The name of every operation.
    pub(crate) fn operations(&self) -> Vec<String> {
        let items = self.0["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        items.map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect()
    }

    /// Fails where an answer is not what the document says of its route and status.
    pub(crate) fn hold(&self, method: &str, target: &str, status: u16, body: &Value) {
        let path = target.split('?').next().unwrap();
        let Some(item) = self.item(path) else {
            assert_eq!(status, 404, "{method} {path} is not in the document");
            return;
        };
        let Some(operation) = item.get(method.to_lowercase()) else {
            assert_eq!(status, 405, "{method} {path} is not in the document");
            return;
        };
        let responses = &operation["responses"];
        let class = format!("{}XX", status / 100);
        let response = responses.get(status.to_string()).or_else(|| responses.get(&class));
        let response = response.unwrap_or_else(|| panic!("{method} {path}: no answer {status} in the document"));
        if let Some(schema) = response["content"]["application/json"].get("schema")
            && let Err(reason) = self.fits(schema, body)
        {
            panic!("{method} {target}: {status}: {reason} in {body}");
        }
    }

    /// A path without parameters before one with, as routers have it.
    fn item(&self, path: &str) -> Option<&Value> {
        let paths = self.0["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let (theirs, ours): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            theirs.len() == ours.len()
                && theirs.iter().zip(&ours).all(|(theirs, ours)| theirs.starts_with('{') || theirs == ours)
        };
        let mut fitting: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
        fitting.sort_by_key(|(template, _)| template.matches('{').count());
        fitting.first().map(|(_, item)| *item)
    }

    fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let schema = self.resolved(schema);
        if let Some(choices) = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array) {
            let wrong: Vec<_> = choices.iter().map(|choice| self.fits(choice, value)).filter_map(Result::err).collect();
            return if wrong.len() < choices.len() { Ok(()) } else { Err(wrong.join(", ")) };
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Err(format!("{value} is none of {words:?}"));
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => vec![],
        };
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !types.is_empty() && !types.contains(&is) {
            return Err(format!("{value} is no {types:?}"));
        }
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.fits(&schema["items"], item)),
            Value::Object(fields) => {
                let mut shape = Shape::default();
                self.gather(schema, &mut shape);
                if let Some(missing) = shape.required.iter().find(|name| !fields.contains_key(**name)) {
                    return Err(format!("{missing} is missing"));
                }
                fields.iter().try_for_each(|(name, field)| match shape.properties.get(name.as_str()) {
                    Some(schema) => self.fits(schema, field).map_err(|reason| format!("{name}: {reason}")),
                    None => match shape.others {
                        Some(schema) => self.fits(schema, field).map_err(|reason| format!("{name}: {reason}")),
                        None if shape.properties.is_empty() => Ok(()),
                        None => Err(format!("{name} is not in the document")),
                    },
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn gather<'a>(&'a self, schema: &'a Value, shape: &mut Shape<'a>) {
        let schema = self.resolved(schema);
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.gather(part, shape);
        }
        // A part that may be missing as a whole: its fields are known, and none is required.
        for part in schema["oneOf"].as_array().into_iter().flatten() {
            let mut optional = Shape::default();
            self.gather(part, &mut optional);
            shape.properties.extend(optional.properties);
        }
        let properties = schema["properties"].as_object().into_iter().flatten();
        shape.properties.extend(properties.map(|(name, schema)| (name.as_str(), schema)));
        shape.required.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
        shape.others = shape.others.or_else(|| schema.get("additionalProperties").filter(|others| others.is_object()));
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.resolved(self.0.pointer(reference.trim_start_matches('#')).expect(reference)),
            None => schema,
        }
    }
}

#[derive(Default)]
struct Shape<'a> {
    properties: BTreeMap<&'a str, &'a Value>,
    required: BTreeSet<&'a str>,
    others: Option<&'a Value>,
}

#[test]
fn the_comparison_sees_what_is_wrong() {
    let document = Document(serde_json::json!({
        "paths": {"/a/{id}": {"get": {"responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}}}}},
        "components": {"schemas": {"A": {"type": "object", "required": ["x"], "properties": {
            "x": {"type": "string", "enum": ["up"]}, "y": {"type": ["integer", "null"]},
        }}}},
    }));
    let fits = |value: &str| {
        let schema = serde_json::json!({"$ref": "#/components/schemas/A"});
        document.fits(&schema, &serde_json::from_str(value).unwrap())
    };
    assert_eq!(fits(r#"{"x":"up","y":null}"#), Ok(()));
    for wrong in [r#"{}"#, r#"{"x":"down"}"#, r#"{"x":"up","y":"1"}"#, r#"{"x":"up","z":1}"#, "[]"] {
        assert!(fits(wrong).is_err(), "{wrong}");
    }
    assert!(document.item("/a/1").is_some() && document.item("/a").is_none());
}
