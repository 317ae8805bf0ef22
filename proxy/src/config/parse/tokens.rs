//! The accepted bearer tokens: `OAUTH_BEARER_…`, and `[[tokens]]` of the file, each error with its line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use super::keys;
use crate::adapters::providers::bearer::{
    BearerSettings, ClaimNames, GithubSettings, IssuerName, IssuerSettings, check_file, is_same,
};
use crate::adapters::providers::{ProviderSettings, WayOut, goes_through_a_proxy};
use crate::config::faults::Fault;
use crate::config::options::{OAUTH_BEARER_AUDIENCES, OAUTH_BEARER_GITHUB};
use crate::config::reading::Reading;
use crate::config::tables::{Item, Table, Tables, Value};
use crate::config::words;
use crate::domain::identity::ProviderKind;
use crate::domain::policy::{AllowLists, AllowedGroups, AllowedUsers};
use crate::domain::rules::{Access, Entry, Rule, TokenLists};

const KEYS: [&str; 12] = [
    "name",
    "issuer",
    "audiences",
    "username_claim",
    "email_claim",
    "groups_claim",
    "name_claim",
    "ca_file",
    "jwks_file",
    "allowed_users",
    "allowed_groups",
    "id_tokens",
];

/// The longest name of a section, in bytes: it is part of logs and header fields.
const NAME_LIMIT: usize = 32;

/// Issuers from which anyone can get tokens, for any audience.
const FOR_EVERYBODY: [&str; 3] =
    ["https://token.actions.githubusercontent.com", "https://gitlab.com", "https://accounts.google.com"];

/// One section of `[[tokens]]`.
pub(super) struct Section {
    pub(super) name: String,
    line: usize,
    issuer: String,
    audiences: Vec<String>,
    takes_id_tokens: bool,
    names: ClaimNames,
    keys: Option<Vec<u8>>,
    keys_file: Option<PathBuf>,
    roots: Vec<CertificateDer<'static>>,
    lists: AllowLists,
}

impl Section {
    /// Whether its issuer would be called through a proxy with these exceptions. With keys of its own it is not called.
    pub(super) fn uses_a_proxy(&self, exceptions: &str) -> bool {
        self.keys.is_none() && Url::parse(&self.issuer).is_ok_and(|issuer| goes_through_a_proxy(&issuer, exceptions))
    }
}

/// The sections, in the file's order. Any error in them is noted.
pub(super) fn sections(reading: &mut Reading) -> Vec<Section> {
    let Some(Tables { path, tables }) = reading.tokens.take() else { return Vec::new() };
    let mut sections: Vec<Section> = Vec::with_capacity(tables.len());
    for table in tables {
        let before = reading.faults.len();
        let mut one = One { path: &path, line: table.line, reading };
        let section = one.section(table);
        if let Some(other) = sections.iter().find(|other| !section.name.is_empty() && other.name == section.name) {
            let problem = format!("is also the name of the section in line {}: each has its own", other.line);
            one.fault("name", section.line, problem, None);
        }
        one.judge_overlap(&section, &sections);
        if reading.faults.len() == before {
            reading.effective.push(print(&section));
        }
        sections.push(section);
    }
    sections
}

/// Settings from outside the section.
pub(super) struct OtherSettings<'a> {
    /// `OAUTH_PROVIDER`.
    pub(super) kind: Option<ProviderKind>,
    /// The provider, if it is valid.
    pub(super) provider: Option<&'a ProviderSettings>,
    /// `OAUTH_CA_FILE`.
    pub(super) roots: &'a [CertificateDer<'static>],
    /// `OAUTH_PROXY`.
    pub(super) way_out: Option<&'a WayOut>,
    /// `SESSION_TTL`.
    pub(super) lasts: Duration,
    pub(super) rules: &'a [Rule],
    /// The claims that upstreams receive.
    pub(super) chosen: &'a [&'a str],
}

