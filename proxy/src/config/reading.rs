//! Reads options one after another: errors are noted and reading continues, so that all errors are reported at once.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::faults::Fault;
use super::files::Files;
use super::options::{Fallback, Kind, Knob};
use super::raw::{Raw, RawValue};
use super::tables::Tables;
use super::words;
use crate::domain::secret::Secret;

/// The state of reading, with its messages. After an error the results are never used.
pub(super) struct Reading {
    raw: Raw,
    pub(super) routes: Option<Tables>,
    pub(super) tokens: Option<Tables>,
    pub(super) upstreams: Option<Tables>,
    pub(super) identity: Option<Tables>,
    pub(super) files: Files,
    /// Whether this is for a start: at a reload, an unusable log file is no reason to keep the old settings.
    pub(super) starts: bool,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
    /// What is active beside options and rules, one line each.
    pub(super) effective: Vec<String>,
    /// The fields that send a provider's ID token, as named in messages.
    pub(super) id_tokens: Vec<String>,
}

/// Whether a duration may be `0`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// It turns something off.
    Allowed,
    /// Without a limit, an input could make us wait for ever.
    Refused,
}

impl Reading {
    pub(super) fn new(mut raw: Raw, files: Files) -> Self {
        let faults = std::mem::take(&mut raw.faults);
        let warnings = std::mem::take(&mut raw.warnings);
        let (routes, tokens) = (raw.routes.take(), raw.tokens.take());
        let (upstreams, identity) = (raw.upstreams.take(), raw.identity.take());
        Self {
            raw,
            routes,
            tokens,
            upstreams,
            identity,
            files,
            starts: false,
            faults,
            warnings,
            notes: Vec::new(),
            effective: Vec::new(),
            id_tokens: Vec::new(),
        }
    }

    /// The proxy of the environment, and the hosts that bypass it.
    pub(super) fn environment_proxy(&self) -> Option<(String, String)> {
        self.raw.environment_proxy.clone()
    }

    pub(super) fn is_set(&self, knob: Knob) -> bool {
        self.raw.get(knob).is_some()
    }

    /// Whether the option is set, but to nothing.
    pub(super) fn is_set_and_empty(&self, knob: Knob) -> bool {
        self.raw.is_set_and_empty(knob)
    }

    /// Whether the option is set to a value other than its default.
    pub(super) fn differs(&self, knob: Knob) -> bool {
        let default = match knob.fallback {
            Fallback::Is(text) => Some(text),
            Fallback::Otherwise(_) => None,
        };
        self.is_set(knob) && self.text(knob).as_deref().map(|text| text.trim_end_matches('/')) != default
    }

    pub(super) fn fault(&mut self, knob: Knob, problem: impl Into<String>) {
        let fault = self.raw.fault(knob, problem);
        self.faults.push(fault);
    }

