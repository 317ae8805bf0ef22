//! Flags, environment and file as written: for each option the first source that has it. Unknown keys are errors.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::command::Sources;
use super::faults::Fault;
use super::files::Files;
use super::names::{self, Remark};
use super::options::{ALL, Fallback, Kind, Knob, SIDEGATE_CONFIG};
use super::tables::{self, Table, Tables, Wrong};

/// An option's value and its source. It may contain a secret, and cannot be printed.
pub(super) struct Setting {
    pub(super) written: RawValue,
    origin: Source,
}

/// A value as written.
pub(super) enum RawValue {
    /// One text.
    Text(String),
    /// An array of the file.
    Array(Vec<String>),
}

enum Source {
    Flag,
    Environment,
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "flag"),
            Self::Environment => write!(f, "environment"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl RawValue {
    fn shown(&self, kind: Kind) -> String {
        if kind == Kind::Secret {
            return "***".to_owned();
        }
        match self {
            Self::Text(text) => text.trim().to_owned(),
            Self::Array(items) => items.join(","),
        }
    }

    fn is_blank(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::Array(items) => items.iter().all(|item| item.trim().is_empty()),
        }
    }
}

impl Setting {
    /// The option's name for messages: with its source, unless that is the environment.
    fn name(&self, knob: Knob) -> String {
        match &self.origin {
            Source::Flag => format!("{} (--{})", knob.variable, knob.flag().unwrap_or_default()),
            Source::Environment => knob.variable.to_owned(),
            Source::File(path) => format!("{} ({})", knob.variable, path.display()),
        }
    }
}

/// All raw values.
#[derive(Default)]
pub(super) struct Raw {
    found: BTreeMap<&'static str, Setting>,
    /// The options that a source sets to a blank value.
    blank: BTreeSet<&'static str>,
    /// `HTTPS_PROXY` and `NO_PROXY`, or their names in lower case, as all programs read them.
    pub(super) environment_proxy: Option<(String, String)>,
    /// The errors found so far.
    pub(super) faults: Vec<Fault>,
    /// Warnings about unknown names.
    pub(super) warnings: Vec<String>,
    /// `[[routes]]`, if the file has any.
    pub(super) routes: Option<Tables>,
    /// `[[tokens]]`, likewise.
    pub(super) tokens: Option<Tables>,
    /// `[[upstreams]]`, likewise.
    pub(super) upstreams: Option<Tables>,
    /// `[identity]`, likewise.
    pub(super) identity: Option<Tables>,
    /// Whether a configured file could not be read or parsed, so that missing values cannot be reported.
    pub(super) lacks_file: bool,
}

impl Raw {
    /// Reads the sources, and the file that they name.
    pub(super) fn read(sources: &Sources, files: &mut Files) -> Self {
        let mut raw = Self::default();
        raw.judge_names(sources);
        let first = |names: [&str; 2]| {
            let texts = names.iter().filter_map(|name| sources.env.get(OsStr::new(name))?.to_str());
            texts.map(str::trim).find(|text| !text.is_empty()).map(str::to_owned)
        };
        raw.environment_proxy = first(["HTTPS_PROXY", "https_proxy"])
            .map(|proxy| (proxy, first(["NO_PROXY", "no_proxy"]).unwrap_or_default()));
        let mut file = raw.read_file(sources, files);
        for knob in ALL.iter().filter(|knob| **knob != SIDEGATE_CONFIG) {
            raw.find(*knob, sources, file.as_mut());
        }
        raw
    }

