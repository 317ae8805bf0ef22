//! Tables of decisions, and properties that always hold.

use proptest::prelude::*;

use super::*;
use crate::domain::certificate::CertificateName;
use crate::domain::claims::Claims;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::policy::{AllowLists, AllowedGroups, AllowedUsers};
use crate::domain::principal::Proof;
use crate::domain::rules::{Entry, HostPattern, PathPattern, People};

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

/// A user, with what the decision depends on.
#[derive(Clone)]
struct Someone {
    identity: Identity,
    claims: Claims,
    proved: Option<u64>,
}

impl Known for Someone {
    fn principal(&self) -> Principal<'_> {
        Principal {
            identity: &self.identity,
            provider: self.identity.provider.as_str(),
            by: Proof::Session,
            proved_at: self.proved.map(|ago| Timestamp::from_secs(NOW.secs() - ago)),
            claims: &self.claims,
            certificate: None,
        }
    }
}

fn someone(name: &str, groups: &[&str], claims: &[(&str, &str)], proved: Option<u64>) -> Someone {
    let mut known = Claims::default();
    for (claim, text) in claims {
        known.set(claim, vec![(*text).to_owned()]);
    }
    Someone {
        identity: Identity {
            provider: ProviderKind::Github,
            id: format!("id-{name}"),
            email: Email::parse(&format!("{name}@example.com")).ok(),
            name: name.to_owned(),
            username: Username::Vouched(name.to_owned()),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            claims: Claims::default(),
        },
        claims: known,
        proved,
    }
}

/// `ann` is listed, `ops` is in the operators' group, `fin` has a claim, `old` signed in long ago, `zoe` has none of that.
fn person(name: &str) -> Option<Someone> {
    Some(match name {
        "ann" => someone("ann", &[], &[], Some(60)),
        "ops" => someone("ops", &["acme/ops"], &[], Some(60)),
        "fin" => someone("fin", &[], &[("department", "finance")], Some(60)),
        "old" => someone("old", &["acme/ops", "acme/lead"], &[], Some(3601)),
        "new" => someone("new", &["acme/ops", "acme/lead"], &[], Some(3600)),
        "unproved" => someone("unproved", &["acme/ops", "acme/lead"], &[], None),
        "zoe" => someone("zoe", &[], &[], Some(60)),
        _ => return None,
    })
}

fn lists() -> Openness {
    let users = AllowedUsers::parse(["ann"]).unwrap();
    Openness::SignIn(Box::new(AllowLists { users: Some(users), groups: Some(AllowedGroups::parse(["acme/staff"])) }))
}

fn people(entries: &[&str]) -> Access {
    Access::People(Box::new(People::new(entries.iter().map(|entry| Entry::parse(entry).unwrap()).collect())))
}

fn rule(name: &str, path: &str, access: Access) -> Rule {
    Rule {
        name: name.to_owned(),
        path: (path != "*").then(|| PathPattern::parse(path).unwrap()),
        access,
        ..Rule::default()
    }
}

fn app() -> Rules {
    let on = |host: &str, rule: Rule| Rule { host: HostPattern::parse(host).unwrap(), ..rule };
    let for_methods = |methods: &[&str], rule: Rule| Rule {
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        ..rule
    };
    let require = |entries: &[&str], rule: Rule| Rule {
        require: entries.iter().map(|entry| Entry::parse(entry).unwrap()).collect(),
        ..rule
    };
    let hour = Some(Duration::from_secs(3600));
    let inside = |rule: Rule| Rule { from: vec!["10.0.0.0/8".parse().unwrap()], ..rule };
    let to = |upstream: &str, rule: Rule| Rule { upstream: Some(upstream.to_owned()), ..rule };
    Rules::new(
        lists(),
        vec![
            rule("assets", "/public/**", Access::Public),
            rule("closed", "/closed/**", Access::Nobody),
            rule("admin", "/admin/**", people(&["group:acme/ops"])),
            require(
                &["group:acme/lead"],
                Rule { max_age: hour, ..rule("root", "/root/**", people(&["group:acme/ops"])) },
            ),
            for_methods(&["OPTIONS"], rule("preflight", "/api/**", Access::Public)),
            for_methods(&["GET"], rule("read", "/api/**", Access::SignedIn)),
            for_methods(&["DELETE"], rule("delete", "/api/**", Access::Nobody)),
            rule("money", "/money/*", people(&["claim:department=finance", "id:id-ann"])),
            inside(rule("inside", "/metrics", Access::Public)),
            rule("outside", "/metrics", Access::Nobody),
            on("grafana.example.com", to("grafana", rule("grafana", "*", Access::SignedIn))),
            on("*.open.example.com", rule("open", "*", Access::Public)),
            to("files", rule("files", "/files/**", Access::SignedIn)),
            Rule { ignores_case: true, ..rule("windows", "/Secret/**", Access::Nobody) },
            rule("health", "/health", Access::Public),
            rule("pages", "/pages/**", Access::Listed),
        ],
    )
}

