//! The rules: `[[routes]]` of the file, each error with its line.

use std::path::Path;
use std::time::Duration;

use super::people::{is_github_group, odd_anywhere, odd_user, odd_username};
use super::upstreams::Named;
use crate::config::faults::Fault;
use crate::config::names::{nearest, one_edit_away};
use crate::config::reading::Reading;
use crate::config::tables::{Item, Table, Tables, Value};
use crate::config::words;
use crate::domain::identity::ProviderKind;
use crate::domain::paths::{AUTH_PREFIX, METADATA};
use crate::domain::rules::{Access, Entry, HostPattern, NO_RULE, PathPattern, People, Rule, WORDS};

/// The longest name of a rule, in bytes: it is part of every metric.
const NAME_LIMIT: usize = 64;

const KEYS: [&str; 9] = ["name", "host", "path", "methods", "from", "allow", "require", "max_age", "upstream"];

/// Methods to suggest for one that has a typing error. Any other is taken as it is: there are many.
const COMMON_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// What rules may refer to.
pub(super) struct Known {
    /// The provider and its kind; `None` in open mode, or if it is unknown.
    pub(super) provider: Option<ProviderKind>,
    /// The names of the sections of `[[tokens]]`.
    pub(super) tokens: Vec<String>,
    /// Whether any bearer tokens are accepted.
    pub(super) takes_tokens: bool,
    /// Whether `OAUTH_USERNAME_CLAIM` is set.
    pub(super) usernames: bool,
    /// `UPSTREAM_IGNORE_CASE`.
    pub(super) ignores_case: bool,
    /// The upstreams of `[[upstreams]]`.
    pub(super) upstreams: Vec<Named>,
}

/// The rules, in the file's order. Any error in them is noted.
pub(super) fn read(reading: &mut Reading, known: &Known) -> Vec<Rule> {
    let Some(Tables { path, tables }) = reading.routes.take() else { return Vec::new() };
    let mut rules: Vec<Option<Rule>> = Vec::with_capacity(tables.len());
    for (number, table) in (1..).zip(tables) {
        let mut one = One { path: &path, line: table.line, known, faults: Vec::new(), warnings: Vec::new() };
        let rule = one.rule(number, table);
        let earlier = |name: &str| rules.iter().flatten().find(|other| other.name == name);
        if let Some(other) = earlier(&rule.name) {
            let problem = format!("is also the name of the rule in line {}: each rule has its own", other.line);
            one.fault("name", rule.line, problem, None);
        }
        let hidden_by = rules.iter().flatten().find(|earlier| earlier.hides(&rule));
        if let (true, Some(earlier)) = (one.faults.is_empty(), hidden_by) {
            let problem = format!(
                "is never reached: the rule `{}` in line {} matches all that this one does; put this one above it, or remove it",
                earlier.name, earlier.line
            );
            one.faults.push(Fault {
                name: format!("routes ({}, line {})", path.display(), rule.line),
                problem,
                example: None,
            });
        }
        rules.push(one.faults.is_empty().then_some(rule));
        reading.faults.append(&mut one.faults);
        reading.warnings.append(&mut one.warnings);
    }
    rules.into_iter().flatten().collect()
}