/// The accepted issuers; `None`: no tokens are accepted, so `Authorization` is ignored. Also the allow lists of each section.
pub(super) fn read(
    reading: &mut Reading,
    sections: Vec<Section>,
    others: &OtherSettings<'_>,
) -> (Option<BearerSettings>, TokenLists) {
    let audiences = reading.list(OAUTH_BEARER_AUDIENCES);
    let of_github = reading.parsed(OAUTH_BEARER_GITHUB, words::switch).unwrap_or_default();
    judge_provider(reading, others.kind, &audiences, of_github);
    let mut settings = BearerSettings::default();
    if let Some(plain) =
        others.provider.filter(|_| !audiences.is_empty()).and_then(|provider| plain(provider, audiences))
    {
        for section in sections.iter().filter(|section| plain.issuer.may_issue_as(&section.issuer)) {
            if let Some(shared) = section.audiences.iter().find(|audience| plain.audiences.contains(audience)) {
                let (whose, mend) = if plain.issuer.is_known_by_domain() {
                    (
                        "a tenant that may be the one of OAUTH_TENANT_ID",
                        ": give OAUTH_TENANT_ID as a GUID, or other audiences",
                    )
                } else {
                    ("the same issuer", "")
                };
                let problem = format!(
                    "names the audience `{shared}`, which the section `{}` of [[tokens]] (line {}) accepts of {whose}: whose such a token is must be clear{mend}",
                    section.name, section.line
                );
                reading.fault(OAUTH_BEARER_AUDIENCES, problem);
            }
        }
        let of_rules = claims(others, &plain.name);
        settings.issuers.push(IssuerSettings {
            claims: of_rules,
            roots: others.roots.to_vec(),
            way_out: others.way_out.cloned(),
            ..plain
        });
    }
    if let Some(ProviderSettings::Github { client, web, api, groups }) = others.provider.filter(|_| of_github) {
        settings.github = Some(GithubSettings {
            client: client.clone(),
            web: web.clone(),
            api: api.clone(),
            groups: groups.clone(),
            lasts: others.lasts,
            roots: others.roots.to_vec(),
            way_out: others.way_out.cloned(),
        });
    }
    warn_of_everybody(reading, &sections, others.rules);
    let mut lists = TokenLists::new();
    for section in sections {
        let claims = claims(others, &section.name);
        lists.insert(section.name.clone(), section.lists);
        settings.issuers.push(IssuerSettings {
            name: section.name,
            issuer: IssuerName::Named(section.issuer),
            audiences: section.audiences,
            client_id: None,
            takes_id_tokens: section.takes_id_tokens,
            names: section.names,
            claims,
            keys: section.keys,
            roots: section.roots,
            way_out: others.way_out.cloned(),
        });
    }
    let any = !settings.issuers.is_empty() || settings.github.is_some();
    (any.then_some(settings), lists)
}

/// A setting for another kind of provider would admit nobody, against its intention.
fn judge_provider(reading: &mut Reading, kind: Option<ProviderKind>, audiences: &[String], of_github: bool) {
    match kind {
        Some(ProviderKind::Github) if !audiences.is_empty() => reading.fault(
            OAUTH_BEARER_AUDIENCES,
            "is for OAUTH_PROVIDER=oidc or entra: GitHub's access tokens have no audience; OAUTH_BEARER_GITHUB=true accepts those \
             that GitHub issued to this application, and [[tokens]] other issuers",
        ),
        Some(ProviderKind::Entra | ProviderKind::Oidc) if of_github => {
            reading.fault_unlike(OAUTH_BEARER_GITHUB, "is for OAUTH_PROVIDER=github only: remove it", "false");
        }
        Some(ProviderKind::Github | ProviderKind::Entra | ProviderKind::Oidc) | None => {}
    }
}

/// The plain provider as an issuer; `None` if its tokens are opaque.
fn plain(provider: &ProviderSettings, audiences: Vec<String>) -> Option<IssuerSettings> {
    let (issuer, client, username) = match provider {
        ProviderSettings::Github { .. } => return None,
        ProviderSettings::Oidc { client, issuer, username_claim, .. } => {
            (IssuerName::Named(issuer.as_str().trim_end_matches('/').to_owned()), client, username_claim.clone())
        }
        ProviderSettings::Entra { client, authority, tenants, .. } => {
            let issuer = IssuerName::Entra { authority: authority.clone(), tenants: tenants.clone() };
            (issuer, client, None)
        }
    };
    Some(IssuerSettings {
        name: provider.kind().as_str().to_owned(),
        issuer,
        takes_id_tokens: audiences.contains(&client.id),
        client_id: Some(client.id.clone()),
        audiences,
        names: ClaimNames { username, ..ClaimNames::default() },
        claims: Vec::new(),
        keys: None,
        roots: Vec::new(),
        way_out: None,
    })
}

