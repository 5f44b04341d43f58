//! [`Scrubs`]: how far the backup was read back, in a small file beside `backup.lock` and in `backup-status`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::scrub::{DamagedRecord, ScrubbedPart};
use common::storage::small_file::{read_small_file, replace_small_file};
use common::{ScrubInterval, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Name of the file in the lightning-dir. It is not synced: what a power cut takes from it is read back once more.
const FILE: &str = "backupfs.scrub";

/// Maximum length of the file in bytes.
const LEN_MAX: u64 = 64 << 10;

/// The pass that is under way: everything is read back once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When it began, in microseconds since 1970.
    began: i64,
    /// Name of the last file that was read; `None` at the beginning.
    through: Option<String>,
    /// Number of bytes that were read.
    bytes: u64,
    /// Length of all files when it began.
    of_bytes: u64,
    healed: u64,
    unhealable: u64,
}

/// The last pass that came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Complete {
    began: i64,
    ended: i64,
    bytes: u64,
    healed: u64,
    unhealable: u64,
}

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// UUID of the backup, as text.
    backup: String,
    pass: Option<Pass>,
    last: Option<Complete>,
    /// Files that were found damaged and are not written anew yet.
    to_mend: BTreeSet<String>,
    /// What parity does not mend, until a pass finds nothing like it.
    file_problem: Option<String>,
}

/// The state of scrubbing, shared by its thread and `backup-status`.
#[derive(Debug, Default)]
pub struct Scrubs {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    interval: ScrubInterval,
    path: Option<PathBuf>,
    saved: Saved,
    /// What is wrong with the logs, until they read well again.
    log_problem: Option<String>,
    /// Why nothing is mended.
    mending_problem: Option<String>,
    /// A damaged record of a log, for the sealing thread.
    damaged: Option<DamagedRecord>,
    /// Whether what an earlier run has found is read again at once: it may have been repaired since.
    is_read_again: bool,
    /// Whether a pass has found nothing since the sealing thread last asked.
    is_all_sound: bool,
}

impl Scrubs {
    /// Sets the interval of `backup.lock`, and where the state is kept.
    pub fn set_interval(&self, interval: ScrubInterval, lightning_dir: &Path) {
        let mut known = self.known();
        (known.interval, known.path) = (interval, Some(lightning_dir.join(FILE)));
    }

    /// The time in which everything is read back; `None` when nothing is.
    pub fn interval(&self) -> Option<Duration> {
        self.known().interval.duration()
    }

    /// Goes on where the last run has ended, if that was with this backup. Returns the files that it has left to be written anew.
    pub fn resume(&self, backup: &str) -> BTreeSet<String> {
        let mut known = self.known();
        let bytes = known.path.as_ref().and_then(|path| read_small_file(path, LEN_MAX).ok());
        let saved: Option<Saved> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let anew = || Saved { backup: backup.to_owned(), ..Saved::default() };
        known.saved = saved.filter(|saved| saved.backup == backup).unwrap_or_else(anew);
        known.is_read_again = known.saved.file_problem.is_some();
        if known.is_read_again {
            known.saved.pass = None;
        }
        known.saved.to_mend.clone()
    }

