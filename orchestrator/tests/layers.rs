//! The floors of the sources: each imports only from those that it stands on.

use std::fs;
use std::path::Path;

/// A unit, and the units of the crate that it may import from.
const FLOORS: [(&str, &[&str]); 8] = [
    ("kube", &["clock", "secret"]),
    ("fleet", &["clock", "kube"]),
    ("store", &["clock", "secret"]),
    ("demo", &["clock", "fleet", "secret", "serve"]),
    ("api", &["clock", "fleet", "identity", "metrics", "secret", "store"]),
    ("web", &["api", "identity"]),
    ("entrance", &["api", "identity"]),
    ("config", &["entrance", "identity", "secret", "store"]),
];

#[test]
fn each_floor_imports_from_below_only() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = 0;
    for (unit, below) in FLOORS {
        for (file, text) in files(&sources.join(unit)) {
            for imported in text.split("crate::").skip(1) {
                let name: String = imported.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
                imports += 1;
                assert!(below.contains(&name.as_str()) || name == unit, "{file} imports from {name}");
            }
        }
    }
    assert!(imports > 30, "only {imports} imports were found: this reads the sources wrongly");
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}
