//! The documentation and the table of options agree, and every link has a target.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sidegate::config::options::{ALL, Fallback};

/// The longest front page, in lines.
const FRONT_PAGE: usize = 250;

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

/// Names in the documentation that are not options: the example of a typing error, and a variable of desktops.
const OTHERS: &[&str] = &["OAUTH_ALOWED_USERS", "SESSION_MANAGER"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// README.md and the pages of docs/.
fn documents() -> Vec<(PathBuf, String)> {
    let root = root();
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

/// Words of capitals and underscores. A word that ends with `_` is the prefix of a family (`OAUTH_…`), not a variable.
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

/// The text of a cell, without code marks.
fn plain(cell: &str) -> String {
    cell.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The cells of the table row that starts with this word.
fn row(text: &str, variable: &str) -> Vec<String> {
    let start = format!("| `{variable}` |");
    let line = text.lines().find(|line| line.starts_with(&start));
    line.map(|line| line.trim_matches('|').split(" | ").map(plain).collect()).unwrap_or_default()
}

#[test]
fn the_tables_of_settings_say_what_the_program_says() {
    let settings = std::fs::read_to_string(root().join("docs/settings.md")).unwrap();
    let details = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for knob in ALL {
        let (Fallback::Is(fallback) | Fallback::Otherwise(fallback)) = knob.fallback;
        let cells = row(&settings, knob.variable);
        let [_, default, meaning] = cells.as_slice() else { panic!("settings.md has no row of {}", knob.variable) };
        assert_eq!(*default, plain(fallback), "the default of {} in settings.md", knob.variable);
        // Links and hints may follow in the table, but nothing of the `--help` text may be missing.
        let meaning = meaning.split(" (see [").next().unwrap_or_default();
        let help = plain(knob.help());
        assert!(help.starts_with(meaning.trim_end_matches('.')), "{}:\n{help}\n{meaning}", knob.variable);

        let cells = row(&details, knob.variable);
        let [_, _, flag, example, _] = cells.as_slice() else {
            panic!("configuration.md has no row of {}", knob.variable)
        };
        assert_eq!(*flag, knob.flag().map_or("—".to_owned(), |flag| format!("--{flag}")), "{}", knob.variable);
        assert_eq!(*example, plain(knob.example), "the example of {} in configuration.md", knob.variable);
    }
}

/// The text without code blocks and spans, in which nothing is a link.
fn prose(text: &str) -> String {
    let blocks = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    // A code span that contains a backquote.
    blocks.replace("`` ` ``", "").split('`').step_by(2).collect()
}

fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default().to_owned()).collect()
}

/// The anchors of a page, as GitHub derives them from its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    let headings = outside
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    headings.map(|text| text.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// Every link without a target, among the files of the repository.
fn broken(from: &Path, text: &str) -> Vec<String> {
    let folder = from.parent().unwrap();
    let leads = |link: &str| {
        if link.starts_with("https://") || link.starts_with("http://localhost") {
            return true;
        }
        let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
        let target = if path.is_empty() { from.to_owned() } else { folder.join(path) };
        let Some(anchor) = anchor else { return target.exists() };
        let page = if path.is_empty() { Ok(text.to_owned()) } else { std::fs::read_to_string(target) };
        page.is_ok_and(|page| anchors(&page).contains(anchor))
    };
    links(text).into_iter().filter(|link| !leads(link)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let more = ["CONTRIBUTING.md", "SECURITY.md", "fuzz/README.md"].map(|name| root().join(name));
    let more = more.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()));
    let mut seen = 0;
    for (path, text) in documents().into_iter().chain(more) {
        seen += links(&text).len();
        let broken = broken(&path, &text);
        assert!(broken.is_empty(), "{} has links that lead nowhere: {broken:?}", path.display());
    }
    assert!(seen > 50, "only {seen} links were seen");
}

#[test]
fn a_link_that_leads_nowhere_is_seen() {
    let page = root().join("docs/page.md");
    let text = "# A page: of `x`\n[a](#a-page-of-x) [b](#b) [c](none.md) [d](../README.md#sidegate) [e](../README.md#none)\n\
                `[f](none.md)` [g](settings.md)\n```\n# no heading\n[h](none.md)\n```\n[i](#no-heading) [j](http://other.example)\n";
    assert_eq!(broken(&page, text), ["#b", "none.md", "../README.md#none", "#no-heading", "http://other.example"]);
}

#[test]
fn the_front_page_is_short() {
    let lines = std::fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines < FRONT_PAGE, "README.md has {lines} lines: what is long belongs into docs/");
}

#[test]
fn the_front_page_says_which_rust_is_needed() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(
        readme.contains(&format!("Rust {version} or later")),
        "README.md does not say that Rust {version} is needed"
    );
}

/// All Rust files below these folders, by path.
fn rust(folders: &[&str]) -> Vec<(PathBuf, String)> {
    fn below(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    folders.iter().for_each(|folder| below(&root().join(folder), &mut found));
    found
}

/// The page of threats names a test for each threat; a renamed or removed test must not remain there.
#[test]
fn the_tests_and_files_that_the_page_of_threats_names_are_there() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap().replace("`` ` ``", "");
    let sources = rust(&["proxy/src", "proxy/tests", "orchestrator/src", "orchestrator/tests"]);
    let is_name = |text: &String| {
        text.contains('_') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let tests: Vec<String> = page.split(['*', '|', ' ', ',', ';', '\n']).map(str::to_owned).filter(is_name).collect();
    assert!(tests.len() > 60, "only {} tests were found", tests.len());
    for test in tests {
        let there = sources.iter().any(|(_, text)| text.contains(&format!("fn {test}(")));
        assert!(there, "docs/security.md names the test {test}, which is not there");
    }
    let files = page.split('`').skip(1).step_by(2).filter(|text| text.ends_with(".rs") && !text.contains(' '));
    let mut seen = 0;
    for file in files {
        seen += 1;
        assert!(
            sources.iter().any(|(path, _)| path.ends_with(file)),
            "docs/security.md names {file}, which is not there"
        );
    }
    assert!(seen > 30, "only {seen} files were found");
}
