//! The upstreams of rules: `[[upstreams]]` of the file, each error with its line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;

use super::identity;
use super::impersonation::{self, Acts};
use super::keys;
use super::network::{self, Listeners};
use crate::adapters::certs::ClientIdentity;
use crate::adapters::telemetry::DEFAULT_UPSTREAM;
use crate::adapters::upstream::{Health, PoolSettings, Trust, UpstreamAddress, UpstreamSettings};
use crate::config::faults::Fault;
use crate::config::reading::Reading;
use crate::config::tables::{Item, Table, Tables, Value};
use crate::config::words;
use crate::serve::settings::Timeouts;
use crate::serve::upstream_settings::{DestinationSettings, IdentityChoice, Manner};

const KEYS: [&str; 22] = [
    "name",
    "urls",
    "strip_prefix",
    "ignore_case",
    "host",
    "health",
    "health_every",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "server_name",
    "timeout_connect",
    "timeout_first_byte",
    "timeout_body",
    "limit_body",
    "response_headers",
    "identity",
    "assertion_groups",
    "impersonate",
    "impersonate_user",
    "prefix",
    "token_file",
];

/// The longest name of an upstream, in bytes: it is part of every metric, and of assertions.
const NAME_LIMIT: usize = 64;

const DAY: Duration = Duration::from_secs(86_400);

/// The defaults for an upstream's section.
pub(super) struct Usual {
    pub(super) connect: Duration,
    pub(super) timeouts: Timeouts,
}

/// What rules may know of an upstream.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) ignores_case: bool,
    /// The prefix that it does not receive.
    pub(super) strips: Option<String>,
    /// How it acts as users.
    pub(super) acts: Option<Acts>,
}

/// The upstreams, in the file's order. Any error in them is noted. Names are known even if something else is wrong.
pub(super) fn read(
    reading: &mut Reading,
    usual: &Usual,
    own: Option<&Listeners>,
) -> (Vec<Named>, Vec<DestinationSettings>) {
    let (mut names, mut all) = (Vec::new(), Vec::<(usize, DestinationSettings)>::new());
    let Some(Tables { path, tables }) = reading.upstreams.take() else { return (names, Vec::new()) };
    for table in tables {
        let before = reading.faults.len();
        let mut one = One { path: &path, line: table.line, reading };
        let (section, acts) = one.section(table, usual, own);
        if let Some((line, _)) = all.iter().find(|(_, other)| other.pool.name == section.pool.name) {
            let problem = format!("is also the name of the upstream in line {line}: each has its own");
            one.fault("name", one.line, problem, None);
        }
        let line = one.line;
        if reading.faults.len() == before {
            reading.effective.push(print(&section, line));
        }
        let Manner { ignores_case, strip_prefix, .. } = &section.manner;
        let (name, strips) = (section.pool.name.clone(), strip_prefix.clone());
        names.push(Named { name, ignores_case: *ignores_case, strips, acts });
        all.push((line, section));
    }
    (names, all.into_iter().map(|(_, section)| section).collect())
}

/// A section in one line, with its place in the file.
fn print(section: &DestinationSettings, line: usize) -> String {
    let DestinationSettings { pool, manner, identity, assertion_groups, acting } = section;
    let urls: Vec<String> = pool.urls.iter().map(|url| url.address.origin()).collect();
    let mut parts = vec![format!("upstream {}:", pool.name), format!("urls [{}]", urls.join(", "))];
    if let Some(prefix) = &manner.strip_prefix {
        parts.push(format!("strip_prefix {prefix}"));
    }
    if manner.ignores_case {
        parts.push("ignore_case true".to_owned());
    }
    if !manner.keeps_host {
        parts.push("host upstream".to_owned());
    }
    if let Some(health) = &pool.health {
        parts.push(format!("health {} every {}", health.path, words::duration_text(health.every)));
    }
    if let Some(url) = pool.urls.first() {
        if !url.roots.is_empty() {
            parts.push(format!("ca_file ({})", url.roots.len()));
        }
        if url.trust.client.is_some() {
            parts.push("client certificate".to_owned());
        }
        if let Some(name) = &url.trust.server_name {
            parts.push(format!("server_name {name}"));
        }
        parts.push(format!("timeout_connect {}", words::duration_text(url.connect_timeout)));
    }
    parts.push(format!("timeout_first_byte {}", words::duration_text(manner.first_byte)));
    parts.push(format!("timeout_body {}", words::duration_text(manner.body)));
    if let Some(limit) = manner.limit_body {
        parts.push(format!("limit_body {limit}"));
    }
    let names = |names: Vec<&str>| format!("[{}]", names.join(", "));
    if !manner.set.is_empty() {
        parts.push(format!("sets {}", names(manner.set.iter().map(|(name, _)| name.as_str()).collect())));
    }
    if !manner.remove.is_empty() {
        parts.push(format!("removes {}", names(manner.remove.iter().map(HeaderName::as_str).collect())));
    }
    parts.push(identity::print(identity));
    if !assertion_groups {
        parts.push("assertion_groups false".to_owned());
    }
    parts.extend(acting.as_ref().map(impersonation::print));
    format!("{}  (line {line})", parts.join(" "))
}

