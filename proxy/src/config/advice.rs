//! Suggestions for a valid configuration, warnings that need all of it, and rules printed in one line each.

use crate::domain::rules::{Access, Entry, HostPattern, PathPattern, Rule, TokenLists, without_prefix};
use crate::serve::settings::{Mode, Settings};

/// Suggestions for valid settings.
pub(super) fn on(settings: &Settings) -> Vec<String> {
    let rules = &settings.rules;
    let mut advice = Vec::new();
    for (at, public) in rules.iter().enumerate().filter(|(_, rule)| rule.access == Access::Public) {
        // An exception to a rule below it is intended; a partial overlap may open what that rule should close.
        let opens = |below: &&Rule| below.access != Access::Public && public.overlaps(below) && !below.hides(public);
        for closed in rules.iter().skip(at + 1).filter(opens) {
            advice.push(format!(
                "the public rule `{}` (line {}) stands above `{}` (line {}) and opens part of what that one is about: put it below, or \
                 make its path narrower",
                public.name, public.line, closed.name, closed.line
            ));
        }
    }
    for rule in rules.iter().filter(|rule| rule.access == Access::Public) {
        for network in rule.from.iter().filter(|network| settings.trusted_proxies.overlap(network)) {
            advice.push(format!(
                "the public rule `{}` (line {}) opens to {network}, where some of TRUSTED_PROXIES are: a request that such a proxy sends \
                 without a usable X-Forwarded-For counts as its own; have it always send that, or leave its address out",
                rule.name, rule.line
            ));
        }
    }
    advice.extend(on_checks(settings));
    if let Mode::SignIn(sign_in) = &settings.mode
        && let Some(domain) = &sign_in.cookie.domain
    {
        let public = sign_in.public_origin.host_str();
        let is_elsewhere = |rule: &Rule| match &rule.host {
            HostPattern::One(host) => Some(host.as_str()) != public,
            HostPattern::Below(_) => true,
            HostPattern::Every => false,
        };
        if !rules.iter().any(is_elsewhere) {
            advice.push(format!(
                "COOKIE_DOMAIN is {domain}, and no rule names another host than the public one: without it the session cookie is sent to \
                 that host alone"
            ));
        }
    }
    if let Mode::SignIn(sign_in) = &settings.mode
        && !sign_in.token_lists.is_empty()
    {
        advice.extend(rules.iter().filter_map(|rule| on_tokens(rule, &sign_in.token_lists)));
    }
    advice
}

/// Warnings that need all settings.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let Mode::SignIn(sign_in) = &settings.mode else { return Vec::new() };
    let mut warnings = on_prefixes(&settings.rules);
    if !sign_in.allow.admits_everyone() {
        let provider = sign_in.provider.kind().as_str();
        let sections = &sign_in.token_lists;
        warnings.extend(settings.rules.iter().filter_map(|rule| on_strangers(rule, provider, sections)));
    }
    warnings
}

/// A warning of a rule that admits users whom no allow list names, where the lists do not admit everyone. The replacement that it names
/// lets in the same: users of the provider, and tokens of each section.
fn on_strangers(rule: &Rule, provider: &str, sections: &TokenLists) -> Option<String> {
    (rule.access == Access::SignedIn && rule.require.is_empty()).then(|| {
        let names = std::iter::once(provider).chain(sections.keys().map(String::as_str));
        let everyone: Vec<String> = names.map(|name| format!("\"provider:{name}\"")).collect();
        let tokens = if sections.is_empty() { "" } else { " and every token that [[tokens]] accepts" };
        format!(
            "the rule `{}` (line {}) has `allow = \"signed-in\"`, which lets in everyone whom the provider signs in{tokens}, also people \
             whom no OAUTH_ALLOWED_… list names: write `allow = \"listed\"` for those on the lists, or `allow = [{}]` where everyone is \
             meant",
            rule.name,
            rule.line,
            everyone.join(", ")
        )
    })
}

/// Warnings of rules that lead to an upstream by paths without the prefix that it does not receive: such a path passes as it came, so that
/// what another rule closes behind the prefix has a second name there.
fn on_prefixes(rules: &[Rule]) -> Vec<String> {
    let mut warnings = Vec::new();
    for open in rules.iter().filter(|rule| rule.access != Access::Nobody) {
        let Some(prefix) = &open.strips else { continue };
        if open.path.as_ref().is_some_and(|path| stands_below(path, prefix, open.ignores_case)) {
            continue;
        }
        let Some(closed) = rules.iter().find(|closed| has_second_name(closed, open, prefix)) else { continue };
        warnings.push(format!(
            "the rule `{}` (line {}) leads to the upstream `{}` by paths without its `strip_prefix`, which pass as they came: so it is another \
             way to what `{}` (line {}) protects behind {prefix}; write the same `allow` and `require` in both, or give this one a path below \
             {prefix}",
            open.name,
            open.line,
            open.upstream.as_deref().unwrap_or_default(),
            closed.name,
            closed.line
        ));
    }
    warnings
}