    /// How long it takes until the next part is due. `None`: a pass has to begin.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let mut known = self.known();
        let interval = known.interval.duration().unwrap_or(Duration::MAX);
        let (now, is_read_again) = (now.as_micros(), known.is_read_again);
        let since = |then: i64| Duration::from_micros(u64::try_from(now.saturating_sub(then)).unwrap_or(0));
        // What began in the future began when the clock was wrong.
        let Saved { pass, last, .. } = &mut known.saved;
        pass.iter_mut().for_each(|pass| pass.began = pass.began.min(now));
        last.iter_mut().for_each(|last| last.began = last.began.min(now));
        match (pass, last) {
            (Some(_), _) if is_read_again => Some(Duration::ZERO),
            (None, _) if is_read_again => None,
            (Some(pass), _) => {
                let share = (pass.bytes as f64 / pass.of_bytes.max(1) as f64).min(1.0);
                Some(interval.mul_f64(share).saturating_sub(since(pass.began)))
            }
            (None, Some(last)) => Some(interval.saturating_sub(since(last.began))).filter(|due| !due.is_zero()),
            (None, None) => None,
        }
    }

    /// A pass begins, over so many bytes.
    pub fn begin(&self, now: Timestamp, of_bytes: u64) {
        let (began, through) = (now.as_micros(), None);
        let pass = Pass { began, through, bytes: 0, of_bytes, healed: 0, unhealable: 0 };
        self.change(|known| known.saved.pass = Some(pass));
    }

    /// Name of the last file that was read in this pass.
    pub fn through(&self) -> Option<String> {
        self.known().saved.pass.as_ref().and_then(|pass| pass.through.clone())
    }

    /// A part was read.
    pub fn read(&self, part: &ScrubbedPart) {
        self.change(|known| {
            let Some(pass) = &mut known.saved.pass else { return };
            pass.through = Some(part.through.clone());
            pass.bytes += part.bytes;
            pass.healed += part.healed.len() as u64;
            pass.unhealable += part.unhealable.len() as u64;
            let names = part.healed.iter().map(|block| block.name.strip_prefix("parity-").unwrap_or(&block.name));
            known.saved.to_mend.extend(names.map(str::to_owned));
        });
    }

    /// Files that are still to be written anew; the others are, or cannot be.
    pub fn still_to_mend(&self, is_left: impl Fn(&str) -> bool) {
        if self.known().saved.to_mend.iter().any(|name| !is_left(name)) {
            self.change(|known| known.saved.to_mend.retain(|name| is_left(name)));
        }
    }

    /// The pass has come to its end. Returns whether it has found nothing that cannot be healed.
    pub fn complete(&self, now: Timestamp) -> bool {
        let mut is_well = true;
        self.change(|known| {
            let Some(Pass { began, bytes, healed, unhealable, .. }) = known.saved.pass.take() else { return };
            known.is_read_again = false;
            is_well = unhealable == 0;
            if is_well {
                known.saved.file_problem = None;
                known.is_all_sound = healed == 0;
            }
            known.saved.last = Some(Complete { began, ended: now.as_micros(), bytes, healed, unhealable });
        });
        is_well
    }

    /// Sets what parity does not mend, until a pass finds nothing like it.
    pub fn file_problem(&self, text: String) {
        self.change(|known| known.saved.file_problem = Some(text));
    }

    /// Sets what is wrong with the logs; `None` when they read well.
    pub fn log_problem(&self, text: Option<String>) {
        self.known().log_problem = text;
    }

    /// Sets why damaged files are not written anew, if they are not.
    pub fn mending_problem(&self, text: Option<String>) {
        self.known().mending_problem = text;
    }

    /// Whether a pass has found nothing since this was last asked.
    pub fn take_all_sound(&self) -> bool {
        std::mem::take(&mut self.known().is_all_sound)
    }

    /// Hands a damaged record to the sealing thread.
    pub fn hand_over(&self, damaged: DamagedRecord) {
        self.known().damaged = Some(damaged);
    }

    /// Takes the damaged record that was handed over last.
    pub fn take_damaged(&self) -> Option<DamagedRecord> {
        self.known().damaged.take()
    }

    /// The value of `scrub` in the answer of `backup-status`.
    pub fn to_json(&self) -> Value {
        let known = self.known();
        let time = |micros: i64| Timestamp::from_micros(micros).map(|time| time.to_string());
        let last = known.saved.last.as_ref();
        let problem =
            known.log_problem.as_ref().or(known.saved.file_problem.as_ref()).or(known.mending_problem.as_ref());
        let pass = known.saved.pass.as_ref().map(|pass| {
            json!({
                "began": time(pass.began),
                "bytes": pass.bytes,
                "of_bytes": pass.of_bytes,
                "healed": pass.healed,
                "unhealable": pass.unhealable,
            })
        });
        json!({
            "every": known.interval.to_string(),
            "last_complete": last.and_then(|last| time(last.ended)),
            "bytes": last.map(|last| last.bytes),
            "healed": last.map(|last| last.healed),
            "unhealable": last.map(|last| last.unhealable),
            "pass": pass,
            "problem": problem,
        })
    }

    /// Changes what is known, and saves it.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known();
        change(&mut known);
        let (path, saved) = (known.path.clone(), known.saved.clone());
        drop(known);
        let Some(path) = path else { return };
        let written =
            serde_json::to_vec(&saved).map_err(Into::into).and_then(|bytes| replace_small_file(&path, &bytes));
        if let Err(error) = written {
            log::debug!("{}: how far the backup was read back is not kept: {error}", path.display());
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is a plain assignment, so what a panicking thread left behind is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn part(through: &str, bytes: u64) -> ScrubbedPart {
        ScrubbedPart { through: through.to_owned(), bytes, ..ScrubbedPart::default() }
    }

    #[test]
    fn parts_are_spread_over_the_interval_and_a_restart_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let scrubs = |backup: &str| {
            let scrubs = Scrubs::default();
            scrubs.set_interval("100s".parse().unwrap(), dir.path());
            scrubs.resume(backup);
            scrubs
        };
        let first = scrubs("a");
        assert_eq!(first.due_in(at(0)), None, "the first pass begins at once");
        first.begin(at(0), 1000);
        assert_eq!(first.due_in(at(0)), Some(Duration::ZERO));
        first.read(&part("manifest", 100));
        assert_eq!(first.due_in(at(0)), Some(Duration::from_secs(10)));
        assert_eq!(first.due_in(at(50)), Some(Duration::ZERO), "it catches up");
        assert_eq!(first.due_in(at(-5000)), Some(Duration::from_secs(10)), "a clock that was set back");
        assert_eq!(first.due_in(at(-4990)), Some(Duration::ZERO), "it counts from there");
        first.begin(at(0), 1000);
        first.read(&part("manifest", 100));
        let again = scrubs("a");
        assert_eq!((again.through().as_deref(), again.due_in(at(4))), (Some("manifest"), Some(Duration::from_secs(6))));
        assert_eq!(scrubs("b").through(), None, "another backup");
        let damaged = common::scrub::DamagedBlock { name: "segment-1".to_owned(), offset: 0 };
        again.read(&ScrubbedPart {
            healed: vec![damaged.clone()],
            unhealable: vec![damaged],
            ..part("segment-1", 2000)
        });
        assert_eq!(again.due_in(at(0)), Some(Duration::from_secs(100)), "it has grown: not later than that");
        again.file_problem("bad".to_owned());
        assert_eq!(scrubs("a").resume("a"), BTreeSet::from(["segment-1".to_owned()]), "it is not written anew yet");
        again.still_to_mend(|_| false);
        assert_eq!(scrubs("a").resume("a"), BTreeSet::new());
        let restarted = scrubs("a");
        assert_eq!(restarted.to_json()["problem"], "bad", "a restart changes nothing");
        assert_eq!(restarted.due_in(at(10)), None, "but everything is read again");
        restarted.begin(at(10), 1000);
        restarted.read(&part("manifest", 900));
        assert_eq!(restarted.due_in(at(10)), Some(Duration::ZERO), "at once");
        assert!(!again.complete(at(60)) && !again.take_all_sound());
        let json = again.to_json();
        assert_eq!((&json["bytes"], &json["healed"], &json["unhealable"]), (&json!(2100), &json!(1), &json!(1)));
        assert_eq!((&json["pass"], &json["problem"]), (&Value::Null, &json!("bad")));
        assert_eq!(json["last_complete"], at(60).to_string());
        assert_eq!(
            again.due_in(at(60)),
            Some(Duration::from_secs(40)),
            "the next pass begins when this one had to end"
        );
        assert_eq!(again.due_in(at(100)), None);
        again.begin(at(100), 1);
        assert!(again.complete(at(101)) && again.to_json()["problem"].is_null());
        assert!(again.take_all_sound() && !again.take_all_sound());
        again.log_problem(Some("worse".to_owned()));
        again.begin(at(200), 1);
        assert!(again.complete(at(201)), "it says nothing about the logs");
        assert_eq!(again.to_json()["problem"], "worse");
    }

    #[test]
    fn a_file_that_is_damaged_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b""[..], b"{", b"null", &[0; 100]] {
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            let scrubs = Scrubs::default();
            scrubs.set_interval(ScrubInterval::default(), dir.path());
            scrubs.resume("a");
            assert_eq!(scrubs.due_in(at(0)), None);
        }
    }
}
