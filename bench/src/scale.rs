//! `bench scale`: a backup as large as that of an operator's node, measured through a real mount.
//!
//! * [`literals`], [`keys`], [`disguise`], [`laps`]: a recorded trace that goes on without end; [`rehearsal`]: what it does
//!   to a database; [`node_database`]: that database.
//! * [`padding`], [`making`]: a node that has run for long, and its changes recorded; [`place`]: where they are kept.
//! * [`measured`]: what all measures share; [`starts`], [`tree`], [`first_reads`], [`whole`], [`live`], [`sizes`]: the
//!   measures; [`process`]: memory and processor time.
//! * [`rows`]: the rows of the table; [`growth`]: those that say what a longer history costs.

pub mod disguise;
mod first_reads;
mod growth;
mod keys;
pub mod laps;
mod literals;
mod live;
pub mod making;
pub mod measured;
pub mod node_database;
mod padding;
pub mod place;
pub mod process;
pub mod rehearsal;
mod rows;
mod sizes;
mod starts;
mod tree;
mod whole;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tests::binaries;
use tests::mounted::fuse_is_here;

use crate::Output;
use crate::goals::{self, Row};
use crate::node::target_directory;
use crate::record;
use crate::sequence::Source;
use first_reads::{FirstReads, MountMemory};
use laps::Laps;
use live::LiveReport;
use making::{Logs, Wanted};
use measured::Subject;
use place::{Afterwards, Made, Place};
use rehearsal::Rehearsal;
use sizes::Sizes;
use starts::Starts;
use tree::TreeReport;
use whole::WholeReport;

#[derive(clap::Args)]
pub struct Args {
    /// Changes to record, each a version
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..))]
    versions: u32,
    /// Size of the database before the first of them, in MB
    #[arg(long, value_name = "M", default_value_t = 200)]
    database_mb: u32,
    /// Size of a second database, on which the opening of versions is measured as well; 0 for none
    #[arg(long, value_name = "M", default_value_t = 64)]
    small_database_mb: u32,
    /// Changes to record on that [default: a tenth of --versions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..))]
    small_versions: Option<u32>,
    /// Directory on the file system to measure [default: the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Directory for the files of the nodes, where the first has no room for them [default: beside the backup]
    #[arg(long, value_name = "DIR")]
    node_dir: Option<PathBuf>,
    /// Trace whose changes are continued: `demo`, or one of the shared ones [default: channels where it is there, else demo]
    #[arg(long)]
    trace: Option<String>,
    /// Versions whose first 4 KiB are read
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// No measure takes much longer than this, in seconds; it has fewer samples then
    #[arg(long, value_name = "S", default_value_t = 120)]
    seconds: u64,
    /// Keep what was made, to be measured again
    #[arg(long, conflicts_with = "reuse")]
    keep: bool,
    /// Measure what an earlier run has kept, in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["versions", "database_mb", "small_database_mb", "small_versions", "dir", "node_dir"])]
    reuse: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All figures.
#[derive(Serialize)]
struct Report {
    /// Directory of the measurement.
    place: PathBuf,
    large: Measured,
    /// The same of the small history.
    small: Option<Measured>,
    /// Listings of the large one.
    tree: TreeReport,
    /// Whole versions of it; `None` where there is no room for copies.
    whole: Option<WholeReport>,
    /// On the large history, after everything else: it grows by that.
    live: Option<LiveReport>,
    goals: Vec<Row>,
}

