//! Tables of the file that may occur several times (`[[routes]]`), with line numbers.

use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::names::nearest;

/// All tables of one name, and their file.
pub(super) struct Tables {
    pub(super) path: PathBuf,
    pub(super) tables: Vec<Table>,
}

/// One table.
pub(super) struct Table {
    /// The line on which it begins.
    pub(super) line: usize,
    items: Vec<Item>,
}

/// A key with its value.
pub(super) struct Item {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

/// The value of a key.
pub(super) enum Value {
    /// One text.
    Text(String),
    /// An array of texts, each with its line.
    Texts(Vec<(String, usize)>),
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Number(i64),
    /// A table within the table.
    Table(Table),
    /// Another type: its name, with its article.
    Other(&'static str),
}

/// Why the tables cannot be read: the line, and the error there.
pub(super) type Wrong = (usize, String);

impl Table {
    /// Takes out a key.
    pub(super) fn take(&mut self, key: &str) -> Option<Item> {
        let at = self.items.iter().position(|item| item.key == key)?;
        Some(self.items.remove(at))
    }

    /// The keys that were not taken out, in their order.
    pub(super) fn rest(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    /// These keys as errors: key, line, and message. `known`: the valid keys; `whose`: what they belong to.
    pub(super) fn unknown_keys(&self, known: &[&str], whose: &str) -> Vec<(String, usize, String)> {
        let fault = |item: &Item| {
            let plain = item.key.to_ascii_lowercase().replace('-', "_");
            let problem = match nearest(&plain, known.iter().copied()) {
                Some(meant) => format!("is an unknown key; did you mean `{meant}`?"),
                None => format!("is an unknown key; {whose} has {}", known.join(", ")),
            };
            (item.key.clone(), item.line, problem)
        };
        self.rest().map(fault).collect()
    }

    /// All keys, taken out in their order.
    pub(super) fn into_items(self) -> Vec<Item> {
        self.items
    }
}

impl Value {
    /// The name of its type, with its article.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Texts(_) => "an array",
            Self::Switch(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads the single table `name` from valid TOML.
pub(super) fn read_one(text: &str, name: &str) -> Result<Vec<Table>, Wrong> {
    let lines = Lines::of(text);
    let Ok(document) = DeTable::parse(text) else { return Err((1, "cannot be read".to_owned())) };
    let Some((key, value)) = document.get_ref().get_key_value(name) else { return Ok(Vec::new()) };
    match value.get_ref().as_table() {
        Some(table) => Ok(vec![one(value, table, &lines)]),
        None => Err((
            lines.line(key.span().start),
            format!("is no table: write `[{name}]` above its keys, in one pair of brackets"),
        )),
    }
}

/// Reads the tables `name` from valid TOML.
pub(super) fn read(text: &str, name: &str) -> Result<Vec<Table>, Wrong> {
    let lines = Lines::of(text);
    let Ok(document) = DeTable::parse(text) else { return Err((1, "cannot be read".to_owned())) };
    let Some(value) = document.get_ref().get(name) else { return Ok(Vec::new()) };
    let wrong =
        |at: usize| (lines.line(at), format!("is no list of tables: write `[[{name}]]` above each, in two brackets"));
    let DeValue::Array(array) = value.get_ref() else { return Err(wrong(value.span().start)) };
    array
        .iter()
        .map(|element| match element.get_ref().as_table() {
            Some(table) => Ok(one(element, table, &lines)),
            None => Err(wrong(element.span().start)),
        })
        .collect()
}

fn one(element: &Spanned<DeValue<'_>>, table: &DeTable<'_>, lines: &Lines) -> Table {
    let mut items: Vec<(usize, Item)> = table
        .iter()
        .map(|(key, value)| {
            let start = key.span().start;
            let item =
                Item { key: key.get_ref().to_string(), line: lines.line(start), value: read_value(value, lines) };
            (start, item)
        })
        .collect();
    items.sort_unstable_by_key(|(start, _)| *start);
    let first = items.first().map_or(usize::MAX, |(start, _)| *start);
    Table {
        line: lines.line(element.span().start.min(first)),
        items: items.into_iter().map(|(_, item)| item).collect(),
    }
}

fn read_value(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Array(items) => {
            let text = |item: &Spanned<DeValue<'_>>| {
                Some((item.get_ref().as_str()?.to_owned(), lines.line(item.span().start)))
            };
            items
                .iter()
                .map(text)
                .collect::<Option<_>>()
                .map_or(Value::Other("an array of other things than texts"), Value::Texts)
        }
        DeValue::Boolean(is) => Value::Switch(*is),
        DeValue::Integer(number) => match i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Other("a number that is too large"),
        },
        DeValue::Table(table) => Value::Table(one(value, table, lines)),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or a time"),
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte, from 1 on.
    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_its_line() {
        let text =
            "a = 1\n\n[[routes]]\nname = \"x\"\nallow = [\n  \"ann\",\n  \"bob\",\n]\n# more\n[[routes]]\n\npath = 7\n";
        let mut tables = read(text, "routes").ok().unwrap();
        assert_eq!(tables.iter().map(|table| table.line).collect::<Vec<_>>(), [3, 10]);
        let allow = tables[0].take("allow").unwrap();
        assert!(
            matches!(&allow.value, Value::Texts(texts) if *texts == [("ann".to_owned(), 6), ("bob".to_owned(), 7)])
        );
        assert_eq!((allow.line, tables[0].rest().count()), (5, 1));
        let path = tables[1].take("path").unwrap();
        assert!(matches!(path.value, Value::Number(7)) && path.line == 12);
        assert!(read("a = 1", "routes").ok().unwrap().is_empty());
        assert_eq!(read("\n[routes]\nx = 1", "routes").err().unwrap().0, 2);
        assert_eq!(read("routes = [1]", "routes").err().unwrap().0, 1);
        assert_eq!(read("routes = [{ name = \"x\" }]", "routes").ok().unwrap()[0].line, 1);
    }
}
