//! The settings of upstreams: types that `config` builds and has checked.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::adapters::upstream::PoolSettings;
use crate::rendering::{IdentityTable, Impersonation};

/// One of `[[upstreams]]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSettings {
    /// Its name and its backends.
    pub pool: PoolSettings,
    /// How requests are sent to it.
    pub manner: Manner,
    /// Its identity fields.
    pub identity: IdentityChoice,
    /// Whether its assertions name groups.
    pub assertion_groups: bool,
    /// How it impersonates people; `None`: it does not.
    pub acting: Option<ActingSettings>,
}

/// How an upstream impersonates people, and the credential that we present there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActingSettings {
    /// The names of people there.
    pub impersonation: Impersonation,
    /// `token_file`: our bearer token there; `None`: our client certificate authenticates us.
    pub token_file: Option<PathBuf>,
}

/// How requests are sent to an upstream, and what is changed in its responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The prefix removed from a path: `/grafana`, without a trailing slash.
    pub strip_prefix: Option<String>,
    /// Whether it compares paths without regard to case.
    pub ignores_case: bool,
    /// Whether `Host` is passed on unchanged, rather than set to the backend's name.
    pub keeps_host: bool,
    /// The time from the last byte of a request to the head of the response.
    pub first_byte: Duration,
    /// How long a body may make no progress.
    pub body: Duration,
    /// The largest request body, in bytes; `None`: no limit.
    pub limit_body: Option<u64>,
    /// Header fields to set in its responses.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Header fields to remove from its responses.
    pub remove: Vec<HeaderName>,
}

/// Which identity fields an upstream gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdentityChoice {
    /// The usual fields.
    #[default]
    Usual,
    /// Nothing.
    Nothing,
    /// The fields of a table.
    Table(IdentityTable),
}
