//! Access rules, in the operator's order, compiled for requests.

mod host;
mod index;
mod pattern;
mod people;
mod prefix;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

pub use self::host::{BadHost, HostName, HostPattern};
use self::index::{Index, PathText};
pub use self::pattern::{BadPattern, PathPattern};
pub use self::people::{BadRuleEntry, Entry, People, WORDS};
pub use self::prefix::without_prefix;
use super::caller::NO_ADDRESS;
use super::policy::AllowLists;
use super::principal::Principal;

/// One rule, as the operator wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its label in logs, metrics and responses: its name, else its number.
    pub name: String,
    /// The line of the file where it begins.
    pub line: usize,
    /// The hosts that it applies to.
    pub host: HostPattern,
    /// The paths; `None`: all.
    pub path: Option<PathPattern>,
    /// Whether the rule's upstream ignores the case of paths, so that the rule must too.
    pub ignores_case: bool,
    /// The methods, as spelled in requests; empty: all.
    pub methods: Vec<String>,
    /// The networks that requests may come from; empty: all.
    pub from: Vec<IpNet>,
    /// Whom it admits.
    pub access: Access,
    /// Further entries, all of which must match.
    pub require: Vec<Entry>,
    /// The greatest age of the user's sign-in; `None`: any age.
    pub max_age: Option<Duration>,
    /// The name of the rule's upstream; `None`: the default one.
    pub upstream: Option<String>,
    /// The prefix that this upstream does not receive.
    pub strips: Option<String>,
}

/// Whom a rule admits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everyone, even without a session.
    Public,
    /// Everyone with a live session.
    SignedIn,
    /// The users on the allow lists.
    #[default]
    Listed,
    /// Nobody.
    Nobody,
    /// The users that these entries name.
    People(Box<People>),
}

impl Rule {
    /// Whether `other`, placed after this rule, could never decide, because this one matches whatever that one does. May return false in
    /// hard cases.
    #[must_use]
    pub fn hides(&self, other: &Self) -> bool {
        let path = || match (&self.path, &other.path) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine.covers(self.ignores_case, theirs, other.ignores_case),
        };
        let methods = self.methods.is_empty()
            || (!other.methods.is_empty() && other.methods.iter().all(|method| self.is_for_method(method)));
        let from = self.from.is_empty()
            || (!other.from.is_empty()
                && other.from.iter().all(|theirs| self.from.iter().any(|mine| mine.contains(theirs))));
        methods && from && self.host.covers(&other.host) && path()
    }

    /// Whether some request could match both. May return true in hard cases.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let path = match (&self.path, &other.path) {
            (Some(mine), Some(theirs)) => mine.overlaps(self.ignores_case, theirs, other.ignores_case),
            (None, _) | (_, None) => true,
        };
        let shares_method = |rule: &Self, with: &Self| rule.methods.iter().any(|method| with.is_for_method(method));
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || shares_method(self, other)
            || shares_method(other, self);
        let nets = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        let from = self.from.is_empty()
            || other.from.is_empty()
            || self.from.iter().any(|mine| other.from.iter().any(|theirs| nets(mine, theirs)));
        path && methods && from && self.host.overlaps(&other.host)
    }

    fn is_for_method(&self, method: &str) -> bool {
        let is = |wanted: &str| self.methods.iter().any(|known| known == wanted);
        self.methods.is_empty() || is(method) || (method == "HEAD" && is("GET"))
    }

    fn is_for_caller(&self, from: IpAddr) -> bool {
        self.from.is_empty() || (from != NO_ADDRESS && self.from.iter().any(|network| network.contains(&from)))
    }

    /// The entry of `require` that does not match the user.
    #[must_use]
    pub fn lacks(&self, who: &Principal<'_>) -> Option<&Entry> {
        self.require.iter().find(|entry| !entry.names(who))
    }

    /// All entries, of `allow` and of `require`.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        let people = if let Access::People(people) = &self.access { people.entries() } else { &[] };
        people.iter().chain(&self.require)
    }
}

/// A rule's position in the file, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u32);

impl RuleId {
    /// Its position in the file, from 0 on.
    #[must_use]
    pub const fn place(self) -> usize {
        self.0 as usize
    }
}

