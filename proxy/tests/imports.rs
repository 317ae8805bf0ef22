//! The imports of each source file within its crate, read from its tokens: including functions and macros, without tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The segments of a path: `serve`, `auth`, `login`.
pub type Parts = Vec<String>;

/// One file, and its imports.
pub struct Source {
    pub file: PathBuf,
    /// The module of the file; empty for the crate's root.
    pub module: Parts,
    /// The items of its own crate that it names, by the defining module, however they were imported.
    pub imports: BTreeSet<Import>,
    /// The other crates that it names.
    pub crates: BTreeSet<String>,
    /// Every word of its code.
    pub words: BTreeSet<String>,
    /// The text, including comments and tests.
    pub text: String,
}

/// An item of the same crate that a file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The module that defines it.
    pub module: Parts,
    /// The name in that module; empty for the module itself.
    pub name: String,
    /// Whether it is only re-exported with `pub use`.
    pub handed_on: bool,
}

/// The files below `root`, the crate's `src`, that are built without tests.
pub fn sources(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("main.rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((module_of(&path, root), path, text));
            }
        }
    }
    read(files)
}

fn module_of(path: &Path, root: &Path) -> Parts {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    let mut module: Parts = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

/// Parses files, each with its module.
pub fn read(files: Vec<(Parts, PathBuf, String)>) -> Vec<Source> {
    let mut house = House::default();
    let mut kept = Vec::new();
    for (module, file, text) in files {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut code = Code::default();
        code.take(tokens, &module);
        house.modules.insert(module.clone(), code);
        kept.push((module, file, text));
    }
    let tests: Vec<Parts> = house.modules.values().flat_map(|code| code.tests.clone()).collect();
    kept.retain(|(module, ..)| !tests.iter().any(|test| module.starts_with(test)));
    kept.sort();
    kept.into_iter().map(|(module, file, text)| house.source(module, file, text)).collect()
}

/// The contents of one file's tokens.
#[derive(Default)]
struct Code {
    uses: Vec<Use>,
    /// Paths outside of `use`, each with the module that contains it.
    paths: Vec<(Parts, Parts)>,
    defined: BTreeSet<String>,
    words: BTreeSet<String>,
    /// Modules that are compiled for tests only.
    tests: Vec<Parts>,
}

struct Use {
    place: Parts,
    path: Parts,
    /// Its local name; `*` for a glob import.
    name: String,
    public: bool,
}

impl Code {
    fn take(&mut self, tokens: TokenStream, place: &Parts) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let inner = is_mark(tokens.get(at + 1), '!');
                    let group = at + 1 + usize::from(inner);
                    if !is_test_only(tokens.get(group)) {
                        at += 1;
                    } else if inner {
                        return;
                    } else {
                        at = self.skip_item(&tokens, group + 1, place);
                    }
                }
                TokenTree::Ident(word) if word == "use" && !is_mark(tokens.get(at + 1), '<') => {
                    let end = (at..tokens.len()).find(|&end| is_mark(tokens.get(end), ';')).unwrap_or(tokens.len());
                    let public = is_public(&tokens[..at]);
                    self.take_use(&tokens[at + 1..end], &Vec::new(), place, public);
                    at = end;
                }
                TokenTree::Ident(word) if word == "mod" && is_brace(tokens.get(at + 2)) => {
                    let mut inner = place.clone();
                    inner.push(tokens[at + 1].to_string());
                    let TokenTree::Group(group) = &tokens[at + 2] else { unreachable!() };
                    self.take(group.stream(), &inner);
                    at += 3;
                }
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    if ["struct", "enum", "trait", "type", "fn", "const", "static", "union"].contains(&word.as_str())
                        && let Some(TokenTree::Ident(name)) = tokens.get(at + 1)
                    {
                        self.defined.insert(name.to_string());
                    }
                    let (path, next) = path_at(&tokens, at);
                    // What follows `>::` or a leading `::` is not from this crate.
                    let begins = !(at >= 2 && is_mark(tokens.get(at - 1), ':') && is_mark(tokens.get(at - 2), ':'));
                    if path.len() > 1 && begins {
                        self.paths.push((place.clone(), path.clone()));
                    }
                    self.words.extend(path);
                    at = next;
                }
                TokenTree::Group(group) => {
                    self.take(group.stream(), place);
                    at += 1;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// Skips the item after an attribute, up to its `;` or its braces.
    fn skip_item(&mut self, tokens: &[TokenTree], from: usize, place: &Parts) -> usize {
        let mut at = from;
        while let Some(token) = tokens.get(at) {
            if let (TokenTree::Ident(word), Some(name)) = (token, tokens.get(at + 1))
                && word == "mod"
            {
                let mut module = place.clone();
                module.push(name.to_string());
                self.tests.push(module);
            }
            at += 1;
            if is_mark(Some(token), ';') || is_mark(Some(token), ',') || is_brace(Some(token)) {
                break;
            }
        }
        at
    }

    fn take_use(&mut self, tree: &[TokenTree], before: &Parts, place: &Parts, public: bool) {
        for branch in tree.split(|token| is_mark(Some(token), ',')) {
            let (mut path, mut at) = (before.clone(), 0);
            let mut name = None;
            while let Some(token) = branch.get(at) {
                match token {
                    TokenTree::Ident(word) if word == "as" => {
                        name = branch.get(at + 1).map(ToString::to_string);
                        at += 1;
                    }
                    TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                    TokenTree::Ident(word) => path.push(word.to_string()),
                    TokenTree::Punct(mark) if mark.as_char() == '*' => name = Some("*".to_owned()),
                    TokenTree::Group(group) => {
                        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                        self.take_use(&inner, &path, place, public);
                        path.clear();
                    }
                    TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                }
                at += 1;
            }
            if let Some(last) = path.last().cloned() {
                self.words.extend(path.iter().cloned());
                self.uses.push(Use { place: place.clone(), path, name: name.unwrap_or(last), public });
            }
        }
    }
}