/// A rule that is being read.
struct One<'a, 'k> {
    path: &'a Path,
    line: usize,
    known: &'k Known,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl<'k> One<'_, 'k> {
    fn fault(&mut self, key: &str, line: usize, problem: impl Into<String>, example: Option<&str>) {
        let name = format!("routes.{key} ({}, line {line})", self.path.display());
        self.faults.push(Fault { name, problem: problem.into(), example: example.map(str::to_owned) });
    }

    fn rule(&mut self, number: usize, mut table: Table) -> Rule {
        let upstream = self.upstream(&mut table);
        let rule = Rule {
            name: self.name(&mut table).unwrap_or_else(|| number.to_string()),
            line: self.line,
            host: self.host(&mut table).unwrap_or_default(),
            path: self.path(&mut table),
            ignores_case: upstream.map_or(self.known.ignores_case, |named| named.ignores_case),
            methods: self.methods(&mut table),
            from: self.from(&mut table),
            ..Rule::default()
        };
        let allow = table.take("allow");
        let access_line = allow.as_ref().map_or(self.line, |item| item.line);
        let access = allow.and_then(|item| self.access(item)).unwrap_or_default();
        let require_line = table.take("require").map(|item| (item.line, self.entries("require", item)));
        let max_age = table.take("max_age").map(|item| (item.line, self.max_age(item)));
        if access == Access::Public {
            let beside = "stands beside `allow = \"public\"`, which asks nobody who they are";
            if let Some((line, _)) = &require_line {
                self.fault(
                    "require",
                    *line,
                    format!("{beside}: name whom the rule lets in in `allow`"),
                    Some("allow = \"signed-in\""),
                );
            }
            if let Some((line, _)) = &max_age {
                self.fault(
                    "max_age",
                    *line,
                    format!("{beside}, nor when they signed in"),
                    Some("allow = \"signed-in\""),
                );
            }
        }
        if let (Access::Public, Some(named)) = (&access, upstream.filter(|named| named.acts.is_some())) {
            let problem = format!(
                "is `public` and leads to the upstream `{}`, which acts as the person: nobody has to be known here",
                named.name
            );
            self.fault("allow", access_line, problem, Some("allow = \"signed-in\""));
        }
        self.unknown_keys(&table);
        // Such a rule leads nowhere: it closes what any upstream could read as its path.
        let closes_for_all = access == Access::Nobody
            && (self.known.ignores_case || self.known.upstreams.iter().any(|named| named.ignores_case));
        let rule = Rule {
            ignores_case: rule.ignores_case || closes_for_all,
            access,
            require: require_line.map(|(_, entries)| entries).unwrap_or_default(),
            max_age: max_age.and_then(|(_, max_age)| max_age),
            upstream: upstream.map(|named| named.name.clone()),
            strips: upstream.and_then(|named| named.strips.clone()),
            ..rule
        };
        self.judge_entries(&rule, access_line);
        rule
    }

    fn name(&mut self, table: &mut Table) -> Option<String> {
        let item = table.take("name")?;
        let line = item.line;
        let name = self.text("name", item)?;
        let problem = if name.trim() != name || name.is_empty() || name.len() > NAME_LIMIT {
            format!("must be a text of 1 to {NAME_LIMIT} bytes without blanks at its ends")
        } else if name.contains(char::is_control) {
            "holds a control character".to_owned()
        } else if name == NO_RULE || name.bytes().all(|b| b.is_ascii_digit()) {
            format!("is what a rule without a name, or no rule at all (`{NO_RULE}`), is called: choose a word")
        } else {
            return Some(name);
        };
        self.fault("name", line, problem, Some("name = \"reports\""));
        None
    }

    fn host(&mut self, table: &mut Table) -> Option<HostPattern> {
        let item = table.take("host")?;
        let line = item.line;
        let text = self.text("host", item)?;
        HostPattern::parse(text.trim())
            .map_err(|why| self.fault("host", line, why.to_string(), Some("host = \"app.example.com\"")))
            .ok()
    }

    fn path(&mut self, table: &mut Table) -> Option<PathPattern> {
        let item = table.take("path")?;
        let line = item.line;
        let text = self.text("path", item)?;
        match PathPattern::parse(&text) {
            Ok(pattern) if pattern.is_below(AUTH_PREFIX) => {
                let problem = format!("never matches: no rule is about {AUTH_PREFIX}, where Sidegate answers itself");
                self.fault("path", line, problem, None);
                None
            }
            Ok(pattern) => {
                if pattern.looks_like_another_syntax() {
                    self.warnings.push(format!(
                        "routes.path ({}, line {line}): `{}` looks like a pattern of another program, and is compared to the letter: \
                         `*` is any text in a segment, `**` whole segments",
                        self.path.display(),
                        text.escape_debug()
                    ));
                }
                if text == METADATA && self.known.takes_tokens {
                    self.warnings.push(format!(
                        "routes.path ({}, line {line}): Sidegate itself answers {METADATA}, for everyone, since bearer tokens are accepted; the rule only counts for other spellings of it",
                        self.path.display()
                    ));
                }
                Some(pattern)
            }
            Err(why) => {
                self.fault("path", line, why.to_string(), Some("path = \"/reports/**\""));
                None
            }
        }
    }

    fn methods(&mut self, table: &mut Table) -> Vec<String> {
        let Some(item) = table.take("methods") else { return Vec::new() };
        let mut methods = Vec::new();
        for (text, line) in self.texts("methods", item, "methods = [\"GET\", \"POST\"]") {
            let upper = text.trim().to_ascii_uppercase();
            if matches!(upper.as_str(), "ANY" | "ALL" | "*") {
                self.fault("methods", line, "names no method: leave `methods` out, and the rule is for all", None);
                continue;
            }
            // HTTP allows more signs, but no method has one: with one, a rule would match nothing.
            let is_plain = upper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            let problem = if matches!(upper.as_str(), "TRACE" | "CONNECT") {
                "names a method that Sidegate never passes on".to_owned()
            } else if upper.contains(['|', '+', '&', ',']) {
                "holds several methods in one text: write an array, with each in its own quotes".to_owned()
            } else if let Some(meant) = one_edit_away(&upper, COMMON_METHODS.into_iter()) {
                format!("names no known method; did you mean `{meant}`?")
            } else if is_plain && upper.bytes().any(|b| b.is_ascii_alphabetic()) {
                methods.push(upper);
                continue;
            } else {
                "is not a method".to_owned()
            };
            self.fault("methods", line, problem, Some("methods = [\"GET\", \"POST\"]"));
        }
        methods
    }

    fn from(&mut self, table: &mut Table) -> Vec<ipnet::IpNet> {
        let Some(item) = table.take("from") else { return Vec::new() };
        let example = "from = [\"10.0.0.0/8\", \"::1\"]";
        let mut networks = Vec::new();
        for (text, line) in self.texts("from", item, example) {
            match words::network(text.trim()) {
                Some(network) => {
                    if words::has_host_bits(text.trim()) {
                        self.warnings.push(format!(
                            "routes.from ({}, line {line}): `{}` means {network}: write that, or one address",
                            self.path.display(),
                            text.trim()
                        ));
                    }
                    networks.push(network);
                }
                None => self.fault("from", line, "is not a network or an address", Some(example)),
            }
        }
        networks
    }

    fn access(&mut self, item: Item) -> Option<Access> {
        let example = "allow = [\"ann\", \"@example.com\", \"group:acme/platform\"]";
        let line = item.line;
        let word = match &item.value {
            Value::Text(word) => word.as_str(),
            Value::Texts(_) | Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => {
                let entries = self.entries("allow", item);
                return Some(Access::People(Box::new(People::new(entries))));
            }
        };
        Some(match word {
            "public" => Access::Public,
            "signed-in" => Access::SignedIn,
            "listed" => Access::Listed,
            "nobody" => Access::Nobody,
            other => {
                let lower = other.trim().to_ascii_lowercase().replace(['_', ' '], "-");
                let problem = match nearest(&lower, WORDS.into_iter()) {
                    Some(meant) => format!("is an unknown word; did you mean `{meant}`?"),
                    None => "is none of the words `public`, `signed-in`, `listed` and `nobody`; people stand in a list, in brackets".to_owned(),
                };
                self.fault("allow", line, problem, Some(example));
                return None;
            }
        })
    }

    fn entries(&mut self, key: &str, item: Item) -> Vec<Entry> {
        let example = match key {
            "require" => "require = [\"group:acme\"]",
            _ => "allow = [\"ann\", \"@example.com\", \"group:acme/platform\"]",
        };
        let mut entries = Vec::new();
        for (text, line) in self.texts(key, item, example) {
            match Entry::parse(&text) {
                Ok(entry) => {
                    self.judge_entry(key, line, &entry);
                    entries.push(entry);
                }
                Err(why) => self.fault(key, line, why.to_string(), Some(example)),
            }
        }
        entries
    }

    /// Checks an entry against the configured provider.
    fn judge_entry(&mut self, key: &str, line: usize, entry: &Entry) {
        if let Some(why) = self.matches_nobody(entry) {
            let (path, entry) = (self.path.display(), entry.as_str().escape_debug());
            self.warnings.push(format!("routes.{key} ({path}, line {line}): `{entry}` can match nobody: {why}"));
        }
        let Some(kind) = self.known.provider else { return };
        let provider = kind.as_str();
        let tokens = &self.known.tokens;
        if entry.provider().is_some_and(|named| tokens.iter().any(|known| known == named)) {
            return;
        }
        if let Some(named) = entry.provider().filter(|named| *named != provider) {
            let known = std::iter::once(provider).chain(tokens.iter().map(String::as_str));
            let meant = nearest(&named.to_ascii_lowercase(), known);
            let others: String = tokens.iter().map(|name| format!(", and `{name}` of [[tokens]]")).collect();
            let fix = meant.map_or_else(
                || format!("the one there is, is `{provider}`{others}"),
                |meant| format!("did you mean `{meant}`?"),
            );
            self.fault(key, line, format!("names the provider `{named}`, which is not known; {fix}"), None);
        }
        if kind == ProviderKind::Github
            && let Some(group) = entry.group().filter(|group| !is_github_group(group))
        {
            let problem = format!("`group:{group}` is neither an organisation `org` nor a team `org/team` of GitHub");
            self.fault(key, line, problem, Some("group:acme/platform"));
        }
    }

    /// Reports valid entries that together match nobody.
    fn judge_entries(&mut self, rule: &Rule, line: usize) {
        // Tokens of other issuers may have the claim.
        let is_githubs = self.known.provider == Some(ProviderKind::Github) && self.known.tokens.is_empty();
        if is_githubs && rule.entries().any(|entry| entry.claim().is_some()) {
            self.warnings.push(format!(
                "routes ({}, line {line}): the rule `{}` names a claim, and GitHub sends none: such an entry matches nobody",
                self.path.display(),
                rule.name
            ));
        }
    }

    /// Why no user of the provider has such a name, id or group. Users of other issuers may.
    fn matches_nobody(&self, entry: &Entry) -> Option<&'static str> {
        let kind = self.known.provider?;
        let is_the_providers = match entry.provider() {
            Some(named) => named == kind.as_str(),
            None => self.known.tokens.is_empty(),
        };
        if !is_the_providers {
            return None;
        }
        match (entry.user(), entry.group()) {
            (Some(user), _) => odd_user(kind, user).or_else(|| odd_username(kind, self.known.usernames, user)),
            (None, Some(group)) => odd_anywhere(group),
            (None, None) => None,
        }
    }

