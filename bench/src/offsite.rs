//! `bench offsite`: what an off-site copy costs the node, and what it is worth.
//!
//! A real `backup-recorder` ships by a real `backupfs ship` to a server of objects in this process, each of whose answers
//! takes some milliseconds. The node goes on as in a trace, and its database with it.
//!
//! * [`copied_node`]: the node and its copy; [`running`]: its recorder, the process that ships, and changes at a rate;
//! * [`answers`]: what `lightningd` waits for while shipping is on, hangs or is refused, beside shipping that is off;
//! * [`waiting`]: the same while answers wait for the copy, in that server and in a directory;
//! * [`lag`]: how long a change is in one place only, and what the process that ships takes; [`covered`]: what the server
//!   had when; [`uploads`]: uploads of a month;
//! * [`reading`]: a mount of the copy: names, and versions never read before;
//! * [`restoring`]: the newest version over a link of a known speed; [`over_sftp`]: the same over SFTP;
//! * [`rows`]: the rows of the table of goals.

mod answers;
mod copied_node;
mod covered;
mod lag;
mod over_sftp;
mod reading;
mod restoring;
mod rows;
mod running;
mod uploads;
mod waiting;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tests::binaries;

use crate::Output;
use crate::goals::{self, Row, mb, ms};
use crate::node::target_directory;
use crate::record;
use crate::scale::making::{self, Logs, Wanted};
use crate::scale::measured::settle;
use crate::scale::place::{Afterwards, Place};
use crate::scale::rehearsal::Rehearsal;
use crate::table::Table;
use crate::watched::Watched;
use answers::AnswersReport;
use copied_node::CopiedNode;
use lag::LagReport;
use over_sftp::SftpReport;
use reading::ReadingReport;
use restoring::RestoreReport;
use uploads::UploadsReport;
use waiting::WaitingReport;

#[derive(clap::Args)]
pub struct Args {
    /// Time that each answer of the store takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    delay_ms: u64,
    /// Size of the database, in MB
    #[arg(long, value_name = "M", default_value_t = 150)]
    database_mb: u32,
    /// Changes recorded before
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..))]
    versions: u32,
    /// Speed of the link of a restore, in Mbit/s
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    link_mbit: u32,
    /// Restores; 0 for none
    #[arg(long, value_name = "N", default_value_t = 3)]
    restores: u8,
    /// Versions read through a mount of the copy, each by a new one; 0 for none
    #[arg(long, value_name = "N", default_value_t = 5)]
    reads: u8,
    /// Changes in each second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Seconds during which the lag is measured, at --rate; 0 for none
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Seconds during which uploads are counted, at 2,000 changes an hour; 0 for none
    #[arg(long, value_name = "S", default_value_t = 120)]
    upload_seconds: u64,
    /// Seconds during which the lag is measured over SFTP, at --rate; 0 for none
    #[arg(long, value_name = "S", default_value_t = 40)]
    sftp_seconds: u64,
    /// Times that each kind of shipping is measured beside shipping that is off; 0 for none
    #[arg(long, value_name = "N", default_value_t = 4)]
    rounds: u8,
    /// Seconds of each of these, at --rate and again at full load
    #[arg(long, value_name = "S", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    round_seconds: u64,
    /// Seconds of each way in which answers wait for the copy, at --rate and again at full load; 0 for none
    #[arg(long, value_name = "S", default_value_t = 6)]
    wait_seconds: u64,
    /// Directory on the file system to measure [default: the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Trace whose changes are continued: `demo`, or one of the shared ones [default: channels where it is there, else demo]
    #[arg(long)]
    trace: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    trace: String,
    place: PathBuf,
    delay_ms: u64,
    database_bytes: u64,
    programs: Vec<Program>,
    first_shipping: Watched,
    reading: Option<ReadingReport>,
    restore: Option<RestoreReport>,
    lag: Option<LagReport>,
    uploads: Option<UploadsReport>,
    answers: Option<AnswersReport>,
    waiting: Option<Vec<WaitingReport>>,
    over_sftp: Option<SftpReport>,
    goals: Vec<Row>,
}

/// One of the programs.
#[derive(Debug, Clone, Serialize)]
struct Program {
    name: String,
    bytes: u64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = record::source(args.trace.as_deref())?;
    // Asked for first, so that cargo is done before anything is measured.
    let programs = [binaries::backupfs(), binaries::backup_recorder()];
    let dir = args.dir.clone().map_or_else(target_directory, Ok)?;
    let place = Place::create(&dir, Afterwards::Remove)?;
    let rehearsal = Rehearsal::play(&source, place.path()).with_context(|| format!("trace {}", source.name))?;
    let history = place.history("offsite");
    eprintln!("making a database of {} MB, and {} versions", args.database_mb, args.versions);
    let wanted = Wanted { changes: args.versions, database_mb: args.database_mb, logs: Logs::Sealed, parity: None };
    let mut made = making::make(wanted, &source.name, &rehearsal, &history)?;
    let database_bytes = made.database_bytes;
    settle(&history.lightning_dir())?;

