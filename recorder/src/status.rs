//! [`Status`]: the state of the recorder, and the answer of `backup-status`.
//!
//! The thread that answers `db_write` stores a few numbers here, under a lock that is never held across I/O. Everything that
//! costs more is computed when `backup-status` is called.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use common::{
    Backup, DataVersion, DatabaseDamage, FreeSpace, OffsiteEntry, OffsiteStatus, Progress, Recorded, ReplayCheck, Seq,
    SpooledChanges, StatusFields, Timestamp, UnsealedChanges,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::compacting::Compactions;
use crate::destination_probe::Probes;
use crate::holding::Holding;
use crate::latency::{Latency, LatencyFigures};
use crate::scrub_state::Scrubs;
use crate::stalls::{Stall, Stalls};

pub use common::NewestVersion as Newest;

/// The state of the recorder, shared by its threads.
#[derive(Debug, Default)]
pub struct Status {
    known: Mutex<Known>,
    latency: Latency,
    compactions: Compactions,
    scrubs: Scrubs,
    /// The lightning-dir, and the off-site copies.
    offsite: OnceLock<(PathBuf, Vec<OffsiteEntry>)>,
    /// Those of them that answers wait for. They know this status, so it does not keep them.
    holding: OnceLock<Weak<Holding>>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    destination: Option<DestinationStatus>,
    probes: Probes,
    newest: Option<Newest>,
    unsealed: Option<UnsealedChanges>,
    last_problem: Option<Problem>,
    progress: Progress,
    replay_problem: Option<String>,
    database_damage: Option<DatabaseDamage>,
    sealing_problem: Option<String>,
    stalls: Stalls,
    spool: Option<Spool>,
}

/// The spool that changes go to while the backup is out of reach.
#[derive(Debug, Clone)]
struct Spool {
    /// The URL of the backup that is behind.
    url: String,
    path: PathBuf,
    spooled: SpooledChanges,
    problem: Option<String>,
}

/// The backup that is open.
#[derive(Debug, Clone)]
pub struct DestinationStatus {
    /// The URL of the backup.
    pub url: String,
    /// The backup, for reading its sizes.
    pub backup: Arc<Backup>,
}

#[derive(Debug, Clone)]
struct Problem {
    text: String,
    at: Timestamp,
}

/// The answer of `backup-status`, in JSON.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    fields: StatusFields,
    latency_us: LatencyFigures,
    spool: Option<Value>,
    compaction: Value,
    sealing: Value,
    scrub: Value,
    stalls: Value,
    offsite: Vec<OffsiteStatus>,
    last_problem: Option<Value>,
    recorder_version: &'static str,
}

impl Status {
    /// There are off-site copies.
    pub fn set_offsite(&self, lightning_dir: &Path, copies: Vec<OffsiteEntry>) {
        // Set once, at the start.
        let _: Result<(), _> = self.offsite.set((lightning_dir.to_owned(), copies));
    }

    /// Answers wait for some of the off-site copies.
    pub fn set_holding(&self, holding: &Arc<Holding>) {
        // Set once, at the start.
        let _: Result<(), _> = self.holding.set(Arc::downgrade(holding));
    }

    /// The backup was opened. `unsealed` is the number of unsealed changes in it, if they were counted.
    pub fn opened(&self, destination: DestinationStatus, newest: Option<Newest>, unsealed: Option<UnsealedChanges>) {
        let mut known = self.known();
        known.destination = Some(destination);
        // A probe that hangs belongs to the earlier destination.
        known.probes = Probes::default();
        known.newest = newest;
        if unsealed.is_some() {
            known.unsealed = unsealed;
        }
    }

    /// A write is durable; `recorded` is its outcome.
    pub fn recorded(&self, newest: Option<Newest>, recorded: Option<Recorded>) {
        let mut known = self.known();
        known.newest = newest;
        if let (Some(unsealed), Some(newest), Some(recorded)) = (&mut known.unsealed, newest, recorded) {
            unsealed.recorded(newest.seq, recorded);
        }
    }

    /// The state of compactions.
    pub fn compactions(&self) -> &Compactions {
        &self.compactions
    }

    /// Seq of the newest change that is durable in the backup; `None` when it is not known, or changes go to a spool.
    pub fn newest_seq(&self) -> Option<Seq> {
        let known = self.known();
        known.newest.filter(|_| known.spool.is_none()).map(|newest| newest.seq)
    }

    /// The state of scrubbing.
    pub fn scrubs(&self) -> &Scrubs {
        &self.scrubs
    }

    /// The URL of the backup, if it is open and changes go there.
    pub fn backup_at_hand(&self) -> Option<String> {
        let known = self.known();
        known.destination.as_ref().filter(|_| known.spool.is_none()).map(|destination| destination.url.clone())
    }

    /// A write was answered with "continue", this long after it had been read. Called by the thread that answers only.
    pub fn answered(&self, took: Duration) {
        self.latency.add(took);
    }

