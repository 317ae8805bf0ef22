//! Upstreams that act as users, as Kubernetes API servers do: `impersonate` of `[[upstreams]]` and related keys, each error with its line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::adapters::upstream::{UpstreamAddress, UpstreamSettings, authorization};
use crate::config::faults::Fault;
use crate::config::names::nearest;
use crate::config::reading::Reading;
use crate::config::tables::{Item, Table, Value};
use crate::domain::rules::{Access, Rule};
use crate::rendering::{ImpersonatedName, Impersonation, PROVIDER_PLACE};
use crate::serve::upstream_settings::{ActingSettings, IdentityChoice};

const TOKEN: &str = "token_file = \"/var/run/secrets/kubernetes.io/serviceaccount/token\"";
const PREFIX: &str = "prefix = \"corp:\"";
const PREFIX_OF_EACH: &str = "prefix = \"{provider}:\"";

/// The section that is being read.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) path: &'p Path,
    pub(super) line: usize,
}

/// Other settings of the section.
pub(super) struct OtherSettings<'a> {
    pub(super) urls: &'a [UpstreamSettings],
    pub(super) identity: &'a IdentityChoice,
}

/// What rules must know of an upstream that acts as users.
pub(super) struct Acts {
    /// The place of `impersonate`, as named in messages.
    place: String,
    /// Whether the prefix identifies who vouches for a user.
    names_provider: bool,
}

/// Reads the keys of a section. `None`: it does not act as users, or that is unknown.
pub(super) fn read(
    reading: &mut Reading,
    place: Place<'_>,
    table: &mut Table,
    others: &OtherSettings<'_>,
) -> Option<(ActingSettings, Acts)> {
    let switch = table.take("impersonate");
    let (user, prefix, token) = (table.take("impersonate_user"), table.take("prefix"), table.take("token_file"));
    let mut one = One { reading, place };
    let (line, is_on) = match &switch {
        None => (place.line, false),
        Some(Item { value: Value::Switch(on), line, .. }) => (*line, *on),
        Some(Item { line, .. }) => {
            one.fault("impersonate", *line, "must be true or false, without quotes", Some("impersonate = true"));
            return None;
        }
    };
    if !is_on {
        for Item { key, line, .. } in [user, prefix, token].into_iter().flatten() {
            let problem = "stands without `impersonate = true`, and is of no use without it";
            one.fault(&key, line, problem, Some("impersonate = true"));
        }
        return None;
    }
    let has_token_key = token.is_some();
    let (user, prefix) = (one.user(user), one.prefix(prefix));
    let token_file = one.token_file(token);
    one.judge_credential(line, has_token_key, others.urls);
    if let IdentityChoice::Table(fields) = others.identity
        && fields.fields.iter().any(|field| field.name == http::header::AUTHORIZATION)
    {
        let problem =
            "stands beside `Authorization` in the table of `identity`: that field is our own credential there";
        one.fault("impersonate", line, problem, None);
    }
    let names_provider = prefix.contains(PROVIDER_PLACE);
    let acts = Acts { place: one.name("impersonate", line), names_provider };
    Some((ActingSettings { impersonation: Impersonation { user, prefix }, token_file }, acts))
}

/// The active settings, in a few words.
pub(super) fn print(acting: &ActingSettings) -> String {
    let ActingSettings { impersonation: Impersonation { user, prefix }, token_file } = acting;
    let prefix = if prefix.is_empty() { String::new() } else { format!(" prefix {prefix}") };
    let token = token_file.as_ref().map(|path| format!(" token_file {}", path.display())).unwrap_or_default();
    format!("impersonates {}{prefix}{token}", user.as_str())
}

/// In open mode there are no users whom an upstream could act as.
pub(super) fn refuse_open_mode(reading: &mut Reading, acting: &[(&str, &Acts)]) {
    for (_, acts) in acting {
        let problem = "acts as the person, and in open mode nobody is known: set OAUTH_ENABLED=true, or take it out";
        reading.faults.push(Fault { name: acts.place.clone(), problem: problem.to_owned(), example: None });
    }
}

/// Users of different providers or issuers may have the same name: an upstream that acts as both must be able to distinguish them.
pub(super) fn refuse_shared_names(reading: &mut Reading, acting: &[(&str, &Acts)], rules: &[Rule], vouchers: &[&str]) {
    for (name, acts) in acting.iter().filter(|(_, acts)| !acts.names_provider) {
        let leading = rules.iter().filter(|rule| rule.upstream.as_deref() == Some(*name));
        let reach: BTreeSet<&str> = leading.flat_map(|rule| let_in_by(rule, vouchers)).collect();
        if reach.len() < 2 {
            continue;
        }
        let all: Vec<String> = reach.iter().map(|voucher| format!("`{voucher}`")).collect();
        let problem = format!(
            "people of {} come to have one name there if they have the same: have `prefix` tell them apart, or have each rule that leads there require one provider (`require = [\"provider:{}\"]`)",
            all.join(" and "),
            vouchers.first().copied().unwrap_or_default()
        );
        reading.faults.push(Fault { name: acts.place.clone(), problem, example: Some(PREFIX_OF_EACH.to_owned()) });
    }
}