fn stands_below(path: &PathPattern, prefix: &str, ignores_case: bool) -> bool {
    path.is_below(prefix) || without_prefix(path.as_str(), prefix, ignores_case).is_some()
}

/// Whether `open`, whose paths are not below `prefix`, is another way to what `closed` protects below it from others than `open` lets in.
fn has_second_name(closed: &Rule, open: &Rule, prefix: &str) -> bool {
    // A rule for nobody needs no upstream.
    let is_of_upstream = closed.upstream == open.upstream || closed.access == Access::Nobody;
    let asks_the_same = closed.access == open.access
        && closed.require == open.require
        && closed.max_age == open.max_age
        && closed.from == open.from;
    let is_for_all_signed_in = closed.access == Access::SignedIn
        && closed.require.is_empty()
        && closed.max_age.is_none()
        && closed.from.is_empty();
    if is_for_all_signed_in && open.access != Access::Public {
        return false;
    }
    if closed.access == Access::Public || asks_the_same || !is_of_upstream {
        return false;
    }
    let Some(path) = closed.path.as_ref().filter(|path| stands_below(path, prefix, closed.ignores_case)) else {
        return false;
    };
    // The closed paths as the upstream receives them.
    let received = without_prefix(path.as_str(), prefix, closed.ignores_case);
    let received = received.and_then(|received| PathPattern::parse(&received).ok());
    match (&open.path, &received) {
        (Some(path), Some(received)) => path.overlaps(open.ignores_case, received, closed.ignores_case),
        (None, _) | (_, None) => true,
    }
}

/// A suggestion for the listener for Envoy, which trusts every client that reaches it.
fn on_checks(settings: &Settings) -> Option<String> {
    let address = settings.ext_authz?;
    if matches!(settings.mode, Mode::Open) {
        return Some(
            "EXT_AUTHZ_ADDR is set, and in open mode nobody is let in by it: set OAUTH_ENABLED=true".to_owned(),
        );
    }
    (!address.ip().is_loopback()).then(|| {
        format!(
            "EXT_AUTHZ_ADDR is {address}, which may be reached by other machines, and anyone who reaches it is believed: let a network policy or \
             firewall keep all but Envoys out, or use loopback"
        )
    })
}

/// A suggestion for a rule that admits users of any provider or issuer, if there are several.
fn on_tokens(rule: &Rule, sections: &TokenLists) -> Option<String> {
    let names: Vec<&str> = sections.keys().map(String::as_str).collect();
    let (names, place) = (names.join("`, `"), format!("the rule `{}` (line {})", rule.name, rule.line));
    // With a provider named in `require`, the rule is unambiguous.
    if rule.require.iter().any(|entry| entry.provider().is_some()) {
        return None;
    }
    if rule.access == Access::SignedIn {
        return Some(format!(
            "{place} is for everyone who has signed in, and so for every token that `{names}` of [[tokens]] accepts too: name them in \
             `allow` where that is not meant"
        ));
    }
    let Access::People(people) = &rule.access else { return None };
    let open = people.entries().iter().find(|entry| entry.provider().is_none())?;
    Some(format!(
        "{place} names `{}` without its provider, so tokens of `{names}` that say so count too: write `provider:NAME/{}`",
        open.as_str(),
        open.as_str()
    ))
}