    fn max_age(&mut self, item: Item) -> Option<Duration> {
        let line = item.line;
        let text = self.text("max_age", item)?;
        let range = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
        match words::duration(text.trim()) {
            Ok(age) if range.contains(&age) => Some(age),
            Ok(_) => {
                self.fault("max_age", line, "must be from 1s to 366d", Some("max_age = \"15m\""));
                None
            }
            Err(problem) => {
                self.fault("max_age", line, problem, Some("max_age = \"15m\""));
                None
            }
        }
    }

    fn upstream(&mut self, table: &mut Table) -> Option<&'k Named> {
        let item = table.take("upstream")?;
        let line = item.line;
        let name = self.text("upstream", item)?;
        let known = &self.known.upstreams;
        if let Some(named) = known.iter().find(|named| named.name == name) {
            return Some(named);
        }
        let meant = nearest(&name.to_ascii_lowercase(), known.iter().map(|named| named.name.as_str()));
        let fix = match (meant, known.is_empty()) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, true) => {
                "describe it in [[upstreams]], or leave `upstream` out, and the rule leads to UPSTREAM_URL".to_owned()
            }
            (None, false) => {
                let names: Vec<String> = known.iter().map(|named| format!("`{}`", named.name)).collect();
                format!("[[upstreams]] has {}", names.join(", "))
            }
        };
        self.fault("upstream", line, format!("names the upstream `{name}`, which is not known; {fix}"), None);
        None
    }

    fn unknown_keys(&mut self, table: &Table) {
        for (key, line, problem) in table.unknown_keys(&KEYS, "a rule") {
            self.fault(&key, line, problem, None);
        }
    }

    fn text(&mut self, key: &str, item: Item) -> Option<String> {
        let kind = item.value.kind();
        if let Value::Text(text) = item.value {
            return Some(text);
        }
        self.fault(key, item.line, format!("is {kind}, and takes one text in quotes"), None);
        None
    }

    /// A list, which must not be empty. A single string is a list of one.
    fn texts(&mut self, key: &str, item: Item, example: &str) -> Vec<(String, usize)> {
        match item.value {
            Value::Texts(texts) if texts.is_empty() => {
                let problem = if key == "allow" {
                    "is an empty list, which lets nobody in: write `allow = \"nobody\"` if that is meant"
                } else {
                    "is an empty list: leave the key out, or name something"
                };
                self.fault(key, item.line, problem, Some(example));
                Vec::new()
            }
            Value::Texts(texts) => texts,
            Value::Text(text) => vec![(text, item.line)],
            Value::Switch(_) | Value::Number(_) | Value::Table(_) | Value::Other(_) => {
                self.fault(key, item.line, "takes an array of texts in quotes", Some(example));
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::trial::{GITHUB, sources};
    use crate::config::{Faults, Loaded, load};

    fn loads(routes: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        fs::write(&path, routes).unwrap();
        load(&sources(&["--config", path.to_str().unwrap()], &[GITHUB, env]))
    }

    fn faults(routes: &str) -> Vec<String> {
        let all = loads(routes, &[]).err().unwrap_or_else(|| panic!("no fault in {routes}")).to_string();
        all.lines().map(str::to_owned).collect()
    }

    fn rules(routes: &str) -> Vec<Rule> {
        loads(routes, &[]).unwrap_or_else(|faults| panic!("{faults}")).settings.rules
    }

    #[test]
    fn a_rule_has_what_is_written() {
        let rules = rules(
            r#"
            [[routes]]
            name = "reports"
            host = "*.example.com"
            path = "/reports/**"
            methods = ["get", "PURGE"]
            from = ["10.1.2.3/8", "::1"]
            allow = ["ann", "@example.com", "id:5", "group:acme/platform", "provider:github", "claim:department=finance"]
            require = ["group:acme"]
            max_age = "15m"

            [[routes]]
            "#,
        );
        let [reports, rest] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!((reports.name.as_str(), reports.line), ("reports", 2));
        assert_eq!(reports.host, HostPattern::Below("example.com".into()));
        assert_eq!(reports.path.as_ref().unwrap().as_str(), "/reports/**");
        assert_eq!(reports.methods, ["GET", "PURGE"]);
        assert_eq!(reports.from.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
        assert_eq!(reports.entries().count(), 7);
        assert_eq!(reports.max_age, Some(Duration::from_secs(900)));
        assert_eq!((rest.name.as_str(), &rest.access, rest.path.is_none()), ("2", &Access::Listed, true));
    }

    #[test]
    fn each_fault_has_its_line_and_what_would_be_right() {
        for (rule, line, says) in [
            ("[[routes]]\npaths = \"/x\"", 2, "did you mean `path`?"),
            ("[[routes]]\nallow-list = [\"ann\"]", 2, "unknown key; a rule has name"),
            ("[[routes]]\nmethod = [\"GET\"]", 2, "did you mean `methods`?"),
            ("[[routes]]\n\npath = \"x\"", 3, "does not begin with `/`"),
            ("[[routes]]\npath = \"/x**\"", 2, "within a segment"),
            ("[[routes]]\npath = \"/x?y\"", 2, "the path alone"),
            ("[[routes]]\npath = 7", 2, "takes one text"),
            ("[[routes]]\npath = [\"/a\"]", 2, "takes one text"),
            ("[[routes]]\npath = \"/api/v1/auth/me\"", 2, "never matches"),
            ("[[routes]]\nhost = \"https://x\"", 2, "host's name alone"),
            ("[[routes]]\nhost = \"a.*.b\"", 2, "`*.example.com`"),
            ("[[routes]]\nmethods = []", 2, "empty list"),
            ("[[routes]]\nmethods = [\"GET\",\n\"PSOT\"]", 3, "did you mean `POST`?"),
            ("[[routes]]\nmethods = [\"TRACE\"]", 2, "never passes on"),
            ("[[routes]]\nmethods = [\"G T\"]", 2, "method"),
            ("[[routes]]\nmethods = [\"GET|POST\"]", 2, "write an array"),
            ("[[routes]]\nmethods = \"GET, POST\"", 2, "write an array"),
            ("[[routes]]\nmethods = [\"GET+POST\"]", 2, "write an array"),
            ("[[routes]]\nmethods = [\"GET\", \"X.Y.Z\"]", 2, "is not a method"),
            ("[[routes]]\nmethods = [\"any\"]", 2, "leave `methods` out"),
            ("[[routes]]\nmethods = \"ALL\"", 2, "leave `methods` out"),
            ("[[routes]]\nmethods = [\"*\"]", 2, "leave `methods` out"),
            ("[[routes]]\nhost = \"a.example,b.example\"", 2, "a rule has one host"),
            ("[[routes]]\nhost = \"(app).example.com\"", 2, "not the name of a host"),
            ("[[routes]]\nfrom = [\"10.0.0.0/33\"]", 2, "not a network"),
            ("[[routes]]\nfrom = []", 2, "empty list"),
            ("[[routes]]\nallow = []", 2, "allow = \"nobody\""),
            ("[[routes]]\nallow = \"pubic\"", 2, "did you mean `public`?"),
            ("[[routes]]\nallow = \"signed_in\"", 2, "did you mean `signed-in`?"),
            ("[[routes]]\nallow = \"ann@example.com\"", 2, "in brackets"),
            ("[[routes]]\nallow = [\"public\"]", 2, "without brackets"),
            ("[[routes]]\nallow = [\"Nobody\"]", 2, "write `allow = \"nobody\"`, without brackets"),
            ("[[routes]]\nallow = [\n\"ann\",\n\"grp:x\"]", 4, "prefix that is not known"),
            ("[[routes]]\nallow = [\"*\"]", 2, "signed-in"),
            ("[[routes]]\nallow = [\"provider:githb/ann\"]", 2, "did you mean `github`?"),
            ("[[routes]]\nallow = [\"provider:corp\"]", 2, "the one there is, is `github`"),
            ("[[routes]]\nallow = [\"group:a/b/c\"]", 2, "neither an organisation"),
            ("[[routes]]\nallow = [\"claim:x\"]", 2, "claim:NAME=VALUE"),
            ("[[routes]]\nallow = [1]", 2, "array of texts"),
            ("[[routes]]\nrequire = []", 2, "empty list"),
            ("[[routes]]\nallow = \"public\"\nrequire = [\"ann\"]", 3, "asks nobody"),
            ("[[routes]]\nallow = \"public\"\nmax_age = \"1m\"", 3, "nor when they signed in"),
            ("[[routes]]\nmax_age = \"soon\"", 2, "not a duration"),
            ("[[routes]]\nmax_age = \"0\"", 2, "from 1s"),
            ("[[routes]]\nmax_age = 15", 2, "takes one text"),
            ("[[routes]]\nupstream = \"grafana\"", 2, "upstream `grafana`, which is not known"),
            ("[[routes]]\nname = \"\"", 2, "1 to 64 bytes"),
            ("[[routes]]\nname = \"7\"", 2, "choose a word"),
            ("[[routes]]\nname = \"x\"\npath = \"/a\"\n[[routes]]\nname = \"x\"", 4, "in line 1"),
            ("[[routes]]\npath = \"/a/**\"\n[[routes]]\npath = \"/a/b\"", 3, "rule `1` in line 1 matches all"),
            ("[[routes]]\nallow = \"nobody\"\n\n[[routes]]\nhost = \"x\"\nmethods = [\"GET\"]", 4, "never reached"),
            ("[routes]\nallow = \"nobody\"", 1, "two brackets"),
            ("routes = 1", 1, "two brackets"),
        ] {
            let found = faults(rule);
            assert_eq!(found.len(), 1, "{rule}: {found:?}");
            let place = format!("s.toml, line {line})");
            assert!(found[0].contains(&place) && found[0].contains(says), "{rule}: {}", found[0]);
        }
    }

    #[test]
    fn methods_of_protocols_other_than_the_web_are_taken_as_they_are() {
        let rules = rules(
            "[[routes]]\nmethods = [\"LOCK\", \"unlock\", \"LINK\", \"LIST\", \"QUERY\", \"M-SEARCH\", \"BIND\"]",
        );
        assert_eq!(rules[0].methods, ["LOCK", "UNLOCK", "LINK", "LIST", "QUERY", "M-SEARCH", "BIND"]);
        for typed in ["GTE", "DELTE", "POTS", "PACTH", "PUTT"] {
            let found = faults(&format!("[[routes]]\nmethods = [\"{typed}\"]"));
            assert!(found[0].contains("did you mean"), "{typed}: {found:?}");
        }
    }

    #[test]
    fn a_rule_for_nobody_closes_what_any_upstream_could_read_as_its_path() {
        let file = |rule: &str| {
            format!(
                "[[upstreams]]\nname = \"iis\"\nurls = [\"http://iis\"]\nignore_case = true\n\
                 [[upstreams]]\nname = \"app\"\nurls = [\"http://app\"]\n[[routes]]\npath = \"/admin/**\"\n{rule}\n\
                 [[routes]]\nallow = \"signed-in\"\nupstream = \"iis\"\n"
            )
        };
        for (rule, ignores_case) in [
            ("allow = \"nobody\"", true),
            ("allow = \"nobody\"\nupstream = \"app\"", true),
            ("allow = [\"ann\"]\nupstream = \"iis\"", true),
            ("allow = [\"ann\"]\nupstream = \"app\"", false),
            ("allow = [\"ann\"]", false),
        ] {
            assert_eq!(rules(&file(rule))[0].ignores_case, ignores_case, "{rule}");
        }
        // The usual upstream is one of them.
        let usual = "[[upstreams]]\nname = \"app\"\nurls = [\"http://app\"]\n[[routes]]\npath = \"/admin/**\"\nallow = \"nobody\"\nupstream = \"app\"";
        assert!(loads(usual, &[("UPSTREAM_IGNORE_CASE", "true")]).unwrap().settings.rules[0].ignores_case);
        let plain = rules("[[routes]]\npath = \"/admin/**\"\nallow = \"nobody\"");
        assert!(!plain[0].ignores_case, "no upstream ignores case");
    }

    #[test]
    fn entries_that_can_match_nobody_get_a_warning() {
        const OIDC: &[(&str, &str)] = &[("OAUTH_PROVIDER", "oidc"), ("OAUTH_ISSUER_URL", "https://id.example.com")];
        let tokens = "\n[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example\"\naudiences = [\"app\"]";
        for (env, keys, more, warning) in [
            (&[] as &[_], "allow = [\"acme/ops\"]", "", Some("`acme/ops` can match nobody: it is a team")),
            (&[], "allow = [\"id:ann\"]", "", Some("GitHub's ids are numbers")),
            (&[], "allow = [\"ann;bob\"]", "", Some("a semicolon separates nothing")),
            (&[], "allow = [\"provider:github/ann bob\"]", "", Some("letters, digits")),
            (&[], "require = [\"id:ann\"]", "", Some("GitHub's ids are numbers")),
            (&[], "allow = [\"ann\", \"id:5\", \"a@b.example\", \"group:acme/ops\"]", "", None),
            (&[], "allow = [\"id:ann\"]", tokens, None),
            (&[], "allow = [\"provider:ci/id:ann\"]", tokens, None),
            (&[], "allow = [\"provider:github/id:ann\"]", tokens, Some("GitHub's ids are numbers")),
            (OIDC, "allow = [\"bob\"]", "", Some("without OAUTH_USERNAME_CLAIM")),
            (OIDC, "allow = [\"id:bob\", \"group:'ops'\"]", "", Some("can match nobody: the quotes")),
        ] {
            let text = format!("[[routes]]\n{keys}{more}");
            let warnings = loads(&text, env).unwrap_or_else(|faults| panic!("{faults}")).warnings.join("\n");
            match warning {
                Some(warning) => {
                    assert!(warnings.contains(warning) && warnings.contains("line 2)"), "{text}: {warnings}");
                }
                None => assert!(!warnings.contains("can match nobody"), "{text}: {warnings}"),
            }
        }
    }

    #[test]
    fn a_path_that_looks_like_a_pattern_of_another_program_is_warned_about() {
        let warnings = |path: &str| {
            let rule = format!("[[routes]]\n\npath = '{path}'\nallow = \"nobody\"");
            loads(&rule, &[]).unwrap_or_else(|faults| panic!("{path}: {faults}")).warnings.join("\n")
        };
        let text = warnings("/admin/(.*)");
        assert!(text.contains("s.toml, line 3): `/admin/(.*)` looks like"), "{text}");
        assert!(text.contains("`*` is any text in a segment, `**` whole segments"), "{text}");
        assert_eq!(warnings("/admin/**"), "");
    }

    #[test]
    fn a_network_that_is_wider_than_its_address_looks_is_warned_about() {
        let warnings = |network: &str| {
            let rule = format!("[[routes]]\nfrom = [\n\"::1\",\n\"{network}\"]");
            loads(&rule, &[]).unwrap_or_else(|faults| panic!("{network}: {faults}")).warnings.join("\n")
        };
        let text = warnings("203.0.113.7/3");
        assert!(text.contains("line 4): `203.0.113.7/3` means 192.0.0.0/3: write that, or one address"), "{text}");
        assert_eq!(warnings("192.0.2.0/24"), "");
        assert_eq!(warnings("192.0.2.7"), "");
    }

    #[test]
    fn a_rule_for_the_metadata_of_tokens_is_warned_about() {
        let rule = "[[routes]]\npath = \"/.well-known/oauth-protected-resource\"\nallow = \"nobody\"\n";
        let tokens = "[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example\"\naudiences = [\"app\"]";
        let warnings = |text: &str| loads(text, &[]).unwrap_or_else(|faults| panic!("{faults}")).warnings.join("\n");
        assert!(warnings(&format!("{rule}{tokens}")).contains("s.toml, line 2): Sidegate itself answers"));
        assert!(!warnings(rule).contains("Sidegate itself"));
        let of_github = loads(rule, &[("OAUTH_BEARER_GITHUB", "true")]).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(of_github.warnings.join("\n").contains("Sidegate itself"), "{:?}", of_github.warnings);
    }

    #[test]
    fn all_faults_show_at_once() {
        let found = faults(
            "[[routes]]\npath = \"x\"\nallow = \"al\"\n[[routes]]\nhots = \"a\"\nfrom = [\"y\"]\nmax_age = \"z\"",
        );
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn rules_that_only_look_alike_are_no_fault() {
        let found = rules(
            r#"
            [[routes]]
            path = "/a"
            [[routes]]
            path = "/a/**"
            methods = ["GET"]
            [[routes]]
            path = "/a/**"
            methods = ["GET", "POST"]
            [[routes]]
            path = "/a/**"
            from = ["10.0.0.0/8"]
            [[routes]]
            path = "/a/**"
            host = "x.example"
            [[routes]]
            path = "/a/**"
            "#,
        );
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn open_mode_takes_rules_and_names_no_provider() {
        let open = loads("[[routes]]\nallow = [\"provider:x/ann\"]", &[("OAUTH_ENABLED", "false")]);
        assert_eq!(open.unwrap_or_else(|faults| panic!("{faults}")).settings.rules.len(), 1);
    }

    #[test]
    fn organisations_are_asked_for_where_a_rule_names_one() {
        let loaded = loads("[[routes]]\nallow = [\"group:acme/ops\"]", &[]).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(loaded.notes.iter().any(|note| note.contains("read:org")), "{:?}", loaded.notes);
    }
}
