//! From sources to settings, with what is to be said of them.

use std::net::SocketAddr;

use super::command::Sources;
use super::faults::Faults;
use super::files::Files;
use super::parse::{self, network};
use super::raw::Raw;
use super::reading::Reading;
use crate::serve::settings::Settings;

/// A configuration that is sound.
pub struct Loaded {
    /// What the floors below need.
    pub settings: Settings,
    /// What may not be as meant: to be logged as warnings.
    pub warnings: Vec<String>,
    /// What was added or derived: to be logged for information.
    pub notes: Vec<String>,
    /// Every file that was read, for [`super::reload::watch`].
    pub files: Files,
}

/// Reads a configuration.
///
/// # Errors
/// All that is wrong with it.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let mut files = Files::default();
    let raw = Raw::read(sources, &mut files);
    if raw.lacks_file {
        return Err(Faults::new(raw.faults, files));
    }
    let mut reading = Reading::new(raw, files);
    let settings = parse::settings(&mut reading, sources.terminal);
    let Reading { faults, warnings, notes, files, .. } = reading;
    match settings {
        Some(settings) if faults.is_empty() => Ok(Loaded { settings, warnings, notes, files }),
        Some(_) | None => Err(Faults::new(faults, files)),
    }
}

/// `ADMIN_ADDR` alone, which is all that `sidegate health` needs: it works without the secrets.
///
/// # Errors
/// What is wrong with that address, or with the file that it may stand in.
pub fn admin_address(sources: &Sources) -> Result<SocketAddr, Faults> {
    let mut files = Files::default();
    let mut raw = Raw::read(sources, &mut files);
    if raw.lacks_file {
        return Err(Faults::new(raw.faults, files));
    }
    raw.faults.clear();
    let mut reading = Reading::new(raw, files);
    let address = network::admin(&mut reading);
    address.ok_or_else(|| Faults::new(reading.faults, reading.files))
}