    /// Changes go to a spool, not to the backup.
    pub fn spooled(&self, url: &str, path: &Path, spooled: SpooledChanges) {
        let mut known = self.known();
        match &mut known.spool {
            Some(spool) => spool.spooled = spooled,
            none => *none = Some(Spool { url: url.to_owned(), path: path.to_owned(), spooled, problem: None }),
        }
    }

    /// The spool is drained: the backup has all changes.
    pub fn spool_drained(&self) {
        self.known().spool = None;
    }

    /// Sets the reason why the spool is not drained.
    pub fn spool_problem(&self, text: String) {
        if let Some(spool) = &mut self.known().spool {
            spool.problem = Some(text);
        }
    }

    /// Sets `last_problem`, which stays until the next problem.
    pub fn problem(&self, text: String) {
        self.known().last_problem = Some(Problem { text, at: Timestamp::now() });
    }

    /// Sets the progress of replaying and sealing.
    pub fn sealed(&self, progress: Progress) {
        let mut known = self.known();
        known.progress = progress;
        if let (Some(unsealed), Some(through)) = (&mut known.unsealed, progress.sealed_through) {
            unsealed.sealed(through);
        }
    }

    /// Sets the damage of the node's own database, if there is any.
    pub fn database_damage(&self, damage: Option<DatabaseDamage>) {
        self.known().database_damage = damage;
    }

    /// Replaying and sealing work (again): clears their problems.
    pub fn sealing_is_well(&self) {
        let mut known = self.known();
        (known.replay_problem, known.sealing_problem) = (None, None);
    }

    /// Sets the problem that recorded changes do not replay, or cannot be read back.
    pub fn replay_problem(&self, text: String) {
        let mut known = self.known();
        known.replay_problem = Some(text.clone());
        known.last_problem = Some(Problem { text, at: Timestamp::now() });
    }

    /// Sets the problem that finished logs cannot be sealed now, for a reason outside of the backup.
    pub fn sealing_problem(&self, text: String) {
        let mut known = self.known();
        known.sealing_problem = Some(text.clone());
        known.last_problem = Some(Problem { text, at: Timestamp::now() });
    }

    /// Records that `lightningd` waits, or has waited, for long.
    pub fn stall(&self, stall: Stall) {
        self.known().stalls.note(stall);
    }

    /// The answer of `backup-status`. Fields are only ever added.
    pub fn to_json(&self) -> Value {
        let known = self.known().clone();
        let mut fields = StatusFields::new();
        if let Some(newest) = &known.newest {
            fields.set_newest(newest);
        }
        if let Some(unsealed) = &known.unsealed {
            fields.set_unsealed(unsealed);
        }
        // What is sealed was replayed by the run that sealed it.
        let sealed = known.unsealed.as_ref().and_then(UnsealedChanges::sealed_through);
        let replayed_through = known.progress.replayed_through.or(sealed.and_then(|sealed| sealed.data_version));
        fields.replay = ReplayCheck::new(replayed_through, known.replay_problem);
        fields.database_damage = known.database_damage;
        let spool = known.spool.as_ref();
        fields.destination = spool.map(|spool| spool.url.clone());
        // A backup that is out of reach is not asked while changes go to a spool.
        if let Some(destination) = known.destination.filter(|_| spool.is_none()) {
            let found = known.probes.probe(&destination.backup);
            if let Some(bytes) = found.bytes {
                fields.set_bytes(bytes);
            }
            fields.free_bytes = found.free_bytes;
            fields.bytes_problem = found.problem;
            fields.destination = Some(destination.url);
        }
        let last_problem = known.last_problem;
        let newest = known.newest.map(|newest| newest.seq.get());
        let offsite = self.offsite.get().map(|(dir, entries)| OffsiteStatus::of_all(dir, entries, newest));
        let mut offsite = offsite.unwrap_or_default();
        if let Some(holding) = self.holding.get().and_then(Weak::upgrade) {
            offsite.iter_mut().for_each(|copy| copy.wait = holding.status_of(&copy.url));
        }
        json!(Answer {
            fields,
            latency_us: self.latency.figures(),
            spool: spool.map(Spool::to_json),
            compaction: self.compactions.to_json(),
            sealing: json!({"problem": known.sealing_problem}),
            scrub: self.scrubs.to_json(),
            stalls: known.stalls.to_json(),
            offsite,
            last_problem: last_problem.map(|problem| json!({"text": problem.text, "at": problem.at.to_string()})),
            recorder_version: env!("CARGO_PKG_VERSION"),
        })
    }

