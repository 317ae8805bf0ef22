//! The history of an object's reconciliations or releases, and the difference between the last two.

use url::Url;

use crate::clock;
use crate::kube::Release;

use super::model::{Difference, DifferentPart, Kind, Past, bounded};

/// How many entries of a history are shown.
const MOST: usize = 20;

/// The entries, newest first.
pub(super) fn past(kind: Kind, history: &[Release]) -> Vec<Past> {
    history.iter().take(MOST).map(|entry| one(kind, entry)).collect()
}

fn one(kind: Kind, entry: &Release) -> Past {
    let time = |text: &Option<String>| text.as_deref().and_then(clock::parse);
    if kind == Kind::HelmRelease {
        return Past {
            revision: bounded(&entry.chart_version).to_owned(),
            outcome: bounded(&entry.status).to_owned(),
            digest: bounded(&entry.digest).to_owned(),
            number: entry.version,
            times: 0,
            first: time(&entry.first_deployed),
            last: time(&entry.last_deployed),
        };
    }
    Past {
        revision: bounded(revision(entry)).to_owned(),
        outcome: bounded(&entry.last_reconciled_status).to_owned(),
        digest: bounded(&entry.digest).to_owned(),
        number: 0,
        times: entry.total_reconciliations,
        first: time(&entry.first_reconciled),
        last: time(&entry.last_reconciled),
    }
}

fn revision(entry: &Release) -> &str {
    entry.metadata.get("revision").map(String::as_str).unwrap_or_default()
}

/// The difference between the newest entry and the one before it; for a Kustomization, the one with another revision. `repository` is
/// the URL of the Git repository of the revisions.
pub(super) fn difference(kind: Kind, history: &[Release], repository: Option<&str>) -> Option<Difference> {
    let newest = history.first()?;
    if kind == Kind::HelmRelease {
        let before = history.get(1)?;
        let named = |entry: &Release| {
            bounded(&format!("{} {} (release {})", entry.chart_name, entry.chart_version, entry.version)).to_owned()
        };
        let parts = [
            part("chart", &entry_chart(before), &entry_chart(newest)),
            part("application", &before.app_version, &newest.app_version),
            part("values", &before.config_digest, &newest.config_digest),
        ];
        return Some(Difference {
            from: named(before),
            to: named(newest),
            parts: parts.into_iter().flatten().collect(),
            compare: None,
        });
    }
    let (_, earlier) = history.split_first()?;
    let before = earlier.iter().find(|entry| !revision(entry).is_empty() && revision(entry) != revision(newest))?;
    Some(Difference {
        from: bounded(revision(before)).to_owned(),
        to: bounded(revision(newest)).to_owned(),
        parts: part("manifests", &before.digest, &newest.digest).into_iter().collect(),
        compare: repository
            .and_then(|repository| comparison(repository, commit(revision(before))?, commit(revision(newest))?)),
    })
}

fn entry_chart(entry: &Release) -> String {
    format!("{} {}", entry.chart_name, entry.chart_version)
}

fn part(name: &str, before: &str, after: &str) -> Option<DifferentPart> {
    (before != after).then(|| DifferentPart {
        name: name.to_owned(),
        before: bounded(before).to_owned(),
        after: bounded(after).to_owned(),
    })
}

/// The commit of a revision such as `main@sha1:4f2c…`.
fn commit(revision: &str) -> Option<&str> {
    let (_, digest) = revision.rsplit_once(':')?;
    (matches!(digest.len(), 40 | 64) && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}

/// The page on which a Git host compares two commits. Only hosts with a known name are used: a made-up URL leads nowhere else.
fn comparison(repository: &str, before: &str, after: &str) -> Option<String> {
    let url = Url::parse(repository).ok().filter(|url| matches!(url.scheme(), "https" | "ssh"))?;
    let host = url.host_str()?;
    let way = match host.split('.').next()? {
        _ if host == "codeberg.org" => "compare",
        "github" | "gitea" | "forgejo" => "compare",
        "gitlab" => "-/compare",
        _ => return None,
    };
    let path = url.path().trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    // An ssh port does not apply to a page, and other ports of a Git host may serve anything.
    (path.split('/').count() >= 2 && (url.scheme() == "ssh" || url.port().is_none()))
        .then(|| format!("https://{host}/{path}/{way}/{before}...{after}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn reconciled(revision: &str, digest: &str) -> Release {
        let metadata = BTreeMap::from([("revision".to_owned(), revision.to_owned())]);
        Release { digest: digest.into(), metadata, ..Release::default() }
    }

    #[test]
    fn a_kustomization_is_compared_with_the_last_revision_that_was_another() {
        let (a, b) = (format!("main@sha1:{}", "a".repeat(40)), format!("main@sha1:{}", "b".repeat(40)));
        let history = [reconciled(&b, "d2"), reconciled(&b, "d1"), reconciled(&a, "d1")];
        let difference =
            difference(Kind::Kustomization, &history, Some("ssh://git@github.com/acme/fleet.git")).unwrap();
        assert_eq!((difference.from.as_str(), difference.to.as_str()), (a.as_str(), b.as_str()));
        assert_eq!(difference.parts.len(), 1);
        let page = format!("https://github.com/acme/fleet/compare/{}...{}", "a".repeat(40), "b".repeat(40));
        assert_eq!(difference.compare, Some(page));
        assert_eq!(super::difference(Kind::Kustomization, &history[..2], None), None);
        assert_eq!(super::difference(Kind::Kustomization, &[], None), None);
    }

    #[test]
    fn a_release_says_whether_chart_or_values_are_different() {
        let release = |version, chart: &str, values: &str| Release {
            version,
            chart_name: "loki".into(),
            chart_version: chart.into(),
            config_digest: values.into(),
            ..Release::default()
        };
        let of = |history: &[Release]| {
            let found = difference(Kind::HelmRelease, history, None).unwrap();
            found.parts.into_iter().map(|part| part.name).collect::<Vec<_>>()
        };
        assert_eq!(of(&[release(2, "1.1", "v"), release(1, "1.0", "v")]), ["chart"]);
        assert_eq!(of(&[release(2, "1.0", "w"), release(1, "1.0", "v")]), ["values"]);
        assert!(of(&[release(2, "1.0", "v"), release(1, "1.0", "v")]).is_empty());
    }

    #[test]
    fn only_known_hosts_of_git_are_linked_to() {
        let of = |repository: &str| comparison(repository, "a", "b");
        for (repository, page) in [
            ("https://github.com/acme/fleet", "https://github.com/acme/fleet/compare/a...b"),
            (
                "ssh://git@gitlab.example.com:2222/acme/team/fleet.git",
                "https://gitlab.example.com/acme/team/fleet/-/compare/a...b",
            ),
            ("https://codeberg.org/acme/fleet.git", "https://codeberg.org/acme/fleet/compare/a...b"),
        ] {
            assert_eq!(of(repository).unwrap(), page);
        }
        for repository in [
            "http://github.com/a/b",
            "https://evil.example/a/b",
            "https://github.com:8443/a/b",
            "https://github.com/a",
            "javascript:alert(1)",
            "git@github.com:a/b",
            "",
        ] {
            assert_eq!(of(repository), None, "{repository}");
        }
    }
}