/// The providers and issuers whose users a rule may admit.
fn let_in_by<'v>(rule: &'v Rule, vouchers: &[&'v str]) -> Vec<&'v str> {
    if let Some(one) = rule.require.iter().find_map(|entry| entry.provider()) {
        return vec![one];
    }
    match &rule.access {
        Access::Nobody => Vec::new(),
        Access::People(people) => {
            let named: Option<Vec<&str>> = people.entries().iter().map(|entry| entry.provider()).collect();
            named.unwrap_or_else(|| vouchers.to_vec())
        }
        Access::Public | Access::SignedIn | Access::Listed => vouchers.to_vec(),
    }
}

/// A section that is being read.
struct One<'a> {
    reading: &'a mut Reading,
    place: Place<'a>,
}

impl One<'_> {
    fn name(&self, key: &str, line: usize) -> String {
        format!("upstreams.{key} ({}, line {line})", self.place.path.display())
    }

    fn fault(&mut self, key: &str, line: usize, problem: impl Into<String>, example: Option<&str>) {
        let name = self.name(key, line);
        self.reading.faults.push(Fault { name, problem: problem.into(), example: example.map(str::to_owned) });
    }

    fn text(&mut self, item: Item) -> Option<(String, usize)> {
        let Item { key, line, value } = item;
        let kind = value.kind();
        if let Value::Text(text) = value {
            return Some((text, line));
        }
        self.fault(&key, line, format!("is {kind}, and takes one text in quotes"), None);
        None
    }

    fn user(&mut self, item: Option<Item>) -> ImpersonatedName {
        const ALL: [ImpersonatedName; 3] = [ImpersonatedName::Username, ImpersonatedName::Email, ImpersonatedName::Id];
        let Some((word, line)) = item.and_then(|item| self.text(item)) else { return ImpersonatedName::default() };
        if let Some(name) = ALL.into_iter().find(|name| name.as_str() == word) {
            return name;
        }
        let meant = nearest(&word, ALL.iter().map(|name| name.as_str()));
        let meant = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
        let problem = format!("must be `username`, `email` or `id`{meant}");
        self.fault("impersonate_user", line, problem, Some("impersonate_user = \"email\""));
        ImpersonatedName::default()
    }

    fn prefix(&mut self, item: Option<Item>) -> String {
        let Some((text, line)) = item.and_then(|item| self.text(item)) else { return String::new() };
        let mut example = PREFIX;
        let mut pieces = text.split(PROVIDER_PLACE);
        let (front, behind, more) = (pieces.next().unwrap_or_default(), pieces.next(), pieces.next());
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '{' | '}');
        let name_goes_on = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let problem = if text.is_empty() {
            "is empty: leave it out where nothing is to stand before names"
        } else if !front.chars().chain(behind.unwrap_or_default().chars()).all(plain) || more.is_some() {
            example = PREFIX_OF_EACH;
            "must be ASCII letters, digits and symbols without blanks, commas and braces, except for one `{provider}`, which stands for the provider that vouches for the person"
        } else if behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(name_goes_on)) {
            example = PREFIX_OF_EACH;
            "needs a sign such as `:` behind `{provider}`, which ends that name: else two people might come to have one"
        } else if text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("system:")) {
            "begins with `system:`, as Kubernetes' own names do: nobody who signs in is one of them"
        } else {
            return text;
        };
        self.fault("prefix", line, problem, Some(example));
        String::new()
    }

    fn token_file(&mut self, item: Option<Item>) -> Option<PathBuf> {
        let (text, line) = item.and_then(|item| self.text(item))?;
        let path = PathBuf::from(text.trim());
        if path.as_os_str().is_empty() {
            self.fault("token_file", line, "is empty: name a file", Some(TOKEN));
            return None;
        }
        // Later it is read repeatedly, and its errors are then reported in the log and by `readyz`.
        if !self.reading.files.are_read_again()
            && let Err(problem) = authorization(&path)
        {
            self.fault("token_file", line, format!("{}: {problem}", path.display()), None);
        }
        Some(path)
    }

    /// Checks that we authenticate to the upstream at every address.
    fn judge_credential(&mut self, line: usize, has_token: bool, urls: &[UpstreamSettings]) {
        let in_the_clear = |url: &&UpstreamSettings| match &url.address {
            UpstreamAddress::Http { host, .. } | UpstreamAddress::H2c { host, .. } => !is_loopback(host),
            UpstreamAddress::Https { .. } | UpstreamAddress::H2 { .. } | UpstreamAddress::Unix(_) => false,
        };
        if has_token {
            let clear: Vec<String> = urls.iter().filter(in_the_clear).map(|url| url.address.origin()).collect();
            if !clear.is_empty() {
                let name = self.name("token_file", line);
                self.reading.warnings.push(format!(
                    "{name}: the token goes in the clear to {}: anyone who listens on the way may act as everybody; use https",
                    clear.join(", ")
                ));
            }
        } else if urls.iter().any(|url| url.trust.client.is_none()) {
            let problem = "needs a credential of our own: `token_file`, or `client_cert_file` and `client_key_file` with addresses that are all `https` or `h2`";
            self.fault("impersonate", line, problem, Some(TOKEN));
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::trial::{GITHUB, sources};
    use crate::config::{Faults, Loaded, load};

    /// Replaces `TOKEN` by a file with a token, and `DIR` by its folder.
    fn loads(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        fs::write(folder.path().join("token"), "canary\n").unwrap();
        fs::write(folder.path().join("empty"), "\n").unwrap();
        let text = text.replace("TOKEN", "token_file = \"DIR/token\"");
        fs::write(&path, text.replace("DIR", folder.path().to_str().unwrap())).unwrap();
        load(&sources(&["--config", path.to_str().unwrap()], &[GITHUB, env]))
    }

    fn faults(text: &str, env: &[(&str, &str)]) -> Vec<String> {
        let all = loads(text, env).err().unwrap_or_else(|| panic!("no fault in {text}")).to_string();
        all.lines().map(str::to_owned).collect()
    }

    /// Lines 1 to 3, followed by these.
    fn with(more: &str) -> String {
        format!("[[upstreams]]\nname = \"kube\"\nurls = [\"https://kube\"]\n{more}")
    }

    const TOKENS: &str = "[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example.com\"\naudiences = [\"api\"]\n";

    #[test]
    fn an_upstream_acts_as_people_as_it_is_written() {
        let rule = "[[routes]]\nallow = \"listed\"\nupstream = \"kube\"";
        let text =
            with(&format!("impersonate = true\nTOKEN\nprefix = \"corp:\"\nimpersonate_user = \"email\"\n{rule}"));
        let loaded = loads(&text, &[]).unwrap_or_else(|faults| panic!("{faults}"));
        let acting = loaded.settings.upstreams[0].acting.clone().unwrap();
        let impersonation = Impersonation { user: ImpersonatedName::Email, prefix: "corp:".into() };
        assert_eq!(acting.impersonation, impersonation);
        assert!(acting.token_file.is_some_and(|path| path.ends_with("token")));
        let print = loaded.effective.join("\n");
        assert!(print.contains("impersonates email prefix corp: token_file ") && !print.contains("canary"), "{print}");
        assert_eq!(loaded.warnings, Vec::<String>::new());
        let usual = loads(&with("impersonate = true\nTOKEN"), &[]).unwrap_or_else(|faults| panic!("{faults}"));
        let impersonation = usual.settings.upstreams[0].acting.clone().unwrap().impersonation;
        assert_eq!(impersonation, Impersonation { user: ImpersonatedName::Username, prefix: String::new() });
        assert!(loads(&with("impersonate = false"), &[]).unwrap().settings.upstreams[0].acting.is_none());
    }

    #[test]
    fn each_fault_has_its_line_and_what_would_be_right() {
        let acts = |more: &str| with(&format!("impersonate = true\nTOKEN\n{more}"));
        let to = |allow: &str| format!("[[routes]]\nupstream = \"kube\"\nallow = {allow}");
        for (text, line, says) in [
            (with("impersonate = \"yes\"\nprefix = \"\""), 4, "true or false"),
            (with("impersonate = true"), 4, "credential of our own: `token_file`"),
            (with("prefix = \"corp:\""), 4, "without `impersonate = true`"),
            (with("impersonate_user = \"email\""), 4, "without `impersonate = true`"),
            (with("impersonate = false\nTOKEN"), 5, "without `impersonate = true`"),
            (with("impersonat = true"), 4, "did you mean `impersonate`?"),
            (acts("impersonate_user = \"emial\""), 6, "did you mean `email`?"),
            (acts("impersonate_user = \"name\""), 6, "`username`, `email` or `id`"),
            (acts("impersonate_user = 1"), 6, "is a number"),
            (acts("prefix = \"\""), 6, "is empty"),
            (acts("prefix = \"a b:\""), 6, "without blanks"),
            (acts("prefix = \" corp:\""), 6, "without blanks"),
            (acts("prefix = \"corp: \""), 6, "without blanks"),
            (acts("prefix = \"corp:\u{a0}\""), 6, "without blanks"),
            (acts("prefix = \"z\u{f6}:\""), 6, "ASCII letters"),
            (acts("prefix = \"a,\""), 6, "commas"),
            (acts("prefix = \"{user}:\""), 6, "except for one `{provider}`"),
            (acts("prefix = \"{provider}:{provider}:\""), 6, "except for one `{provider}`"),
            (acts("prefix = \"{provider}\""), 6, "needs a sign such as `:`"),
            (acts("prefix = \"{provider}-x:\""), 6, "needs a sign such as `:`"),
            (acts("prefix = \"System:x\""), 6, "Kubernetes' own"),
            (with("impersonate = true\ntoken_file = \"DIR/none\""), 5, "cannot be read"),
            (with("impersonate = true\ntoken_file = \"DIR\""), 5, "directory"),
            (with("impersonate = true\ntoken_file = \"DIR/empty\""), 5, "is empty"),
            (with("impersonate = true\ntoken_file = \"\""), 5, "name a file"),
            (acts("[upstreams.identity]\n\"authorization\" = \"assertion\""), 4, "our own credential"),
            (acts("[upstreams.identity]\n\"Impersonate-User\" = \"user\""), 7, "cannot be chosen"),
            (acts(&to("\"public\"")), 8, "acts as the person"),
            (
                format!("{}\n{TOKENS}", acts(&to("\"signed-in\""))),
                4,
                "people of `ci` and `github` come to have one name",
            ),
            (format!("{}\n{TOKENS}", acts(&to("[\"ann\"]"))), 4, "tell them apart"),
        ] {
            let found = faults(&text, &[]);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            let place = format!("s.toml, line {line})");
            let all = &found[0];
            assert!(all.contains(&place) && all.contains(says) && !all.contains("canary"), "{text}: {all}");
        }
    }

    #[test]
    fn in_open_mode_nobody_is_known_and_all_faults_come_at_once() {
        let text = with("impersonate = true\nTOKEN\n[[routes]]\nupstream = \"kube\"\nallow = \"public\"");
        let found = faults(&text, &[("OAUTH_ENABLED", "false")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|fault| fault.contains("line 4)") && fault.contains("open mode")), "{found:?}");
        assert!(found.iter().any(|fault| fault.contains("line 8)") && fault.contains("public")), "{found:?}");
    }

    #[test]
    fn people_of_several_providers_are_known_apart_or_only_one_provider_leads_there() {
        let to = |prefix: &str, rule: &str| {
            with(&format!("impersonate = true\nTOKEN\n{prefix}\n[[routes]]\nupstream = \"kube\"\n{rule}\n{TOKENS}"))
        };
        for text in [
            to("prefix = \"{provider}:\"", "allow = \"signed-in\""),
            to("prefix = \"x/{provider}/\"", "allow = \"signed-in\""),
            to("", "allow = \"signed-in\"\nrequire = [\"provider:ci\"]"),
            to("", "allow = [\"provider:ci/ann\", \"provider:ci/group:ops\"]"),
            to("", "allow = \"nobody\""),
        ] {
            loads(&text, &[]).unwrap_or_else(|faults| panic!("{text}: {faults}"));
        }
        for text in [
            to("", "allow = [\"provider:ci/ann\", \"provider:github/ann\"]"),
            to("", "allow = [\"provider:ci/ann\", \"bob\"]"),
            to("prefix = \"corp:\"", "allow = \"listed\""),
        ] {
            assert!(faults(&text, &[])[0].contains("one name"), "{text}");
        }
    }

    #[test]
    fn a_token_in_the_clear_is_warned_of() {
        let to = |url: &str| with("impersonate = true\nTOKEN").replace("https://kube", url);
        let warned =
            |url: &str| loads(&to(url), &[]).unwrap().warnings.iter().any(|text| text.contains("in the clear"));
        assert!(warned("http://kube:80") && warned("h2c://10.0.0.1:80"));
        for url in
            ["https://kube", "h2://kube", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "unix:/x"]
        {
            assert!(!warned(url), "{url}");
        }
        let mixed = with("impersonate = true").replace("[\"https://kube\"]", "[\"http://kube\"]");
        assert!(faults(&mixed, &[])[0].contains("all `https` or `h2`"));
    }
}
