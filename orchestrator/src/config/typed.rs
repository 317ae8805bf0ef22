//! Parsing of single options.

/// Parses a boolean option; `name` is its name in a fault.
pub(super) fn boolean(name: &str, word: Option<&str>, faults: &mut Vec<String>) -> bool {
    match typed(word) {
        Some("true" | "1") => true,
        None | Some("false" | "0") => false,
        Some(_) => {
            faults.push(format!("{name}: neither true nor false; for example true"));
            false
        }
    }
}

/// The trimmed value of an option; an empty one counts as unset.
pub(super) fn typed(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}