/// The claims that rules refer to for all issuers or for this one, and those that upstreams receive; each once.
fn claims(others: &OtherSettings<'_>, name: &str) -> Vec<String> {
    let concerns = |entry: &&Entry| entry.provider().is_none_or(|provider| provider == name);
    let entries = others.rules.iter().flat_map(Rule::entries).filter(concerns);
    let named: std::collections::BTreeSet<&str> =
        entries.filter_map(Entry::claim).chain(others.chosen.iter().copied()).collect();
    named.into_iter().map(str::to_owned).collect()
}

/// In open mode no token is checked.
pub(super) fn warn_of_open_mode(reading: &mut Reading, sections: &[Section]) {
    if !sections.is_empty() {
        reading.warn("open mode: [[tokens]] changes nothing, since OAUTH_ENABLED is not true: everything is forwarded, whatever it brings");
    }
}

/// Some issuers give tokens to anyone: a rule or a list that admits all of them admits everybody.
fn warn_of_everybody(reading: &mut Reading, sections: &[Section], rules: &[Rule]) {
    for section in sections.iter().filter(|section| FOR_EVERYBODY.iter().any(|issuer| is_same(&section.issuer, issuer)))
    {
        if section.lists.users.is_some() && section.lists.admits_everyone() {
            reading.warnings.push(format!(
                "[[tokens]] (line {}): everybody can have a token of {} for any audience, and `allowed_users` with `*` lists all that \
                 `{}` accepts: name whom it is for, such as `id:repo:acme/app:ref:refs/heads/main`",
                section.line, section.issuer, section.name
            ));
        }
        for rule in rules.iter().filter(|rule| admits_all_of(rule, &section.name)) {
            reading.warnings.push(format!(
                "[[tokens]] (line {}): everybody can have a token of {} for any audience, and the rule `{}` (line {}) lets in all that \
                 `{}` accepts: name whom it is for in `allow`, such as `provider:{}/claim:repository=acme/app`",
                section.line, section.issuer, rule.name, rule.line, section.name, section.name
            ));
        }
    }
}

/// Whether the rule admits every token of that section: it names nobody, or all of the section.
fn admits_all_of(rule: &Rule, section: &str) -> bool {
    let is_all = |entry: &Entry| entry.is_everyone_of(section);
    let allows = match &rule.access {
        Access::SignedIn => true,
        Access::People(people) => people.entries().iter().any(is_all),
        Access::Public | Access::Listed | Access::Nobody => false,
    };
    allows && rule.require.iter().all(is_all)
}

/// A section in one line, with its place in the file.
fn print(section: &Section) -> String {
    let mut parts = vec![
        format!("tokens {}:", section.name),
        format!("issuer {}", section.issuer),
        format!("audiences [{}]", section.audiences.join(", ")),
    ];
    if let Some(path) = &section.keys_file {
        parts.push(format!("jwks_file {}", path.display()));
    }
    if section.takes_id_tokens {
        parts.push("id_tokens true".to_owned());
    }
    let usual = ClaimNames::default();
    let names = &section.names;
    for (key, name, usual) in [
        ("username_claim", names.username.as_ref(), None),
        ("email_claim", Some(&names.email), Some(&usual.email)),
        ("groups_claim", Some(&names.groups), Some(&usual.groups)),
        ("name_claim", Some(&names.name), Some(&usual.name)),
    ] {
        if let Some(name) = name.filter(|name| Some(*name) != usual) {
            parts.push(format!("{key} {name}"));
        }
    }
    if let Some(users) = &section.lists.users {
        let everyone = if section.lists.admits_everyone() { "everyone".to_owned() } else { users.len().to_string() };
        parts.push(format!("allowed_users ({everyone})"));
    }
    if let Some(groups) = &section.lists.groups {
        parts.push(format!("allowed_groups ({})", groups.iter().count()));
    }
    if section.lists.users.is_none() && section.lists.groups.is_none() {
        parts.push("allowed by rules only".to_owned());
    }
    format!("{}  (line {})", parts.join(" "), section.line)
}

/// A section that is being read.
struct One<'a> {
    path: &'a Path,
    line: usize,
    reading: &'a mut Reading,
}

