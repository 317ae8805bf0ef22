//! The layers of the crate: no import from a higher layer, no cycle between a layer's modules, a domain of values only.

use std::path::{Path, PathBuf};

use crate::imports::{self, Source, rings};

/// The layers, from the bottom up: the first segment of a module's path, and its layer.
const FLOORS: [(&str, usize); 7] =
    [("domain", 0), ("rendering", 1), ("ports", 2), ("adapters", 3), ("serve", 4), ("run", 5), ("config", 6)];

/// The external crates that the lowest layer may use: values and their text forms.
const VALUES: [&str; 11] =
    ["std", "core", "alloc", "serde", "thiserror", "url", "ipnet", "time", "base64", "zeroize", "percent_encoding"];

fn sources() -> Vec<Source> {
    let sources = imports::sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 40, "the sources were not found");
    sources
}

fn floor(module: &[String]) -> Option<usize> {
    let first = module.first()?;
    FLOORS.iter().find(|(name, _)| name == first).map(|(_, floor)| *floor)
}

#[test]
fn no_file_imports_from_a_floor_above() {
    let mut known = 0;
    for source in sources() {
        let Some(own) = floor(&source.module) else { continue };
        for import in &source.imports {
            let theirs = floor(&import.module).unwrap_or(own);
            known += 1;
            assert!(theirs <= own, "{} imports {import:?}, which is a floor above", source.file.display());
        }
    }
    assert!(known > 500, "only {known} imports were found");
}

/// Files and folders side by side, in a layer or anywhere below it.
#[test]
fn no_ring_in_any_folder() {
    let rings = rings(&sources());
    assert!(rings.is_empty(), "rings of imports:\n{}", rings.join("\n"));
}

#[test]
fn the_domain_is_values_only() {
    for source in sources().iter().filter(|source| floor(&source.module) == Some(0)) {
        for name in &source.crates {
            // Built-in types (`str::from_utf8`) and names that the file itself defines are not crates.
            let own = ["str", "char", "u8", "u32", "u64", "usize", "i64"].contains(&name.as_str());
            let known = VALUES.contains(&name.as_str()) || own || name.starts_with(char::is_uppercase);
            assert!(known, "{} names {name}, which is not a library of values", source.file.display());
        }
        for never in
            ["async", "await", "fs", "TcpStream", "UdpSocket", "SystemTime", "Instant", "tokio", "hyper", "http"]
        {
            assert!(!source.words.contains(never), "{} has {never:?}", source.file.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} has no first line that says what it is", source.file.display());
    }
}

/// Parses files given as module and text.
fn read(files: &[(&str, &str)]) -> Vec<Source> {
    let parts = |module: &str| module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    imports::read(
        files.iter().map(|(module, text)| (parts(module), PathBuf::from(module), (*text).to_owned())).collect(),
    )
}

fn found(files: &[(&str, &str)], module: &str) -> Vec<String> {
    let sources = read(files);
    let source = sources.iter().find(|source| source.module.join("::") == module).unwrap();
    source.imports.iter().map(|import| format!("{}::{}", import.module.join("::"), import.name)).collect()
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let house = [
        ("a", "pub mod b; pub mod c; pub use b::Told; pub struct Own;"),
        ("a::b", "pub struct Told; pub fn f() {}"),
        ("a::c", "//! Nothing."),
        ("d", "pub struct D;"),
    ];
    let cases: [(&str, &[&str]); 14] = [
        ("use crate::a::{b::{self, Told as T}, Own};", &["a::Own", "a::b::", "a::b::Told"]),
        ("#[cfg(test)] mod tests { use crate::d::D; } use super::b::f;", &["a::b::f"]),
        ("#[cfg(test)] pub fn x() -> crate::d::D { todo!() } fn y() { use crate::a::Own; }", &["a::Own"]),
        ("#[cfg(all(test, unix))] use crate::a::b; const X: crate::d::D = 1;", &["d::D"]),
        ("fn x() { format!(\"{}\", [crate::d::D, super::b::f()]) }", &["a::b::f", "d::D"]),
        ("macro_rules! m { () => { $crate::d::D } }", &["d::D"]),
        ("use crate::a; fn x() { a::b::f() }", &["a::", "a::b::f"]),
        ("use crate::a as z; fn x() { z::b::f() }", &["a::", "a::b::f"]),
        ("use super::Told;", &["a::b::Told"]),
        ("use super::super::d::D; mod inner { use super::super::Own; }", &["a::Own", "d::D"]),
        ("use super::*;", &["a::"]),
        ("// use crate::d::D;\nconst X: &str = \"crate::d::D\";", &[]),
        ("fn x(d: impl Iterator<Item = <T as Y>::Z> + use<'_>) { ::std::mem::drop::<crate::d::D>(d) }", &["d::D"]),
        ("fn x() { self::y(); std::mem::drop(()); Vec::<u8>::new(); }", &["a::c::y"]),
    ];
    for (text, expected) in cases {
        let house: Vec<(&str, &str)> =
            house.iter().map(|(module, whole)| (*module, if *module == "a::c" { text } else { whole })).collect();
        assert_eq!(found(&house, "a::c"), expected, "{text}");
    }
}

#[test]
fn a_file_of_tests_takes_part_in_nothing() {
    let house = [("a", "#[cfg(test)]\nmod trial; pub mod b;"), ("a::trial", "use crate::a::b::B;"), ("a::b", "")];
    assert_eq!(read(&house).iter().map(|source| source.module.join("::")).collect::<Vec<_>>(), ["a", "a::b"]);
}

#[test]
fn a_ring_is_seen_however_it_is_closed() {
    let none = [
        ("a", "mod b; mod c; pub use b::B; pub use c::C; pub struct Own;"),
        ("a::b", "use super::Own;"),
        ("a::c", "use super::B;"),
    ];
    assert!(rings(&read(&none)).is_empty(), "{:?}", rings(&read(&none)));
    let closed: [(&str, &str); 5] = [
        ("a::b", "use super::C;"),
        ("a::b", "fn x() { let y: crate::a::c::C; }"),
        ("a::b", "#[cfg(test)] mod tests {} use crate::{a::{c}};"),
        ("a::b", "fn x() { m!(super::c::f()) }"),
        ("a", "mod b; mod c; pub use b::B; pub struct Own; fn x() { c::f() }"),
    ];
    for (module, text) in closed {
        let house: Vec<(&str, &str)> =
            none.map(|(name, whole)| (name, if name == module { text } else { whole })).to_vec();
        let house = [house, vec![("a::c", "use super::{B, Own};")]].concat();
        let house: Vec<(&str, &str)> =
            house.into_iter().filter(|(name, text)| *name != "a::c" || text.contains("Own")).collect();
        assert_eq!(rings(&read(&house)).len(), 1, "{module}: {text}");
    }
}
