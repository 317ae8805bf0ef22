//! The served kinds, and their plural names.

use crate::fleet::Kind;

/// A kind as the API serves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) plural: &'static str,
    /// The versions that serve it, preferred first.
    pub(super) versions: &'static [&'static str],
}

/// The kinds of a cluster with a current Flux.
const CURRENT: [Resource; 16] = [
    Resource { kind: Kind::Kustomization, plural: "kustomizations", versions: &["v1"] },
    Resource { kind: Kind::HelmRelease, plural: "helmreleases", versions: &["v2"] },
    Resource { kind: Kind::GitRepository, plural: "gitrepositories", versions: &["v1"] },
    Resource { kind: Kind::OciRepository, plural: "ocirepositories", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::HelmRepository, plural: "helmrepositories", versions: &["v1"] },
    Resource { kind: Kind::HelmChart, plural: "helmcharts", versions: &["v1"] },
    Resource { kind: Kind::Bucket, plural: "buckets", versions: &["v1"] },
    Resource { kind: Kind::ImageRepository, plural: "imagerepositories", versions: &["v1"] },
    Resource { kind: Kind::ImagePolicy, plural: "imagepolicies", versions: &["v1"] },
    Resource { kind: Kind::ImageUpdateAutomation, plural: "imageupdateautomations", versions: &["v1"] },
    Resource { kind: Kind::Receiver, plural: "receivers", versions: &["v1"] },
    Resource { kind: Kind::Alert, plural: "alerts", versions: &["v1beta3"] },
    Resource { kind: Kind::Provider, plural: "providers", versions: &["v1beta3"] },
    Resource { kind: Kind::ExternalArtifact, plural: "externalartifacts", versions: &["v1"] },
    Resource { kind: Kind::FluxInstance, plural: "fluxinstances", versions: &["v1"] },
    Resource { kind: Kind::ResourceSet, plural: "resourcesets", versions: &["v1"] },
];

/// The kinds of a cluster with an older Flux: some in a beta version only.
const OLDER: [Resource; 16] = [
    Resource { kind: Kind::Kustomization, plural: "kustomizations", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::HelmRelease, plural: "helmreleases", versions: &["v2", "v2beta2"] },
    Resource { kind: Kind::GitRepository, plural: "gitrepositories", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::OciRepository, plural: "ocirepositories", versions: &["v1beta2"] },
    Resource { kind: Kind::HelmRepository, plural: "helmrepositories", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::HelmChart, plural: "helmcharts", versions: &["v1", "v1beta2"] },
    Resource { kind: Kind::Bucket, plural: "buckets", versions: &["v1beta2"] },
    Resource { kind: Kind::ImageRepository, plural: "imagerepositories", versions: &["v1beta2"] },
    Resource { kind: Kind::ImagePolicy, plural: "imagepolicies", versions: &["v1beta2"] },
    Resource { kind: Kind::ImageUpdateAutomation, plural: "imageupdateautomations", versions: &["v1beta2"] },
    Resource { kind: Kind::Receiver, plural: "receivers", versions: &["v1"] },
    Resource { kind: Kind::Alert, plural: "alerts", versions: &["v1beta3"] },
    Resource { kind: Kind::Provider, plural: "providers", versions: &["v1beta3"] },
    Resource { kind: Kind::ExternalArtifact, plural: "externalartifacts", versions: &["v1"] },
    Resource { kind: Kind::FluxInstance, plural: "fluxinstances", versions: &["v1"] },
    Resource { kind: Kind::ResourceSet, plural: "resourcesets", versions: &["v1"] },
];

/// The kinds that a cluster serves.
pub(super) fn served(older: bool) -> [Resource; 16] {
    if older { OLDER } else { CURRENT }
}

/// The resource of a kind in a current Flux.
pub(super) fn current(kind: Kind) -> Resource {
    CURRENT.into_iter().find(|resource| resource.kind == kind).unwrap_or(CURRENT[0])
}
