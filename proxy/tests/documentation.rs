//! The documentation and the table of options name the same variables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sidegate::config::options::ALL;

const FAMILIES: &[&str] = &[
    "ASSERTION_",
    "COOKIE_",
    "LIMIT_",
    "LOG_",
    "OAUTH_",
    "SESSION_",
    "SHUTDOWN_",
    "TIMEOUT_",
    "TLS_",
    "TRUSTED_",
    "UPSTREAM_",
];

/// Names that the documentation has though they are no options: the example of a typing error, and what desktops set.
const OTHERS: &[&str] = &["OAUTH_ALOWED_USERS", "SESSION_MANAGER"];

fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .chain([root.join("README.md")])
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// Words of capitals and underscores. A word that ends with `_` is a family's name (`OAUTH_…`) and no variable's.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| !word.ends_with('_') && FAMILIES.iter().any(|family| word.starts_with(family)))
        .collect()
}

#[test]
fn every_option_is_documented() {
    let documents = documents();
    let named: BTreeSet<&str> = documents.iter().flat_map(|(_, text)| names(text)).collect();
    for knob in ALL {
        let ours = FAMILIES.iter().any(|family| knob.variable.starts_with(family));
        let found = if ours {
            named.contains(knob.variable)
        } else {
            documents.iter().any(|(_, text)| text.contains(knob.variable))
        };
        assert!(found, "{} stands in neither README.md nor docs/", knob.variable);
    }
}

#[test]
fn every_variable_that_the_documentation_names_exists() {
    for (path, text) in documents() {
        for name in names(&text) {
            let known = ALL.iter().any(|knob| knob.variable == name) || OTHERS.contains(&name);
            assert!(known, "{} names {name}, which is no option", path.display());
        }
    }
}