    /// The directory that changes go to now: the spool or the backup. Its disk is watched; what is out of reach is left out.
    pub fn directories(&self) -> Vec<PathBuf> {
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
    use common::{BackupUrl, DataVersion, SealedThrough, Seq, create_backup};

    use super::*;

    #[test]
    fn a_recorder_that_has_not_opened_its_backup_answers_all_the_same() {
        let status = Status::default();
        status.problem("no backup.lock".to_owned());
        let answer = status.to_json();
        let unknown = [
            "data_version",
            "seq",
            "recorded_at",
            "destination",
            "bytes",
            "bytes_by_kind",
            "free_bytes",
            "spool",
            "unsealed_changes",
            "sealed_through",
            "sealed_through_seq",
        ];
        for key in unknown {
            assert_eq!(answer.get(key), Some(&Value::Null), "{key}");
        }
        assert_eq!(answer["last_problem"]["text"], "no backup.lock");
        assert!(answer["last_problem"]["at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            answer["replay"],
            json!({"through": null, "text": "no change has been replayed yet", "problem": null})
        );
        assert_eq!(answer["latency_us"], json!({"p50": null, "p99": null, "worst": null, "answers": 0}));
        assert_eq!(answer["recorder_version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn it_reports_what_is_recorded_and_keeps_the_last_problem() {
        let status = Status::default();
        let newest = |number: u32| Newest {
            data_version: DataVersion::new(number),
            seq: Seq::new(u64::from(number) + 1).unwrap(),
            recorded_at: Timestamp::from_micros(1_795_326_225_000_001).unwrap(),
        };
        status.recorded(Some(newest(7)), Some(Recorded::Appended));
        status.replay_problem("version 7 does not replay".to_owned());
        let answer = status.to_json();
        assert_eq!(answer["data_version"], 7);
        assert_eq!(answer["seq"], 8);
        assert_eq!(answer["recorded_at"], newest(7).recorded_at.to_string());
        assert_eq!(answer["last_problem"]["text"], "version 7 does not replay");
        assert_eq!(answer["replay"]["problem"], "version 7 does not replay");
        status.sealed(Progress { replayed_through: Some(DataVersion::new(7)), ..Progress::default() });
        assert_eq!(status.to_json()["replay"]["problem"], "version 7 does not replay", "until sealing works again");
        status.sealing_is_well();
        let answer = status.to_json();
        let text = "every change up to version 7 has been replayed";
        assert_eq!(answer["replay"], json!({"through": 7, "text": text, "problem": null}));
        assert_eq!(answer["last_problem"]["text"], "version 7 does not replay", "what happened is not forgotten");
        // A problem of sealing is no problem of the recorded changes.
        status.sealing_problem("the disk is full".to_owned());
        let answer = status.to_json();
        assert_eq!(
            (&answer["replay"]["problem"], &answer["sealing"]["problem"]),
            (&Value::Null, &json!("the disk is full"))
        );
        assert_eq!(answer["last_problem"]["text"], "the disk is full");
        status.sealing_is_well();
        assert_eq!(status.to_json()["sealing"], json!({"problem": null}));
    }

    #[test]
    fn it_reports_what_is_sealed_and_what_is_not_and_the_free_space() {
        let dir = tempfile::tempdir().unwrap();
        let url: BackupUrl = dir.path().join("node.bkp").to_str().unwrap().parse().unwrap();
        create_backup(&url, None, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let backup = Arc::new(Backup::open(&url).unwrap());
        let seq = |number| Seq::new(number).unwrap();
        let status = Status::default();
        let destination = DestinationStatus { url: url.to_string(), backup };
        status.opened(destination, None, Some(UnsealedChanges::default()));
        for number in 1..=10 {
            let recorded_at = Timestamp::now();
            let newest = Newest { data_version: DataVersion::new(number), seq: seq(number.into()), recorded_at };
            status.answered(Duration::from_micros(number.into()));
            status.recorded(Some(newest), Some(Recorded::Appended));
        }
        let through = SealedThrough { seq: seq(4), data_version: Some(DataVersion::new(4)) };
        status.sealed(Progress { sealed_through: Some(through), ..Progress::default() });
        let answer = status.to_json();
        assert_eq!((&answer["unsealed_changes"], &answer["data_version"]), (&json!(6), &json!(10)));
        assert_eq!((&answer["sealed_through"], &answer["sealed_through_seq"]), (&json!(4), &json!(4)));
        assert_eq!(answer["replay"]["through"], 4, "what is sealed was replayed");
        assert_eq!(answer["latency_us"], json!({"p50": 5, "p99": 10, "worst": 10, "answers": 10}));
        assert!(answer["free_bytes"].as_u64().unwrap() > 0);
        let kinds = answer["bytes_by_kind"].as_object().unwrap();
        assert_eq!(answer["bytes"], kinds.values().map(|bytes| bytes.as_u64().unwrap()).sum::<u64>());
        assert!(kinds["logs"].as_u64().unwrap() > 0 && answer.get("bytes_problem").is_none());
        std::fs::remove_dir_all(url.path()).unwrap();
        let answer = status.to_json();
        assert_eq!((&answer["bytes"], &answer["data_version"]), (&Value::Null, &json!(10)));
        assert!(answer["bytes_problem"].as_str().unwrap().contains("node.bkp"), "{answer}");
    }
}
