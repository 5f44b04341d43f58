//! What the recorder knows of itself, and the answer of `backup-status`.
//!
//! The thread that answers `db_write` leaves a few numbers here behind a lock that is never held across I/O; whatever
//! costs more is found out by the one who asks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{Backup, DataVersion, Progress, Seq, SpooledChanges, Timestamp};
use serde_json::{Value, json};

use crate::causes::with_causes;
use crate::free_space::FreeSpace;

/// Shared by the threads of the recorder.
#[derive(Debug, Default)]
pub struct Status {
    known: Mutex<Known>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    destination: Option<Destination>,
    newest: Option<Newest>,
    last_problem: Option<Problem>,
    progress: Progress,
    replay_problem: Option<String>,
    spool: Option<Spool>,
}

/// The spool that changes go to.
#[derive(Debug, Clone)]
struct Spool {
    /// The URL of the backup that is behind.
    url: String,
    path: PathBuf,
    spooled: SpooledChanges,
    problem: Option<String>,
}

/// Where the backup is.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The URL of the backup.
    pub url: String,
    /// The backup itself.
    pub backup: Arc<Backup>,
}

/// The newest version that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Its number in the node's database.
    pub data_version: DataVersion,
    /// Its place in the backup.
    pub seq: Seq,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

#[derive(Debug, Clone)]
struct Problem {
    text: String,
    at: Timestamp,
}

impl Status {
    /// The backup is open.
    pub fn opened(&self, destination: Destination, newest: Option<Newest>) {
        let mut known = self.known();
        known.destination = Some(destination);
        known.newest = newest;
    }

    /// A write is durable.
    pub fn recorded(&self, newest: Option<Newest>) {
        self.known().newest = newest;
    }

    /// What is recorded is in a spool, and not in the backup.
    pub fn spooled(&self, url: &str, path: &Path, spooled: SpooledChanges) {
        let mut known = self.known();
        match &mut known.spool {
            Some(spool) => spool.spooled = spooled,
            none => *none = Some(Spool { url: url.to_owned(), path: path.to_owned(), spooled, problem: None }),
        }
    }

    /// The backup has everything.
    pub fn spool_drained(&self) {
        self.known().spool = None;
    }

    /// Why the spool is not drained now.
    pub fn spool_problem(&self, text: String) {
        if let Some(spool) = &mut self.known().spool {
            spool.problem = Some(text);
        }
    }

    /// Something went wrong; it stays until something else does.
    pub fn problem(&self, text: String) {
        self.known().last_problem = Some(Problem { text, at: Timestamp::now() });
    }

    /// How far replaying and sealing have come.
    pub fn sealed(&self, progress: Progress) {
        self.known().progress = progress;
    }

    /// Nothing is wrong with replaying and sealing (any more).
    pub fn replay_is_well(&self) {
        self.known().replay_problem = None;
    }

    /// What is recorded does not replay, or cannot be sealed.
    pub fn replay_problem(&self, text: String) {
        let mut known = self.known();
        known.replay_problem = Some(text.clone());
        known.last_problem = Some(Problem { text, at: Timestamp::now() });
    }

    /// The answer of `backup-status`. Fields are only ever added.
    pub fn to_json(&self) -> Value {
        let known = self.known().clone();
        // A backup that is out of reach may keep a call for ever.
        let reachable = known.destination.as_ref().filter(|_| known.spool.is_none());
        let (bytes, bytes_problem) = match reachable.map(|place| place.backup.read_bytes()) {
            Some(Ok(bytes)) => (Some(bytes), None),
            Some(Err(error)) => (None, Some(with_causes(&error))),
            None => (None, None),
        };
        let spool_url = known.spool.as_ref().map(|spool| &spool.url);
        let url = known.destination.as_ref().map(|place| &place.url).or(spool_url);
        let free_bytes = reachable.and_then(|place| FreeSpace::at(place.backup.path()).ok()).map(|free| free.bytes);
        let mut answer = json!({
            "data_version": known.newest.map(|newest| newest.data_version.get()),
            "seq": known.newest.map(|newest| newest.seq.get()),
            "recorded_at": known.newest.map(|newest| newest.recorded_at.to_string()),
            "destination": url,
            "bytes": bytes,
            "free_bytes": free_bytes,
            "spool": known.spool.as_ref().map(Spool::to_json),
            "last_problem": known.last_problem.map(|problem| json!({
                "text": problem.text,
                "at": problem.at.to_string(),
            })),
            "replay": {
                "through": known.progress.replayed_through.map(DataVersion::get),
                "problem": known.replay_problem,
            },
            "sealed_through_seq": known.progress.sealed_through.map(Seq::get),
            "recorder_version": env!("CARGO_PKG_VERSION"),
            "format": common::format::FORMAT_VERSION,
        });
        if let Some(problem) = bytes_problem {
            answer["bytes_problem"] = problem.into();
        }
        answer
    }

    /// Where the backup and the spool are, for whoever looks how full their disks are: what is out of reach is left out.
    pub fn places(&self) -> Vec<PathBuf> {
        let known = self.known();
        match (&known.spool, &known.destination) {
            (Some(spool), _) => vec![spool.path.clone()],
            (None, Some(destination)) => vec![destination.backup.path().to_owned()],
            (None, None) => Vec::new(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is a plain assignment, so what a panicking thread left behind is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool {
    fn to_json(&self) -> Value {
        json!({
            "path": self.path,
            "changes": self.spooled.changes,
            "from_version": self.spooled.from_version.map(DataVersion::get),
            "to_version": self.spooled.to_version.map(DataVersion::get),
            "bytes": self.spooled.bytes,
            "since": self.spooled.since.to_string(),
            "free_bytes": FreeSpace::at(&self.path).ok().map(|free| free.bytes),
            "problem": self.problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_that_has_not_opened_its_backup_answers_all_the_same() {
        let status = Status::default();
        status.problem("no backup.lock".to_owned());
        let answer = status.to_json();
        for key in ["data_version", "seq", "recorded_at", "destination", "bytes", "free_bytes", "spool"] {
            assert_eq!(answer.get(key), Some(&Value::Null), "{key}");
        }
        assert_eq!(answer["last_problem"]["text"], "no backup.lock");
        assert!(answer["last_problem"]["at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(answer["replay"], json!({"through": null, "problem": null}));
        assert_eq!(answer["recorder_version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn it_tells_what_is_recorded_and_forgets_no_problem() {
        let status = Status::default();
        let newest = |number: u32| Newest {
            data_version: DataVersion::new(number),
            seq: Seq::new(u64::from(number) + 1).unwrap(),
            recorded_at: Timestamp::from_micros(1_795_326_225_000_001).unwrap(),
        };
        status.recorded(Some(newest(7)));
        status.replay_problem("version 7 does not replay".to_owned());
        let answer = status.to_json();
        assert_eq!(answer["data_version"], 7);
        assert_eq!(answer["seq"], 8);
        assert_eq!(answer["recorded_at"], newest(7).recorded_at.to_string());
        assert_eq!(answer["last_problem"]["text"], "version 7 does not replay");
        assert_eq!(answer["replay"]["problem"], "version 7 does not replay");
        status.sealed(Progress { replayed_through: Some(DataVersion::new(7)), ..Progress::default() });
        assert_eq!(
            status.to_json()["replay"]["problem"],
            "version 7 does not replay",
            "as long as nobody says otherwise"
        );
        status.replay_is_well();
        let answer = status.to_json();
        assert_eq!(answer["replay"], json!({"through": 7, "problem": null}));
        assert_eq!(answer["last_problem"]["text"], "version 7 does not replay", "what happened is not forgotten");
    }
}
