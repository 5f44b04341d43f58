//! [`Rehearsals`]: restores of a copy that `backup.lock` asks for, rehearsed beside shipping.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{
    Backup, BackupUrl, KeepSpan, OffsiteEntry, OffsiteRehearsal, Source, Timestamp, offsite_directory, with_causes,
};
use offsite::copy::CopyDirectory;
use offsite::copy::chunks::Chunks;
use offsite::copy::contents::UseOfCatalogs;
use offsite::keys::key_ring::KeyRing;
use offsite::store::Store;

use crate::restore::rehearsal::{RehearsalError, Rehearsed, rehearse};

/// Interval of the checks whether a rehearsal is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The pause after a failed rehearsal, if the interval is not shorter.
const AFTER_FAILURE: Duration = Duration::from_secs(24 * 60 * 60);

/// A copy and what opens it.
#[derive(Debug, Clone)]
pub(super) struct ReadCopy {
    pub(super) store: Arc<dyn Store>,
    /// The keys, unless the copy is not encrypted.
    pub(super) keys: Option<KeyRing>,
}

/// Rehearses a restore from the copy in a store, and notes the outcome. Nothing that an earlier process kept of the copy is used.
///
/// # Errors
/// When the copy cannot be opened, as text; otherwise as [`rehearse`].
pub(super) fn rehearse_and_note(
    copy: ReadCopy,
    url: &str,
    backup: &Arc<Backup>,
    lightning_dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rehearsed, RehearsalFailure> {
    let attempted = Timestamp::now();
    let opened = CopyDirectory::open(Arc::new(Chunks::new(copy.store, copy.keys, None)), UseOfCatalogs::Ignored);
    let rehearsed = opened.map_err(|error| RehearsalFailure::NotOpened(with_causes(&error))).and_then(|directory| {
        let copy = Source::new(url.to_owned(), Arc::new(directory));
        rehearse(&copy, backup, &offsite_directory(lightning_dir), progress).map_err(RehearsalFailure::Failed)
    });
    let outcome = match &rehearsed {
        Ok(rehearsed) => Ok(rehearsed.data_version),
        Err(error) => Err(with_causes(error)),
    };
    if let Err(error) = OffsiteRehearsal::note(lightning_dir, url, attempted, outcome) {
        log::warn!("the outcome of the rehearsal cannot be noted: {error}");
    }
    rehearsed
}

/// Why a restore from a copy was not rehearsed with success.
#[derive(Debug, thiserror::Error)]
pub(super) enum RehearsalFailure {
    /// The copy cannot be opened.
    #[error("{0}")]
    NotOpened(String),
    /// The rehearsal failed.
    #[error(transparent)]
    Failed(#[from] RehearsalError),
}

/// The rehearsals of one copy.
#[derive(Debug)]
pub(super) struct Rehearsals {
    copy: ReadCopy,
    url: String,
    every: Option<KeepSpan>,
    looked: Option<Instant>,
    running: Option<JoinHandle<()>>,
}

impl Rehearsals {
    pub(super) fn of(entry: &OffsiteEntry, copy: ReadCopy) -> Self {
        // What a node may only write it cannot read.
        let every = entry.rehearse.filter(|_| entry.recipients.is_empty());
        Self { copy, url: entry.url.clone(), every, looked: None, running: None }
    }

    /// Starts a rehearsal in a thread of its own, if one is due and none is running.
    pub(super) fn start_if_due(&mut self, backup: &BackupUrl, lightning_dir: &Path) {
        let Some(every) = self.every else { return };
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            return;
        }
        self.looked = Some(Instant::now());
        if self.running.as_ref().is_some_and(|running| !running.is_finished())
            || !is_due(OffsiteRehearsal::read(lightning_dir, &self.url), every, Timestamp::now())
        {
            return;
        }
        let (copy, url) = (self.copy.clone(), self.url.clone());
        let (backup, lightning_dir) = (backup.clone(), lightning_dir.to_owned());
        let rehearsing = move || {
            let rehearsed = Backup::open(&backup).map_err(|error| with_causes(&error)).and_then(|backup| {
                let rehearsed = rehearse_and_note(copy, &url, &Arc::new(backup), &lightning_dir, &mut |_, _| {});
                rehearsed.map_err(|error| with_causes(&error))
            });
            match rehearsed {
                Ok(rehearsed) => log::info!(
                    "{url}: a restore of version {} was rehearsed in {} s",
                    rehearsed.data_version,
                    rehearsed.duration.as_secs()
                ),
                Err(error) => log::error!("{url}: the rehearsal of a restore has FAILED: {error}"),
            }
        };
        match thread::Builder::new().name("rehearsal".to_owned()).spawn(rehearsing) {
            Ok(running) => self.running = Some(running),
            Err(error) => log::warn!("a restore is not rehearsed now: {error}"),
        }
    }
}

/// Whether a rehearsal is due: after the interval, or a day after a failure if that is earlier. A clock that was set back does not put
/// it off.
fn is_due(last: Option<OffsiteRehearsal>, every: KeepSpan, now: Timestamp) -> bool {
    let Some(last) = last else { return true };
    let pause = if last.error.is_some() { every.duration().min(AFTER_FAILURE) } else { every.duration() };
    let since = now.as_micros().saturating_sub(last.attempted);
    since < 0 || u64::try_from(since).is_ok_and(|since| Duration::from_micros(since) >= pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsal_is_due_after_the_interval_and_sooner_after_a_failure() {
        let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
        let hours_ago = |hours: i64, error: Option<&str>| {
            let attempted = now.as_micros() - hours * 3_600_000_000;
            Some(OffsiteRehearsal { attempted, error: error.map(str::to_owned), ..OffsiteRehearsal::default() })
        };
        let every = "30d".parse().unwrap();
        assert!(is_due(None, every, now));
        assert!(!is_due(hours_ago(30 * 24 - 1, None), every, now));
        assert!(is_due(hours_ago(30 * 24, None), every, now));
        assert!(!is_due(hours_ago(23, Some("x")), every, now));
        assert!(is_due(hours_ago(24, Some("x")), every, now));
        assert!(is_due(hours_ago(1, Some("x")), "1h".parse().unwrap(), now));
        // The clock was ahead when that was noted.
        assert!(is_due(hours_ago(-1, None), every, now));
    }
}
