//! What the holder of the lock does for sealed files: parity that is missing is made, and files that were found damaged are written
//! anew. Nothing waits for it: whatever fails is tried again later, and said once.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::backup::Backup;
use crate::parity::code::make_tables;
use crate::parity::sets::not_written;
use crate::parity::writing::Watch;
use crate::repair::{is_sound, remove_kept_of_sound, write_back_healed};
use crate::storage::causes::with_causes;
use format::parity::Protected;
use format::units::Seq;

/// Time until something that has failed is tried again, and the longest such time: each attempt may read and write a lot.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The state of that work.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// Whether there may be files without parity.
    is_parity_due: bool,
    /// Segments that were written and read back by this process.
    fresh: BTreeSet<Seq>,
    /// Whether the work of the start is done: the damaged files that earlier repairs have kept were looked at.
    has_begun: bool,
    parity: Attempts,
    writing_back: Attempts,
}

/// The attempts at something that may fail: each failure is logged once, and delays the next attempt.
#[derive(Debug)]
struct Attempts {
    /// Nothing is tried before.
    not_before: Option<Instant>,
    /// Time until the attempt after the next failure.
    pause: Duration,
    problem: Option<String>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { not_before: None, pause: AGAIN_AFTER, problem: None }
    }
}

impl Attempts {
    fn must_wait(&mut self) -> bool {
        self.not_before.take_if(|until| *until <= Instant::now());
        self.not_before.is_some()
    }

    fn failed(&mut self, problem: &str) {
        self.not_before = Instant::now().checked_add(self.pause);
        self.pause = (self.pause * 2).min(AGAIN_AFTER_MAX);
        if self.problem.as_deref() != Some(problem) {
            log::warn!("{problem}");
            self.problem = Some(problem.to_owned());
        }
    }
}

/// What is to get parity.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// Every file without any.
    All,
    /// A segment that was just sealed; all other files have theirs.
    Sealed(Seq),
}

impl Default for Upkeep {
    fn default() -> Self {
        let [parity, writing_back] = [Attempts::default(), Attempts::default()];
        Self { is_parity_due: true, fresh: BTreeSet::new(), has_begun: false, parity, writing_back }
    }
}

impl Upkeep {
    /// Notes that there may be files without parity.
    pub(super) fn parity_is_due(&mut self) {
        self.is_parity_due = true;
    }

    /// Makes the parity of a segment that was just written and read back.
    pub(super) fn sealed(&mut self, backup: &Backup, first: Seq) {
        self.fresh.insert(first);
        let is_all_else_made = !std::mem::replace(&mut self.is_parity_due, true);
        let made = if is_all_else_made { Made::Sealed(first) } else { Made::All };
        self.make_parity(backup, made, &mut || ControlFlow::Continue(()));
    }

    /// Does whatever is due.
    pub(super) fn go_on(&mut self, backup: &Backup, watch: Watch<'_>) {
        let begins = !std::mem::replace(&mut self.has_begun, true);
        self.make_parity(backup, Made::All, watch);
        if begins {
            if backup.parity().makes_any() {
                make_tables();
            }
            self.remove_kept(backup);
        }
        if self.writing_back.must_wait() || backup.healed().is_empty() {
            return;
        }
        match write_back_healed(backup, watch) {
            Ok(repaired) => {
                for file in &repaired.mended {
                    log::warn!("{} was damaged and is mended; check the disk of the backup", file.name);
                }
                let unmended = repaired.unmended.iter().map(|file| {
                    format!(
                        "{} is damaged at byte {} and cannot be mended by parity; `backupfs verify` says what that costs",
                        file.name, file.offset
                    )
                });
                let problem = unmended.collect::<Vec<_>>().into_iter().next();
                if let Some(problem) = &problem {
                    log::error!("{problem}");
                }
                // It is not tried again before it is read again.
                self.writing_back = Attempts { problem, ..Attempts::default() };
            }
            Err(error) => {
                self.writing_back.failed(&format!("damaged files are not written anew: {}", with_causes(&error)))
            }
        }
    }

    /// What is wrong at the moment.
    pub(super) fn problem(&self) -> Option<&str> {
        self.writing_back.problem.as_deref().or(self.parity.problem.as_deref())
    }

    /// Removes damaged files that were kept, where the mended ones are sound.
    pub(super) fn remove_kept(&mut self, backup: &Backup) {
        if let Err(error) = remove_kept_of_sound(backup) {
            log::warn!("damaged files that were kept are not removed: {error}: {}", error.source);
        }
    }

    fn make_parity(&mut self, backup: &Backup, made: Made, watch: Watch<'_>) {
        if !self.is_parity_due || self.parity.must_wait() {
            return;
        }
        let fresh = &self.fresh;
        let is_sound = |file: Protected| match file {
            Protected::Segment(first) if fresh.contains(&first) => true,
            file => is_sound(backup.directory(), backup.manifest().uuid, file, &file.name(), None).unwrap_or(false),
        };
        let mut parity = backup.parity();
        let made = match made {
            Made::All => parity.complete(&is_sound, watch),
            Made::Sealed(first) => parity.add_sealed(first, &is_sound, watch),
        };
        drop(parity);
        match made {
            Ok(ControlFlow::Continue(())) => {
                self.is_parity_due = false;
                self.fresh.clear();
                self.parity = Attempts::default();
            }
            Ok(ControlFlow::Break(())) => {}
            Err(error) => self.parity.failed(&not_written(&error)),
        }
    }
}