/// A rule in one line, with its place in the file.
pub(super) fn print(rule: &Rule) -> String {
    let list = |items: Vec<&str>| format!("[{}]", items.join(", "));
    let entries = |entries: &[Entry]| list(entries.iter().map(Entry::as_str).collect());
    let mut parts = vec![format!("rule {}:", rule.name)];
    match &rule.host {
        HostPattern::Every => {}
        HostPattern::One(host) => parts.push(format!("host {host}")),
        HostPattern::Below(domain) => parts.push(format!("host *.{domain}")),
    }
    if let Some(path) = &rule.path {
        parts.push(format!("path {}", path.as_str()));
    }
    if !rule.methods.is_empty() {
        parts.push(format!("methods {}", list(rule.methods.iter().map(String::as_str).collect())));
    }
    if !rule.from.is_empty() {
        let from: Vec<String> = rule.from.iter().map(ToString::to_string).collect();
        parts.push(format!("from {}", list(from.iter().map(String::as_str).collect())));
    }
    match &rule.access {
        Access::People(people) => parts.push(format!("allow {}", entries(people.entries()))),
        Access::Public => parts.push("allow public".to_owned()),
        Access::SignedIn => parts.push("allow signed-in".to_owned()),
        Access::Listed => parts.push("allow listed".to_owned()),
        Access::Nobody => parts.push("allow nobody".to_owned()),
    }
    if !rule.require.is_empty() {
        parts.push(format!("require {}", entries(&rule.require)));
    }
    if let Some(max_age) = rule.max_age {
        parts.push(format!("max_age {}", super::words::duration_text(max_age)));
    }
    if let Some(upstream) = &rule.upstream {
        parts.push(format!("upstream {upstream}"));
    }
    format!("{}  (line {})", parts.join(" "), rule.line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::trial::{GITHUB, sources};
    use crate::config::{Loaded, load};

    fn loaded(routes: &str, env: &[(&str, &str)]) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        fs::write(&path, routes).unwrap();
        load(&sources(&["--config", path.to_str().unwrap()], &[GITHUB, env]))
            .unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn a_public_rule_that_cuts_into_a_closed_one_is_reported() {
        let advice = |routes: &str| loaded(routes, &[]).advice.join("\n");
        let text = advice(
            "[[routes]]\nname = \"styles\"\npath = \"/**/*.css\"\nallow = \"public\"\n[[routes]]\npath = \"/admin/**\"\nallow = \"nobody\"",
        );
        assert!(text.contains("`styles` (line 1) stands above `2` (line 5)"), "{text}");
        let exception = "[[routes]]\npath = \"/admin/public/**\"\nallow = \"public\"\n[[routes]]\npath = \"/admin/**\"\nallow = \"nobody\"";
        assert_eq!(advice(exception), "");
        let apart =
            "[[routes]]\npath = \"/a/**\"\nallow = \"public\"\n[[routes]]\npath = \"/b/**\"\nallow = \"nobody\"";
        assert_eq!(advice(apart), "");
    }

    #[test]
    fn a_rule_that_does_not_say_whose_person_it_means_is_reported_where_several_issuers_are_trusted() {
        let tokens = "[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example\"\naudiences = [\"app\"]\n[[routes]]\n";
        let advice = |rule: &str| loaded(&format!("{tokens}{rule}"), &[]).advice.join("\n");
        assert!(advice("allow = \"signed-in\"").contains("every token that `ci` of [[tokens]] accepts"));
        assert!(advice("allow = [\"provider:ci\", \"ann\"]").contains("names `ann` without its provider"));
        for clear in [
            "allow = [\"provider:ci/claim:a=b\", \"provider:github/ann\"]",
            "allow = \"signed-in\"\nrequire = [\"provider:github\"]",
            "allow = \"listed\"",
            "allow = \"public\"",
        ] {
            assert_eq!(advice(clear), "", "{clear}");
        }
        assert!(loaded("[[routes]]\nallow = [\"ann\"]", &[]).advice.is_empty());
    }

    #[test]
    fn a_rule_that_is_a_second_way_to_what_another_closes_behind_a_prefix_is_reported() {
        let upstream = "[[upstreams]]\nname = \"g\"\nurls = [\"http://127.0.0.1:3000\"]\nstrip_prefix = \"/grafana\"\n";
        let said = |closed: &str, open: &str| {
            let rule = |name: &str, keys: &str| format!("[[routes]]\nname = \"{name}\"\nupstream = \"g\"\n{keys}\n");
            let text = format!("{upstream}{}{}", rule("closed", closed), rule("open", open));
            loaded(&text, &[]).warnings.join("\n")
        };
        let closed = "path = \"/grafana/admin/**\"\nallow = [\"group:acme/ops\"]";
        let host = "host = \"grafana.example.com\"";
        for open in [
            format!("{host}\nallow = \"signed-in\""),
            format!("{host}\npath = \"/admin/users\"\nallow = \"public\""),
            "path = \"/**\"\nallow = \"signed-in\"".to_owned(),
        ] {
            let text = said(closed, &open);
            assert!(text.contains("`open` (line 10) leads to the upstream `g`"), "{text}");
            assert!(text.contains("what `closed` (line 5) protects behind /grafana"), "{text}");
        }
        for (closed, open) in [
            (closed, "path = \"/grafana/**\"\nallow = \"signed-in\"".to_owned()),
            (closed, format!("{host}\npath = \"/public/**\"\nallow = \"public\"")),
            (closed, format!("{host}\nallow = [\"group:acme/ops\"]")),
            (closed, format!("{host}\npath = \"/grafana/x\"\nallow = \"signed-in\"")),
            ("path = \"/grafana/css/**\"\nallow = \"public\"", format!("{host}\nallow = \"signed-in\"")),
        ] {
            let text = said(closed, &open);
            assert!(!text.contains("strip_prefix"), "{open}: {text}");
        }
    }

    #[test]
    fn a_rule_for_everyone_who_signs_in_is_reported_where_the_lists_do_not_let_everyone_in() {
        let warned = |rule: &str, users: &str| {
            let rule = format!("[[routes]]\nname = \"wiki\"\n{rule}");
            loaded(&rule, &[("OAUTH_ALLOWED_USERS", users)]).warnings.join("\n")
        };
        let everyone = "allow = \"signed-in\"";
        let text = warned(everyone, "ann,@example.com");
        assert!(text.contains("`wiki` (line 1)") && text.contains("no OAUTH_ALLOWED_… list names"), "{text}");
        assert!(text.contains("allow = \"listed\"") && text.contains("[\"provider:github\"]"), "{text}");
        assert_eq!(warned(everyone, "*"), "", "the lists let in everyone too");
        let tokens = "[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example\"\naudiences = [\"app\"]\n";
        let with_tokens = loaded(&format!("{tokens}[[routes]]\n{everyone}"), &[]).warnings.join("\n");
        assert!(with_tokens.contains("and every token that [[tokens]] accepts"), "{with_tokens}");
        assert!(with_tokens.contains("`allow = [\"provider:github\", \"provider:ci\"]`"), "{with_tokens}");
        for rule in [
            "",
            "allow = \"listed\"",
            "allow = \"public\"",
            "allow = \"nobody\"",
            "allow = [\"provider:github\"]",
            "allow = \"signed-in\"\nrequire = [\"group:acme\"]",
        ] {
            assert_eq!(warned(rule, "ann"), "", "{rule}");
        }
        let rule = format!("[[routes]]\n{everyone}");
        let open = loaded(&rule, &[("OAUTH_ENABLED", "false")]).warnings.join("\n");
        assert!(!open.contains("signed-in"), "{open}");
    }

    #[test]
    fn a_cookie_domain_without_another_host_is_wider_than_needed() {
        let domain: &[(&str, &str)] = &[("COOKIE_DOMAIN", "example.com")];
        assert!(loaded("", domain).advice.join("").contains("COOKIE_DOMAIN is example.com"));
        assert!(loaded("[[routes]]\nhost = \"grafana.example.com\"", domain).advice.is_empty());
    }

    #[test]
    fn a_rule_that_opens_to_the_networks_of_trusted_proxies_is_reported() {
        let rule = "[[routes]]\nname = \"inside\"\nfrom = [\"10.0.0.0/8\"]\nallow = \"public\"";
        let advice = |proxies: &str| loaded(rule, &[("TRUSTED_PROXIES", proxies)]).advice.join("\n");
        for overlapping in ["10.1.2.3", "10.9.0.0/16", "0.0.0.0/0"] {
            assert!(advice(overlapping).contains("`inside` (line 1) opens to 10.0.0.0/8"), "{overlapping}");
        }
        assert_eq!(advice("192.0.2.1,::1"), "");
    }

    #[test]
    fn what_is_in_force_is_printed_with_its_sources_and_no_secret() {
        let routes = "session_ttl = \"8h\"\n[[routes]]\nname = \"x\"\nhost = \"*.a.example\"\npath = \"/a\"\nmethods = [\"GET\"]\n\
                      from = [\"10.0.0.0/8\"]\nallow = [\"ann\", \"group:acme\"]\nrequire = [\"id:1\"]\nmax_age = \"15m\"";
        let text = loaded(routes, &[("OAUTH_CLIENT_SECRET", "canary")]).effective.join("\n");
        assert!(text.contains("OAUTH_PROVIDER = github  (environment)"), "{text}");
        assert!(text.contains("OAUTH_CLIENT_SECRET = ***  (environment)") && !text.contains("canary"), "{text}");
        assert!(text.contains("LOG_LEVEL = info  (default)"), "{text}");
        assert!(text.contains("SESSION_TTL = 8h  (") && text.contains("s.toml)"), "{text}");
        let rule = "rule x: host *.a.example path /a methods [GET] from [10.0.0.0/8] allow [ann, group:acme] require [id:1] max_age 15m  (line 2)";
        assert!(text.contains(rule), "{text}");
    }

    #[test]
    fn a_listener_that_trusts_every_caller_is_reported_where_other_machines_reach_it() {
        let advice = |address| loaded("", &[("EXT_AUTHZ_ADDR", address)]).advice.join("\n");
        assert_eq!(advice(":9001"), "");
        assert_eq!(advice("[::1]:9001"), "");
        assert!(advice("0.0.0.0:9001").contains("may be reached by other machines"));
        let open = crate::config::trial::env(&[&[("EXT_AUTHZ_ADDR", ":9001")]]).unwrap().advice.join("\n");
        assert!(open.contains("nobody is let in by it"), "{open}");
    }
}
