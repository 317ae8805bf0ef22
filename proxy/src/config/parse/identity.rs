//! The identity fields that an upstream receives: `[identity]`, `[upstreams.identity]`, or one word.

use std::path::Path;

use http::HeaderName;

use crate::adapters::stores::StoreSettings;
use crate::config::faults::Fault;
use crate::config::names::nearest;
use crate::config::reading::Reading;
use crate::config::tables::{Item, Table, Tables, Value};
use crate::domain::identity::ProviderKind;
use crate::rendering::{ChosenField, ChosenValue, GroupPattern, IdentityTable, Several};
use crate::serve::upstream_settings::IdentityChoice;

const EXAMPLE: &str = "\"X-WEBAUTH-USER\" = \"username\"";

const VALUES: [&str; 9] = ["user", "username", "email", "name", "id", "provider", "groups", "assertion", "id_token"];

const KEYS: [&str; 5] = ["value", "as", "prefix", "only", "separator"];

/// Names that frame or route a message, or on which our decisions or the application's depend.
const NEVER: [&str; 31] = [
    "host",
    "cookie",
    "set-cookie",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "range",
    "origin",
    "referer",
    "accept",
    "date",
    "via",
    "user-agent",
    "cache-control",
    "pragma",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
    "x-http-method-override",
];
const NEVER_PREFIXES: [&str; 9] =
    ["content-", "sec-", "accept-", "access-control-", "if-", "proxy-", "x-original-", "x-rewrite-", "impersonate-"];

/// The place of a table.
pub(super) struct Place<'p> {
    pub(super) path: &'p Path,
    pub(super) section: &'static str,
}

/// `[identity]`: the fields for the upstream of `UPSTREAM_URL`.
pub(super) fn read(reading: &mut Reading) -> IdentityChoice {
    let Some(Tables { path, tables }) = reading.identity.take() else { return IdentityChoice::Usual };
    let Some(table) = tables.into_iter().next() else { return IdentityChoice::Usual };
    let place = Place { path: &path, section: "identity" };
    let (line, before) = (table.line, reading.faults.len());
    let choice = of_table(reading, &place, table);
    if reading.faults.len() == before {
        reading.effective.push(format!("upstream default: {}  (line {line})", print(&choice)));
    }
    choice
}

/// An upstream's `identity`: a table, `"default"` or `"none"`.
pub(super) fn choice(reading: &mut Reading, place: &Place<'_>, item: Item) -> IdentityChoice {
    match item.value {
        Value::Table(table) => of_table(reading, place, table),
        Value::Text(word) if word == "default" => IdentityChoice::Usual,
        Value::Text(word) if word == "none" => IdentityChoice::Nothing,
        Value::Text(_) | Value::Texts(_) | Value::Switch(_) | Value::Number(_) | Value::Other(_) => {
            let problem = "must be \"default\", \"none\", or a table of names and what they say";
            fault(reading, place, None, item.line, problem.to_owned(), Some(EXAMPLE));
            IdentityChoice::Usual
        }
    }
}

/// The identity fields, in one line.
pub(super) fn print(choice: &IdentityChoice) -> String {
    match choice {
        IdentityChoice::Usual => "identity default".to_owned(),
        IdentityChoice::Nothing => "identity none".to_owned(),
        IdentityChoice::Table(table) => {
            let names: Vec<&str> = table.fields.iter().map(|field| field.name.as_str()).collect();
            format!("identity [{}]", names.join(", "))
        }
    }
}

fn fault(
    reading: &mut Reading,
    place: &Place<'_>,
    key: Option<&str>,
    line: usize,
    problem: String,
    example: Option<&str>,
) {
    let name = name_of(place, key, line);
    reading.faults.push(Fault { name, problem, example: example.map(str::to_owned) });
}

fn name_of(place: &Place<'_>, key: Option<&str>, line: usize) -> String {
    let key = key.map(|key| format!(".{key}")).unwrap_or_default();
    format!("{}{key} ({}, line {line})", place.section, place.path.display())
}

