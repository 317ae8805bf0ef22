//! Compares the readings with how real servers treated the corpus of `scripts/paths`: for each path that a server served, some reading must
//! lead there.

use std::fmt::Write as _;
use std::path::Path;

use super::{Readings, WORK_LIMIT, below, explore, is_openable, steps::Step, without_case};

const RECORDED: &str = include_str!("../../../tests/paths/recorded.tsv");
const READINGS: &str = include_str!("../../../tests/paths/readings.tsv");

struct Row {
    /// The path of the request's target, as the proxy sees it.
    path: &'static str,
    /// What each server served.
    served: Vec<&'static str>,
}

fn servers() -> Vec<&'static str> {
    RECORDED.lines().next().unwrap().split('\t').skip(1).collect()
}

fn rows() -> Vec<Row> {
    let read = |line: &'static str| {
        let mut cells = line.split('\t');
        Row { path: path_of(cells.next().unwrap()), served: cells.collect() }
    };
    RECORDED.lines().skip(1).map(read).collect()
}

/// The path of a target; in absolute form it follows the host. The query is not part of it.
fn path_of(target: &'static str) -> &'static str {
    let target = target.split('?').next().unwrap();
    let Some(rest) = target.strip_prefix("http://") else { return target };
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// The servers that ignore case, by their own response to `/ADMIN/x`.
fn ignores_case() -> Vec<bool> {
    rows().iter().find(|row| row.path == "/ADMIN/x").unwrap().served.iter().map(|served| *served == "admin").collect()
}

/// Paths that were served but have no reading, with the given steps.
fn holes(steps: &[Step]) -> Vec<String> {
    let (servers, ignores_case) = (servers(), ignores_case());
    let mut holes = Vec::new();
    for row in rows() {
        // Refused with 400, so that no server receives it.
        let mut work = WORK_LIMIT;
        let Ok(mut readings) = explore(row.path, steps, &mut work) else { continue };
        readings.push(row.path.to_owned());
        for ((server, served), ignores_case) in servers.iter().zip(&row.served).zip(&ignores_case) {
            let leads_to = |reading: &String, place: &str| {
                below(reading, place).is_some() || (*ignores_case && below(&folded(reading), place).is_some())
            };
            let some_leads_to = |place| readings.iter().any(|reading| leads_to(reading, place));
            match *served {
                "admin" if !some_leads_to("/admin") => {
                    holes.push(format!("{server} served /admin for {}: {readings:?}", row.path))
                }
                "public" if !some_leads_to("/public") => {
                    holes.push(format!("{server} served /public for {}: {readings:?}", row.path))
                }
                "admin" if is_openable(row.path) && readings.iter().all(|reading| leads_to(reading, "/public")) => {
                    holes.push(format!("{server} served /admin for {}, which a public rule opens", row.path));
                }
                "admin" | "public" | "moved" | "nothing" | "refused" => {}
                other => panic!("{other} is no record"),
            }
        }
    }
    holes
}

fn folded(reading: &str) -> String {
    reading.chars().map(without_case).collect()
}

#[test]
fn no_server_served_what_no_reading_leads_to() {
    let holes = holes(&Step::ALL);
    assert!(holes.is_empty(), "{} holes:\n{}", holes.len(), holes.join("\n"));
}

#[test]
fn the_record_covers_enough_paths_and_servers() {
    let (rows, servers) = (rows(), servers());
    assert!(rows.len() >= 400, "{}", rows.len());
    assert!(servers.len() >= 25, "{}", servers.len());
    assert!(rows.iter().all(|row| row.served.len() == servers.len()));
    for (at, server) in servers.iter().enumerate() {
        for place in ["admin", "public"] {
            assert!(
                rows.iter().filter(|row| row.served[at] == place).count() > 20,
                "{server} hardly ever served {place}"
            );
        }
    }
}

/// The steps that the record does not prove necessary, in the order of `Step::ALL`.
const NOT_SHOWN: [Step; 9] = [
    // Either of these two explains servers that remove dots before they decode a slash; without both, see below.
    Step::DecodeButSlashes,
    Step::EncodedDotSegments,
    // The cut part follows `/admin` or `/public`, so the path is below it either way.
    Step::Query,
    Step::Nul,
    Step::SlashAtEnd,
    // Windows, and very old servers.
    Step::DotsAtEnd,
    Step::BlanksAtEnd,
    Step::Overlong,
    // `AuthorityBehindSlashes` explains it too.
    Step::Authority,
];

/// Leaves out steps: the servers' behaviour is then no longer explained, so that an error in a step is detected.
#[test]
fn what_servers_do_is_explained_only_with_all_the_steps_that_they_take() {
    let holes_without = |left_out: &[Step]| {
        holes(&Step::ALL.into_iter().filter(|step| !left_out.contains(step)).collect::<Vec<_>>()).len()
    };
    let not_shown: Vec<Step> = Step::ALL.into_iter().filter(|step| holes_without(&[*step]) == 0).collect();
    assert_eq!(not_shown, NOT_SHOWN);
    assert!(holes_without(&[Step::DecodeButSlashes, Step::EncodedDotSegments]) > 0);
}

#[test]
fn the_readings_of_the_corpus_are_as_recorded() {
    let mut now = String::new();
    for row in rows() {
        match Readings::of(row.path) {
            Ok(readings) => {
                let opened = if readings.may_be_opened() { "may be opened" } else { "closed" };
                let others: Vec<String> =
                    readings.iter().skip(1).map(|reading| reading.escape_default().to_string()).collect();
                writeln!(now, "{}\t{opened}\t{}", row.path, others.join("\t")).unwrap();
            }
            Err(error) => writeln!(now, "{}\trefused\t{error}", row.path).unwrap(),
        }
    }
    if now != READINGS {
        let written = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/readings.tsv");
        std::fs::write(&written, &now).unwrap();
        panic!("readings differ from tests/paths/readings.tsv; what they are now is in {}", written.display());
    }
}
