//! No ring between the source files.

use std::path::Path;

use crate::imports::{rings, sources};

#[test]
fn no_ring_between_files() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.iter().map(|source| source.imports.len()).sum::<usize>() > 80, "the imports were not found");
    let rings = rings(&sources);
    assert!(rings.is_empty(), "rings of imports:\n{}", rings.join("\n"));
}
