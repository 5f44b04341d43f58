//! Benchmarks of the real programs on recorded traces. Every figure is of raw samples, taken in this run; nothing here
//! asserts how fast anything is.
//!
//! * [`record`]: what a `db_write` costs, beside a bare write and fdatasync; [`db_write`]: the messages for it.
//! * [`traces`]: bytes per version, replay, opening a version; [`opening`]: how the last is timed.
//! * [`scale`]: a backup of an operator's size, and every figure of a mount of it beside its yardstick.
//! * [`compact`]: answers while history is dropped.
//! * [`heal`]: a first write that waits until the whole database has been read, beside `cat` of it.
//! * [`import`]: a file of the Python plugin made a backup, and back.
//! * [`offsite`]: what an off-site copy costs the node, and how far behind it is.
//! * [`parity`]: what parity costs, beside the same backup without.
//! * [`looks`]: what changed, asked of a long history.
//! * [`sequence`]: a recorded trace as one sequence of writes; [`node`]: a node's directory with its backup.
//! * [`results`]: what runs came to, kept and shown side by side.
//! * [`watched`]: a command, its time and its memory; [`stats`]: percentiles; [`table`]: columns; [`goals`]: figures beside their goals.

mod compact;
mod db_write;
mod goals;
mod heal;
mod import;
mod looks;
mod node;
mod offsite;
mod opening;
mod parity;
mod record;
mod results;
mod scale;
mod sequence;
mod stats;
mod table;
mod traces;
mod watched;

use std::io::{self, Write as _};

use clap::{Parser, Subcommand};
use serde::Serialize;

#[derive(Parser)]
#[command(name = "bench", about = "Measures the recorder and the mount on recorded traces")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time the answers of a real backup-recorder, interleaved with a bare write + fdatasync of the same sizes
    Record(record::Args),
    /// The process that `record` measures beside the recorder
    #[command(name = record::piped_floor::SUBCOMMAND, hide = true)]
    PipedFloor(record::piped_floor::Args),
    /// Record every trace; print bytes per version, replay speed, and how long versions take to open
    Traces(traces::Args),
    /// Record a history of any size; print what mounting, listing, opening, copying and restoring it takes
    Scale(scale::Args),
    /// Time the first answer after a gap, and after a kill, of a node with a large database, beside cat of that database
    Heal(heal::Args),
    /// Time `backupfs import` of a file of the Python plugin, and `backupfs export` back to one
    Import(import::Args),
    /// Time `backupfs diff` of neighbouring versions, and of versions far apart, in a long history
    Diff(looks::Args),
    /// Time `backupfs find` over all versions of a long history
    Find(looks::Args),
    /// Record the same with parity and without; print what it costs in bytes and processor time
    Parity(parity::Args),
    /// Time the answers of a recorder at full load while history is dropped, beside those without that
    Compact(compact::Args),
    /// Time the answers of a recorder that ships to an off-site copy, how far behind that is, and a restore from it
    Offsite(offsite::Args),
    /// Show the last two results of each benchmark side by side
    Results(results::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Record(args) => record::run(&args),
        Command::PipedFloor(args) => record::piped_floor::run(&args),
        Command::Traces(args) => traces::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Heal(args) => heal::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Diff(args) => looks::diff(&args),
        Command::Find(args) => looks::find(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Offsite(args) => offsite::run(&args),
        Command::Results(args) => results::run(&args),
    }
}

/// The form of standard output.
#[derive(Clone, Copy)]
enum Output {
    /// Tables, to be read.
    Tables,
    /// One JSON object; the ratios are kept, too.
    Json,
}

impl Output {
    fn print<R: Serialize>(self, report: &R, tables: impl Fn(&R) -> String) -> anyhow::Result<()> {
        let text = match self {
            Self::Tables => tables(report),
            Self::Json => {
                results::keep(&serde_json::to_value(report)?)?;
                serde_json::to_string(report)? + "\n"
            }
        };
        Ok(io::stdout().write_all(text.as_bytes())?)
    }
}

impl From<bool> for Output {
    fn from(json: bool) -> Self {
        if json { Self::Json } else { Self::Tables }
    }
}