/// Figures of a history.
#[derive(Serialize)]
struct Measured {
    made: Made,
    sizes: Sizes,
    starts: Starts,
    first_reads: FirstReads,
    memory: MountMemory,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(fuse_is_here(), "nothing can be mounted here");
    // Asked for first, so that cargo is done before anything is measured.
    binaries::backupfs();
    let time_limit = Duration::from_secs(args.seconds);
    let place = match &args.reuse {
        Some(dir) => Place::reuse(dir)?,
        None => {
            let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
            let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::Remove };
            match &args.node_dir {
                Some(nodes) => Place::create_apart(&dir, nodes, afterwards)?,
                None => Place::create(&dir, afterwards)?,
            }
        }
    };
    if args.keep {
        eprintln!("kept in {}", place.path().display());
    }
    let mut rehearsed = None;
    if args.reuse.is_none() {
        let source = record::source(args.trace.as_deref())?;
        let rehearsal = rehearse(&source, &place)?;
        let small = args.small_versions.unwrap_or((args.versions / 10).max(10));
        make(
            &place,
            "large",
            Wanted { changes: args.versions, database_mb: args.database_mb, logs: Logs::Sealed, parity: None },
            &source,
            &rehearsal,
        )?;
        if args.small_database_mb > 0 {
            make(
                &place,
                "small",
                Wanted { changes: small, database_mb: args.small_database_mb, logs: Logs::Sealed, parity: None },
                &source,
                &rehearsal,
            )?;
        }
        rehearsed = Some(rehearsal);
    }
    let dir = place.history("large");
    let made = dir.made()?.with_context(|| format!("{} has no history to measure", place.path().display()))?;
    let rehearsal = match rehearsed {
        Some(rehearsal) => rehearsal,
        None => rehearse(&record::source(Some(&made.trace))?, &place)?,
    };
    let mut subject = Subject { dir, made, time_limit };
    let large = measure(&mut subject, &rehearsal.laps, usize::from(args.samples))?;
    eprintln!("measuring listings");
    let tree = tree::measure(&subject)?;
    eprintln!("measuring whole versions");
    let whole = whole::measure(&subject)?;
    let small_dir = place.history("small");
    let small = match small_dir.made()? {
        Some(made) => {
            eprintln!("measuring the small history");
            let mut subject = Subject { dir: small_dir, made, time_limit };
            Some(measure(&mut subject, &rehearsal.laps, usize::from(args.samples))?)
        }
        None => None,
    };
    eprintln!("measuring while a recorder records");
    let live = live::measure(&mut subject, &rehearsal.laps)?;
    let mut report =
        Report { place: place.path().to_owned(), large, small, tree, whole, live: Some(live), goals: Vec::new() };
    report.goals = rows::rows(&report);
    Output::from(args.json).print(&report, tables)
}

/// Reads a trace, to go on with it without end.
pub fn rehearse(source: &Source, place: &Place) -> anyhow::Result<Rehearsal> {
    eprintln!("reading the trace {}", source.name);
    Rehearsal::play(source, place.path()).with_context(|| format!("trace {}", source.name))
}

/// Makes a history.
pub fn make(place: &Place, name: &str, wanted: Wanted, source: &Source, rehearsal: &Rehearsal) -> anyhow::Result<()> {
    eprintln!("recording {} changes on a database of {} MB", wanted.changes, wanted.database_mb);
    let made = making::make(wanted, &source.name, rehearsal, &place.history(name))?;
    eprintln!("  {:.0} s to fill the database, {:.0} s to record", made.cost.padding_s, made.cost.recording_s);
    Ok(())
}

fn measure(subject: &mut Subject, laps: &Laps, samples: usize) -> anyhow::Result<Measured> {
    let sizes = Sizes::of(&subject.dir.backup(), &subject.made)?;
    eprintln!("measuring starts");
    let starts = starts::measure(subject, laps)?;
    eprintln!("measuring first reads");
    let first_reads = first_reads::measure(subject, samples)?;
    eprintln!("measuring memory");
    let memory = first_reads::memory(subject)?;
    Ok(Measured { made: subject.made.clone(), sizes, starts, first_reads, memory })
}

fn tables(report: &Report) -> String {
    let Measured { made, sizes, .. } = &report.large;
    let files: Vec<_> = sizes
        .kinds
        .iter()
        .map(|(kind, files)| format!("{kind} {:.1} MB in {}", files.bytes as f64 / 1e6, files.files))
        .collect();
    let changes = made.changes.max(1) as f64;
    format!(
        "{} versions of trace {}; database {:.1} MB, later {:.1} MB; {:.1} statements and {:.0} B of SQL per change\n\
         backup {:.1} MB: {}\n\
         made in {:.0} s + {:.0} s: {:.0} µs per change, of it {:.0} µs of processor time\n\
         all files are in the page cache; every mount is fresh, and what it has not shown before is not in its own\n\n{}",
        made.versions(),
        made.trace,
        made.database_bytes_before as f64 / 1e6,
        made.database_bytes as f64 / 1e6,
        made.statements as f64 / changes,
        made.sql_bytes as f64 / changes,
        sizes.bytes as f64 / 1e6,
        files.join(", "),
        made.cost.padding_s,
        made.cost.recording_s,
        made.cost.recording_s * 1e6 / made.cost.changes.max(1) as f64,
        made.cost.recording_cpu_s * 1e6 / made.cost.changes.max(1) as f64,
        goals::table(&report.goals),
    )
}
