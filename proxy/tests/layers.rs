//! The floors of the house: no import from a floor above, no ring between a floor's modules, a domain of values only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the ground up: the first part of a module's path, and its floor.
const FLOORS: [(&str, usize); 5] = [("domain", 0), ("ports", 1), ("adapters", 2), ("serve", 3), ("config", 4)];

/// What the ground floor may take from outside: values and their text forms.
const VALUES: [&str; 10] = ["std", "core", "alloc", "serde", "thiserror", "url", "ipnet", "time", "base64", "zeroize"];

struct File {
    path: PathBuf,
    /// `serve::auth::login`.
    module: String,
    /// What it names of this crate: `crate::domain::…` or `super::…`, as full paths.
    imports: BTreeSet<String>,
    text: String,
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(read(&root, path));
            }
        }
    }
    assert!(files.len() > 40, "the sources were not found");
    files
}

fn read(root: &Path, path: PathBuf) -> File {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    let parts: Vec<String> =
        relative.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "mod").collect();
    let module = parts.join("::");
    let text = fs::read_to_string(&path).unwrap();
    // What only tests need may come from anywhere.
    let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
    let imports = imports(&code, &module);
    File { path, module, imports, text: code }
}

/// Every path of this crate that the code names, `use crate::a::{b, c::d}` taken apart.
fn imports(code: &str, module: &str) -> BTreeSet<String> {
    let code: String = code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for (prefix, base) in [("crate::", String::new()), ("super::", parent(module))] {
        let mut rest = code.as_str();
        while let Some(at) = rest.find(prefix) {
            let (before, after) = (&rest[..at], &rest[at + prefix.len()..]);
            rest = after;
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            for path in expand(after) {
                found.insert(if base.is_empty() { path } else { format!("{base}::{path}") });
            }
        }
    }
    found
}

fn parent(module: &str) -> String {
    module.rsplit_once("::").map_or_else(String::new, |(parent, _)| parent.to_owned())
}

/// The paths at the front of `text`: `a::b` or `a::{b, c::{d, e}}`.
fn expand(text: &str) -> Vec<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let head = text[..end].trim_end_matches(':').to_owned();
    if !text[..end].ends_with("::") || !text[end..].starts_with('{') {
        return vec![head];
    }
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in text[end..].chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match c {
            '{' if depth == 1 => {}
            '}' if depth == 0 => break,
            ',' if depth == 1 => items.push(String::new()),
            c => items.last_mut().unwrap().push(c),
        }
    }
    items
        .iter()
        .filter(|item| !item.trim().is_empty())
        .flat_map(|item| expand(item))
        .map(|item| if head.is_empty() { item } else { format!("{head}::{item}") })
        .collect()
}

fn floor(path: &str) -> Option<usize> {
    let first = path.split("::").next()?;
    FLOORS.iter().find(|(name, _)| *name == first).map(|(_, floor)| *floor)
}

#[test]
fn no_file_imports_from_a_floor_above() {
    for file in sources() {
        let Some(own) = floor(&file.module) else { continue };
        for import in &file.imports {
            let theirs = floor(import).unwrap_or(own);
            assert!(theirs <= own, "{} imports {import}, which is a floor above", file.path.display());
        }
    }
}

/// The serve floor's entry and its answers know each other by nature (a refusal is a page, a page's endpoint refuses); what must not
/// happen on any floor is that its units form a ring. A unit is a module directly on a floor, with all below it.
#[test]
fn no_ring_between_the_units_of_a_floor() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let unit = |path: &str| path.split("::").take(2).collect::<Vec<_>>().join("::");
    let files = sources();
    let units: BTreeSet<String> = files.iter().map(|file| unit(&file.module)).collect();
    for file in &files {
        for import in file.imports.iter().map(|import| unit(import)) {
            if units.contains(&import) && import != unit(&file.module) && floor(&import) == floor(&file.module) {
                edges.entry(unit(&file.module)).or_default().insert(import);
            }
        }
    }
    for start in edges.keys() {
        if let Some(ring) = ring(&edges, start) {
            panic!("a ring of imports: {}", ring.join(" -> "));
        }
    }
}

fn ring(edges: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for next in edges.get(way.last().unwrap()).into_iter().flatten() {
            let mut longer = way.clone();
            longer.push(next.clone());
            if next == start {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[test]
fn the_domain_is_values_only() {
    for file in sources().iter().filter(|file| floor(&file.module) == Some(0)) {
        for line in file.text.lines().filter_map(|line| line.trim().strip_prefix("use ")) {
            let first = line.trim_start_matches(':').split("::").next().unwrap();
            let known = VALUES.contains(&first) || ["crate", "super", "self", "percent_encoding"].contains(&first);
            assert!(known, "{} uses {first}, which is not a library of values", file.path.display());
        }
        for never in
            ["async ", ".await", "std::fs", "std::net::Tcp", "SystemTime", "Instant", "tokio", "hyper", "http::"]
        {
            assert!(!file.text.contains(never), "{} has {never:?}", file.path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for file in sources() {
        assert!(file.text.starts_with("//! "), "{} has no first line that says what it is", file.path.display());
    }
}

#[test]
fn imports_are_taken_apart() {
    let found = imports(
        "use crate::domain::{caller::{Caller, Peer}, path::ReturnTo};\nuse super::x::Y; // crate::no",
        "serve::auth::login",
    );
    let expected = ["domain::caller::Caller", "domain::caller::Peer", "domain::path::ReturnTo", "serve::auth::x::Y"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