/// Whether sign-in is enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Openness {
    /// Sign-in is disabled, and everything is forwarded.
    Open,
    /// Requests that match no rule need a user on these lists.
    SignIn(Box<AllowLists>),
}

/// All rules, compiled. Requests that match none need a user on the allow lists.
#[derive(Clone, Debug)]
pub struct Rules {
    openness: Openness,
    rules: Vec<Rule>,
    index: Index,
    names_methods: bool,
    /// The allow lists for tokens of other issuers, by the name of the issuer's section.
    token_lists: TokenLists,
}

/// The allow lists of each section of `[[tokens]]`, by its name.
pub type TokenLists = BTreeMap<String, AllowLists>;

/// The rule label of a request that matches no rule.
pub const NO_RULE: &str = "-";

impl Rules {
    /// Compiles rules. The first match decides.
    #[must_use]
    pub fn new(openness: Openness, rules: Vec<Rule>) -> Self {
        let mut index = Index::default();
        for (number, rule) in (0..).zip(&rules) {
            index.add(number, &rule.host, rule.path.as_ref().map(|path| (path, rule.ignores_case)));
        }
        let names_methods = rules.iter().any(|rule| !rule.methods.is_empty());
        Self { openness, rules, index, names_methods, token_lists: TokenLists::new() }
    }

    /// The same rules, with separate lists for tokens of other issuers.
    #[must_use]
    pub fn with_token_lists(self, token_lists: TokenLists) -> Self {
        Self { token_lists, ..self }
    }

    /// Whether the allow lists name the user: those of the issuer's own section, if it has one (an empty one names nobody), else `lists`.
    pub(super) fn list(&self, lists: &AllowLists, who: &Principal<'_>) -> bool {
        match self.token_lists.get(who.provider) {
            Some(own) => own.lists(who.identity),
            None => lists.admits(who.identity),
        }
    }

    /// Whether sign-in is enabled.
    #[must_use]
    pub const fn openness(&self) -> &Openness {
        &self.openness
    }