/// The decision on one request, as a word and the rule's name.
fn say(rules: &Rules, who: &str, host: &str, method: &str, raw: &str, from: &str) -> String {
    let path = Readings::of(raw).unwrap();
    let (host, forwarded_host) = host.split_once('+').map_or((host, None), |(host, other)| (host, Some(other)));
    let ask =
        Ask { host, forwarded_host, method, path: &path, from: from.parse().unwrap(), certificate: None, now: NOW };
    match judge(rules, &ask, person(who)) {
        Ok(permit) => {
            let whose = if permit.session().is_some() { "as" } else { "no" };
            format!("{whose} {}", rules.name(permit.rule()))
        }
        Err(Refusal { rule, why }) => {
            let word = match why {
                Why::TooOld { .. } => "step-up",
                Why::Unauthenticated => "sign-in",
                Why::NotListed => "unlisted",
                Why::NotNamed => "unnamed",
                Why::Lacks(_) => "lacks",
                Why::Nobody => "closed",
                Why::ManyUpstreams => "torn",
                Why::BehindPrefix => "behind",
            };
            format!("{word} {}", rules.name(rule))
        }
    }
}

/// User, host, method, path, from: the decision.
const ROWS: &[(&str, &str, &str, &str, &str)] = &[
    // Public, with and without a session, and what it does not open.
    ("-", "a.x", "GET", "/public", "no assets"),
    ("-", "a.x", "GET", "/public/", "no assets"),
    ("-", "a.x", "GET", "/public/a.css", "no assets"),
    ("-", "a.x", "POST", "/public/a/b/c", "no assets"),
    ("-", "a.x", "GET", "/public/%61.css", "no assets"),
    ("-", "a.x", "GET", "/public/caf%C3%A9", "no assets"),
    ("-", "a.x", "GET", "/public/a%20b", "no assets"),
    ("ann", "a.x", "GET", "/public/a.css", "as assets"),
    ("ops", "a.x", "GET", "/public/a.css", "as assets"),
    ("fin", "a.x", "GET", "/public/a.css", "as assets"),
    ("-", "a.x", "GET", "/publicity", "sign-in -"),
    ("-", "a.x", "GET", "/Public/a", "sign-in -"),
    ("-", "a.x", "GET", "/publicly/a", "sign-in -"),
    ("-", "a.x", "GET", "/a/public/a", "sign-in -"),
    ("-", "a.x", "GET", "/publi%63/a", "sign-in -"),
    ("-", "a.x", "GET", "/public/./a", "sign-in assets"),
    ("-", "a.x", "GET", "/public/x/../a", "sign-in assets"),
    ("-", "a.x", "GET", "/public/../a", "sign-in assets"),
    ("-", "a.x", "GET", "/public//a", "sign-in assets"),
    ("-", "a.x", "GET", "//public/a", "sign-in -"),
    ("-", "a.x", "GET", "/public/a;b", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a%2fb", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a%5cb", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a\\b", "sign-in assets"),
    ("-", "a.x", "GET", "/public/%2e%2e/a", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a%00", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a%25b", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a%", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a%3bb", "sign-in assets"),
    ("-", "a.x", "GET", "/public/%c0%ae", "sign-in assets"),
    ("ann", "a.x", "GET", "/public/./a", "as assets"),
    ("ann", "a.x", "GET", "/public//a", "as assets"),
    ("ann", "a.x", "GET", "/public/a;b", "as assets"),
    ("fin", "a.x", "GET", "/public//a", "unlisted assets"),
    ("-", "a.x", "GET", "/health", "no health"),
    ("-", "a.x", "HEAD", "/health", "no health"),
    ("-", "a.x", "GET", "/health/", "sign-in -"),
    ("-", "a.x", "GET", "/health/x", "sign-in -"),
    // A public path that a server may take for a closed one.
    ("-", "a.x", "GET", "/public/../closed/x", "closed closed"),
    ("ann", "a.x", "GET", "/public/../closed/x", "closed closed"),
    ("-", "a.x", "GET", "/public/..%2fclosed/x", "closed closed"),
    ("-", "a.x", "GET", "/public/%2e%2e/closed", "closed closed"),
    ("-", "a.x", "GET", "/public/%252e%252e/closed", "closed closed"),
    ("-", "a.x", "GET", "/public/..;/closed", "closed closed"),
    ("-", "a.x", "GET", "/public\\..\\closed", "closed closed"),
    ("-", "a.x", "GET", "/public/.%c0%ae/closed", "closed closed"),
    ("ann", "a.x", "GET", "/public/../admin", "unnamed admin"),
    ("ops", "a.x", "GET", "/public/../admin", "unlisted assets"),
    // Nobody.
    ("-", "a.x", "GET", "/closed", "closed closed"),
    ("-", "a.x", "GET", "/closed/", "closed closed"),
    ("ann", "a.x", "GET", "/closed/x", "closed closed"),
    ("ops", "a.x", "POST", "/closed/x", "closed closed"),
    ("ann", "a.x", "GET", "/%63losed/x", "closed closed"),
    ("ann", "a.x", "GET", "/%2563losed/x", "closed closed"),
    ("ann", "a.x", "GET", "//closed/x", "closed closed"),
    ("ann", "a.x", "GET", "/closed%2fx", "closed closed"),
    ("ann", "a.x", "GET", "/closed;v=1/x", "closed closed"),
    ("ann", "a.x", "GET", "/x/../closed", "closed closed"),
    ("ann", "a.x", "GET", "/x/..;/closed", "closed closed"),
    ("ann", "a.x", "GET", "/closed%00x", "closed closed"),
    ("ann", "a.x", "GET", "/closed%23", "closed closed"),
    ("ann", "a.x", "GET", "/closed%3f", "closed closed"),
    ("ann", "a.x", "GET", "/closed.", "closed closed"),
    ("ann", "a.x", "GET", "/closed%20", "closed closed"),
    ("ann", "a.x", "GET", "/\\closed", "closed closed"),
    ("ann", "a.x", "GET", "/closedx", "as -"),
    ("ann", "a.x", "GET", "/Closed", "as -"),
    // The rule's own list.
    ("-", "a.x", "GET", "/admin", "sign-in admin"),
    ("-", "a.x", "GET", "/admin/x", "sign-in admin"),
    ("ann", "a.x", "GET", "/admin", "unnamed admin"),
    ("ann", "a.x", "GET", "/admin/", "unnamed admin"),
    ("ops", "a.x", "GET", "/admin", "as admin"),
    ("ops", "a.x", "DELETE", "/admin/x/y", "as admin"),
    ("ops", "a.x", "GET", "/admin%2fx", "unlisted -"),
    ("ops", "a.x", "GET", "/%61dmin", "unlisted -"),
    ("ann", "a.x", "GET", "/%61dmin", "unnamed admin"),
    ("ann", "a.x", "GET", "//admin", "unnamed admin"),
    ("ann", "a.x", "GET", "/x/../admin", "unnamed admin"),
    ("ann", "a.x", "GET", "/admin/../x", "unnamed admin"),
    ("ann", "a.x", "GET", "/administer", "as -"),
    ("zoe", "a.x", "GET", "/admin", "unnamed admin"),
    ("old", "a.x", "GET", "/admin", "as admin"),
    // Further required entries, and the greatest age of the sign-in.
    ("-", "a.x", "GET", "/root", "sign-in root"),
    ("ann", "a.x", "GET", "/root", "unnamed root"),
    ("ops", "a.x", "GET", "/root", "lacks root"),
    ("old", "a.x", "GET", "/root", "step-up root"),
    ("old", "a.x", "POST", "/root/x", "step-up root"),
    ("new", "a.x", "GET", "/root", "as root"),
    ("new", "a.x", "GET", "/root/x", "as root"),
    ("unproved", "a.x", "GET", "/root", "step-up root"),
    ("new", "a.x", "GET", "/root/../admin", "as root"),
    ("old", "a.x", "GET", "/root/../admin", "step-up root"),
    ("old", "a.x", "GET", "/admin/../root", "step-up root"),
    ("old", "a.x", "GET", "/root/../x", "unlisted -"),
    ("old", "a.x", "GET", "/root/../closed", "closed closed"),
    // Methods.
    ("-", "a.x", "OPTIONS", "/api/x", "no preflight"),
    ("-", "a.x", "options", "/api/x", "sign-in -"),
    ("-", "a.x", "GET", "/api/x", "sign-in read"),
    ("zoe", "a.x", "GET", "/api/x", "as read"),
    ("zoe", "a.x", "HEAD", "/api/x", "as read"),
    ("zoe", "a.x", "get", "/api/x", "unlisted -"),
    ("ann", "a.x", "get", "/api/x", "as -"),
    ("zoe", "a.x", "POST", "/api/x", "unlisted -"),
    ("ann", "a.x", "POST", "/api/x", "as -"),
    ("ann", "a.x", "PATCH", "/api/x", "as -"),
    ("-", "a.x", "POST", "/api/x", "sign-in -"),
    ("ann", "a.x", "DELETE", "/api/x", "closed delete"),
    ("ann", "a.x", "delete", "/api/x", "closed delete"),
    ("ann", "a.x", "DeLeTe", "/api/x", "closed delete"),
    ("-", "a.x", "DELETE", "/api/x", "closed delete"),
    ("ann", "a.x", "DELETE", "/api", "closed delete"),
    ("ann", "a.x", "DELETE", "/apis", "as -"),
    ("ann", "a.x", "DELETE", "/a%70i/x", "closed delete"),
    ("zoe", "a.x", "GET", "/api/%2e%2e/x", "unlisted -"),
    ("zoe", "a.x", "GET", "/api/a%2fb", "as read"),
    ("zoe", "a.x", "PROPFIND", "/api/x", "unlisted -"),
    // Claims and ids.
    ("fin", "a.x", "GET", "/money/x", "as money"),
    ("ann", "a.x", "GET", "/money/x", "as money"),
    ("zoe", "a.x", "GET", "/money/x", "unnamed money"),
    ("-", "a.x", "GET", "/money/x", "sign-in money"),
    ("fin", "a.x", "GET", "/money/x/y", "unlisted -"),
    ("fin", "a.x", "GET", "/money", "unlisted -"),
    ("fin", "a.x", "GET", "/money/", "unlisted -"),
    ("ann", "a.x", "GET", "/money/", "as money"),
    ("fin", "a.x", "GET", "/money/x%2fy", "unlisted -"),
    // No rule: the lists decide.
    ("-", "a.x", "GET", "/", "sign-in -"),
    ("ann", "a.x", "GET", "/", "as -"),
    ("ann", "a.x", "POST", "/x", "as -"),
    ("zoe", "a.x", "GET", "/", "unlisted -"),
    ("ops", "a.x", "GET", "/", "unlisted -"),
    ("ann", "a.x", "OPTIONS", "*", "as -"),
    ("-", "a.x", "OPTIONS", "*", "sign-in -"),
    ("ann", "", "GET", "/", "as -"),
    ("ann", "a.x", "GET", "/pages/x", "as pages"),
    ("zoe", "a.x", "GET", "/pages/x", "unlisted pages"),
    ("-", "a.x", "GET", "/pages", "sign-in pages"),
    // Hosts.
    ("zoe", "grafana.example.com", "GET", "/", "as grafana"),
    ("zoe", "Grafana.Example.com:8443", "GET", "/d", "as grafana"),
    ("zoe", "grafana.example.com.", "GET", "/d", "as grafana"),
    ("-", "grafana.example.com", "GET", "/d", "sign-in grafana"),
    ("zoe", "xgrafana.example.com", "GET", "/d", "unlisted -"),
    ("zoe", "x.grafana.example.com", "GET", "/d", "unlisted -"),
    ("zoe", "grafana.example.com", "OPTIONS", "*", "as grafana"),
    ("ann", "grafana.example.com", "GET", "/closed", "closed closed"),
    ("-", "a.open.example.com", "GET", "/", "no open"),
    ("-", "a.b.open.example.com", "GET", "/x", "no open"),
    ("-", "open.example.com", "GET", "/", "sign-in -"),
    ("-", ".open.example.com", "GET", "/", "sign-in -"),
    ("-", "a.open.example.com", "GET", "/x/../y", "sign-in open"),
    ("ann", "a.open.example.com", "GET", "/x/../y", "as open"),
    ("-", "a.open.example.com", "GET", "/admin", "sign-in admin"),
    ("-", "a.open.example.com", "OPTIONS", "*", "sign-in open"),
    // Two hosts: both must admit it.
    ("-", "a.open.example.com+b.open.example.com", "GET", "/", "no open"),
    ("-", "a.open.example.com+evil.org", "GET", "/", "sign-in -"),
    ("-", "evil.org+a.open.example.com", "GET", "/", "sign-in -"),
    ("ann", "a.open.example.com+a.x", "GET", "/", "as open"),
    ("zoe", "a.open.example.com+a.x", "GET", "/", "unlisted -"),
    ("-", "a.open.example.com+A.open.example.com:80", "GET", "/", "no open"),
    ("zoe", "grafana.example.com+a.x", "GET", "/", "torn -"),
    ("zoe", "a.x+grafana.example.com", "GET", "/", "torn grafana"),
    // Readings that lead to different upstreams.
    ("ann", "a.x", "GET", "/files/x", "as files"),
    ("ann", "a.x", "GET", "/files/../x", "torn -"),
    ("ann", "a.x", "GET", "/x/../files/y", "torn files"),
    ("-", "a.x", "GET", "/x/../files/y", "torn files"),
    ("ann", "a.x", "GET", "/%66iles/y", "torn files"),
    ("ann", "a.x", "GET", "/files/a/../b", "as files"),
    ("ann", "a.x", "GET", "/files%2fx", "torn files"),
    ("ann", "a.x", "GET", "/files/", "as files"),
    // Ignoring case.
    ("ann", "a.x", "GET", "/Secret/x", "closed windows"),
    ("ann", "a.x", "GET", "/secret/x", "closed windows"),
    ("ann", "a.x", "GET", "/SECRET", "closed windows"),
    ("ann", "a.x", "GET", "/%53ECRET", "closed windows"),
    ("ann", "a.x", "GET", "/\u{17f}ecret", "closed windows"),
    ("ann", "a.x", "GET", "/%C5%BFecret", "closed windows"),
    ("ann", "a.x", "GET", "/secrets", "as -"),
    ("ann", "a.x", "GET", "/x/../SECRET", "closed windows"),
    // Other differences between servers, at a closed path and at an open one.
    ("ann", "a.x", "GET", "/./closed", "closed closed"),
    ("ann", "a.x", "GET", "/x/%2e%2e/closed", "closed closed"),
    ("ann", "a.x", "GET", "/x%2f..%2fclosed", "closed closed"),
    ("ann", "a.x", "GET", "/x%5c..%5cclosed", "closed closed"),
    ("ann", "a.x", "GET", "///closed", "closed closed"),
    ("ann", "a.x", "GET", "/;x/closed", "closed closed"),
    ("ann", "a.x", "GET", "/closed/%2e", "closed closed"),
    ("ann", "a.x", "GET", "/clo%73ed", "closed closed"),
    ("ann", "a.x", "GET", "/clo%2573ed", "closed closed"),
    ("ann", "a.x", "GET", "/clo%252573ed", "as -"),
    ("ann", "a.x", "GET", "/closed#x", "closed closed"),
    ("ann", "a.x", "GET", "/closed%252f..", "closed closed"),
    ("-", "a.x", "GET", "/public/%2f", "sign-in assets"),
    ("-", "a.x", "GET", "/public/..", "sign-in assets"),
    ("-", "a.x", "GET", "/public/...", "sign-in assets"),
    ("-", "a.x", "GET", "/public/a..b", "no assets"),
    ("-", "a.x", "GET", "/public/.well-known", "no assets"),
    ("-", "a.x", "GET", "/public/a.", "no assets"),
    ("-", "a.x", "GET", "/public/~a", "no assets"),
    ("-", "a.x", "GET", "/public/%7Ea", "no assets"),
    ("-", "a.x", "GET", "/public/a+b", "no assets"),
    ("-", "a.x", "GET", "/public/a&b=c", "no assets"),
    ("-", "a.x", "GET", "/public/\u{e9}", "no assets"),
    ("-", "a.x", "GET", "/public/%0a", "sign-in assets"),
    ("-", "a.x", "GET", "/public/%ff", "sign-in assets"),
];

#[test]
fn what_is_said_row_by_row() {
    let rules = app();
    let mut wrong = Vec::new();
    for (who, host, method, path, expected) in ROWS {
        let said = say(&rules, who, host, method, path, "192.0.2.1");
        if said != *expected {
            wrong.push(format!("{who} {host} {method} {path}: {said}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ROWS.len() >= 200, "{} rows", ROWS.len());
}

#[test]
fn where_the_caller_is() {
    let rules = app();
    for (from, expected) in [
        ("10.1.2.3", "no inside"),
        ("192.0.2.1", "closed outside"),
        ("::1", "closed outside"),
        ("11.0.0.1", "closed outside"),
    ] {
        assert_eq!(say(&rules, "-", "a.x", "GET", "/metrics", from), expected, "{from}");
    }
}

#[test]
fn whom_nothing_lets_in_any_more_is_nobody_on_a_public_path() {
    let rules = Rules::new(lists(), vec![rule("assets", "/public/**", Access::Public)]);
    assert_eq!(say(&rules, "ann", "a.x", "GET", "/public/a", "::1"), "as assets");
    assert_eq!(say(&rules, "zoe", "a.x", "GET", "/public/a", "::1"), "no assets");
}

#[test]
fn open_mode_looks_at_upstreams_only() {
    let to = |upstream: &str, rule: Rule| Rule { upstream: Some(upstream.to_owned()), ..rule };
    let rules = Rules::new(
        Openness::Open,
        vec![rule("closed", "/closed", Access::Nobody), to("b", rule("b", "/b/**", Access::Nobody))],
    );
    assert_eq!(say(&rules, "ann", "a.x", "GET", "/closed", "::1"), "no closed");
    assert_eq!(say(&rules, "-", "a.x", "GET", "/", "::1"), "no -");
    assert_eq!(say(&rules, "-", "a.x", "GET", "/b/x", "::1"), "no b");
    assert_eq!(say(&rules, "-", "a.x", "GET", "/b/../x", "::1"), "torn -");
}

#[test]
fn a_path_is_judged_as_its_upstream_reads_it_without_the_prefix() {
    let to_app = |rule: Rule| Rule { upstream: Some("app".into()), strips: Some("/app".into()), ..rule };
    let rules = |openness| {
        Rules::new(
            openness,
            vec![
                rule("admin", "/app/admin/**", Access::Nobody),
                rule("elsewhere", "/app/b/**", Access::SignedIn),
                to_app(rule("app", "/app/**", Access::SignedIn)),
            ],
        )
    };
    for (path, decision) in [
        ("/app/x", "as app"),
        ("/app", "as app"),
        ("/app/api/a%2Fb", "as app"),
        ("/app/a;b", "as app"),
        ("/app/admin/x", "closed admin"),
        ("/app//h/admin/x", "behind app"),
        ("/app//h/b/x", "behind app"),
        ("/app//h/c/x", "as app"),
    ] {
        assert_eq!(say(&rules(lists()), "ann", "a.x", "GET", path, "::1"), decision, "{path}");
    }
    assert_eq!(say(&rules(lists()), "-", "a.x", "GET", "/app//h/admin/x", "::1"), "sign-in app");
    assert_eq!(say(&rules(Openness::Open), "-", "a.x", "GET", "/app//h/b/x", "::1"), "behind app");
}

#[test]
fn behind_a_prefix_a_hostile_path_takes_bounded_work() {
    let app =
        Rule { upstream: Some("app".into()), strips: Some("/app".into()), ..rule("app", "/app/**", Access::SignedIn) };
    let rules = Rules::new(lists(), vec![app]);
    // Twenty readings, each of which has up to twenty of its own.
    for (length, decision) in [(10, "as app"), (1_000, "as app"), (8_000, "behind app")] {
        let path = format!("/app/{}//x;y%41./", "a".repeat(length));
        assert_eq!(Readings::of(&path).unwrap().iter().count(), 20, "{length}");
        assert_eq!(say(&rules, "ann", "a.x", "GET", &path, "::1"), decision, "{length}");
    }
    // A long one with few readings passes.
    let long = format!("/app/{}%2Fx%20y", "a".repeat(30_000));
    assert_eq!(say(&rules, "ann", "a.x", "GET", &long, "::1"), "as app");
}

#[test]
fn without_case_a_public_rule_opens_what_matches_letter_by_letter_and_a_closing_one_closes_more() {
    let folding = |rule: Rule| Rule { ignores_case: true, ..rule };
    let rules = Rules::new(
        lists(),
        vec![
            folding(rule("files", "/files/**", Access::Public)),
            folding(rule("street", "/stra\u{df}e", Access::Public)),
            folding(rule("final", "/final/**", Access::Nobody)),
            folding(rule("pass", "/pa\u{df}/**", Access::Nobody)),
        ],
    );
    for (path, decision) in [
        ("/FILES/x", "no files"),
        ("/files/%EF%AC%81x", "no files"),
        ("/%EF%AC%81les/x", "sign-in files"),
        ("/STRA%C3%9FE", "no street"),
        ("/strasse", "sign-in street"),
        ("/%EF%AC%81nal/x", "closed final"),
        ("/FINAL/x", "closed final"),
        ("/PASS/x", "closed pass"),
        ("/pa%C3%9F/x", "closed pass"),
    ] {
        assert_eq!(say(&rules, "-", "a.x", "GET", path, "::1"), decision, "{path}");
    }
    assert_eq!(say(&rules, "ann", "a.x", "GET", "/%EF%AC%81les/x", "::1"), "as files", "it counts as `listed`");
}

#[test]
fn a_session_may_begin_where_a_list_or_a_rule_could_let_the_person_in() {
    let could = |rules: &Rules, who: &str| rules.could_let_in(&person(who).unwrap().principal());
    let only = |access: Access| Rules::new(lists(), vec![rule("x", "*", access)]);
    for (access, ann, ops) in [
        (Access::Public, true, false),
        (Access::Nobody, true, false),
        (Access::Listed, true, false),
        (Access::SignedIn, true, true),
        (people(&["group:acme/ops"]), true, true),
        (people(&["zoe"]), true, false),
    ] {
        let rules = only(access.clone());
        assert_eq!((could(&rules, "ann"), could(&rules, "ops")), (ann, ops), "{access:?}");
    }
    let require = Rule { require: vec![Entry::parse("group:acme/lead").unwrap()], ..rule("x", "*", Access::SignedIn) };
    let rules = Rules::new(lists(), vec![require]);
    assert!(!could(&rules, "ops") && could(&rules, "old"));
}

fn some_access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![
        Access::Public,
        Access::SignedIn,
        Access::Listed,
        Access::Nobody,
        people(&["ann"]),
        people(&["group:acme/ops", "claim:department=finance"]),
    ])
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let host = prop::sample::select(vec!["", "a.x", "*.x"]);
    let path = prop::sample::select(vec!["*", "/a/**", "/a", "/*", "/b/*", "/**/c", "/a/*.c", "/A/**"]);
    let methods = prop::sample::select(vec![vec![], vec!["GET".to_owned()], vec!["DELETE".to_owned()]]);
    let max_age = prop::sample::select(vec![None, Some(Duration::from_secs(3600))]);
    let required = prop::sample::select(vec![vec![], vec![Entry::parse("group:acme/lead").unwrap()]]);
    let upstream = prop::sample::select(vec![None, None, None, Some("b".to_owned())]);
    (host, path, methods, some_access(), max_age, required, (upstream, any::<bool>())).prop_map(
        |(host, path, methods, access, max_age, require, (upstream, ignores_case))| Rule {
            host: HostPattern::parse(host).unwrap_or_default(),
            methods,
            max_age,
            require,
            upstream,
            ignores_case,
            ..rule("r", path, access)
        },
    )
}

fn some_path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "b", "c", "A", "x.c", "/", "/", "/", "..", ".", "%2e", "%2f", ";", "\\", "%61", "%5c", "%00", "%25",
        "%C3%A9",
    ]);
    prop::collection::vec(piece, 0..7).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn requires(entries: &[&str], rule: Rule) -> Rule {
    Rule { require: entries.iter().map(|entry| Entry::parse(entry).unwrap()).collect(), ..rule }
}

#[test]
fn a_certificate_counts_beside_somebody_who_is_known_and_while_it_lasts() {
    let rules = Rules::new(
        lists(),
        vec![
            requires(&["cert:CN=laptop-7"], rule("lab", "/lab/**", Access::SignedIn)),
            rule("by", "/by/**", people(&["cert:DNS=laptop-7.example.com", "id:id-fin"])),
            requires(&["cert:any"], rule("any", "/any/**", Access::SignedIn)),
        ],
    );
    let shown = |names: &[&str], ends: u64| {
        let names: Vec<_> = names.iter().map(|name| CertificateName::parse(name).unwrap()).collect();
        ClientCertificate::new(names, Timestamp::from_secs(ends))
    };
    let seven = shown(&["CN=laptop-7", "DNS=laptop-7.example.com"], NOW.secs());
    let ended = shown(&["CN=laptop-7", "DNS=laptop-7.example.com"], NOW.secs() - 1);
    // Another kind of name, and one with the same beginning.
    let other = shown(&["DNS=laptop-7", "CN=laptop-7.example.com", "CN=laptop-77"], NOW.secs());
    for (who, certificate, path, outcome) in [
        ("zoe", Some(&seven), "/lab/x", Ok(AdmitReason::SignedIn)),
        ("zoe", Some(&seven), "/by/x", Ok(AdmitReason::Named)),
        ("zoe", Some(&seven), "/any/x", Ok(AdmitReason::SignedIn)),
        ("-", Some(&seven), "/lab/x", Err(Why::Unauthenticated)),
        ("-", Some(&seven), "/by/x", Err(Why::Unauthenticated)),
        ("zoe", None, "/lab/x", Err(Why::Lacks("cert:CN=laptop-7".to_owned()))),
        ("zoe", None, "/by/x", Err(Why::NotNamed)),
        ("zoe", None, "/any/x", Err(Why::Lacks("cert:any".to_owned()))),
        ("fin", None, "/by/x", Ok(AdmitReason::Named)),
        ("zoe", Some(&ended), "/lab/x", Err(Why::Lacks("cert:CN=laptop-7".to_owned()))),
        ("zoe", Some(&ended), "/by/x", Err(Why::NotNamed)),
        ("zoe", Some(&other), "/lab/x", Err(Why::Lacks("cert:CN=laptop-7".to_owned()))),
        ("zoe", Some(&other), "/by/x", Err(Why::NotNamed)),
        ("zoe", Some(&other), "/any/x", Ok(AdmitReason::SignedIn)),
    ] {
        let path = Readings::of(path).unwrap();
        let from = [10, 0, 0, 1].into();
        let ask = Ask { host: "", forwarded_host: None, method: "GET", path: &path, from, certificate, now: NOW };
        let found = judge(&rules, &ask, person(who)).map(|permit| permit.reason()).map_err(|refusal| refusal.why);
        assert_eq!(found, outcome, "{who} {certificate:?} {}", path.as_written());
    }
    // A session may begin for a user whom a rule could admit over this very connection.
    let zoe = person("zoe").unwrap();
    let only = |rule: Rule| Rules::new(lists(), vec![rule]);
    for rules in [only(rules.iter().next().unwrap().clone()), only(rules.iter().nth(1).unwrap().clone())] {
        for (certificate, begins) in [(Some(&seven), true), (Some(&other), false), (None, false)] {
            assert_eq!(rules.could_let_in(&Principal { certificate, ..zoe.principal() }), begins, "{certificate:?}");
        }
    }
}

fn some_person() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["-", "ann", "ops", "fin", "old", "new", "unproved", "zoe"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    // If a request is admitted, so is every reading of its path taken alone: by the first rule that matches it.
    #[test]
    fn a_path_is_never_more_open_than_any_of_its_readings(
        rules in prop::collection::vec(some_rule(), 0..6),
        host in prop::sample::select(vec!["a.x", "b.x", "y"]),
        method in prop::sample::select(vec!["GET", "POST", "DELETE", "delete"]),
        raw in some_path(),
        who in some_person(),
    ) {
        let Ok(path) = Readings::of(&raw) else { return Ok(()) };
        let ask = Ask { host, forwarded_host: None, method, path: &path, from: [10, 0, 0, 1].into(), certificate: None, now: NOW };
        let rules = Rules::new(lists(), rules);
        let person = person(who);
        let principal = person.as_ref().map(Known::principal);
        let Ok(permit) = judge(&rules, &ask, principal) else { return Ok(()) };
        let upstream = |id: Option<RuleId>| id.and_then(|id| rules.get(id)).and_then(|rule| rule.upstream.clone());
        for reading in path.iter() {
            let decides = rules.first(&HostName::of(host), &rules.path(reading), method, ask.from);
            prop_assert_eq!(upstream(decides), upstream(permit.rule()));
            let access = decides.and_then(|id| rules.get(id)).map_or(&Access::Listed, |rule| &rule.access);
            match access {
                Access::Public if path.may_be_opened() => continue,
                Access::Nobody => prop_assert!(false, "{raw} as {reading} is for nobody"),
                Access::Public | Access::Listed | Access::SignedIn | Access::People(_) => {}
            }
            let Some(who) = &principal else { return Err(TestCaseError::fail(format!("{raw} as {reading} needs a session"))) };
            prop_assert!(permit.session().is_some());
            match access {
                Access::SignedIn => {}
                Access::People(people) => prop_assert!(people.lists(who)),
                Access::Public | Access::Listed | Access::Nobody => prop_assert_eq!(who.identity.name.as_str(), "ann"),
            }
            if let Some(rule) = decides.and_then(|id| rules.get(id)) {
                prop_assert!(rule.lacks(who).is_none());
                prop_assert!(rule.max_age.is_none_or(|most| who.proved_at.is_some_and(|at| NOW.since(at) <= most)));
            }
        }
    }

    #[test]
    fn a_closing_rule_at_the_top_never_opens_anything(
        closing in some_rule(),
        rules in prop::collection::vec(some_rule(), 0..6),
        host in prop::sample::select(vec!["a.x", "b.x", "y"]),
        method in prop::sample::select(vec!["GET", "DELETE"]),
        raw in some_path(),
        who in some_person(),
    ) {
        let Ok(path) = Readings::of(&raw) else { return Ok(()) };
        let ask = Ask { host, forwarded_host: None, method, path: &path, from: [10, 0, 0, 1].into(), certificate: None, now: NOW };
        let closing = Rule { access: Access::Nobody, upstream: None, ..closing };
        let before = judge(&Rules::new(lists(), rules.clone()), &ask, person(who)).is_ok();
        let after = judge(&Rules::new(lists(), [vec![closing], rules].concat()), &ask, person(who)).is_ok();
        // A rule for nobody has no upstream: readings that led to different upstreams still do, or the request is refused.
        prop_assert!(before || !after);
    }

    #[test]
    fn a_second_host_never_opens_anything(
        rules in prop::collection::vec(some_rule(), 0..6),
        hosts in (prop::sample::select(vec!["a.x", "b.x", "y"]), prop::sample::select(vec!["a.x", "b.x", "y"])),
        raw in some_path(),
        who in some_person(),
    ) {
        let Ok(path) = Readings::of(&raw) else { return Ok(()) };
        let rules = Rules::new(lists(), rules);
        let is_let_in = |host, forwarded_host| {
            let ask = Ask { host, forwarded_host, method: "GET", path: &path, from: [10, 0, 0, 1].into(), certificate: None, now: NOW };
            judge(&rules, &ask, person(who)).is_ok()
        };
        prop_assert!(!is_let_in(hosts.0, Some(hosts.1)) || (is_let_in(hosts.0, None) && is_let_in(hosts.1, None)));
    }
}

#[test]
fn a_token_is_on_its_own_sections_lists_and_on_none_where_there_are_none() {
    let listed = AllowLists { users: Some(AllowedUsers::parse(["id:id-zoe"]).unwrap()), groups: None };
    let sections = [("ci".to_owned(), listed), ("bare".to_owned(), AllowLists::default())];
    let rules = Rules::new(
        lists(),
        vec![rule("in", "/in", Access::SignedIn), rule("named", "/named", people(&["provider:bare"]))],
    )
    .with_token_lists(sections.into());
    for (provider, name, path, expected) in [
        ("github", "ann", "/", Ok(AdmitReason::Listed)),
        ("ci", "ann", "/", Err(Why::NotListed)),
        ("ci", "zoe", "/", Ok(AdmitReason::Listed)),
        ("github", "zoe", "/", Err(Why::NotListed)),
        ("bare", "ann", "/", Err(Why::NotListed)),
        ("bare", "ann", "/in", Ok(AdmitReason::SignedIn)),
        ("bare", "ann", "/named", Ok(AdmitReason::Named)),
        ("ci", "zoe", "/named", Err(Why::NotNamed)),
    ] {
        let someone = person(name).unwrap();
        let who = Principal { provider, by: Proof::Bearer, ..someone.principal() };
        let readings = Readings::of(path).unwrap();
        let ask = Ask {
            certificate: None,
            host: "a.example",
            forwarded_host: None,
            method: "GET",
            path: &readings,
            from: [192, 0, 2, 1].into(),
            now: NOW,
        };
        let verdict = judge(&rules, &ask, Some(who)).map(|permit| permit.reason()).map_err(|refusal| refusal.why);
        assert_eq!(verdict, expected, "{provider} {name} {path}");
    }
    let stranger = person("ann").unwrap();
    let no_rules =
        Rules::new(lists(), Vec::new()).with_token_lists([("bare".to_owned(), AllowLists::default())].into());
    assert!(!no_rules.could_let_in(&Principal { provider: "bare", ..stranger.principal() }));
}
