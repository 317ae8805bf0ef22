//! What this floor needs to know of upstreams: types that `config` builds, all of it checked.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::adapters::upstream::PoolSettings;
use crate::ports::{IdentityTable, Impersonation};

/// One of `[[upstreams]]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSettings {
    /// Its name and its backends.
    pub pool: PoolSettings,
    /// How requests go there.
    pub manner: Manner,
    /// What it is told of people.
    pub identity: IdentityChoice,
    /// Whether its assertions name groups.
    pub assertion_groups: bool,
    /// How it acts as people; `None`: it does not.
    pub acting: Option<ActingSettings>,
}

/// How an upstream acts as people, and by what it knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActingSettings {
    /// How they are named there.
    pub impersonation: Impersonation,
    /// `token_file`: the token that we are known by; `None`: our certificate does it.
    pub token_file: Option<PathBuf>,
}

/// How requests go to an upstream, and what of its answers is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What is taken from the front of a path: `/grafana`, without a slash at its end.
    pub strip_prefix: Option<String>,
    /// Whether it reads paths without regard to case.
    pub ignores_case: bool,
    /// Whether `Host` goes on as it came, rather than as the backend's own name.
    pub keeps_host: bool,
    /// From the last byte of a request to the head of the answer.
    pub first_byte: Duration,
    /// How long a body may move no byte.
    pub body: Duration,
    /// The largest body of a request, in bytes; `None`: any.
    pub limit_body: Option<u64>,
    /// What is set in its answers.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// What is taken out of its answers.
    pub remove: Vec<HeaderName>,
}

/// What an upstream is told of somebody.
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
