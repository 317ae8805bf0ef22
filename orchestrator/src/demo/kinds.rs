//! The kinds that are served, and their names in addresses.

use crate::fleet::Kind;

/// A kind as Kubernetes serves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) plural: &'static str,
    /// The versions that serve it, the best one first.
    pub(super) versions: &'static [&'static str],
}

/// As a cluster with a current Flux serves them.
const CURRENT: [Resource; 7] = [
    Resource { kind: Kind::Kustomization, plural: "kustomizations", versions: &["v1"] },
    Resource { kind: Kind::HelmRelease, plural: "helmreleases", versions: &["v2"] },
    Resource { kind: Kind::GitRepository, plural: "gitrepositories", versions: &["v1"] },
    Resource { kind: Kind::OciRepository, plural: "ocirepositories", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::HelmRepository, plural: "helmrepositories", versions: &["v1"] },
    Resource { kind: Kind::HelmChart, plural: "helmcharts", versions: &["v1"] },
    Resource { kind: Kind::Bucket, plural: "buckets", versions: &["v1"] },
];

/// As a cluster with an older Flux serves them: some in a beta only.
const OLDER: [Resource; 7] = [
    Resource { kind: Kind::Kustomization, plural: "kustomizations", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::HelmRelease, plural: "helmreleases", versions: &["v2", "v2beta2"] },
    Resource { kind: Kind::GitRepository, plural: "gitrepositories", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::OciRepository, plural: "ocirepositories", versions: &["v1beta2"] },
    Resource { kind: Kind::HelmRepository, plural: "helmrepositories", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::HelmChart, plural: "helmcharts", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::Bucket, plural: "buckets", versions: &["v1beta2"] },
];

/// What a cluster serves.
pub(super) fn served(older: bool) -> [Resource; 7] {
    if older { OLDER } else { CURRENT }
}

/// How a kind is served by a current Flux.
pub(super) fn current(kind: Kind) -> Resource {
    CURRENT.into_iter().find(|resource| resource.kind == kind).unwrap_or(CURRENT[0])
}
