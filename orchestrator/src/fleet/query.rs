//! Lists and counts over all cached objects.

use std::cmp::Ordering;
use std::sync::Arc;

use super::cluster::{Cluster, of_kind};
use super::held::{Held, Key};
use super::model::{Filter, Kind, Listing, ObjectSummary, Page, Sort, Stats, Status};
use super::view::Views;

/// How many words of a search are used.
const WORDS_MOST: usize = 8;

/// A page of the objects that match a filter.
pub(super) fn list(clusters: &[Arc<Cluster>], views: &Views, filter: &Filter, page: Page) -> Listing<ObjectSummary> {
    let words: Vec<String> =
        filter.text.iter().flat_map(|text| text.split_whitespace()).take(WORDS_MOST).map(str::to_lowercase).collect();
    let mut found = Vec::new();
    for (number, cluster) in clusters.iter().enumerate() {
        let name = cluster.name();
        let objects = cluster.objects();
        let all = Kind::ALL.into_iter().filter(|kind| filter.kind.is_none_or(|wanted| wanted == *kind));
        let within =
            all.flat_map(|kind| of_kind(&objects, kind)).filter(|(key, held)| passes(key, held, &name, filter, &words));
        let within = within.filter(|(key, _)| views.shows(cluster, key));
        found.extend(within.map(|(key, held)| Found {
            number,
            key: key.clone(),
            status: held.status,
            updated: held.updated,
        }));
    }
    let total = found.len();
    match page.sort {
        Sort::Name => found.sort_unstable_by(Found::by_name),
        Sort::Status => found.sort_unstable_by(|a, b| a.status.cmp(&b.status).then_with(|| a.by_name(b))),
        Sort::Updated => found.sort_unstable_by(|a, b| b.updated.cmp(&a.updated).then_with(|| a.by_name(b))),
    }
    let wanted = found.into_iter().skip(page.offset).take(page.limit);
    // Skips objects that were deleted in the meantime.
    let items = wanted.filter_map(|found| {
        let cluster = clusters.get(found.number)?;
        let objects = cluster.objects();
        Some(objects.get(&found.key)?.summary(cluster.id, &cluster.name(), &found.key))
    });
    Listing { items: items.collect(), total }
}

struct Found {
    number: usize,
    key: Key,
    status: Status,
    updated: i64,
}

impl Found {
    fn by_name(&self, other: &Self) -> Ordering {
        let ((kind, namespace, name), (other_kind, other_namespace, other_name)) = (&self.key, &other.key);
        let names = name.cmp(other_name).then_with(|| namespace.cmp(other_namespace));
        names.then_with(|| kind.cmp(other_kind)).then_with(|| self.number.cmp(&other.number))
    }
}

fn passes((kind, namespace, name): &Key, held: &Held, cluster: &str, filter: &Filter, words: &[String]) -> bool {
    if filter.namespace.as_deref().is_some_and(|wanted| wanted != &**namespace)
        || filter.status.is_some_and(|wanted| wanted != held.status)
    {
        return false;
    }
    let revision = held.revision.as_deref().unwrap_or_default();
    let fields = [&**name, &**namespace, kind.name(), cluster, revision, &*held.message];
    words.iter().all(|word| fields.iter().any(|field| contains(field, word)))
}

// Case is folded for ASCII only: names in Kubernetes have no other letters.
fn contains(text: &str, lower: &str) -> bool {
    let (text, lower) = (text.as_bytes(), lower.as_bytes());
    text.windows(lower.len().max(1)).any(|window| window.eq_ignore_ascii_case(lower)) || lower.is_empty()
}

/// How many objects there are, by status and kind.
pub(super) fn stats(clusters: &[Arc<Cluster>], views: &Views) -> Stats {
    let mut stats = Stats::default();
    for cluster in clusters {
        let whole = views.is_whole(cluster);
        let objects = cluster.objects();
        let seen = objects.iter().filter(|(key, _)| whole || views.shows(cluster, key));
        seen.for_each(|((kind, ..), held)| stats.count(*kind, held.status));
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_in_any_case() {
        assert!(contains("Applied revision: main@sha1:AB", "main@sha1:ab"));
        assert!(contains("x", ""));
        assert!(!contains("ab", "abc") && !contains("", "a"));
    }
}