/// A section that is being read.
struct One<'a> {
    path: &'a Path,
    line: usize,
    reading: &'a mut Reading,
}

impl One<'_> {
    fn place(&self, key: &str, line: usize) -> String {
        format!("upstreams.{key} ({}, line {line})", self.path.display())
    }

    fn fault(&mut self, key: &str, line: usize, problem: impl Into<String>, example: Option<&str>) {
        let name = self.place(key, line);
        self.reading.faults.push(Fault { name, problem: problem.into(), example: example.map(str::to_owned) });
    }

    fn section(
        &mut self,
        mut table: Table,
        usual: &Usual,
        own: Option<&Listeners>,
    ) -> (DestinationSettings, Option<Acts>) {
        let table = &mut table;
        let name = self.name(table).unwrap_or_default();
        let addresses = self.urls(table, own);
        let manner = self.manner(table, &usual.timeouts);
        let health = self.health(table);
        let connect = self.timeout(table, "timeout_connect", Duration::from_secs(600)).unwrap_or(usual.connect);
        let urls = self.trusted(table, addresses, connect);
        let identity = match table.take("identity") {
            Some(item) => {
                let place = identity::Place { path: self.path, section: "upstreams.identity" };
                identity::choice(self.reading, &place, item)
            }
            None => IdentityChoice::default(),
        };
        let assertion_groups = self.switch(table, "assertion_groups").unwrap_or(true);
        let others = impersonation::OtherSettings { urls: &urls, identity: &identity };
        let place = impersonation::Place { path: self.path, line: self.line };
        let (acting, acts) = impersonation::read(self.reading, place, table, &others).unzip();
        self.unknown_keys(table);
        let pool = PoolSettings { name, urls, health };
        (DestinationSettings { pool, manner, identity, assertion_groups, acting }, acts)
    }

    fn name(&mut self, table: &mut Table) -> Option<String> {
        let example = Some("name = \"grafana\"");
        let Some(item) = table.take("name") else {
            self.fault("name", self.line, "is missing: rules lead to the upstream by it", example);
            return None;
        };
        let line = item.line;
        let name = self.text("name", item)?;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_' || b == b'.';
        let problem = if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(fits) {
            format!("must be 1 to {NAME_LIMIT} small letters, digits, `-`, `_` and `.`")
        } else if name == DEFAULT_UPSTREAM {
            format!(
                "is what the upstream of UPSTREAM_URL is called: leave `upstream` out of a rule to lead there, and choose another word here than `{name}`"
            )
        } else {
            return Some(name);
        };
        self.fault("name", line, problem, example);
        None
    }

    fn urls(&mut self, table: &mut Table, own: Option<&Listeners>) -> Vec<UpstreamAddress> {
        let example = "urls = [\"http://grafana-1:3000\", \"http://grafana-2:3000\"]";
        let Some(item) = table.take("urls") else {
            self.fault("urls", self.line, "is missing: it says where the upstream is", Some(example));
            return Vec::new();
        };
        let mut urls = Vec::new();
        for (text, line) in self.texts("urls", item, example) {
            match network::upstream_address(&text) {
                Ok(address) => {
                    if let Some(problem) = own.and_then(|own| network::is_ourselves(&address, own)) {
                        self.fault("urls", line, problem, None);
                    } else if urls.contains(&address) {
                        self.fault("urls", line, "names one address twice", Some(example));
                    }
                    urls.push(address);
                }
                Err(problem) => self.fault("urls", line, problem, Some(example)),
            }
        }
        urls
    }

    fn manner(&mut self, table: &mut Table, timeouts: &Timeouts) -> Manner {
        let strip_prefix = self.strip_prefix(table);
        let ignores_case = self.switch(table, "ignore_case").unwrap_or_default();
        let keeps_host = self.keeps_host(table);
        let first_byte = self.timeout(table, "timeout_first_byte", DAY).unwrap_or(timeouts.first_byte);
        let body = self.timeout(table, "timeout_body", DAY).unwrap_or(timeouts.body);
        let limit_body = self.limit_body(table);
        let (set, remove) = self.response_headers(table);
        Manner { strip_prefix, ignores_case, keeps_host, first_byte, body, limit_body, set, remove }
    }

    fn strip_prefix(&mut self, table: &mut Table) -> Option<String> {
        let item = table.take("strip_prefix")?;
        let line = item.line;
        let text = self.text("strip_prefix", item)?;
        let prefix = text.strip_suffix('/').unwrap_or(&text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()+,=:@/".contains(&b);
        let odd_segment = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        let Some(inner) = prefix.strip_prefix('/').filter(|inner| inner.bytes().all(plain)) else {
            let problem = "must be the front of a path, as it stands in requests, without what has to be encoded";
            self.fault("strip_prefix", line, problem, Some("strip_prefix = \"/grafana\""));
            return None;
        };
        if inner.split('/').any(odd_segment) {
            self.fault(
                "strip_prefix",
                line,
                "holds an empty segment or one of dots",
                Some("strip_prefix = \"/grafana\""),
            );
            return None;
        }
        Some(prefix.to_owned())
    }

    fn keeps_host(&mut self, table: &mut Table) -> bool {
        let Some(item) = table.take("host") else { return true };
        let line = item.line;
        match self.text("host", item).as_deref() {
            Some("keep") | None => true,
            Some("upstream") => false,
            Some(_) => {
                let problem = "must be `keep` (the host that was asked for) or `upstream` (the backend's own name)";
                self.fault("host", line, problem, Some("host = \"upstream\""));
                true
            }
        }
    }

    fn health(&mut self, table: &mut Table) -> Option<Health> {
        let every_line = table.take("health_every").map(|item| (item.line, self.duration("health_every", item)));
        let Some(item) = table.take("health") else {
            if let Some((line, _)) = every_line {
                self.fault(
                    "health_every",
                    line,
                    "stands without `health`, the path that is asked for",
                    Some("health = \"/healthz\""),
                );
            }
            return None;
        };
        let line = item.line;
        let path = self.text("health", item)?;
        if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            self.fault("health", line, "must be a path, as it stands in requests", Some("health = \"/healthz\""));
            return None;
        }
        let every = match every_line {
            None => Duration::from_secs(10),
            Some((line, every)) => {
                let every = every?;
                if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&every) {
                    self.fault("health_every", line, "must be from 1s to 1h", Some("health_every = \"10s\""));
                }
                every
            }
        };
        Some(Health { path, every })
    }

    /// The addresses, with what is trusted there.
    fn trusted(
        &mut self,
        table: &mut Table,
        addresses: Vec<UpstreamAddress>,
        connect: Duration,
    ) -> Vec<UpstreamSettings> {
        let is_tls = addresses.iter().any(UpstreamAddress::is_tls);
        for key in ["ca_file", "client_cert_file", "client_key_file", "server_name"] {
            if let Some(item) = (!is_tls && !addresses.is_empty()).then(|| table.take(key)).flatten() {
                self.fault(key, item.line, "is for `https` and `h2`, and none of `urls` is one of these", None);
            }
        }
        let roots = match self.file(table, "ca_file") {
            Some((path, content, line)) => keys::roots_in(&content).unwrap_or_else(|problem| {
                self.fault("ca_file", line, format!("the file {} {problem}", path.display()), None);
                Vec::new()
            }),
            None => Vec::new(),
        };
        let client = self.client(table);
        let server_name = self.server_name(table);
        let settings = |address: UpstreamAddress| {
            let is_tls = address.is_tls();
            let trust = Trust {
                client: client.clone().filter(|_| is_tls),
                server_name: server_name.clone().filter(|_| is_tls),
                offers_http2: matches!(address, UpstreamAddress::Https { .. }),
            };
            let roots = if is_tls { roots.clone() } else { Vec::new() };
            UpstreamSettings { address, roots, connect_timeout: connect, trust }
        };
        addresses.into_iter().map(settings).collect()
    }

    fn client(&mut self, table: &mut Table) -> Option<ClientIdentity> {
        let certificate = self.file(table, "client_cert_file");
        let key = self.file(table, "client_key_file");
        let ((certificate, chain, line), (key, private, key_line)) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return None,
            (Some((_, _, line)), None) => {
                self.fault("client_key_file", line, "is missing: a certificate is of no use without its key", None);
                return None;
            }
            (None, Some((_, _, line))) => {
                self.fault("client_cert_file", line, "is missing: a key is of no use without its certificate", None);
                return None;
            }
        };
        let chain = keys::certificates(&chain)
            .map_err(|problem| {
                self.fault("client_cert_file", line, format!("the file {} {problem}", certificate.display()), None)
            })
            .ok();
        let private = PrivateKeyDer::from_pem_slice(&private)
            .map_err(|_| {
                let problem = "holds no private key in PEM that can be read; one that is encrypted cannot";
                self.fault("client_key_file", key_line, format!("the file {} {problem}", key.display()), None);
            })
            .ok();
        let (chain, private) = (chain?, private?);
        if let Err(error) = CertifiedKey::from_der(chain.clone(), private.clone_key(), &default_provider()) {
            let problem = format!("the key does not go with the certificate of client_cert_file: {error}");
            self.fault("client_key_file", key_line, problem, None);
            return None;
        }
        Some(ClientIdentity { chain, key: Arc::new(private) })
    }

    fn server_name(&mut self, table: &mut Table) -> Option<String> {
        let item = table.take("server_name")?;
        let line = item.line;
        let name = self.text("server_name", item)?;
        if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
            self.fault("server_name", line, "is no host name", Some("server_name = \"grafana.internal\""));
            return None;
        }
        Some(name)
    }

    /// A file named in a section; it is read again when it changes.
    fn file(&mut self, table: &mut Table, key: &str) -> Option<(PathBuf, Vec<u8>, usize)> {
        let item = table.take(key)?;
        let line = item.line;
        let path = PathBuf::from(self.text(key, item)?);
        match self.reading.files.read(&self.place(key, line), &path) {
            Ok(content) => Some((path, content, line)),
            Err(error) => {
                self.fault(key, line, format!("cannot read the file {}: {error}", path.display()), None);
                None
            }
        }
    }

    fn limit_body(&mut self, table: &mut Table) -> Option<u64> {
        let item = table.take("limit_body")?;
        let number = match item.value {
            Value::Number(number) => u64::try_from(number).ok().filter(|number| *number > 0),
            Value::Text(_) | Value::Texts(_) | Value::Switch(_) | Value::Table(_) | Value::Other(_) => None,
        };
        if number.is_none() {
            self.fault(
                "limit_body",
                item.line,
                "must be a whole number of bytes, from 1",
                Some("limit_body = 10485760"),
            );
        }
        number
    }

    fn response_headers(&mut self, table: &mut Table) -> (Vec<(HeaderName, HeaderValue)>, Vec<HeaderName>) {
        let example = "response_headers = { set = { \"X-Frame-Options\" = \"DENY\" }, remove = [\"Server\"] }";
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        let Some(item) = table.take("response_headers") else { return (set, remove) };
        let Value::Table(mut inner) = item.value else {
            self.fault("response_headers", item.line, "must be a table with `set` and `remove`", Some(example));
            return (set, remove);
        };
        if let Some(item) = inner.take("set") {
            let Value::Table(fields) = item.value else {
                self.fault("response_headers.set", item.line, "must be a table of names and values", Some(example));
                return (set, remove);
            };
            for Item { key, line, value } in fields.into_items() {
                let Some(name) = self.answer_field(&key, line) else { continue };
                let value = match &value {
                    Value::Text(text) => HeaderValue::from_str(text.trim()).ok(),
                    Value::Texts(_) | Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => None,
                };
                match value {
                    Some(value) => set.push((name, value)),
                    None => self.fault(
                        "response_headers.set",
                        line,
                        format!("`{key}` takes one text in quotes, without control characters"),
                        Some(example),
                    ),
                }
            }
        }
        if let Some(item) = inner.take("remove") {
            for (key, line) in self.texts("response_headers.remove", item, example) {
                remove.extend(self.answer_field(&key, line));
            }
        }
        for item in inner.into_items() {
            let problem = format!("`{}` is an unknown key; there are `set` and `remove`", item.key);
            self.fault("response_headers", item.line, problem, Some(example));
        }
        (set, remove)
    }

    /// A field that may be added to or removed from responses.
    fn answer_field(&mut self, key: &str, line: usize) -> Option<HeaderName> {
        const FRAMING: [&str; 9] = [
            "connection",
            "content-length",
            "transfer-encoding",
            "trailer",
            "te",
            "upgrade",
            "keep-alive",
            "proxy-connection",
            "content-encoding",
        ];
        let problem = match HeaderName::from_bytes(key.as_bytes()) {
            Err(_) => "is not the name of a header".to_owned(),
            Ok(name) if name == "set-cookie" => {
                "is refused: cookies are the application's own, and those of Sidegate are never an upstream's to set"
                    .to_owned()
            }
            Ok(name) if FRAMING.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-") => {
                "frames the answer, and is not for a setting to change".to_owned()
            }
            Ok(name) => return Some(name),
        };
        self.fault("response_headers", line, format!("`{key}` {problem}"), None);
        None
    }

    fn timeout(&mut self, table: &mut Table, key: &str, most: Duration) -> Option<Duration> {
        let item = table.take(key)?;
        let line = item.line;
        let duration = self.duration(key, item)?;
        if !(Duration::from_millis(10)..=most).contains(&duration) {
            self.fault(
                key,
                line,
                format!("must be from 10ms to {}", words::duration_text(most)),
                Some(&format!("{key} = \"5s\"")),
            );
            return None;
        }
        Some(duration)
    }

    fn duration(&mut self, key: &str, item: Item) -> Option<Duration> {
        let line = item.line;
        let text = self.text(key, item)?;
        words::duration(&text).map_err(|problem| self.fault(key, line, problem, Some(&format!("{key} = \"10s\"")))).ok()
    }

    fn switch(&mut self, table: &mut Table, key: &str) -> Option<bool> {
        let item = table.take(key)?;
        let Value::Switch(on) = item.value else {
            self.fault(key, item.line, "must be true or false, without quotes", Some(&format!("{key} = true")));
            return None;
        };
        Some(on)
    }

    fn text(&mut self, key: &str, item: Item) -> Option<String> {
        let kind = item.value.kind();
        if let Value::Text(text) = item.value {
            return Some(text.trim().to_owned());
        }
        self.fault(key, item.line, format!("is {kind}, and takes one text in quotes"), None);
        None
    }

    /// A list, which must not be empty. A single string is a list of one.
    fn texts(&mut self, key: &str, item: Item, example: &str) -> Vec<(String, usize)> {
        let line = item.line;
        let texts = match item.value {
            Value::Texts(texts) => texts,
            Value::Text(text) => vec![(text, line)],
            Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => {
                self.fault(key, line, "takes an array of texts in quotes", Some(example));
                return Vec::new();
            }
        };
        let texts: Vec<_> = texts.into_iter().map(|(text, line)| (text.trim().to_owned(), line)).collect();
        if texts.is_empty() || texts.iter().any(|(text, _)| text.is_empty()) {
            self.fault(key, line, "holds nothing, or an empty text: name something", Some(example));
            return Vec::new();
        }
        texts
    }

    fn unknown_keys(&mut self, table: &Table) {
        for (key, line, problem) in table.unknown_keys(&KEYS, "an upstream") {
            self.fault(&key, line, problem, None);
        }
    }
}

#[cfg(test)]
mod tests;