/// Rejects ID tokens in a table if the session store or the provider does not allow them.
pub(super) fn judge_id_tokens(reading: &mut Reading, provider: ProviderKind, store: &StoreSettings) {
    for name in std::mem::take(&mut reading.id_tokens) {
        if matches!(store, StoreSettings::Jwt { .. }) {
            let problem = "asks for `id_token`, and with SESSION_STORE=jwt no token of the provider is kept: `assertion` says who it is, signed by Sidegate";
            reading.faults.push(Fault {
                name,
                problem: problem.to_owned(),
                example: Some("SESSION_STORE=redis".to_owned()),
            });
        } else if provider == ProviderKind::Github {
            reading
                .warnings
                .push(format!("{name}: asks for `id_token`, and GitHub gives none: the field is never sent"));
        }
    }
}

fn of_table(reading: &mut Reading, place: &Place<'_>, table: Table) -> IdentityChoice {
    let mut fields: Vec<ChosenField> = Vec::new();
    for Item { key, line, value } in table.into_items() {
        let mut one = One { reading, place, key: &key, line };
        let Some(name) = one.name() else { continue };
        let folded = fold(name.as_str());
        if fields.iter().any(|other| fold(other.name.as_str()) == folded) {
            one.fault("is named twice: servers read letters of any case, and `_` for `-`, as the same name", None);
        }
        fields.extend(one.field(name, value));
    }
    IdentityChoice::Table(IdentityTable { fields })
}

fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// A field that is being read.
struct One<'a> {
    reading: &'a mut Reading,
    place: &'a Place<'a>,
    key: &'a str,
    line: usize,
}