impl One<'_> {
    fn place(&self, key: &str, line: usize) -> String {
        format!("tokens.{key} ({}, line {line})", self.path.display())
    }

    fn fault(&mut self, key: &str, line: usize, problem: impl Into<String>, example: Option<&str>) {
        let name = self.place(key, line);
        self.reading.faults.push(Fault { name, problem: problem.into(), example: example.map(str::to_owned) });
    }

    fn section(&mut self, mut table: Table) -> Section {
        let table = &mut table;
        let name = self.name(table).unwrap_or_default();
        let (keys_file, keys) = self.keys(table).map_or((None, None), |(path, keys)| (Some(path), Some(keys)));
        let issuer = self.issuer(table, keys_file.is_some()).unwrap_or_default();
        let audiences = self.audiences(table);
        let usual = ClaimNames::default();
        let names = ClaimNames {
            username: self.claim(table, "username_claim"),
            email: self.claim(table, "email_claim").unwrap_or(usual.email),
            groups: self.claim(table, "groups_claim").unwrap_or(usual.groups),
            name: self.claim(table, "name_claim").unwrap_or(usual.name),
        };
        let roots = self.roots(table);
        let lists = AllowLists { users: self.users(table, &names), groups: self.groups(table) };
        let takes_id_tokens = self.switch(table, "id_tokens");
        self.unknown_keys(table);
        Section { name, line: self.line, issuer, audiences, takes_id_tokens, names, keys, keys_file, roots, lists }
    }

    fn name(&mut self, table: &mut Table) -> Option<String> {
        let example = Some("name = \"ci\"");
        let Some(item) = table.take("name") else {
            self.fault("name", self.line, "is missing: rules and logs call the issuer by it", example);
            return None;
        };
        let line = item.line;
        let name = self.text("name", item)?;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let problem = if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(fits) {
            format!("must be 1 to {NAME_LIMIT} small letters, digits and `-`")
        } else if [ProviderKind::Github, ProviderKind::Entra, ProviderKind::Oidc]
            .iter()
            .any(|kind| kind.as_str() == name)
        {
            format!("is what the provider of OAUTH_PROVIDER={name} is called: choose another word")
        } else {
            return Some(name);
        };
        self.fault("name", line, problem, example);
        None
    }

    fn issuer(&mut self, table: &mut Table, has_file: bool) -> Option<String> {
        let example = Some("issuer = \"https://token.actions.githubusercontent.com\"");
        let Some(item) = table.take("issuer") else {
            self.fault("issuer", self.line, "is missing: it is what the tokens say in `iss`, to the letter", example);
            return None;
        };
        let line = item.line;
        let issuer = self.text("issuer", item)?;
        let problem = if issuer.is_empty() || issuer.contains(|c: char| c.is_whitespace() || c.is_control()) {
            "must be what the tokens say in `iss`, to the letter".to_owned()
        } else if issuer.contains("/.well-known/") {
            "must be the issuer itself, without `/.well-known/…`".to_owned()
        } else if has_file {
            return Some(issuer);
        } else {
            match words::provider_url(&issuer) {
                Ok(_) => return Some(issuer),
                Err(problem) => format!("{problem}; with `jwks_file` it is only compared, and may be any text"),
            }
        };
        self.fault("issuer", line, problem, example);
        None
    }

    fn audiences(&mut self, table: &mut Table) -> Vec<String> {
        let example = "audiences = [\"https://app.example.com\"]";
        let Some(item) = table.take("audiences") else {
            let problem = "is missing: a token for somebody else must not count here, so name what yours say in `aud`";
            self.fault("audiences", self.line, problem, Some(example));
            return Vec::new();
        };
        self.texts("audiences", item, example).into_iter().map(|(text, _)| text).collect()
    }

    fn claim(&mut self, table: &mut Table, key: &str) -> Option<String> {
        let item = table.take(key)?;
        let line = item.line;
        let name = self.text(key, item)?;
        if name.is_empty() {
            self.fault(key, line, "names no claim", None);
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

    fn keys(&mut self, table: &mut Table) -> Option<(PathBuf, Vec<u8>)> {
        let (path, content, line) = self.file(table, "jwks_file")?;
        if let Err(problem) = check_file(&content) {
            self.fault("jwks_file", line, format!("the file {} {problem}", path.display()), None);
        }
        Some((path, content))
    }

    fn roots(&mut self, table: &mut Table) -> Vec<CertificateDer<'static>> {
        let Some((path, content, line)) = self.file(table, "ca_file") else { return Vec::new() };
        keys::roots_in(&content).unwrap_or_else(|problem| {
            self.fault("ca_file", line, format!("the file {} {problem}", path.display()), None);
            Vec::new()
        })
    }

    fn users(&mut self, table: &mut Table, names: &ClaimNames) -> Option<AllowedUsers> {
        let item = table.take("allowed_users")?;
        let (line, example) = (item.line, "allowed_users = [\"id:system:serviceaccount:ci:deployer\"]");
        let texts = self.texts("allowed_users", item, example);
        let is_username = |text: &str| !text.contains('@') && !text.starts_with("id:") && text != "*";
        if names.username.is_none() && texts.iter().any(|(text, _)| is_username(text)) {
            let warning = format!(
                "{}: usernames match nobody without `username_claim`; write `id:` and what the tokens say in `sub`",
                self.place("allowed_users", line)
            );
            self.reading.warnings.push(warning);
        }
        match AllowedUsers::parse(texts.iter().map(|(text, _)| text.as_str())) {
            Ok(users) => Some(users),
            Err(faults) => {
                for fault in faults {
                    self.fault("allowed_users", line, fault.to_string(), Some(example));
                }
                None
            }
        }
    }

    fn groups(&mut self, table: &mut Table) -> Option<AllowedGroups> {
        let item = table.take("allowed_groups")?;
        let (line, example) = (item.line, "allowed_groups = [\"deployers\"]");
        let texts = self.texts("allowed_groups", item, example);
        if texts.iter().any(|(text, _)| text == "*" || text.starts_with("group:")) {
            self.fault("allowed_groups", line, "holds `*` or `group:`: write groups alone", Some(example));
        }
        Some(AllowedGroups::parse(texts.iter().map(|(text, _)| text.as_str())))
    }

    fn switch(&mut self, table: &mut Table, key: &str) -> bool {
        let Some(item) = table.take(key) else { return false };
        let Value::Switch(on) = item.value else {
            self.fault(key, item.line, "must be true or false, without quotes", Some("id_tokens = true"));
            return false;
        };
        on
    }

    /// If two sections accept the same token, its identity would be ambiguous.
    fn judge_overlap(&mut self, section: &Section, earlier: &[Section]) {
        for other in earlier.iter().filter(|other| is_same(&other.issuer, &section.issuer)) {
            if let Some(shared) = section.audiences.iter().find(|audience| other.audiences.contains(audience)) {
                let problem = format!(
                    "names `{shared}`, which the section `{}` in line {} accepts of the same issuer: whose such a token is must be clear",
                    other.name, other.line
                );
                self.fault("audiences", section.line, problem, None);
            }
        }
    }

    fn unknown_keys(&mut self, table: &Table) {
        for (key, line, problem) in table.unknown_keys(&KEYS, "a section of [[tokens]]") {
            self.fault(&key, line, problem, None);
        }
    }

    fn text(&mut self, key: &str, item: Item) -> Option<String> {
        if let Value::Text(text) = item.value {
            return Some(text.trim().to_owned());
        }
        self.fault(key, item.line, "takes one text in quotes", None);
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
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::trial::{GITHUB, sources};
    use crate::config::{Faults, Loaded, load};
    use crate::serve::settings::{Mode, SignInSettings};

    const CI: &str = "[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example\"\naudiences = [\"app\"]\n";
    const KEYS_FILE: &str = "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}";
    const OIDC: &[(&str, &str)] = &[("OAUTH_PROVIDER", "oidc"), ("OAUTH_ISSUER_URL", "https://id.example.com")];

    fn loads(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        fs::write(folder.path().join("keys"), KEYS_FILE).unwrap();
        fs::write(folder.path().join("bad"), "{}").unwrap();
        fs::write(&path, text.replace("DIR", folder.path().to_str().unwrap())).unwrap();
        load(&sources(&["--config", path.to_str().unwrap()], &[GITHUB, env]))
    }

    fn faults(text: &str, env: &[(&str, &str)]) -> Vec<String> {
        let all = loads(text, env).err().unwrap_or_else(|| panic!("no fault in {text}")).to_string();
        all.lines().map(str::to_owned).collect()
    }

    fn sound(text: &str, env: &[(&str, &str)]) -> (SignInSettings, Loaded) {
        let mut loaded = loads(text, env).unwrap_or_else(|faults| panic!("{faults}"));
        match std::mem::replace(&mut loaded.settings.mode, Mode::Open) {
            Mode::SignIn(settings) => (*settings, loaded),
            Mode::Open => panic!("open mode"),
        }
    }

    #[test]
    fn without_any_of_it_no_token_is_looked_at() {
        assert!(sound("", &[]).0.bearer.is_none());
        assert!(sound("", &[("OAUTH_BEARER_GITHUB", "false"), ("OAUTH_BEARER_AUDIENCES", " ")]).0.bearer.is_none());
    }

    #[test]
    fn a_section_is_read_whole() {
        let text = format!(
            "{CI}[[tokens]]\nname = \"cluster\"\nissuer = \"kubernetes/serviceaccount\"\naudiences = \"sidegate\"\njwks_file = \"DIR/keys\"\n\
             username_claim = \"kubernetes.io.serviceaccount.name\"\ngroups_claim = \"g\"\nallowed_users = [\"deployer\", \"id:x\"]\n\
             allowed_groups = [\"ops\"]\nid_tokens = true\n[[routes]]\nallow = [\"claim:a=b\", \"provider:ci/claim:c=d\", \"provider:ci\"]\n"
        );
        let (settings, loaded) = sound(&text, &[]);
        let bearer = settings.bearer.unwrap();
        assert!(bearer.github.is_none());
        let [ci, cluster] = bearer.issuers.as_slice() else { panic!("not two") };
        assert_eq!((ci.name.as_str(), &ci.claims, ci.takes_id_tokens), ("ci", &vec!["a".into(), "c".into()], false));
        assert_eq!((&cluster.claims, cluster.takes_id_tokens), (&vec!["a".to_owned()], true));
        assert_eq!(cluster.keys.as_deref(), Some(KEYS_FILE.as_bytes()));
        assert!(matches!(&cluster.issuer, IssuerName::Named(name) if name == "kubernetes/serviceaccount"));
        assert_eq!(cluster.names.username.as_deref(), Some("kubernetes.io.serviceaccount.name"));
        assert_eq!(settings.token_lists["cluster"].users.as_ref().map(AllowedUsers::len), Some(2));
        assert_eq!(settings.token_lists["ci"], AllowLists::default());
        let printed = loaded.effective.join("\n");
        for line in [
            "tokens ci: issuer https://ci.example audiences [app] allowed by rules only  (line 1)",
            "id_tokens true username_claim kubernetes.io.serviceaccount.name groups_claim g allowed_users (2) allowed_groups (1)  (line 5)",
        ] {
            assert!(printed.contains(line), "{line} is not in\n{printed}");
        }
        assert!(loaded.files.paths().any(|path| path.ends_with("keys")), "the file is watched");
    }

    #[test]
    fn the_providers_own_tokens_are_taken_where_an_audience_is_named() {
        let (settings, _) = sound("", &[OIDC, &[("OAUTH_BEARER_AUDIENCES", "api, https://app")]].concat());
        let [plain] = settings.bearer.as_ref().unwrap().issuers.as_slice() else { panic!("not one") };
        assert_eq!(
            (plain.name.as_str(), plain.client_id.as_deref(), plain.takes_id_tokens),
            ("oidc", Some("id"), false)
        );
        assert_eq!(plain.audiences, ["api", "https://app"]);
        let (settings, _) = sound("", &[OIDC, &[("OAUTH_BEARER_AUDIENCES", "id,api")]].concat());
        assert!(settings.bearer.unwrap().issuers[0].takes_id_tokens, "the operator names the client id");
        let github = sound("", &[("OAUTH_BEARER_GITHUB", "true")]).0.bearer.unwrap();
        assert!(github.issuers.is_empty() && github.github.unwrap().client.id == "id");
        let found = faults("", &[("OAUTH_BEARER_AUDIENCES", "api")]);
        assert!(
            found.len() == 1
                && found[0].starts_with("OAUTH_BEARER_AUDIENCES: is for")
                && found[0].contains("OAUTH_BEARER_GITHUB=true"),
            "{found:?}"
        );
        let found = faults("", &[OIDC, &[("OAUTH_BEARER_GITHUB", "true")]].concat());
        assert!(found.len() == 1 && found[0].contains("for OAUTH_PROVIDER=github only"), "{found:?}");
    }

    #[test]
    fn each_thing_that_is_wrong_is_reported_with_its_line_and_a_fix() {
        for (text, line, says) in [
            ("[tokens]\nname = \"x\"", 1, "two brackets"),
            (&CI.replace("name = \"ci\"", "name = \"CI\""), 2, "small letters"),
            (&CI.replace("name = \"ci\"", "name = \"github\""), 2, "choose another word"),
            (&CI.replace("name = \"ci\"\n", ""), 1, "is missing: rules and logs"),
            (&CI.replace("name = \"ci\"", "name = 7"), 2, "one text in quotes"),
            (&CI.replace("issuer = \"https://ci.example\"\n", ""), 1, "say in `iss`"),
            (&CI.replace("https://ci.example", "http://ci.example"), 3, "must be https"),
            (&CI.replace("https://ci.example", "kubernetes/serviceaccount"), 3, "with `jwks_file` it is only compared"),
            (&CI.replace("ci.example", "ci.example/.well-known/openid-configuration"), 3, "the issuer itself"),
            (&CI.replace("audiences = [\"app\"]\n", ""), 1, "say in `aud`"),
            (&CI.replace("[\"app\"]", "[]"), 4, "holds nothing"),
            (&CI.replace("[\"app\"]", "[\" \"]"), 4, "an empty text"),
            (&CI.replace("[\"app\"]", "7"), 4, "array of texts"),
            (&CI.replace("audiences", "audience"), 4, "did you mean `audiences`?"),
            (&format!("{CI}colour = \"red\""), 5, "a section of [[tokens]] has name, issuer"),
            (&format!("{CI}id_tokens = \"yes\""), 5, "true or false"),
            (&format!("{CI}allowed_users = []"), 5, "holds nothing"),
            (&format!("{CI}allowed_users = [\"*@x\"]"), 5, "not a pattern"),
            (&format!("{CI}allowed_users = [\"claim:repository=acme/app\"]"), 5, "below [[routes]]"),
            (&format!("{CI}allowed_groups = [\"group:x\"]"), 5, "groups alone"),
            (&format!("{CI}username_claim = \"\""), 5, "names no claim"),
            (&format!("{CI}jwks_file = \"/nowhere/keys\""), 5, "cannot read the file /nowhere/keys"),
            (&format!("{CI}jwks_file = \"DIR\""), 5, "not a regular file"),
            (&format!("{CI}jwks_file = \"DIR/bad\""), 5, "is not a JWK set"),
            (&format!("{CI}ca_file = \"DIR/keys\""), 5, "holds no certificate"),
            (&format!("{CI}{}", CI.replace("[\"app\"]", "[\"b\"]")), 5, "section in line 1: each has its own"),
            (&format!("{CI}{}", CI.replace("\"ci\"", "\"b\"")), 5, "accepts of the same issuer"),
            (&format!("{CI}[[routes]]\nallow = [\"provider:cii\"]"), 6, "did you mean `ci`?"),
        ] {
            let env: &[(&str, &str)] = &[];
            let found = faults(text, env);
            let missing_and_unknown = text.contains("audience =");
            assert_eq!(found.len(), if missing_and_unknown { 2 } else { 1 }, "{text}: {found:?}");
            let place = format!("s.toml, line {line})");
            assert!(found.iter().any(|fault| fault.contains(&place) && fault.contains(says)), "{text}: {found:?}");
        }
        let shared = faults(
            &CI.replace("ci.example", "id.example.com/"),
            &[OIDC, &[("OAUTH_BEARER_AUDIENCES", "app")]].concat(),
        );
        assert!(shared[0].starts_with("OAUTH_BEARER_AUDIENCES: names the audience `app`"), "{shared:?}");
    }

    #[test]
    fn an_issuer_that_is_also_the_provider_needs_other_audiences() {
        const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
        const OTHER: &str = "00000000-0000-0000-0000-000000000001";
        let entra = |tenants: &'static str| {
            [("OAUTH_PROVIDER", "entra"), ("OAUTH_TENANT_ID", tenants), ("OAUTH_BEARER_AUDIENCES", "app")]
        };
        let versions = |tenant: &str| {
            [
                format!("https://login.microsoftonline.com/{tenant}/v2.0"),
                format!("https://login.microsoftonline.com/{}/v2.0/", tenant.to_uppercase()),
                format!("https://sts.windows.net/{tenant}/"),
            ]
        };
        for (tenants, tenant, overlaps) in
            [(TENANT, TENANT, true), ("contoso.com", TENANT, true), ("common", TENANT, true), (TENANT, OTHER, false)]
        {
            for issuer in versions(tenant) {
                let text = CI.replace("https://ci.example", &issuer);
                let found = loads(&text, &entra(tenants)).err().map(|faults| faults.to_string());
                let says = found
                    .as_ref()
                    .is_some_and(|text| text.starts_with("OAUTH_BEARER_AUDIENCES: names the audience `app`"));
                assert_eq!((found.is_some(), says), (overlaps, overlaps), "{tenants} {issuer}: {found:?}");
                let asks_for_guid = found.is_some_and(|text| text.contains("give OAUTH_TENANT_ID as a GUID"));
                assert_eq!(asks_for_guid, tenants == "contoso.com", "{tenants} {issuer}");
            }
        }
        assert!(loads(CI, &entra(TENANT)).is_ok());
    }

    #[test]
    fn who_is_let_in_by_a_star_is_printed_as_everyone() {
        let (_, loaded) = sound(&format!("{CI}allowed_users = [\"*\"]"), &[]);
        assert!(loaded.effective.join("\n").contains("allowed_users (everyone)"), "{:?}", loaded.effective);
    }

    #[test]
    fn rules_name_a_section_like_a_provider_and_ask_github_for_nothing_of_it() {
        let text = format!(
            "{CI}[[routes]]\nallow = [\"provider:ci/group:a/b/c\", \"provider:ci/claim:x=y\", \"provider:github/ann\"]"
        );
        let (_, loaded) = sound(&text, &[]);
        assert!(
            !loaded.notes.join("\n").contains("read:org") && !loaded.warnings.join("\n").contains("GitHub sends none")
        );
    }

    #[test]
    fn what_lets_in_more_than_was_meant_is_reported() {
        let everyone = "[[routes]]\nallow = \"signed-in\"";
        let actions = CI.replace("https://ci.example", "https://token.actions.githubusercontent.com");
        let warned = sound(&format!("{actions}{everyone}"), &[]).1.warnings.join("\n");
        assert!(warned.contains("everybody can have a token"), "{warned}");
        for (keys, rules, says) in [
            ("", "allow = [\"provider:ci\", \"ann\"]", "the rule `1` (line 5)"),
            ("", "allow = \"signed-in\"\nrequire = [\"provider:ci\"]", "the rule `1` (line 5)"),
            ("allowed_users = [\"*\"]\n", "allow = \"listed\"", "`allowed_users` with `*` lists all"),
            ("allowed_users = [\"id:x\", \"*\"]\n", "allow = \"nobody\"", "`allowed_users` with `*` lists all"),
        ] {
            let text = format!("{actions}{keys}[[routes]]\n{rules}");
            let warned = sound(&text, &[]).1.warnings.join("\n");
            assert!(warned.contains("everybody can have a token") && warned.contains(says), "{text}: {warned}");
        }
        for (keys, rules) in [
            ("", "allow = [\"provider:ci/claim:repository=acme/app\", \"provider:github\"]"),
            ("", "allow = [\"provider:ci\"]\nrequire = [\"provider:ci/claim:repository=acme/app\"]"),
            ("", "allow = \"signed-in\"\nrequire = [\"provider:github\"]"),
            ("", "allow = \"signed-in\"\nrequire = [\"provider:ci\", \"group:acme\"]"),
            ("allowed_users = [\"id:x\"]\n", "allow = \"listed\""),
            ("", "allow = \"listed\""),
        ] {
            let text = format!("{actions}{keys}[[routes]]\n{rules}");
            let warned = sound(&text, &[]).1.warnings.join("\n");
            assert!(!warned.contains("everybody can have"), "{text}: {warned}");
        }
        let (_, loaded) = sound(&format!("{CI}{everyone}"), &[]);
        assert!(!loaded.warnings.join("\n").contains("everybody can have"));
        let (_, loaded) = sound(&format!("{CI}allowed_users = [\"deployer\"]"), &[]);
        assert!(loaded.warnings.join("\n").contains("without `username_claim`"), "{:?}", loaded.warnings);
        let open = loads(CI, &[("OAUTH_ENABLED", "false")]).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(open.warnings.join("\n").contains("[[tokens]] changes nothing"), "{:?}", open.warnings);
        assert!(
            loads("[[tokens]]\nname = \"ci\"", &[("OAUTH_ENABLED", "false")]).is_err(),
            "wrong is wrong in open mode too"
        );
    }
}
