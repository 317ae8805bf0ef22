//! Cluster ids, Flux kinds and statuses: their names, and parsing those.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// A registered cluster: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, example = "6f1e2a9c0b7d4e5f8a1b2c3d4e5f6071")]
pub struct ClusterId(u128);

impl ClusterId {
    /// Makes an id from these bits.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = NotAClusterId;

    fn from_str(text: &str) -> Result<Self, NotAClusterId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        bits.map(Self).ok_or(NotAClusterId)
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is not a cluster's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's id is 32 lower-case hexadecimal digits")]
pub struct NotAClusterId;

/// How a Flux object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its controller could not do what the object asks for.
    Failed,
    /// Its controller is at work, or has been asked to be.
    Progressing,
    /// It has been asked to go, and something has to be done before it does.
    Terminating,
    /// Nobody has said anything about it yet, or what is said cannot be read.
    Unknown,
    /// It is to be left alone.
    Suspended,
    /// All is as the object asks for.
    Ready,
}

impl Status {
    /// All statuses, most urgent first.
    pub const ALL: [Self; 6] =
        [Self::Failed, Self::Progressing, Self::Terminating, Self::Unknown, Self::Suspended, Self::Ready];
    /// Their names, in the order of [`Self::ALL`].
    pub const WORDS: [&str; 6] = ["failed", "progressing", "terminating", "unknown", "suspended", "ready"];

    /// Its name in JSON and in URLs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Progressing => "progressing",
            Self::Terminating => "terminating",
            Self::Unknown => "unknown",
            Self::Suspended => "suspended",
            Self::Ready => "ready",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Status {
    type Err = NotAStatus;

    /// Ignores case.
    fn from_str(text: &str) -> Result<Self, NotAStatus> {
        Self::ALL.into_iter().find(|status| status.word().eq_ignore_ascii_case(text)).ok_or(NotAStatus)
    }
}

/// A text that is not a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status is one of: {}", Status::WORDS.join(", "))]
pub struct NotAStatus;

/// The kinds of Flux that are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Kind {
    /// Applies manifests from a source.
    Kustomization,
    /// Installs a chart.
    HelmRelease,
    /// Reads a Git repository.
    GitRepository,
    /// Reads an OCI artifact.
    #[serde(rename = "OCIRepository")]
    OciRepository,
    /// Knows where charts are.
    HelmRepository,
    /// Fetches one chart.
    HelmChart,
    /// Reads an object store.
    Bucket,
    /// Holds what another program has made.
    ExternalArtifact,
    /// Looks for the tags of an image.
    ImageRepository,
    /// Chooses one of an image's tags.
    ImagePolicy,
    /// Writes chosen tags into a repository.
    ImageUpdateAutomation,
    /// Receives webhooks of other systems.
    Receiver,
    /// Selects the events that are sent.
    Alert,
    /// Delivers events.
    Provider,
    /// Installs Flux itself.
    FluxInstance,
    /// Makes objects from templates.
    ResourceSet,
}

impl Kind {
    /// All kinds, in display order.
    pub const ALL: [Self; 16] = [
        Self::Kustomization,
        Self::HelmRelease,
        Self::GitRepository,
        Self::OciRepository,
        Self::HelmRepository,
        Self::HelmChart,
        Self::Bucket,
        Self::ExternalArtifact,
        Self::ImageRepository,
        Self::ImagePolicy,
        Self::ImageUpdateAutomation,
        Self::Receiver,
        Self::Alert,
        Self::Provider,
        Self::FluxInstance,
        Self::ResourceSet,
    ];

    /// Its name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kustomization => "Kustomization",
            Self::HelmRelease => "HelmRelease",
            Self::GitRepository => "GitRepository",
            Self::OciRepository => "OCIRepository",
            Self::HelmRepository => "HelmRepository",
            Self::HelmChart => "HelmChart",
            Self::Bucket => "Bucket",
            Self::ExternalArtifact => "ExternalArtifact",
            Self::ImageRepository => "ImageRepository",
            Self::ImagePolicy => "ImagePolicy",
            Self::ImageUpdateAutomation => "ImageUpdateAutomation",
            Self::Receiver => "Receiver",
            Self::Alert => "Alert",
            Self::Provider => "Provider",
            Self::FluxInstance => "FluxInstance",
            Self::ResourceSet => "ResourceSet",
        }
    }

    /// The API group that serves it.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Kustomization => "kustomize.toolkit.fluxcd.io",
            Self::HelmRelease => "helm.toolkit.fluxcd.io",
            Self::GitRepository
            | Self::OciRepository
            | Self::HelmRepository
            | Self::HelmChart
            | Self::Bucket
            | Self::ExternalArtifact => "source.toolkit.fluxcd.io",
            Self::ImageRepository | Self::ImagePolicy | Self::ImageUpdateAutomation => "image.toolkit.fluxcd.io",
            Self::Receiver | Self::Alert | Self::Provider => "notification.toolkit.fluxcd.io",
            Self::FluxInstance | Self::ResourceSet => "fluxcd.controlplane.io",
        }
    }

    /// Returns true if the controller reconciles an object on request by annotation, and reports when it has.
    #[must_use]
    pub const fn is_reconciled_on_request(self) -> bool {
        !matches!(self, Self::ExternalArtifact | Self::ImagePolicy | Self::Alert | Self::Provider)
    }

    /// Returns true if `spec.suspend` stops the reconciliation of an object.
    #[must_use]
    pub const fn can_be_suspended(self) -> bool {
        !matches!(self, Self::ExternalArtifact | Self::ImagePolicy | Self::FluxInstance | Self::ResourceSet)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = NotAKind;

    /// Ignores case.
    fn from_str(text: &str) -> Result<Self, NotAKind> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text)).ok_or(NotAKind)
    }
}

/// A text that is not a Flux kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kind is one of: {}", Kind::ALL.map(Kind::name).join(", "))]
pub struct NotAKind;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_id_is_written_one_way_only() {
        let id = ClusterId::from_bytes([0x0a; 16]);
        assert_eq!(id.to_string(), "0a".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in
            ["", "0a", &"0A".repeat(16), &"zz".repeat(16), &"0a".repeat(17), "+0000000000000000000000000000001"]
        {
            assert_eq!(wrong.parse::<ClusterId>(), Err(NotAClusterId), "{wrong}");
        }
    }

    #[test]
    fn the_words_for_kinds_are_those_of_kubernetes_and_case_does_not_count() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        }
        assert!("Secret".parse::<Kind>().unwrap_err().to_string().contains("OCIRepository"));
    }

    #[test]
    fn the_words_for_statuses_go_both_ways() {
        for (status, word) in Status::ALL.into_iter().zip(Status::WORDS) {
            assert_eq!(serde_json::to_value(status).unwrap(), word);
            assert_eq!((word.parse(), status.word()), (Ok(status), word));
        }
    }
}