impl One<'_> {
    fn fault(&mut self, problem: impl Into<String>, example: Option<&str>) {
        fault(self.reading, self.place, Some(self.key), self.line, problem.into(), example);
    }

    fn place(&self) -> String {
        name_of(self.place, Some(self.key), self.line)
    }

    fn name(&mut self) -> Option<HeaderName> {
        let Ok(name) = HeaderName::from_bytes(self.key.as_bytes()) else {
            self.fault("is not the name of a header", Some(EXAMPLE));
            return None;
        };
        let folded = fold(name.as_str());
        let is_never = NEVER.contains(&folded.as_str()) || NEVER_PREFIXES.iter().any(|front| folded.starts_with(front));
        if is_never {
            let problem =
                "cannot be chosen: it frames or routes a request, or says how it came, and is not for identities";
            self.fault(problem, Some(EXAMPLE));
            return None;
        }
        Some(name)
    }

    fn field(&mut self, name: HeaderName, value: Value) -> Option<ChosenField> {
        let several = Several::Joined(',');
        match value {
            Value::Text(word) => {
                let value = self.value(&word)?;
                Some(ChosenField { name, value, prefix: String::new(), only: None, several })
            }
            Value::Table(mut table) => {
                let word = match table.take("value").map(|item| item.value) {
                    Some(Value::Text(word)) => word,
                    Some(_) | None => {
                        self.fault("lacks `value`, which says what the field tells", Some("{ value = \"groups\" }"));
                        return None;
                    }
                };
                let value = self.value(&word)?;
                let is_list = matches!(value, ChosenValue::Groups | ChosenValue::Claim(_));
                let several = self.several(&mut table, is_list);
                let prefix = self.prefix(&mut table, &value, several);
                let only = self.only(&mut table, &value);
                for item in table.into_items() {
                    let problem = match nearest(&item.key, KEYS.into_iter()) {
                        Some(meant) => format!("has the unknown key `{}`; did you mean `{meant}`?", item.key),
                        None => format!("has the unknown key `{}`; there are {}", item.key, KEYS.join(", ")),
                    };
                    self.fault(problem, None);
                }
                Some(ChosenField { name, value, prefix, only, several })
            }
            Value::Texts(_) | Value::Switch(_) | Value::Number(_) | Value::Other(_) => {
                self.fault(format!("is {}, and takes a text or a table", value.kind()), Some(EXAMPLE));
                None
            }
        }
    }

    fn value(&mut self, word: &str) -> Option<ChosenValue> {
        Some(match word {
            "user" => ChosenValue::User,
            "username" => ChosenValue::Username,
            "email" => ChosenValue::Email,
            "name" => ChosenValue::Name,
            "id" => ChosenValue::Id,
            "provider" => ChosenValue::Provider,
            "groups" => ChosenValue::Groups,
            "assertion" => ChosenValue::Assertion,
            "id_token" => {
                let name = self.place();
                self.reading.id_tokens.push(name);
                ChosenValue::IdToken
            }
            other => match other.strip_prefix("claim:").filter(|name| !name.is_empty()) {
                Some(name) => ChosenValue::Claim(name.to_owned()),
                None => {
                    let problem = match nearest(other, VALUES.into_iter()) {
                        Some(meant) => format!("says what is not known; did you mean `{meant}`?"),
                        None => format!("says what is not known; there are {}, and `claim:NAME`", VALUES.join(", ")),
                    };
                    self.fault(problem, Some(EXAMPLE));
                    return None;
                }
            },
        })
    }

    fn several(&mut self, table: &mut Table, is_list: bool) -> Several {
        let (repeat, separator) = (table.take("as"), table.take("separator"));
        if !is_list && (repeat.is_some() || separator.is_some()) {
            self.fault("has `as` or `separator`, which are for `groups` and claims", None);
            return Several::Joined(',');
        }
        let sign = separator.map(|item| match item.value {
            Value::Text(text) => Some(text),
            Value::Texts(_) | Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => None,
        });
        let sign = match sign.as_ref().map(|text| text.as_deref().map(|text| (text.chars().next(), text.len()))) {
            None => None,
            Some(Some((Some(sign), 1))) if (sign.is_ascii_punctuation() || sign == ' ') && sign != '%' => Some(sign),
            Some(_) => {
                self.fault("has a `separator` that is not one sign such as `,`, `|` or `;`", Some("separator = \"|\""));
                None
            }
        };
        let word = repeat.map(|item| match item.value {
            Value::Text(text) => text,
            Value::Texts(_) | Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => String::new(),
        });
        match (word.as_deref(), sign) {
            (None | Some("joined"), sign) => Several::Joined(sign.unwrap_or(',')),
            (Some("repeated"), None) => Several::Repeated,
            (Some("repeated"), Some(_)) => {
                self.fault("has a `separator` beside `as = \"repeated\"`, where nothing is joined", None);
                Several::Repeated
            }
            (Some(_), _) => {
                self.fault("has an `as` that is neither `repeated` nor `joined`", Some("as = \"repeated\""));
                Several::Joined(',')
            }
        }
    }

    fn prefix(&mut self, table: &mut Table, value: &ChosenValue, several: Several) -> String {
        let Some(item) = table.take("prefix") else { return String::new() };
        let Value::Text(text) = item.value else {
            self.fault("has a `prefix` that is no text", Some("prefix = \"corp:\""));
            return String::new();
        };
        let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '%';
        let problem = if *value == ChosenValue::Assertion {
            "has a `prefix` before an assertion, which is read as it stands"
        } else if text.is_empty() || text.starts_with(' ') || !text.chars().all(plain) {
            "has a `prefix` that is not plain text: letters, digits and signs but `%`"
        } else if let Several::Joined(sign) = several
            && matches!(value, ChosenValue::Groups | ChosenValue::Claim(_))
            && text.contains(sign)
        {
            "has a `prefix` that holds the separator"
        } else {
            return text;
        };
        self.fault(problem, Some("prefix = \"corp:\""));
        String::new()
    }

    fn only(&mut self, table: &mut Table, value: &ChosenValue) -> Option<Vec<GroupPattern>> {
        let item = table.take("only")?;
        if *value != ChosenValue::Groups {
            self.fault("has `only`, which is for `groups`", None);
        }
        let texts = match item.value {
            Value::Texts(texts) => texts.into_iter().map(|(text, _)| text).collect(),
            Value::Text(text) => vec![text],
            Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => Vec::new(),
        };
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            self.fault(
                "has an `only` that names no group: leave the field out to tell none",
                Some("only = [\"acme/*\"]"),
            );
        }
        Some(texts.into_iter().map(GroupPattern).collect())
    }
}
