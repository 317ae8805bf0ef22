//! The floors of the sources: each imports only from those that it stands on, and no folder has a ring.

use std::path::Path;

use crate::imports::{Source, rings, sources};

/// A unit, and the units of the crate that it may import from.
const FLOORS: [(&str, &[&str]); 8] = [
    ("kube", &["clock", "files", "secret"]),
    ("fleet", &["clock", "kube"]),
    ("store", &["clock", "files", "secret"]),
    ("demo", &["clock", "fleet", "secret", "serve"]),
    ("api", &["clock", "fleet", "identity", "metrics", "secret", "store"]),
    ("web", &["api", "identity"]),
    ("entrance", &["api", "files", "identity"]),
    ("config", &["entrance", "files", "identity", "secret", "store"]),
];

/// What a unit hands on of a unit below it, as its own.
const HANDED_ON: [(&str, &str, &[&str]); 1] =
    [("fleet", "kube", &["Connection", "KUBECONFIG_MOST", "KubeconfigFault"])];

fn all() -> Vec<Source> {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 60, "the sources were not found");
    sources
}

#[test]
fn each_floor_imports_from_below_only() {
    let mut known = 0;
    for source in all() {
        let Some(unit) = source.module.first() else { continue };
        let Some((_, below)) = FLOORS.iter().find(|(name, _)| name == unit) else { continue };
        for import in &source.imports {
            let Some(theirs) = import.module.first() else { continue };
            known += 1;
            let through = HANDED_ON
                .iter()
                .any(|(by, of, names)| below.contains(by) && of == theirs && names.contains(&import.name.as_str()));
            let allowed = theirs == unit || below.contains(&theirs.as_str()) || through;
            assert!(allowed, "{} imports {import:?}", source.file.display());
        }
    }
    assert!(known > 250, "only {known} imports were found");
}

#[test]
fn no_ring_in_any_folder() {
    let rings = rings(&all());
    assert!(rings.is_empty(), "rings of imports:\n{}", rings.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    for source in all() {
        assert!(source.text.starts_with("//! "), "{} has no first line that says what it is", source.file.display());
    }
}