    let mut node = CopiedNode::begin(history, &rehearsal.laps, &mut made, Duration::from_millis(args.delay_ms))?;
    eprintln!("shipping it");
    let first_shipping = node.ship_once()?;
    let delay = Duration::from_millis(args.delay_ms);
    let reading = (args.reads > 0).then(|| reading::measure(&node, args.reads, delay)).transpose()?.flatten();
    let restore = (args.restores > 0).then(|| restoring::measure(&node, args.link_mbit, args.restores)).transpose()?;
    let seconds = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
    let lag = seconds(args.seconds).map(|span| lag::measure(&mut node, args.rate, span)).transpose()?;
    let uploads = seconds(args.upload_seconds).map(|span| uploads::measure(&mut node, span)).transpose()?;
    let round = Duration::from_secs(args.round_seconds);
    let answers = (args.rounds > 0).then(|| answers::measure(&mut node, args.rate, round, args.rounds)).transpose()?;
    let waiting = seconds(args.wait_seconds).map(|span| waiting::measure(&mut node, args.rate, span)).transpose()?;
    // The last, because the node has this copy only from now on.
    let over_sftp = seconds(args.sftp_seconds).map(|span| over_sftp::measure(&mut node, args.rate, span));
    let over_sftp = over_sftp.transpose()?.flatten();
    let mut report = Report {
        trace: source.name,
        place: place.path().to_owned(),
        delay_ms: args.delay_ms,
        database_bytes,
        programs: programs.iter().map(|path| program(path)).collect::<anyhow::Result<_>>()?,
        first_shipping,
        reading,
        restore,
        lag,
        uploads,
        answers,
        waiting,
        over_sftp,
        goals: Vec::new(),
    };
    report.goals = rows::rows(&report);
    ensure!(!report.goals.is_empty(), "BUG: nothing was measured");
    Output::from(args.json).print(&report, tables)
}

fn program(path: &Path) -> anyhow::Result<Program> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Program { name, bytes: fs::metadata(path)?.len() })
}

fn tables(report: &Report) -> String {
    let programs: Vec<_> = report.programs.iter().map(|it| format!("{} {}", it.name, mb(it.bytes as f64))).collect();
    let mut text = format!(
        "trace {}, {}; database {}; each answer of the store takes {} ms; programs: {}\n\
         the whole history shipped: {:.1} s, memory {}\n",
        report.trace,
        report.place.display(),
        mb(report.database_bytes as f64),
        report.delay_ms,
        programs.join(", "),
        report.first_shipping.seconds,
        mb(report.first_shipping.peak_rss as f64),
    );
    for restore in report.restore.iter().flat_map(|restore| &restore.restores) {
        let kinds: Vec<_> = restore.requests.iter().map(|(kind, count)| format!("{kind}/ {count}")).collect();
        text += &format!(
            "restored in {:.1} s: {} in {} answers ({}), {:.1} s of the link; memory {}\n",
            restore.command.seconds,
            mb(restore.sent_bytes as f64),
            restore.requests.values().sum::<u64>(),
            kinds.join(", "),
            restore.link_s,
            mb(restore.command.peak_rss as f64)
        );
    }
    if let Some(answers) = &report.answers {
        text += &format!(
            "\nanswers; ratios: the median of {} rounds, each beside shipping that was off just before or after it\n{}",
            answers.rounds,
            answers_table(answers)
        );
    }
    text + "\n" + &goals::table(&report.goals)
}

fn answers_table(answers: &AnswersReport) -> Table {
    let mut table =
        Table::new(["shipping", "load", "samples", "p50", "off", "ratio", "p99", "off", "ratio", "max", "off"]);
    for kind in &answers.kinds {
        for (load, beside) in [("at the rate", &kind.rated), ("full", &kind.full)] {
            let (on, off) = (beside.on, beside.off);
            let ratio = |ratio: f64| format!("{ratio:.3}");
            table.row([
                kind.shipping.in_words().to_owned(),
                load.to_owned(),
                on.samples.to_string(),
                ms(on.p50_us),
                ms(off.p50_us),
                ratio(beside.ratio_p50),
                ms(on.p99_us),
                ms(off.p99_us),
                ratio(beside.ratio_p99),
                ms(on.max_us),
                ms(off.max_us),
            ]);
        }
    }
    table
}
