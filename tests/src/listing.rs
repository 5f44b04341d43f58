//! What `backupfs versions --json` says, checked for form.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::cli;

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It can be restored.
    Recorded,
    /// It was reported and never committed.
    Rewound,
    /// A snapshot of the same version took its place.
    Replaced,
    /// It cannot be opened.
    Unreadable,
    /// It was committed and never reported.
    Missing,
}

/// One version, or one attempt at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// CLN's number.
    pub data_version: u32,
    /// The number of the record; none for a missing version.
    pub seq: Option<u64>,
    /// What became of it.
    pub status: Status,
}

/// All lines of `backupfs versions --json`, with these further arguments.
pub fn versions(backup: &Path, arguments: &[&str]) -> Vec<Listed> {
    let mut all: Vec<&OsStr> = vec!["versions".as_ref(), backup.as_os_str(), "--json".as_ref()];
    all.extend(arguments.iter().map(OsStr::new));
    let ran = cli::backupfs(&all).expect_done("backupfs versions");
    ran.json_lines().iter().map(listed).collect()
}

/// The versions with this status, in the order listed.
pub fn with_status(listed: &[Listed], status: Status) -> Vec<u32> {
    listed.iter().filter(|version| version.status == status).map(|version| version.data_version).collect()
}

fn listed(line: &Value) -> Listed {
    let status = match line["status"].as_str() {
        Some("recorded") => Status::Recorded,
        Some("rewound") => Status::Rewound,
        Some("replaced") => Status::Replaced,
        Some("unreadable") => Status::Unreadable,
        Some("missing") => Status::Missing,
        other => panic!("status {other:?} in {line}"),
    };
    for field in ["data_version", "seq", "recorded_at"] {
        assert!(line.get(field).is_some(), "every line has {field}: {line}");
    }
    match line["recorded_at"].as_str() {
        Some(at) => assert!(at.ends_with('Z') && at.parse::<jiff::Timestamp>().is_ok(), "not RFC 3339, UTC: {line}"),
        // Nobody knows when a version was committed that was never reported.
        None => assert!(line["recorded_at"].is_null() && status == Status::Missing, "no recorded_at in {line}"),
    }
    let data_version = line["data_version"].as_u64().and_then(|version| version.try_into().ok());
    let data_version = data_version.unwrap_or_else(|| panic!("no data_version in {line}"));
    let seq = line["seq"].as_u64();
    assert!(seq.is_some() || status == Status::Missing, "no seq in {line}");
    Listed { data_version, seq, status }
}