/// The path that starts at a word, and the index after it.
fn path_at(tokens: &[TokenTree], at: usize) -> (Parts, usize) {
    let (mut path, mut next) = (vec![tokens[at].to_string()], at + 1);
    while is_mark(tokens.get(next), ':') && is_mark(tokens.get(next + 1), ':') {
        let Some(TokenTree::Ident(word)) = tokens.get(next + 2) else { break };
        path.push(word.to_string());
        next += 3;
    }
    (path, next)
}

fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn is_brace(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace)
}

/// `cfg(test)`, or `cfg(all(test, …))`.
fn is_test_only(attribute: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = attribute else { return false };
    let text: String = group.stream().to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

fn is_public(before: &[TokenTree]) -> bool {
    let is_pub = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Ident(word)) if word == "pub");
    match before {
        [.., TokenTree::Ident(word)] => word == "pub",
        [.., token, TokenTree::Group(_)] => is_pub(Some(token)),
        _ => false,
    }
}

/// All modules of a crate.
#[derive(Default)]
struct House {
    modules: BTreeMap<Parts, Code>,
}

impl House {
    fn source(&self, module: Parts, file: PathBuf, text: String) -> Source {
        let code = &self.modules[&module];
        let mut source =
            Source { file, module, imports: BTreeSet::new(), crates: BTreeSet::new(), words: code.words.clone(), text };
        for used in &code.uses {
            self.note(&mut source, &used.place, &used.path, used.public);
        }
        for (place, path) in &code.paths {
            self.note(&mut source, place, path, false);
        }
        source
    }

    fn note(&self, source: &mut Source, place: &Parts, path: &Parts, public: bool) {
        match self.resolve(place, path, 0) {
            Some((module, name)) => {
                let handed_on = public && module.starts_with(&source.module);
                source.imports.insert(Import { module, name, handed_on });
            }
            None => drop(source.crates.insert(path[0].clone())),
        }
    }

