//! `bench/results.jsonl`: what every run with `--json` came to, a line each, and the last two of them side by side.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::binaries::workspace;
use anyhow::Context as _;
use common::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::table::Table;

#[derive(clap::Args)]
pub struct Args {
    /// Only of this benchmark
    benchmark: Option<String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    date: String,
    /// Commit, with a `+` where the sources were not those of the commit.
    commit: String,
    machine: String,
    benchmark: String,
    arguments: Vec<String>,
    ratios: BTreeMap<String, f64>,
}

fn file() -> PathBuf {
    workspace().join("bench/results.jsonl")
}

/// Appends what this run has measured.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(report: &Value) -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let kept = Kept {
        date: Timestamp::now().to_string(),
        commit: commit(),
        machine: machine(),
        benchmark: arguments.next().unwrap_or_default(),
        arguments: arguments.filter(|argument| argument != "--json").map(without_path).collect(),
        ratios: ratios(report),
    };
    append(&file(), &kept)
}

fn append(path: &Path, kept: &Kept) -> anyhow::Result<()> {
    let line = serde_json::to_string(kept)? + "\n";
    let appended =
        File::options().append(true).create(true).open(path).and_then(|mut to| to.write_all(line.as_bytes()));
    appended.with_context(|| format!("cannot append to {}", path.display()))
}

/// Arguments without paths: results are compared across machines.
fn without_path(argument: String) -> String {
    if argument.contains('/') { "PATH".to_owned() } else { argument }
}

/// Each figure as so many times its yardstick; of a trace, what the backup takes beside its SQL.
fn ratios(report: &Value) -> BTreeMap<String, f64> {
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let goal = |row: &Value| Some((row["figure"].as_str()?.to_owned(), row["ratio"].as_f64()?));
    let trace = |trace: &Value| {
        let ratio = trace["sizes"]["backup_bytes"].as_f64()? / trace["sizes"]["sql_bytes"].as_f64()?;
        Some((format!("{}: backup / SQL", trace["trace"].as_str()?), ratio))
    };
    list("goals").iter().filter_map(goal).chain(list("traces").iter().filter_map(trace)).collect()
}

fn git(arguments: &[&str]) -> Option<String> {
    let ran = Command::new("git").current_dir(workspace()).args(arguments).output().ok()?;
    ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

fn commit() -> String {
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed =
        git(&["status", "--porcelain", "--", ".", ":!bench/results.jsonl"]).is_none_or(|files| !files.is_empty());
    if changed { commit + "+" } else { commit }
}

/// The kind of machine, without its name.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", model.unwrap_or("unknown processor").trim())
}

/// The last two runs of each benchmark that had the same arguments.
fn side_by_side(all: &[Kept], benchmark: Option<&str>) -> String {
    let mut last = BTreeMap::<(&str, &[String]), Vec<&Kept>>::new();
    for kept in all.iter().filter(|kept| benchmark.is_none_or(|name| name == kept.benchmark)) {
        let runs = last.entry((&kept.benchmark, &kept.arguments)).or_default();
        runs.push(kept);
        if runs.len() > 2 {
            runs.remove(0);
        }
    }
    let mut text = String::new();
    for ((benchmark, arguments), runs) in last {
        text += &format!("{benchmark} {}\n", arguments.join(" "));
        for run in &runs {
            text += &format!("  {} {} on {}\n", run.date, run.commit, run.machine);
        }
        let mut table = Table::new(["", "before", "last", "last / before"]);
        let (newest, before) = (runs[runs.len() - 1], (runs.len() > 1).then(|| runs[0]));
        let names = before.iter().flat_map(|run| run.ratios.keys()).chain(newest.ratios.keys());
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            let [old, new] = [before.and_then(|run| run.ratios.get(name)), newest.ratios.get(name)];
            let shown = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            let change = old.zip(new).map(|(old, new)| new / old);
            table.row([name.clone(), shown(old.copied()), shown(new.copied()), shown(change)]);
        }
        text += &format!("{table}\n");
    }
    text
}

/// Prints them.
///
/// # Errors
/// When nothing was kept, or not by this program.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let path = file();
    let text = fs::read_to_string(&path).with_context(|| format!("no results in {}", path.display()))?;
    let all: Result<Vec<Kept>, _> = text.lines().map(serde_json::from_str).collect();
    let shown = side_by_side(&all.with_context(|| path.display().to_string())?, args.benchmark.as_deref());
    Ok(io::stdout().write_all(shown.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn runs_are_kept_and_the_last_two_with_the_same_arguments_are_shown_side_by_side() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let run = |commit: &str, arguments: &[&str], ratio: f64| Kept {
            date: "2030-01-01".to_owned(),
            commit: commit.to_owned(),
            machine: "one, 2 cores".to_owned(),
            benchmark: "heal".to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            ratios: ratios(
                &json!({"goals": [{"figure": "a gap", "ratio": ratio}, {"figure": "memory", "ratio": null}]}),
            ),
        };
        let runs =
            [run("first", &[], 9.0), run("second", &[], 2.0), run("other", &["--x"], 5.0), run("third", &[], 3.0)];
        for kept in &runs {
            append(&path, kept).unwrap();
        }
        let read: Vec<Kept> =
            fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, runs);
        let shown = side_by_side(&read, Some("heal"));
        let line = shown.lines().find(|line| line.contains("a gap")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["a", "gap", "2.000", "3.000", "1.500"]);
        assert!(!shown.contains("first") && !shown.contains("memory"), "{shown}");
        assert_eq!(side_by_side(&read, Some("scale")), "");
    }

    #[test]
    fn of_a_trace_the_size_is_kept_and_no_path() {
        let report = json!({"traces": [{"trace": "demo", "sizes": {"backup_bytes": 1, "sql_bytes": 4}}]});
        assert_eq!(ratios(&report), BTreeMap::from([("demo: backup / SQL".to_owned(), 0.25)]));
        assert_eq!(without_path("--dir=/home/operator".to_owned()), "PATH");
    }
}
