//! The errors in a configuration: all of them, in the operator's terms, and never with a secret's value.

use std::fmt;

use super::files::Files;

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The variable, and the source of its value if that is not the environment.
    pub name: String,
    /// What is wrong. It never quotes the value: a secret may have been put in the wrong place.
    pub problem: String,
    /// A valid value.
    pub example: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match &self.example {
            Some(example) => format!("{}: {}; for example {example}", self.name, self.problem),
            None => format!("{}: {}", self.name, self.problem),
        };
        // A file's name or key may contain a line break or a terminal escape: one fault stays one harmless line.
        line.chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// All errors in a configuration, and the files that were read.
pub struct Faults {
    faults: Vec<Fault>,
    pub(super) files: Files,
}

impl Faults {
    pub(super) const fn new(faults: Vec<Fault>, files: Files) -> Self {
        Self { faults, files }
    }

    /// The faults, one by one; never empty.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().enumerate().try_for_each(|(i, fault)| {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")
        })
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.faults).finish()
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_one_line_with_an_example() {
        let fault = |problem: &str, example: Option<&str>| Fault {
            name: "SESSION_TTL".into(),
            problem: problem.into(),
            example: example.map(str::to_owned),
        };
        let faults =
            Faults::new(vec![fault("is not a duration", Some("24h")), fault("a\nb\u{1b}[31m", None)], Files::default());
        assert_eq!(
            faults.to_string(),
            "SESSION_TTL: is not a duration; for example 24h\nSESSION_TTL: a\\nb\\u{1b}[31m"
        );
    }
}
