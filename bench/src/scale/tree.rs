//! How long the directories of a mount take to list: beside plain directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use super::measured::{Compared, Subject, millis, summary, timed, within};

/// Number of times that a listing and a link are read.
const LISTINGS: usize = 3;
const LINKS: usize = 1000;

/// Directories whose attributes and files are asked for: for each the kernel keeps some kilobytes.
const ENTERED_MAX: u64 = 2_000_000;

/// Names in the plain directory; more would take longer to make than they say.
const PLAIN_NAMES_MAX: u64 = 100_000;

/// Directories in it that have files.
const FULL_NAMES_MAX: u64 = 30_000;

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct TreeReport {
    /// `ls -U versions/`, first and again, in milliseconds.
    pub listing_first_ms: f64,
    /// Again.
    pub listing_again_ms: f64,
    /// The names it printed.
    pub names: u64,
    /// `ls -U` of a plain directory with directories, in milliseconds.
    pub plain_listing_ms: f64,
    /// `ls -l` of it, in milliseconds.
    pub plain_long_listing_ms: f64,
    /// The names in that.
    pub plain_names: u64,
    /// `ls -l versions/`, then `du -s versions/`, which looks into every directory, first and again, in milliseconds; `None`
    /// where there are too many.
    pub entered_ms: Option<[f64; 3]>,
    /// `du -s` of a plain directory with directories of as many files as a version has, again, in milliseconds.
    pub plain_disk_usage_ms: f64,
    /// The directories in that.
    pub plain_full_names: u64,
    /// `readlink latest`, beside a plain link.
    pub readlink: Compared,
}

/// Measures it.
pub fn measure(subject: &Subject) -> anyhow::Result<TreeReport> {
    let (mounted, _) = subject.mount()?;
    let (mut listings, mut names) = (Vec::new(), 0);
    for _ in 0..LISTINGS {
        let (took, counted) = list("-U", &mounted.join("versions"))?;
        listings.push(took);
        names = counted;
    }
    ensure!(names == subject.made.versions(), "{names} versions are listed of {}", subject.made.versions());
    let disk_usage = |directory: &Path| Ok::<_, anyhow::Error>(timed(Command::new("du").arg("-s").arg(directory))?.0);
    let entered = if names <= ENTERED_MAX {
        let versions = mounted.join("versions");
        Some([list("-l", &versions)?.0, disk_usage(&versions)?, disk_usage(&versions)?].map(millis))
    } else {
        eprintln!("SKIPPED: ls -l and du of more than {ENTERED_MAX} directories");
        None
    };
    let scratch = subject.dir.scratch()?;
    let plain = within(&scratch, "plain");
    fs::create_dir(&plain)?;
    let plain_names = subject.made.versions().min(PLAIN_NAMES_MAX);
    for name in 0..plain_names {
        fs::create_dir(plain.join(name.to_string()))?;
    }
    let plain_listings = (0..LISTINGS).map(|_| Ok(list("-U", &plain)?.0)).collect::<anyhow::Result<Vec<_>>>()?;

    let plain_long_listing = list("-l", &plain)?.0;
    let full = within(&scratch, "full");
    let plain_full_names = plain_names.min(FULL_NAMES_MAX);
    for name in 0..plain_full_names {
        let directory = full.join(name.to_string());
        fs::create_dir_all(&directory)?;
        for file in ["lightningd.sqlite3", "changes.sql", "info.json"] {
            fs::write(directory.join(file), "")?;
        }
    }
    disk_usage(&full)?;
    let plain_disk_usage = disk_usage(&full)?;
    let plain_link = within(&scratch, "latest");
    symlink("versions/1", &plain_link)?;
    let (mut links, mut plain_links) = (Vec::new(), Vec::new());
    let newest = Path::new("versions").join(subject.made.newest_version().to_string());
    for _ in 0..LINKS {
        for (link, samples) in [(&mounted.join("latest"), &mut links), (&plain_link, &mut plain_links)] {
            let started = Instant::now();
            let to = fs::read_link(link)?;
            samples.push(started.elapsed());
            ensure!(link == &plain_link || to == newest, "latest leads to {}", to.display());
        }
    }
    let least = |samples: &[Duration]| samples.iter().min().copied().map_or(f64::NAN, millis);
    Ok(TreeReport {
        listing_first_ms: millis(listings[0]),
        listing_again_ms: least(&listings[1..]),
        names,
        plain_listing_ms: least(&plain_listings),
        plain_long_listing_ms: millis(plain_long_listing),
        entered_ms: entered,
        plain_disk_usage_ms: millis(plain_disk_usage),
        plain_full_names,
        plain_names,
        readlink: Compared { figure: summary(links)?, yardstick: summary(plain_links)? },
    })
}

/// `ls` with an option, and how many lines it prints.
fn list(option: &str, directory: &Path) -> anyhow::Result<(Duration, u64)> {
    let (took, names) = timed(Command::new("ls").arg(option).arg(directory))?;
    Ok((took, names.iter().filter(|&&byte| byte == b'\n').count() as u64))
}