    /// The rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// One rule.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.place())
    }

    /// Its label in logs and metrics: its name, else its number; [`NO_RULE`] if none matched.
    #[must_use]
    pub fn name(&self, id: Option<RuleId>) -> &str {
        id.and_then(|id| self.get(id)).map_or(NO_RULE, |rule| &rule.name)
    }

    /// Prepares a path for [`Self::first`].
    pub(super) fn path<'a>(&self, reading: &'a str) -> PathText<'a> {
        self.index.path(reading)
    }

    /// The first rule that matches.
    pub(super) fn first(&self, host: &HostName<'_>, path: &PathText<'_>, method: &str, from: IpAddr) -> Option<RuleId> {
        let fits = |number| {
            self.get(RuleId(number)).is_some_and(|rule| rule.is_for_method(method) && rule.is_for_caller(from))
        };
        self.index.first(host, path, &fits).map(RuleId)
    }

    /// Whether the rule, which matches the path, may open it if it is public: where it ignores case, it must match letter by letter too,
    /// since what it takes for equal beyond that may be another resource.
    pub(super) fn opens(&self, id: Option<RuleId>, path: &PathText<'_>) -> bool {
        let folds = |rule: &&Rule| rule.ignores_case && rule.access == Access::Public;
        let pattern = id.and_then(|id| self.get(id)).filter(folds).and_then(|rule| rule.path.as_ref());
        pattern.is_none_or(|pattern| pattern.matches_by_letters(path.cased()))
    }

    /// Whether some rule has methods, so that no header field may override the method at the upstream.
    #[must_use]
    pub const fn names_methods(&self) -> bool {
        self.names_methods
    }

    /// Whether some rule is limited to certain hosts.
    #[must_use]
    pub fn names_hosts(&self) -> bool {
        self.rules.iter().any(|rule| rule.host != HostPattern::Every)
    }

    /// Whether some rule is limited to certain networks.
    #[must_use]
    pub fn names_networks(&self) -> bool {
        self.rules.iter().any(|rule| !rule.from.is_empty())
    }

    /// The rules that can match some request, and `None` if some request may match none.
    pub(super) fn all_that_may_decide(&self) -> impl Iterator<Item = Option<RuleId>> {
        let whatever = Rule::default();
        let is_about_all = self.rules.iter().any(|rule| rule.hides(&whatever));
        let ids = (0..).zip(&self.rules).map(|(number, _)| Some(RuleId(number)));
        ids.chain((!is_about_all).then_some(None))
    }

    /// Whether a rule names exactly that host, without a wildcard.
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        let host = HostName::of(host);
        self.rules.iter().any(|rule| matches!(rule.host, HostPattern::One(_)) && rule.host.matches(&host))
    }

    /// Whether a rule with a host matches that one.
    #[must_use]
    pub fn are_about_host(&self, host: &str) -> bool {
        let host = HostName::of(host);
        self.rules.iter().any(|rule| rule.host != HostPattern::Every && rule.host.matches(&host))
    }

    /// Whether a session may begin: some list, or some rule that is not public, could admit the user.
    #[must_use]
    pub fn could_let_in(&self, who: &Principal<'_>) -> bool {
        let lists = match &self.openness {
            Openness::Open => return true,
            Openness::SignIn(lists) => self.list(lists, who),
        };
        let lets_in = |rule: &Rule| match &rule.access {
            Access::SignedIn => rule.lacks(who).is_none(),
            Access::People(people) => people.lists(who) && rule.lacks(who).is_none(),
            // The lists were checked above.
            Access::Public | Access::Listed | Access::Nobody => false,
        };
        lists || self.rules.iter().any(lets_in)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(host: &str, path: &str) -> Rule {
        Rule {
            host: if host == "*" { HostPattern::Every } else { HostPattern::parse(host).unwrap() },
            path: (path != "*").then(|| PathPattern::parse(path).unwrap()),
            ..Rule::default()
        }
    }

    fn open(rules: Vec<Rule>) -> Rules {
        Rules::new(Openness::Open, rules)
    }

    fn first(rules: &Rules, host: &str, path: &str, method: &str, from: &str) -> Option<u32> {
        let id = rules.first(&HostName::of(host), &rules.path(path), method, from.parse().unwrap());
        id.map(|RuleId(number)| number)
    }

    #[test]
    fn the_first_that_matches_decides() {
        let mut rules = vec![
            rule("a.example", "/x/**"),
            rule("*.example", "/x/y"),
            rule("*", "/x/*"),
            rule("*.a.example", "*"),
            rule("*", "*"),
        ];
        rules[2].methods = vec!["GET".into()];
        rules[2].from = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let rules = open(rules);
        for (host, path, method, from, number) in [
            ("a.example", "/x/y", "GET", "10.0.0.1", 0),
            ("b.example", "/x/y", "GET", "10.0.0.1", 1),
            ("b.example", "/x/z", "GET", "10.0.0.1", 2),
            ("b.example", "/x/z", "HEAD", "10.0.0.1", 2),
            ("b.example", "/x/z", "HEAD", "fd12::1", 2),
            ("b.example", "/x/z", "get", "10.0.0.1", 4),
            ("b.example", "/x/z", "POST", "10.0.0.1", 4),
            ("b.example", "/x/z", "GET", "11.0.0.1", 4),
            ("b.a.example", "/q", "GET", "10.0.0.1", 3),
            ("", "*", "OPTIONS", "10.0.0.1", 4),
        ] {
            assert_eq!(first(&rules, host, path, method, from), Some(number), "{host} {path} {method} {from}");
        }
        assert_eq!(first(&open(vec![rule("*", "/**")]), "", "*", "OPTIONS", "::1"), None);
    }

    #[test]
    fn a_rule_that_an_earlier_one_hides() {
        let hides = |a: &Rule, b: &Rule| a.hides(b);
        assert!(hides(&rule("*", "*"), &rule("a.example", "/x")));
        assert!(!hides(&rule("a.example", "*"), &rule("*", "/x")));
        let get = Rule { methods: vec!["GET".into()], ..rule("*", "/a/**") };
        let head = Rule { methods: vec!["HEAD".into()], ..rule("*", "/a/b") };
        assert!(hides(&get, &head) && !hides(&head, &get) && !hides(&get, &rule("*", "/a/b")));
        let ten = Rule { from: vec!["10.0.0.0/8".parse().unwrap()], ..rule("*", "*") };
        let one = Rule { from: vec!["10.1.0.0/16".parse().unwrap()], ..rule("*", "/") };
        assert!(hides(&ten, &one) && !hides(&one, &ten) && !hides(&ten, &rule("*", "/")));
    }

    #[test]
    fn a_thousand_rules_are_found_as_fast_as_ten() {
        let some = |count: usize| {
            let of = |i: usize| match i % 3 {
                0 => rule(&format!("h{i}.example"), &format!("/app{i}/**")),
                1 => rule("*", &format!("/app{i}/*/x")),
                _ => rule(&format!("*.d{i}.example"), "/**"),
            };
            open((0..count).map(of).chain([rule("*", "/last/**")]).collect())
        };
        let time = |rules: &Rules| {
            let run = || {
                let begun = std::time::Instant::now();
                for _ in 0..2000 {
                    assert!(first(rules, "h.example", "/last/one", "GET", "10.0.0.1").is_some());
                }
                begun.elapsed()
            };
            (0..9).map(|_| run()).min().unwrap()
        };
        let (ten, thousand) = (some(10), some(1000));
        let (ten, thousand) = (time(&ten), time(&thousand));
        assert!(thousand < ten * 3, "{ten:?} for ten, {thousand:?} for a thousand");
    }

    fn some_rule() -> impl Strategy<Value = Rule> {
        let host = prop::sample::select(vec!["*", "a.x", "*.x", "*.a.x", "b.x", "x"]);
        let piece = prop::sample::select(vec!["a", "b", "A", "*", "**", "a*", "*b", "a*b", ""]);
        let path = prop::option::of(prop::collection::vec(piece, 1..5));
        let method = prop::sample::select(vec![vec![], vec!["GET"], vec!["POST", "HEAD"]]);
        let from = prop::sample::select(vec![None, Some("10.0.0.0/8"), Some("10.1.0.0/16")]);
        (host, path, method, from, any::<bool>()).prop_map(|(host, path, methods, from, ignores_case)| {
            let path = path.map(|pieces| format!("/{}", pieces.join("/")));
            Rule {
                path: path.and_then(|path| PathPattern::parse(&path.replace("//", "/")).ok()),
                methods: methods.into_iter().map(str::to_owned).collect(),
                from: from.into_iter().map(|network| network.parse().unwrap()).collect(),
                ignores_case,
                ..rule(host, "*")
            }
        })
    }

    fn matches(rule: &Rule, host: &str, path: &str, method: &str, from: IpAddr) -> bool {
        rule.host.matches(&HostName::of(host))
            && rule.path.as_ref().is_none_or(|p| pattern::reference::matches(p, path, rule.ignores_case))
            && rule.is_for_method(method)
            && rule.is_for_caller(from)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        // The compiled rules decide like a linear search; and a rule reported as hidden never decides.
        #[test]
        fn the_index_finds_what_a_plain_search_does(
            rules in prop::collection::vec(some_rule(), 0..12),
            host in prop::sample::select(vec!["a.x", "b.a.x", "A.X:80", "x", "", "c.b.a.x."]),
            segments in prop::collection::vec(prop::sample::select(vec!["a", "b", "A", "ab", "axb", "", "c"]), 0..5),
            method in prop::sample::select(vec!["GET", "HEAD", "POST"]),
            from in prop::sample::select(vec!["10.1.0.1", "10.2.0.1", "::1"]),
        ) {
            let path = format!("/{}", segments.join("/"));
            let address: IpAddr = from.parse().unwrap();
            let plain = rules.iter().position(|rule| matches(rule, host, &path, method, address));
            if let Some(at) = plain {
                for earlier in &rules[..at] {
                    prop_assert!(!earlier.hides(&rules[at]), "{earlier:?} does not hide {:?}", rules[at]);
                }
            }
            let found = first(&open(rules), host, &path, method, from);
            prop_assert_eq!(found.map(|number| usize::try_from(number).unwrap()), plain);
        }
    }
}
