//! The script, played on a disk: the promises after every step, and the reaction to failing calls.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::check;
use super::disk::{Call, Cause, Disk, Fault, Kind, ROOT};
use super::home::{BACKUP, BUILDING, Home, LIMITS, SPOOL, UUID, drain};
use super::model::{Existence, Held, Promise, State};
use super::script::{FIRST_VERSION, HookCall, Script, Step, Then, Trouble};
use crate::backup::Backup;
use crate::backup::shared_lock::SharedLock;
use crate::compact::{Clock, CompactOutcome, Compaction, Manner, Pace};
use crate::config::keep_policy::{KeepPolicy, KeepSpanError};
use crate::create::{NewBackup, create_in};
use crate::history::Recorded;
use crate::live::live_database::LiveDatabase;
use crate::log::DbWrite;
use crate::recording::BackupWriter;
use crate::seal::Sealer;
use crate::storage::causes::with_causes;
use format::names;
use format::units::{DataVersion, Timestamp};

/// Number of attempts until a call that failed once must succeed.
const ATTEMPTS: usize = 4;

/// Number of writes within the span that is kept completely.
const KEPT_WRITES: usize = 12;

/// Time of a write, by its number: ten minutes apart, in the future, because `init` reads the real clock.
fn time(writes: usize) -> Timestamp {
    const BEGIN: i64 = 3500 * 7 * 24 * 3_600_000_000;
    Timestamp::from_micros(BEGIN + writes as i64 * 600_000_000).expect("a time")
}

/// Drops what is older than two hours; of the six hours before, the segment with the newest version of every hour is kept.
fn compact(backup: &Arc<Backup>, now: Timestamp, lock: &SharedLock) -> Result<Compaction, String> {
    let policy: Result<_, KeepSpanError> =
        (|| Ok(KeepPolicy { within: Some("2h".parse()?), hourly: Some("8h".parse()?), ..KeepPolicy::default() }))();
    let manner = Manner { pace: Pace::Full, grace: Duration::ZERO };
    let policy = policy.map_err(|error| with_causes(&error))?;
    match backup.compact(&policy, (now, Clock::Trusted), manner, lock, &mut |_| ControlFlow::Continue(())) {
        Ok(CompactOutcome::Done(compaction)) => Ok(compaction),
        Ok(CompactOutcome::Interrupted) => Err("it ended without being interrupted".to_owned()),
        Err(error) => Err(with_causes(&error)),
    }
}

/// The result of a play.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) writes: usize,
    pub(super) refused: usize,
    pub(super) logs_sealed: u64,
    /// Failed seals and preallocations, after which recording continued.
    pub(super) failed_in_the_background: usize,
    pub(super) spells_in_the_spool: usize,
    pub(super) versions_dropped: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.refused += other.refused;
        self.logs_sealed += other.logs_sealed;
        self.failed_in_the_background += other.failed_in_the_background;
        self.spells_in_the_spool += other.spells_in_the_spool;
        self.versions_dropped += other.versions_dropped;
    }
}

/// What happens to the newest version if it cannot be compared with the node's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfUnreadable {
    /// It can be compared.
    Never,
    /// A snapshot replaces it.
    Replaced,
}

/// A recorder on a disk.
pub(super) struct Play<'a> {
    home: &'a Home,
    pub(super) disk: Disk,
    recording: Option<BackupWriter>,
    sealer: Option<Sealer>,
    pub(super) state: Arc<State>,
    /// While it spools: the allowed states of the backup.
    backup_may_hold: Option<Vec<Arc<State>>>,
    /// Number of the next write.
    trouble: Option<Trouble>,
    /// The reaction to a write that fails for another reason.
    then: Then,
    /// Whether the run has not yet compared the database.
    owes: bool,
    /// Number of failures that were noticed.
    noticed: usize,
    /// Times of versions, by the number of writes before.
    written: BTreeMap<u32, usize>,
    pub(super) tally: Tally,
    /// The result so far.
    pub(super) result: Result<(), String>,
}

impl<'a> Play<'a> {
    /// The state at the beginning.
    pub(super) fn new(home: &'a Home, disk: Disk, then: Then) -> Self {
        Self {
            home,
            disk,
            recording: None,
            sealer: None,
            state: Arc::default(),
            backup_may_hold: None,
            trouble: None,
            then,
            owes: true,
            noticed: 0,
            written: BTreeMap::new(),
            tally: Tally::default(),
            result: Ok(()),
        }
    }

    /// Plays the whole script.
    ///
    /// # Errors
    /// When something fails that must not, even after a failed call.
    pub(super) fn run(&mut self, script: &Script) -> Result<(), String> {
        self.create(script)?;
        self.restart()?;
        for (position, step) in script.steps.iter().enumerate() {
            self.step(step).map_err(|error| format!("step {position}: {error}"))?;
        }
        (self.recording, self.sealer) = (None, None);
        Ok(())
    }