    /// Each option with its value and its source, in the order of the documentation; secrets as `***`.
    pub(super) fn effective(&self) -> Vec<String> {
        let line = |knob: &Knob| -> Option<String> {
            let (value, source) = match (self.found.get(knob.variable), knob.fallback) {
                (Some(found), _) => (found.written.shown(knob.kind), found.origin.to_string()),
                (None, Fallback::Is(text)) => (text.to_owned(), "default".to_owned()),
                (None, Fallback::Otherwise(_)) => return None,
            };
            let line = format!("{} = {value}  ({source})", knob.variable);
            // One setting stays one harmless line.
            Some(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
        };
        ALL.iter().filter_map(line).collect()
    }

    /// The configured file, if any.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        match self.get(SIDEGATE_CONFIG) {
            Some(RawValue::Text(path)) => Some(PathBuf::from(path.trim())),
            Some(RawValue::Array(_)) | None => None,
        }
    }

    /// The option's value, unless it is blank.
    pub(super) fn get(&self, knob: Knob) -> Option<&RawValue> {
        self.found.get(knob.variable).map(|found| &found.written).filter(|written| !written.is_blank())
    }

    /// Whether an option is set, but to nothing.
    pub(super) fn is_set_and_empty(&self, knob: Knob) -> bool {
        self.get(knob).is_none() && self.blank.contains(knob.variable)
    }

    /// An error about an option.
    pub(super) fn fault(&self, knob: Knob, problem: impl Into<String>) -> Fault {
        let name = self.found.get(knob.variable).map_or_else(|| knob.variable.to_owned(), |found| found.name(knob));
        Fault { name, problem: problem.into(), example: Some(knob.example.to_owned()) }
    }

    fn judge_names(&mut self, sources: &Sources) {
        for (name, value) in &sources.env {
            let Some(name) = name.to_str().filter(|_| !is_blank(value)) else { continue };
            match names::judge_variable(name, value) {
                Some(Remark::Fault(problem)) => {
                    self.faults.push(Fault { name: name.to_owned(), problem, example: None });
                }
                Some(Remark::Warning(text)) => self.warnings.push(text),
                None => {}
            }
        }
    }

    fn read_file(&mut self, sources: &Sources, files: &mut Files) -> Option<FileTable> {
        self.find(SIDEGATE_CONFIG, sources, None);
        let path = self.config_file()?;
        let table = files
            .read(SIDEGATE_CONFIG.variable, &path)
            .map_err(|error| format!("cannot read the file {}: {error}", path.display()))
            .and_then(|content| parse_toml(&path, content));
        match table {
            Ok((mut table, text)) => {
                if table.remove(ROUTES).is_some() {
                    self.routes = self.read_tables(ROUTES, &path, &text);
                }
                if table.remove(TOKENS).is_some() {
                    self.tokens = self.read_tables(TOKENS, &path, &text);
                }
                if table.remove(UPSTREAMS).is_some() {
                    self.upstreams = self.read_tables(UPSTREAMS, &path, &text);
                }
                if table.remove(IDENTITY).is_some() {
                    self.identity = self.note_wrong(IDENTITY, &path, tables::read_one(&text, IDENTITY));
                }
                let known = |key: &str| ALL.iter().any(|knob| knob.key().as_deref() == Some(key));
                for key in table.keys().filter(|key| !known(key)) {
                    let name = format!("{key} ({})", path.display());
                    self.faults.push(Fault { name, problem: names::judge_key(key), example: None });
                }
                Some(FileTable { path, table })
            }
            Err(problem) => {
                self.lacks_file = true;
                let fault = self.fault(SIDEGATE_CONFIG, problem);
                self.faults.push(fault);
                None
            }
        }
    }

    fn read_tables(&mut self, name: &str, path: &Path, text: &str) -> Option<Tables> {
        self.note_wrong(name, path, tables::read(text, name))
    }

    fn note_wrong(&mut self, name: &str, path: &Path, read: Result<Vec<Table>, Wrong>) -> Option<Tables> {
        match read {
            Ok(tables) => Some(Tables { path: path.to_owned(), tables }),
            Err((line, problem)) => {
                let name = format!("{name} ({}, line {line})", path.display());
                self.faults.push(Fault { name, problem, example: None });
                None
            }
        }
    }

    /// Takes the first source that has the option. A blank value counts as unset, except in allow lists.
    fn find(&mut self, knob: Knob, sources: &Sources, file: Option<&mut FileTable>) {
        let blank = Cell::new(false);
        let counts = |written: &RawValue| {
            blank.set(blank.get() || written.is_blank());
            knob.narrows_access() || !written.is_blank()
        };
        let flag = sources.flags.get(knob.variable).map(|text| RawValue::Text(text.clone())).filter(counts);
        let found = if let Some(written) = flag {
            Some(Setting { written, origin: Source::Flag })
        } else if let Some(written) = self.find_variable(knob, sources).filter(counts) {
            Some(Setting { written, origin: Source::Environment })
        } else {
            file.and_then(|file| {
                let origin = Source::File(file.path.clone());
                Some(Setting { written: self.find_key(knob, file).filter(counts)?, origin })
            })
        };
        if let Some(found) = found {
            self.found.insert(knob.variable, found);
        }
        if blank.get() {
            self.blank.insert(knob.variable);
        }
    }

    fn find_variable(&mut self, knob: Knob, sources: &Sources) -> Option<RawValue> {
        let value = sources.env.get(OsStr::new(knob.variable))?;
        match value.to_str() {
            Some(text) => Some(RawValue::Text(text.to_owned())),
            None => {
                let problem = "is not UTF-8 text".to_owned();
                let example = Some(knob.example.to_owned());
                self.faults.push(Fault { name: knob.variable.to_owned(), problem, example });
                None
            }
        }
    }

    fn find_key(&mut self, knob: Knob, file: &mut FileTable) -> Option<RawValue> {
        let value = file.table.remove(&knob.key()?)?;
        let written = written(value, knob.kind);
        if let Err(problem) = &written {
            let name = format!("{} ({})", knob.variable, file.path.display());
            self.faults.push(Fault { name, problem: (*problem).to_owned(), example: Some(knob.example.to_owned()) });
        }
        written.ok()
    }
}

/// The key of the tables of rules.
const ROUTES: &str = "routes";
/// The key of the tables of issuers of bearer tokens.
const TOKENS: &str = "tokens";
/// The key of the tables of upstreams.
const UPSTREAMS: &str = "upstreams";
/// The key of the table of identity fields for the upstream of `UPSTREAM_URL`.
const IDENTITY: &str = "identity";

struct FileTable {
    path: PathBuf,
    table: toml::Table,
}

/// The parser's own message would quote the line, which may contain a secret.
fn parse_toml(path: &Path, content: Vec<u8>) -> Result<(toml::Table, String), String> {
    let text = String::from_utf8(content).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let table = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!(
            "{} is not TOML: line {line}: text stands in quotes, a key stands once, and arrays in brackets",
            path.display()
        )
    })?;
    Ok((table, text))
}

fn written(value: toml::Value, kind: Kind) -> Result<RawValue, &'static str> {
    let takes_array = matches!(kind, Kind::List | Kind::Scopes | Kind::Files | Kind::Secret);
    match value {
        toml::Value::Array(items) if takes_array => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map(RawValue::Array).ok_or("must be an array of texts")
        }
        toml::Value::Array(_) => Err("is an array, but takes one value"),
        toml::Value::Table(_) => Err("is a table, but takes one value"),
        toml::Value::String(text) => Ok(RawValue::Text(text)),
        toml::Value::Integer(number) => Ok(RawValue::Text(number.to_string())),
        toml::Value::Boolean(is) => Ok(RawValue::Text(is.to_string())),
        toml::Value::Float(_) | toml::Value::Datetime(_) => Err("must be a text, a whole number, or true or false"),
    }
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}
