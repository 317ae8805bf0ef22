//! The plots of docs/performance.md: CPU per request against connections, sessions, rules and the size of a body.

use std::fs;
use std::io::Write;

use crate::lineup::Lineup;
use crate::options::{Options, PlotOptions, Turns};
use crate::report::{CPU, Spread};
use crate::svg::Plot;

/// A plot: its file, its title, its axis, and the options for each point.
type Picture = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const PICTURES: [Picture; 4] = [
    (
        "connections",
        "CPU per request against connections",
        "kept-alive connections, each with one request at a time",
        &[
            ("1", "--connections 1"),
            ("8", "--connections 8"),
            ("64", "--connections 64"),
            ("256", "--connections 256"),
            ("1,024", "--connections 1024"),
        ],
    ),
    (
        "sessions",
        "CPU per request against sessions",
        "sessions used in turn (store memory)",
        &[
            ("1", "--people 1"),
            ("1,000", "--people 1000"),
            ("20,000", "--people 20000"),
            ("100,000", "--people 100000"),
        ],
    ),
    (
        "rules",
        "CPU per request against rules",
        "rules, of which the last decides",
        &[("none", ""), ("10", "--rules 10"), ("1,000", "--rules 1000")],
    ),
    (
        "body",
        "CPU per request against the size of the answer",
        "size of the answer's body",
        &[
            ("1 KiB", "--body 1024"),
            ("16 KiB", "--body 16384"),
            ("64 KiB", "--body 65536"),
            ("256 KiB", "--body 262144"),
            ("1 MiB", "--body 1048576"),
        ],
    ),
];
const UNIT: &str = "CPU per request (us)";

/// Measures and writes each plot.
pub(crate) async fn run(options: &PlotOptions) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    // A plot has room for two lines.
    let turns = Turns { peers: false, ..options.turns.clone() };
    fs::create_dir_all(&options.folder)?;
    for (name, title, x, places) in PICTURES.into_iter().filter(|(name, ..)| name.contains(&options.only)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (place, row) in places {
            let row = Options::of_a_run(row, &turns)?;
            let mut lineup = Lineup::start(&row).await?;
            let others = lineup.measure(&row, |_, _, _| Ok(())).await?;
            // With rules, the contender with rules comes after the one without.
            let [.., sidegate, nginx] = lineup.entrants.as_slice() else { continue };
            let [sidegate, nginx] = [sidegate, nginx].map(|one| Spread::of(one.contender.rounds.iter().map(CPU)));
            let (mine, its) = (sidegate.median, nginx.median);
            writeln!(
                out,
                "{name} {place}: sidegate {mine:.1} us, nginx {its:.1} us; others used {:.0} %",
                others * 100.0
            )?;
            ours.push(sidegate);
            theirs.push(nginx);
        }
        let places = places.iter().map(|(place, _)| *place).collect();
        let lines = [("sidegate", ours), ("nginx", theirs)];
        let plot = Plot { title, x, y: UNIT, places, lines, multiples: name == "body" };
        let file = options.folder.join(format!("{name}.svg"));
        fs::write(&file, plot.draw())?;
        writeln!(out, "{}", file.display())?;
    }
    Ok(())
}