    /// The module that defines what `path`, as written in `place`, refers to, and its name there. `None`: it is not from this crate.
    fn resolve(&self, place: &Parts, path: &[String], depth: usize) -> Option<(Parts, String)> {
        let mut from = place.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (from, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    from.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                // An inline module can use that file's names, as far as it imports them.
                while !self.modules.contains_key(&from) {
                    from.pop()?;
                }
                let known = self.child(&from, first).is_some() || self.used(&from, first).is_some();
                if !known {
                    return None;
                }
            }
        }
        for (at, part) in rest.iter().enumerate() {
            if let Some(child) = self.child(&from, part) {
                from = child;
                continue;
            }
            if let Some(used) = self.used(&from, part).filter(|_| depth < 16) {
                let whole: Parts = used.path.iter().chain(&rest[at + 1..]).cloned().collect();
                return self.resolve(&used.place, &whole, depth + 1);
            }
            if let Some(of_glob) = self.of_glob(&from, part, depth) {
                return Some((of_glob, part.clone()));
            }
            while !self.modules.contains_key(&from) && !from.is_empty() {
                from.pop();
            }
            return Some((from, part.clone()));
        }
        Some((from, String::new()))
    }

    fn child(&self, module: &Parts, name: &str) -> Option<Parts> {
        let mut child = module.clone();
        child.push(name.to_owned());
        self.modules.contains_key(&child).then_some(child)
    }

    fn used(&self, module: &Parts, name: &str) -> Option<&Use> {
        let code = self.modules.get(module)?;
        // `use url;` and the like would refer to themselves.
        code.uses.iter().find(|used| used.name == name && used.path != [name])
    }

    /// The module where a `pub use other::*` finds a name that the module does not define itself.
    fn of_glob(&self, module: &Parts, name: &str, depth: usize) -> Option<Parts> {
        let code = self.modules.get(module).filter(|code| !code.defined.contains(name) && depth < 16)?;
        code.uses.iter().filter(|used| used.name == "*").find_map(|used| {
            let (of, inner) = self.resolve(&used.place, &used.path, depth + 1)?;
            (inner.is_empty() && self.modules.get(&of)?.defined.contains(name)).then_some(of)
        })
    }
}

/// The import cycles in every folder, each as the imports that close it. The units of a folder are its files and subfolders, each
/// with all below it, and the folder's own file; re-exports in that file do not count.
pub fn rings(sources: &[Source]) -> Vec<String> {
    let folders: BTreeSet<&[String]> =
        sources.iter().flat_map(|source| (0..source.module.len()).map(|length| &source.module[..length])).collect();
    folders.into_iter().filter_map(|folder| ring_in(folder, sources)).collect()
}

fn ring_in(folder: &[String], sources: &[Source]) -> Option<String> {
    let unit = |module: &Parts| module.get(folder.len()).cloned().unwrap_or_default();
    let mut edges: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.module.starts_with(folder)) {
        for import in source.imports.iter().filter(|import| import.module.starts_with(folder) && !import.handed_on) {
            let (from, to) = (unit(&source.module), unit(&import.module));
            // The crate's root contains the map and no code.
            if from != to && !(folder.is_empty() && to.is_empty()) {
                let proof = format!("{} takes {}::{}", source.module.join("::"), import.module.join("::"), import.name);
                edges.entry(from).or_default().entry(to).or_insert(proof);
            }
        }
    }
    edges.keys().find_map(|start| way_back(&edges, start)).map(|proofs| proofs.join("; "))
}

/// The shortest path from a unit back to itself.
fn way_back(edges: &BTreeMap<String, BTreeMap<String, String>>, start: &str) -> Option<Vec<String>> {
    let mut ways: Vec<(String, Vec<String>)> = vec![(start.to_owned(), Vec::new())];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for (unit, proofs) in ways {
            for (next, proof) in edges.get(&unit).into_iter().flatten() {
                let proofs: Vec<String> = proofs.iter().chain([proof]).cloned().collect();
                if next == start {
                    return Some(proofs);
                }
                if seen.insert(next.clone()) {
                    longer.push((next.clone(), proofs));
                }
            }
        }
        ways = longer;
    }
    None
}
