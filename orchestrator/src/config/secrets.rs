//! Secrets: from the environment or from a file, never from the command line, which every user of the machine can read.

use std::path::Path;

use super::typed::typed;
use crate::files;
use crate::secret::Secret;

/// The longest file that is read, in bytes.
const FILE_MOST: u64 = 64 * 1024;

/// Where the operator sets a secret.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// The variable; the one for a file has the suffix `_FILE`.
    pub(super) name: &'static str,
    pub(super) value: Option<&'a Secret>,
    pub(super) file: Option<&'a str>,
}

impl Source<'_> {
    /// Reads the secret, without the file's last line end; `None` where there is none, or on a fault.
    pub(super) fn read(self, faults: &mut Vec<String>) -> Option<Secret> {
        let name = self.name;
        let value = self.value.filter(|value| !value.expose().trim().is_empty());
        match (value, typed(self.file)) {
            (Some(_), Some(_)) => {
                faults.push(format!("{name} and {name}_FILE are both set: keep one of them"));
                None
            }
            (Some(value), None) => Some(value.clone()),
            (None, Some(path)) => match from_file(path) {
                Ok(secret) => Some(secret),
                Err(reason) => {
                    faults.push(format!("{name}_FILE: cannot read {path}: {reason}; for example /run/secrets/name"));
                    None
                }
            },
            (None, None) => None,
        }
    }
}

fn from_file(path: &str) -> Result<Secret, String> {
    let text = files::read_text(Path::new(path), FILE_MOST).map_err(|error| error.to_string())?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() { Err("it is empty".into()) } else { Ok(Secret::new(line.to_owned())) }
}