    fn create(&mut self, script: &Script) -> Result<(), String> {
        self.home.put_database(&script.database);
        let contents = Arc::clone(&script.contents);
        let held = Held { seq: 1, is_snapshot: true, is_verified: true, statements: Vec::new(), contents };
        self.state = Arc::new(State::default().with(FIRST_VERSION, held));
        self.promise(&[], Existence::Maybe);
        for attempt in 0..ATTEMPTS {
            let building = format!("{BUILDING}{attempt}");
            self.disk.make_directory(ROOT, &building);
            let (Some(parent), Some(inside)) = (self.disk.directory(""), self.disk.directory(&building)) else {
                return Err("there is no directory to create it in".to_owned());
            };
            let new = NewBackup { parent: &*parent, building: &building, name: BACKUP, inside };
            let live = LiveDatabase::open(&self.home.database()).map_err(|error| with_causes(&error))?;
            match create_in(&new, UUID, Some(&live), LIMITS, &mut |_| ControlFlow::Continue(()), &mut |_| Ok(())) {
                Ok(_) => {
                    self.promise(&[], Existence::Certain);
                    return Ok(());
                }
                Err(_) if self.disk.directory(BACKUP).is_some() => {
                    return Err("what could not be created has its name".to_owned());
                }
                Err(_) => {}
            }
        }
        Err("it cannot be created".to_owned())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Write(call) => self.write(call),
            Step::Preallocate => {
                self.in_the_background(|play| play.recording().preallocate().map_err(|error| with_causes(&error)))
            }
            Step::Seal => self.in_the_background(Self::seal),
            Step::Compact => self.compact(),
            Step::CleanRestart(database) => self.clean_restart(database),
            Step::Restart => self.restart(),
            Step::Trouble(trouble) => {
                self.trouble = Some(*trouble);
                Ok(())
            }
            Step::Drain => self.drain(),
        }
    }

    fn recording(&mut self) -> &mut BackupWriter {
        self.recording.as_mut().expect("it is open between steps")
    }

    fn is_spooling(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| recording.spooled().is_some())
    }

    /// Failures here do not concern later writes.
    fn in_the_background(&mut self, job: impl Fn(&mut Self) -> Result<(), String>) -> Result<(), String> {
        match job(self) {
            Ok(()) => Ok(()),
            Err(_) if self.charge() => {
                self.tally.failed_in_the_background += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a call has failed that was not noticed before.
    fn charge(&mut self) -> bool {
        self.noticed += 1;
        self.noticed <= self.disk.failed().len()
    }

    fn seal(&mut self) -> Result<(), String> {
        if self.is_spooling() {
            return Ok(());
        }
        let newest = self.recording().newest().ok_or("nothing is recorded")?.seq;
        if self.sealer.is_none() {
            let sealer = Sealer::new(self.home.backup(&self.disk)?, LIMITS).map_err(|error| with_causes(&error))?;
            self.sealer = Some(sealer);
        }
        let sealer = self.sealer.as_mut().expect("it was made just now");
        let before = sealer.progress().logs_sealed;
        let advanced = sealer.advance(newest, &mut |_| ControlFlow::Continue(()));
        self.tally.logs_sealed += sealer.progress().logs_sealed - before;
        advanced.map_err(|error| with_causes(&error))
    }

    /// The expected remaining versions, from a compaction of a copy, and from what no policy may drop. Until it is completed, all
    /// versions or these may exist.
    fn compact(&mut self) -> Result<(), String> {
        if self.is_spooling() {
            return Ok(());
        }
        let left = self.left_by_compaction()?;
        self.promise(&[Arc::clone(&left)], Existence::Certain);
        for _ in 0..ATTEMPTS {
            let lock = self.recording().share_lock();
            let compacted =
                self.home.backup(&self.disk).and_then(|backup| compact(&backup, time(self.tally.writes), &lock));
            match compacted {
                Ok(compaction) => {
                    self.tally.versions_dropped += compaction.dropped_versions;
                    self.state = left;
                    self.promise(&[], Existence::Certain);
                    return Ok(());
                }
                Err(_) if self.charge() => self.tally.failed_in_the_background += 1,
                Err(error) => return Err(error),
            }
        }
        Err("it is not compacted".to_owned())
    }

    fn left_by_compaction(&self) -> Result<Arc<State>, String> {
        let copy = Disk::of(self.disk.tree(), Vec::new());
        let backup = self.home.backup(&copy)?;
        let lock = SharedLock::of(backup.directory().lock(names::LOCK).map_err(|error| with_causes(&error))?);
        compact(&backup, time(self.tally.writes), &lock)?;
        let mut left = State { versions: BTreeMap::new(), is_noted: self.state.is_noted };
        for number in check::versions(self.home, &copy)? {
            let held =
                self.state.versions.get(&number).ok_or_else(|| format!("version {number} was not there before"))?;
            left.versions.insert(number, held.clone());
        }
        let newest = self.tally.writes;
        for (number, written) in
            self.state.versions.keys().filter_map(|number| Some((number, *self.written.get(number)?)))
        {
            if written + KEPT_WRITES > newest && !left.versions.contains_key(number) {
                return Err(format!("version {number} is to be kept and is not"));
            }
        }
        Ok(Arc::new(left))
    }

    fn clean_restart(&mut self, database: &[u8]) -> Result<(), String> {
        self.home.put_database(database);
        let noted = Arc::new(State { is_noted: true, ..(*self.state).clone() });
        self.promise(&[Arc::clone(&noted)], Existence::Certain);
        // Nothing is lost when it cannot be recorded; in a run that began in the spool it is not.
        let before = self.recording().end();
        if self.recording().note_commit().is_ok() && self.recording().end() != before {
            self.state = noted;
        }
        self.promise(&[], Existence::Certain);
        let _takes_room = self.recording().remove_preallocated();
        self.restart()
    }

    fn restart(&mut self) -> Result<(), String> {
        (self.recording, self.sealer) = (None, None);
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.home.open(&self.disk, &self.home.database()) {
                Ok(recording) => {
                    self.recording = Some(recording);
                    self.owes = !self.state.is_noted;
                    if !self.is_spooling() {
                        self.backup_may_hold = None;
                    }
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(format!("it does not start: {last}"))
    }

    fn drain(&mut self) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let disk = self.disk.clone();
            match drain(&disk, self.recording()) {
                Ok(()) => {
                    self.backup_may_hold = None;
                    self.promise(&[], Existence::Certain);
                    return Ok(());
                }
                Err(error) => last = error,
            }
            // A partly emptied spool accepts no more changes: the next write would be refused.
            self.restart()?;
        }
        Err(format!("it is not drained: {last}"))
    }

    /// Records a write, with a second attempt if the first is refused.
    fn write(&mut self, call: &HookCall) -> Result<(), String> {
        self.home.put_database(&call.database);
        if self.is_spooling() && !self.follows(call) {
            // No snapshot goes to a spool, and the initial comparison of a run waits for the backup.
            self.drain()?;
            self.restart()?;
        }
        let mut possible = vec![Arc::clone(&self.state)];
        for _ in 0..ATTEMPTS {
            let chain = self.foretell(call, IfUnreadable::Never);
            possible.extend(chain.iter().cloned());
            if let Some(backup) = &mut self.backup_may_hold {
                backup.extend(chain.iter().cloned());
            }
            self.promise(&possible, Existence::Certain);
            let then = match self.trouble.take() {
                Some(trouble) if !self.is_spooling() => {
                    let Trouble { nth, is_short, then } = trouble;
                    self.disk.fail(Fault {
                        kind: Kind::Changing,
                        nth,
                        errno: libc::EIO,
                        is_short,
                        cause: Cause::Script,
                    });
                    then
                }
                _ => self.then,
            };
            let replaced = self.foretell(call, IfUnreadable::Replaced);
            let recorded = self.record(call)?;
            // It is compared before the call that may have failed.
            self.owes &= self.is_spooling() || (recorded.is_none() && !self.follows(call));
            if let Some(recorded) = recorded {
                self.tally.writes += 1;
                let is_replaced = matches!(recorded, Recorded::Replaced { .. });
                let chain = if is_replaced { replaced } else { chain };
                self.state = chain.last().cloned().expect("a write leads to a state");
                self.promise(&[], Existence::Certain);
                return Ok(());
            }
            possible.extend(replaced);
            self.tally.refused += 1;
            let then = if then == Then::Spool && !self.follows(call) { Then::Die } else { then };
            self.after_failure(then, &possible)?;
        }
        Err(format!("version {} is refused again and again", call.data_version))
    }

    /// The state after the write, if the recorder answers "continue".
    fn record(&mut self, call: &HookCall) -> Result<Option<Recorded>, String> {
        let received_at = time(self.tally.writes);
        self.written.insert(call.data_version, self.tally.writes);
        let data_version = DataVersion::new(call.data_version);
        let recorded = self.recording().record(&DbWrite { data_version, statements: &call.statements, received_at });
        match recorded {
            Ok(recorded) => Ok(Some(recorded)),
            Err(_) if self.charge() => Ok(None),
            Err(error) => Err(format!("refused although no call has failed: {}", with_causes(&error))),
        }
    }

    fn after_failure(&mut self, then: Then, possible: &[Arc<State>]) -> Result<(), String> {
        self.sealer = None;
        if then != Then::Die && !self.is_spooling() {
            let interrupted = self.recording.take().expect("it is open").interrupt();
            let goes_on = match then {
                Then::Spool => {
                    self.backup_may_hold = Some(possible.to_vec());
                    let spool = self.disk.directory(SPOOL).ok_or("there is no spool")?;
                    interrupted.spool_in(spool).map_err(|error| with_causes(&error))
                }
                _ => {
                    let backup = self.disk.directory(BACKUP).ok_or("there is no backup")?;
                    interrupted.reopen_in(backup).map_err(|error| with_causes(&error))
                }
            };
            if let Ok(recording) = goes_on {
                self.tally.spells_in_the_spool += usize::from(then == Then::Spool);
                self.recording = Some(recording);
                return Ok(());
            }
        }
        self.restart()?;
        // Whether the refused change exists is known now, and final.
        let found = check::state_of(self.home, &self.disk.tree(), possible)?;
        self.state = found;
        Ok(())
    }

    /// Whether a write needs no snapshot before it.
    fn follows(&self, call: &HookCall) -> bool {
        let committed = call.data_version - u32::from(!call.is_rider);
        let newest = self.state.newest();
        let is_same = self.state.versions.get(&committed).is_some_and(|held| held.contents == call.contents_before);
        is_same && (newest == Some(committed) || newest == Some(committed + 1))
    }

    /// The state behind each record of the next write.
    fn foretell(&mut self, call: &HookCall, if_unreadable: IfUnreadable) -> Vec<Arc<State>> {
        let mut seq = self.recording().end().next_seq.get();
        let mut next_seq = || {
            seq += 1;
            seq - 1
        };
        let version = call.data_version;
        let statements: Vec<String> = call.statements.iter().map(ToString::to_string).collect();
        let mut chain: Vec<State> = Vec::new();
        if call.is_rider {
            let mut held = self.state.versions[&version].clone();
            held.statements.extend(statements);
            return vec![Arc::new(self.state.with(version, Held { seq: next_seq(), ..held }))];
        }
        let mut state = (*self.state).clone();
        if state.newest() == Some(version) {
            next_seq();
            state = state.without(version);
            chain.push(state.clone());
        }
        let is_another = state.versions.get(&(version - 1)).is_some_and(|held| held.contents != call.contents_before);
        let is_replaced = is_another || if_unreadable == IfUnreadable::Replaced;
        if is_replaced && state.newest() == Some(version - 1) {
            // The snapshot replaces it.
            state = state.without(version - 1).verified();
        }
        let is_healed = state.newest() != Some(version - 1);
        if is_healed {
            let contents = Arc::clone(&call.contents_before);
            let held = Held { seq: next_seq(), is_snapshot: true, is_verified: true, statements: Vec::new(), contents };
            state = state.with(version - 1, held);
            chain.push(state.clone());
        }
        let contents = Arc::clone(&call.contents_after);
        let is_verified = is_healed || !self.owes || !self.is_spooling();
        chain
            .push(state.with(version, Held { seq: next_seq(), is_snapshot: false, is_verified, statements, contents }));
        chain.into_iter().map(Arc::new).collect()
    }

    /// From now on only acknowledged states, or one of these, are allowed.
    fn promise(&self, possible: &[Arc<State>], existence: Existence) {
        let mut whole = vec![Arc::clone(&self.state)];
        whole.extend(possible.iter().cloned());
        let mut backup = self.backup_may_hold.clone().unwrap_or_default();
        backup.extend(whole.iter().cloned());
        self.disk.promise(Promise { backup, whole, existence });
    }
}

/// Plays a script with this failing call, besides those of the script.
pub(super) fn play_with<'a>(home: &'a Home, script: &Script, fault: Option<Fault>, then: Then) -> Play<'a> {
    let disk = Disk::of(Home::disk(), Vec::new());
    fault.into_iter().for_each(|fault| disk.fail(fault));
    let mut play = Play::new(home, disk, then);
    play.result = play.run(script);
    play
}

/// The calls of a script with only its own failures.
pub(super) fn journal_of(home: &Home, seed: u64) -> Vec<Call> {
    let play = play_with(home, &Script::new(seed, 1), None, Then::Die);
    play.result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let Tally { writes, refused, logs_sealed, spells_in_the_spool, .. } = play.tally;
    assert!(writes > 80 && refused > 5 && logs_sealed > 12 && spells_in_the_spool == 2, "{:?}", play.tally);
    play.disk.journal()
}
