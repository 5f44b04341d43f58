//! The output of the demo.

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use common::DataVersion;
use indicatif::{HumanBytes, HumanCount};

use crate::say;

/// Prints the heading of the next step.
pub fn step(title: &str) {
    static STEP: AtomicU32 = AtomicU32::new(1);
    say!("\n{}. {title}", STEP.fetch_add(1, Ordering::Relaxed));
}

/// The durations of one kind of step.
#[derive(Default)]
pub struct Timing {
    each: Vec<Duration>,
}

impl Timing {
    /// Adds a duration.
    pub fn add(&mut self, elapsed: Duration) {
        self.each.push(elapsed);
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.each.len() as u64
    }

    /// A percentile of the durations.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.each.clone();
        sorted.sort();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
    }

    /// Prints the median and the 99th percentile.
    pub fn print(&self, label: &str) {
        for (percent, name) in [(50, "p50"), (99, "p99")] {
            if let Some(elapsed) = self.percentile(percent) {
                let label = format!("{label} ({name} of {})", HumanCount(self.count()));
                say!("   {label:<44} {:8.2} ms", elapsed.as_secs_f64() * 1e3);
            }
        }
    }
}

/// Prints what `ls` would show of the mount, as read through it.
pub fn print_tree(root: &Path, newest: DataVersion) -> anyhow::Result<()> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(root.join("versions")).context("cannot list the versions")? {
        versions.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let target = fs::read_link(root.join("latest")).context("cannot read the link latest")?;
    say!("   {}", root.display());
    say!("   ├── README");
    say!("   ├── latest -> {}", target.display());
    let first = versions.first().map_or("", String::as_str);
    say!("   ├── versions/   {} of them, from {first} to {newest}", HumanCount(versions.len() as u64));
    say!("   │   └── {newest}/");
    let files = ["lightningd.sqlite3", "changes.sql", "info.json"];
    for (index, name) in files.into_iter().enumerate() {
        let branch = if index + 1 == files.len() { "└──" } else { "├──" };
        let size = root.join("versions").join(newest.to_string()).join(name).metadata()?.size();
        say!("   │       {branch} {name:<20} {:>10}", HumanBytes(size).to_string());
    }
    say!("   └── by-time/");
    let mut directory = root.join("by-time");
    // Down into the last year, month, day and hour, to the last link.
    for depth in 1.. {
        let Some(last) = fs::read_dir(&directory)?.last().transpose()? else { break };
        let name = last.file_name();
        directory.push(&name);
        let indent = "    ".repeat(depth);
        match fs::read_link(&directory) {
            Ok(target) => {
                say!("   {indent}└── {} -> {}", name.to_string_lossy(), target.display());
                break;
            }
            Err(_) => say!("   {indent}└── {}/", name.to_string_lossy()),
        }
    }
    Ok(())
}

/// Whether two files have the same content.
pub fn same_bytes(one: &Path, other: &Path) -> anyhow::Result<bool> {
    let open = |path: &Path| {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        anyhow::Ok(BufReader::with_capacity(1 << 16, file).bytes())
    };
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (left, right) if left == right => {}
            _ => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn percentiles_are_of_the_times_that_were_added() {
        let mut timing = Timing::default();
        assert_eq!(timing.percentile(50), None);
        for ms in (1..=100).rev() {
            timing.add(Duration::from_millis(ms));
        }
        assert_eq!(timing.percentile(50), Some(Duration::from_millis(51)));
        assert_eq!(timing.percentile(99), Some(Duration::from_millis(100)));
    }

    #[test]
    fn files_are_the_same_only_to_the_last_byte() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::write(&one, "abc")?;
        for (text, same) in [("abc", true), ("abd", false), ("ab", false), ("abcd", false)] {
            fs::write(&other, text)?;
            assert_eq!(same_bytes(&one, &other).unwrap(), same, "{text}");
        }
        Ok(())
    }
}
