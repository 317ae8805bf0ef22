//! Discovers which Flux kinds a cluster serves, and in which version.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::Client;
use super::fault::Fault;

/// How a kind is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Served {
    /// Its API group.
    pub(crate) group: String,
    /// The version of the group.
    pub(crate) version: String,
    /// Its plural name.
    pub(crate) plural: String,
}

impl Served {
    /// The group and version, as in an object's `apiVersion`.
    pub(crate) fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.version)
    }

    /// The path of one object.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let Self { group, version, plural } = self;
        format!("/apis/{group}/{version}/namespaces/{}/{plural}/{}", segment(namespace), segment(name))
    }
}

// Dots are encoded too: a name of two dots would otherwise lead to the parent path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Encodes a name as one path segment: a slash or a question mark in it has no effect.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Discovers the kinds of `wanted` (name and group); leaves out those that the cluster does not serve.
///
/// # Errors
/// Why the cluster does not answer.
pub(crate) async fn discover<K: Ord + Copy>(
    client: &Client,
    wanted: &[(K, &str, &str)],
) -> Result<BTreeMap<K, Served>, Fault> {
    let groups: APIGroupList = client.ask("/apis").await?;
    let versions =
        groups.groups.iter().filter(|group| wanted.iter().any(|(_, _, name)| *name == group.name)).flat_map(|group| {
            let preferred = group.preferred_version.as_ref().map(|version| version.version.as_str());
            group.versions.iter().take(16).map(move |version| {
                let first = preferred == Some(version.version.as_str());
                (group.name.as_str(), version.version.as_str(), first)
            })
        });
    let lists = try_join_all(versions.map(|(group, version, preferred)| async move {
        let path = format!("/apis/{}/{}", segment(group), segment(version));
        match client.ask::<APIResourceList>(&path).await {
            Ok(list) => Ok(Some((group, version, preferred, list))),
            // Removed between the two requests.
            Err(Fault::NotFound(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }))
    .await?;

    let mut found = BTreeMap::new();
    for (group, version, preferred, list) in lists.iter().flatten() {
        let rank = (*preferred, rank(version));
        for (kind, name, _) in wanted.iter().filter(|(_, _, wanted)| wanted == group) {
            let resource =
                list.resources.iter().find(|resource| resource.kind == *name && !resource.name.contains('/'));
            let Some(resource) = resource else { continue };
            if found.get(kind).is_none_or(|(best, _)| *best < rank) {
                let served = Served {
                    group: (*group).to_owned(),
                    version: (*version).to_owned(),
                    plural: resource.name.clone(),
                };
                found.insert(*kind, (rank, served));
            }
        }
    }
    Ok(found.into_iter().map(|(kind, (_, served))| (kind, served)).collect())
}

/// A kind of any group, as a cluster serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedKind {
    /// Its kind.
    pub(crate) kind: String,
    /// The path prefix of the version.
    root: String,
    plural: String,
    namespaced: bool,
}

impl ServedKind {
    /// The path of one object.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let within = if self.namespaced { format!("/namespaces/{}", segment(namespace)) } else { String::new() };
        format!("{}{within}/{}/{}", self.root, self.plural, segment(name))
    }
}

/// Gets all kinds of a group's version; the core group's name is empty.
///
/// # Errors
/// Why the cluster does not answer.
pub(crate) async fn served_kinds(client: &Client, group: &str, version: &str) -> Result<Vec<ServedKind>, Fault> {
    let root = if group.is_empty() {
        format!("/api/{}", segment(version))
    } else {
        format!("/apis/{}/{}", segment(group), segment(version))
    };
    let list: APIResourceList = client.ask(&root).await?;
    let whole = list.resources.into_iter().filter(|resource| !resource.name.contains('/'));
    Ok(whole
        .map(|resource| ServedKind {
            kind: resource.kind,
            root: root.clone(),
            plural: segment(&resource.name),
            namespaced: resource.namespaced,
        })
        .collect())
}

// Kubernetes' order of versions: stable ones first, then betas, then alphas, each by number.
fn rank(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (word, stability) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (stability, major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
        }
    }
    (3, rest.parse().unwrap_or(0), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_before_betas_and_alphas() {
        let mut versions = ["v1alpha1", "v1", "v2beta2", "v2", "v2beta10", "v1beta1", "odd"];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        assert_eq!(versions, ["v2", "v1", "v2beta10", "v2beta2", "v1beta1", "v1alpha1", "odd"]);
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        let served = Served { group: "g".into(), version: "v1".into(), plural: "things".into() };
        assert_eq!(served.path("a/../b", "c?d"), "/apis/g/v1/namespaces/a%2F%2E%2E%2Fb/things/c%3Fd");
        let place =
            |namespaced| ServedKind { kind: "T".into(), root: "/api/v1".into(), plural: "things".into(), namespaced };
        assert_eq!(place(true).path("..", "c?d"), "/api/v1/namespaces/%2E%2E/things/c%3Fd");
        assert_eq!(place(false).path("..", "c/d"), "/api/v1/things/c%2Fd");
    }
}