    /// The same, if the option's own example would be wrong too.
    pub(super) fn fault_unlike(&mut self, knob: Knob, problem: impl Into<String>, example: &str) {
        let fault = self.raw.fault(knob, problem);
        self.faults.push(Fault { example: Some(example.to_owned()), ..fault });
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The value or its default; `None` if there is neither.
    pub(super) fn text(&self, knob: Knob) -> Option<String> {
        match (self.raw.get(knob), knob.fallback) {
            (Some(RawValue::Text(text)), _) => Some(text.trim().to_owned()),
            (Some(RawValue::Array(items)), _) => Some(items.join(",")),
            (None, Fallback::Is(text)) => Some(text.to_owned()),
            (None, Fallback::Otherwise(_)) => None,
        }
    }

    /// A required value.
    pub(super) fn required(&mut self, knob: Knob, because: &str) -> Option<String> {
        let text = self.text(knob);
        if text.is_none() {
            self.fault(knob, format!("is not set, but {because}"));
        }
        text
    }

    /// The items of a list, without blank ones.
    pub(super) fn list(&self, knob: Knob) -> Vec<String> {
        let split = |text: &str| -> Vec<String> {
            let separates = |c: char| c == ',' || (knob.kind == Kind::Scopes && c.is_whitespace());
            text.split(separates).map(str::to_owned).collect()
        };
        let items = match (self.raw.get(knob), knob.fallback) {
            (Some(RawValue::Text(text)), _) => split(text),
            (Some(RawValue::Array(items)), _) => items.clone(),
            (None, Fallback::Is(text)) => split(text),
            (None, Fallback::Otherwise(_)) => Vec::new(),
        };
        items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
    }

    /// A list that limits access; `None` if it is not set.
    pub(super) fn allow_list(&mut self, knob: Knob) -> Option<Vec<String>> {
        let items = self.list(knob);
        if items.is_empty() && (self.is_set(knob) || self.is_set_and_empty(knob)) {
            self.fault(knob, "is set and empty: name who may pass, write `*` for everyone, or do not set it");
        }
        (!items.is_empty()).then_some(items)
    }

    /// The path of a file that limits access; `None` if it is not set.
    pub(super) fn allow_file(&mut self, knob: Knob) -> Option<PathBuf> {
        if self.is_set_and_empty(knob) {
            self.fault(knob, "is set and empty: name a file, or do not set it");
        }
        self.path(knob)
    }

    pub(super) fn path(&self, knob: Knob) -> Option<PathBuf> {
        self.text(knob).map(PathBuf::from)
    }

    /// The value parsed by `parse`; `None` if it is not set, or invalid.
    pub(super) fn parsed<T>(&mut self, knob: Knob, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(&self.text(knob)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(knob, problem);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, knob: Knob, range: RangeInclusive<Duration>, zero: Zero) -> Duration {
        self.parsed(knob, |text| {
            let duration = words::duration(text)?;
            if range.contains(&duration) || (duration.is_zero() && zero == Zero::Allowed) {
                return Ok(duration);
            }
            let (least, most) = (words::duration_text(*range.start()), words::duration_text(*range.end()));
            let or_off = if zero == Zero::Allowed { ", or 0" } else { "" };
            Err(format!("must be from {least} to {most}{or_off}"))
        })
        .unwrap_or_default()
    }

    pub(super) fn number(&mut self, knob: Knob, range: RangeInclusive<usize>) -> usize {
        self.parsed(knob, |text| {
            text.parse()
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
        })
        .unwrap_or_default()
    }

    /// A secret, given directly or as a file, but not both.
    pub(super) fn secret(&mut self, plain: Knob, file: Knob) -> Option<Secret> {
        let (knob, text) = self.secret_text(plain, file)?;
        if text.trim() != text {
            self.warn(format!("{}: white space at the ends of the secret is taken as part of it", knob.variable));
        }
        Some(Secret::new(text))
    }

    /// The same, where white space at the ends is no part of it: an address with a password, keys in base64.
    pub(super) fn trimmed_secret(&mut self, plain: Knob, file: Knob) -> Option<Secret> {
        let (_, text) = self.secret_text(plain, file)?;
        Some(Secret::new(text.trim()))
    }

    /// The text of a secret, and the option that gives it.
    fn secret_text(&mut self, plain: Knob, file: Knob) -> Option<(Knob, String)> {
        let written = self.raw.get(plain).map(|written| match written {
            RawValue::Text(text) => text.clone(),
            RawValue::Array(items) => items.join(","),
        });
        match (written, self.path(file)) {
            (Some(_), Some(_)) => {
                let problem = format!("is given beside {}: remove one of them", file.variable);
                self.fault(plain, problem);
                None
            }
            (Some(text), None) => Some((plain, text)),
            (None, Some(path)) => {
                let text = self.file_text(file, &path)?;
                let text =
                    text.strip_suffix('\n').map_or(text.as_str(), |rest| rest.strip_suffix('\r').unwrap_or(rest));
                if text.trim().is_empty() {
                    self.fault(file, format!("the file {} is empty", path.display()));
                    return None;
                }
                Some((file, text.to_owned()))
            }
            (None, None) => None,
        }
    }

    /// A file's content.
    pub(super) fn file(&mut self, knob: Knob, path: &Path) -> Option<Vec<u8>> {
        match self.files.read(knob.variable, path) {
            Ok(content) => Some(content),
            Err(error) => {
                self.fault(knob, format!("cannot read the file {}: {error}", path.display()));
                None
            }
        }
    }

    /// A file's content as text, without a byte order mark.
    pub(super) fn file_text(&mut self, knob: Knob, path: &Path) -> Option<String> {
        let content = self.file(knob, path)?;
        match String::from_utf8(content) {
            Ok(text) => Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
            Err(_) => {
                self.fault(knob, format!("the file {} is not UTF-8 text", path.display()));
                None
            }
        }
    }
}
