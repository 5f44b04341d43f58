//! [`ship`]: one off-site copy kept up to date, until it is stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Backup, BackupUrl, Every, LockStatus, OffsiteEntry, OffsiteState, OffsiteStatus, SpoolStatus, Timestamp,
    offsite_directory,
};
use offsite::connect::{expect_copy, open_store};
use offsite::copy_error::CopyError;
use offsite::description::SealKind;
use offsite::ship::uploads::Uploads;
use offsite::ship::{Shipper, Step, Target};
use offsite::store::{Failure, StoreUrl};

use super::acknowledging::{Acknowledging, Since};
use super::keys::KeyArgs;
use super::rehearsals::{ReadCopy, Rehearsals};
use super::ship_orders::{Orders, Woken};
use super::shipping_key::{RunKey, key_for_shipping, needs_node};
use common::with_causes;

/// How often finished files are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a run is silent before it says that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Interval of the checks for another run that has claimed the copy.
const CLAIM_INTERVAL: Duration = Duration::from_secs(600);

/// The pauses after failed attempts: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The longest pause where answers wait for the copy: the node should not wait any longer once the store is back.
const PAUSE_WAITED_FOR: Duration = Duration::from_secs(10);

/// How often a failure that stays is reported; one with another reason is reported at once.
const REPORT_INTERVAL: Duration = Duration::from_secs(3600);

/// How long the recorder may take to give up the lock after it has ended.
const RECORDER_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How long another process of this node is waited for, which ends when the node does.
const OTHER_ENDS_WITHIN: Duration = Duration::from_secs(40);

/// When shipping ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// When the copy has everything.
    Once,
    /// When it is stopped.
    WhenStopped,
}

/// Who has started this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartedBy {
    /// The recorder with this process id. This process reports to it how far the copies are.
    Recorder(u32),
    /// An operator at a terminal, or a service.
    Operator,
}

/// A backup and one of its copies.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) backup: BackupUrl,
    pub(super) lightning_dir: PathBuf,
    pub(super) entry: OffsiteEntry,
    pub(super) keys: KeyArgs,
    /// The key that this process has made for a copy that it cannot read.
    pub(super) run_key: RunKey,
    /// Who has started this process.
    pub(super) started_by: StartedBy,
}

impl Destination {
    /// Tells the recorder, if there is one and answers wait for the copy.
    fn acknowledging(&self) -> Acknowledging {
        let wait = self.entry.wait.filter(|_| matches!(self.started_by, StartedBy::Recorder(_)));
        Acknowledging::new(&self.entry.url, wait)
    }

    /// The longest pause between two attempts.
    fn longest_pause(&self) -> Duration {
        if self.entry.wait.is_some() { PAUSE_WAITED_FOR } else { PAUSES.1 }
    }
}

/// Ships until the end, and returns the seq of the last record in the copy. What fails is tried again, unless it can only get worse.
///
/// # Errors
/// When an operator has to do something first; with [`Ending::Once`] whatever fails.
pub(super) fn ship(destination: &Destination, ending: Ending, orders: &Orders) -> anyhow::Result<u64> {
    let mut status = Status::new(destination);
    let mut pause = PAUSES.0;
    let mut reported: Option<(Instant, String)> = None;
    let started = Instant::now();
    loop {
        let began = Instant::now();
        let error = match session(destination, ending, orders, &mut status) {
            Ok(shipped) => {
                status.say(OffsiteState::Stopped, None, orders);
                return Ok(shipped);
            }
            Err(error) => error,
        };
        // The process that the recorder started goes on for some seconds after the node.
        let other_ends =
            matches!(error.downcast_ref(), Some(CopyError::InUse)) && started.elapsed() < OTHER_ENDS_WITHIN;
        if other_ends && !stopped_within(PAUSES.0, orders) {
            continue;
        }
        let is_for_good = is_for_good(&error);
        status.say(if is_for_good { OffsiteState::Refused } else { OffsiteState::Waiting }, Some(&error), orders);
        if ending == Ending::Once {
            return Err(error);
        }
        if matches!(error.downcast_ref(), Some(CopyError::AnotherWriter { .. })) {
            // Claimed again, the other process would end, and then this one again: an operator has to say which one ships.
            log::error!("{}: {}", destination.entry.url, with_causes(error.as_ref()));
            while !stopped_within(PAUSES.1, orders) {}
            return Err(error);
        }
        if is_for_good {
            pause = destination.longest_pause();
        }
        let reason = with_causes(error.as_ref());
        if reported.as_ref().is_none_or(|(at, before)| at.elapsed() >= REPORT_INTERVAL || *before != reason) {
            log::warn!("{}: {reason}; it is tried again", destination.entry.url);
            reported = Some((Instant::now(), reason));
        }
        // After some minutes of shipping the next failure is a new one.
        if began.elapsed() > PAUSES.1 {
            (pause, reported) = (PAUSES.0, None);
        }
        if stopped_within(pause.mul_f64(jitter()), orders) {
            status.say(OffsiteState::Stopped, Some(&error), orders);
            return Err(error);
        }
        pause = (pause * 2).min(destination.longest_pause());
    }
}

/// Whether an operator probably has to do something about it.
fn is_for_good(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<CopyError>() {
        Some(
            CopyError::AnotherWriter { .. }
            | CopyError::Ahead { .. }
            | CopyError::Fork { .. }
            | CopyError::OtherBackup { .. }
            | CopyError::NotACopy { .. }
            | CopyError::NoCopy { .. }
            | CopyError::NewerFormat { .. }
            | CopyError::Unusable { .. },
        ) => true,
        Some(CopyError::Store(error)) => error.failure == Failure::Identity,
        _ => false,
    }
}

/// Waits; `true` when the process is to end meanwhile.
fn stopped_within(pause: Duration, orders: &Orders) -> bool {
    orders.wait(pause, None) == Woken::Stopped || orders.is_stopped()
}

/// Between a half and one and a half, so that many nodes do not come back at the same moment.
fn jitter() -> f64 {
    let thousandths = u32::try_from(Timestamp::now().as_micros().rem_euclid(1000)).unwrap_or(0);
    0.5 + f64::from(thousandths) / 1000.0
}

/// One connection: everything is shipped, until it is stopped or something fails.
fn session(destination: &Destination, ending: Ending, orders: &Orders, status: &mut Status) -> anyhow::Result<u64> {
    let Destination { backup: backup_url, lightning_dir, entry, keys, run_key, .. } = destination;
    let unusable = |reason: String| CopyError::Unusable { url: entry.url.clone(), reason };
    let url: StoreUrl = entry.url.parse().map_err(|error: offsite::store::UrlError| unusable(error.to_string()))?;
    let store = open_store(&url, entry.credentials.as_deref(), entry.proxy.as_deref())?;
    let backup = Arc::new(Backup::open(backup_url)?);
    let description = expect_copy(&*store)?;
    let (found, expected) = (description.backup, backup.manifest().uuid);
    if found != expected {
        let (found, expected) = (found.to_string(), expected.to_string());
        return Err(CopyError::OtherBackup { url: entry.url.clone(), found, expected }.into());
    }
    let is_sealed_by_node = description.seal == SealKind::Node && !run_key.has_secret();
    if entry.wait.is_some() && is_sealed_by_node && needs_node(keys, lightning_dir) {
        destination.acknowledging().need_node();
    }
    let key = key_for_shipping(&*store, &description, entry, (keys, lightning_dir), run_key)?;
    status.set_key(description.seal, entry);
    let (key, opens) = key.map(|key| (key.seals, key.opens)).unzip();
    let rehearsals = Rehearsals::of(entry, ReadCopy { store: Arc::clone(&store), keys: opens });
    let target = Target { store, copy: description.copy, key };
    let mut shipper = Shipper::begin(Arc::clone(&backup), target, &offsite_directory(lightning_dir))?;
    let shipped = ship_with(&mut shipper, (destination, rehearsals), ending, orders, status)
        .and_then(|()| say_goodbye(&mut shipper, &backup, destination));
    if shipped.is_ok() {
        status.shipped_all(&shipper, orders);
    }
    status.connection_ends(&shipper);
    shipped.map(|()| shipper.shipped().saturating_sub(1))
}

/// Ships until it is stopped, or has everything.
fn ship_with(
    shipper: &mut Shipper,
    (destination, mut rehearsals): (&Destination, Rehearsals),
    ending: Ending,
    orders: &Orders,
    status: &mut Status,
) -> anyhow::Result<()> {
    let Destination { backup: backup_url, lightning_dir, entry, .. } = destination;
    let mut acknowledging = destination.acknowledging();
    let mut logs_due = Instant::now();
    let (mut said, mut claim_checked) = (Instant::now(), Instant::now());
    let (mut said_degraded, mut looked_for_files) = (None, None::<Instant>);
    loop {
        let stopped = orders.is_stopped();
        let mut since = Since::Nothing;
        if let Every::Span(every) = entry.every
            && (stopped || ending == Ending::Once || Instant::now() >= logs_due || acknowledging.is_wanted(orders))
        {
            logs_due = Instant::now() + every;
            since = Since::Logs;
            if shipper.ship_logs()? == Step::Stored {
                said = Instant::now();
            }
        }
        acknowledging.report(shipper, since)?;
        if stopped {
            return Ok(());
        }
        // The recorder holds an answer. Files have their turn all the same: the copy is not to fall behind with them.
        if acknowledging.is_wanted(orders) && looked_for_files.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            continue;
        }
        if claim_checked.elapsed() >= CLAIM_INTERVAL {
            shipper.check_claim()?;
            claim_checked = Instant::now();
        }
        let degraded_since = orders.degraded_since(&entry.url);
        shipper.set_degraded_since(degraded_since);
        if said.elapsed() >= HEARTBEAT_INTERVAL || said_degraded != degraded_since {
            shipper.heartbeat(shipper.acknowledged()?, false)?;
            (said, said_degraded) = (Instant::now(), degraded_since);
        }
        let step = shipper.ship_file()?;
        looked_for_files = Some(Instant::now());
        status.shipping(shipper, orders);
        if step == Step::Stored {
            acknowledging.report(shipper, Since::File)?;
            continue;
        }
        if ending == Ending::Once {
            return Ok(());
        }
        rehearsals.start_if_due(backup_url, lightning_dir);
        let pause = match entry.every {
            Every::Segment => LOOK_INTERVAL,
            Every::Span(_) => LOOK_INTERVAL.min(logs_due.saturating_duration_since(Instant::now())),
        };
        if acknowledging.wait(pause, orders) == Woken::Wanted {
            logs_due = Instant::now();
        }
    }
}

/// Ships the rest after the recorder has ended, and says that nothing follows. A recorder that goes on, or has begun again, is left to
/// the next run.
fn say_goodbye(shipper: &mut Shipper, backup: &Arc<Backup>, destination: &Destination) -> anyhow::Result<()> {
    let until = Instant::now() + RECORDER_ENDS_WITHIN;
    // A lock whose state is not known may be held.
    let lock = || backup.look_at_lock().unwrap_or(LockStatus::Held { process: None });
    loop {
        match (lock(), destination.started_by) {
            (LockStatus::NotSeen, _) => break,
            // The next recorder has begun, and its process waits for this one to end; answers may wait for that process.
            (LockStatus::Held { process: Some(holder) }, StartedBy::Recorder(recorder)) if holder != recorder => {
                return Ok(());
            }
            (LockStatus::Held { .. }, _) if Instant::now() >= until => return Ok(()),
            (LockStatus::Held { .. }, _) => thread::sleep(Duration::from_millis(50)),
        }
    }
    if destination.entry.every != Every::Segment {
        shipper.ship_logs()?;
    }
    let acknowledged = shipper.acknowledged()?;
    // A spool has acknowledged changes that the backup, and so the copy, does not have.
    let is_all = matches!(backup.spool_sight_beside(&destination.lightning_dir), SpoolStatus::Complete);
    if is_all && lock() == LockStatus::NotSeen {
        shipper.heartbeat(acknowledged, true)?;
    }
    Ok(())
}

/// The status of a copy, in its file.
struct Status {
    lightning_dir: PathBuf,
    now: OffsiteStatus,
    /// What earlier connections of this process have uploaded.
    before: Totals,
    written: Option<Instant>,
}

/// What was uploaded.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    objects: u64,
    bytes: u64,
    /// On this day since 1970.
    puts: u64,
    day: i64,
}

impl Totals {
    fn and(self, uploads: &Uploads) -> Self {
        let (day, today) = uploads.today();
        let puts = today + if self.day == day { self.puts } else { 0 };
        Self { objects: self.objects + uploads.objects(), bytes: self.bytes + uploads.bytes(), puts, day }
    }
}

/// How often the status of a copy that is shipped to is written. It costs a read of the logs that are not sealed.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

impl Status {
    fn new(destination: &Destination) -> Self {
        let Destination { lightning_dir, entry, .. } = destination;
        let mut now = OffsiteStatus::read(lightning_dir, &entry.url).unwrap_or_else(|| OffsiteStatus::new(&entry.url));
        now.current_at.get_or_insert_with(Timestamp::now);
        Self { lightning_dir: lightning_dir.clone(), now, before: Totals::default(), written: None }
    }

    fn set_key(&mut self, seal: SealKind, entry: &OffsiteEntry) {
        self.now.key = Some(match seal {
            SealKind::Node => "hsm_secret, 24 words".to_owned(),
            SealKind::WriteOnly => entry.recipients.join(", "),
            SealKind::None => "none: not encrypted".to_owned(),
        });
    }

    /// Says how far shipping is; writes the file now and then.
    fn shipping(&mut self, shipper: &Shipper, orders: &Orders) {
        let is_told = self.now.answers_degraded_since == orders.degraded_since(&self.now.url);
        if is_told && self.written.is_some_and(|at| at.elapsed() < STATUS_INTERVAL) {
            return;
        }
        self.shipped_all(shipper, orders);
    }

    /// Says how far shipping is.
    fn shipped_all(&mut self, shipper: &Shipper, orders: &Orders) {
        self.set_progress(shipper);
        self.set_totals(self.before.and(shipper.uploads()));
        self.say(OffsiteState::Shipping, None, orders);
    }

    fn set_progress(&mut self, shipper: &Shipper) {
        let holds = shipper.holds().unwrap_or(1);
        if shipper.acknowledged().is_ok_and(|acknowledged| acknowledged <= holds) {
            self.now.current_at = Some(Timestamp::now());
        }
        self.now.shipped_through = Some(holds.saturating_sub(1));
        self.now.conditional_put = Some(shipper.conditional_put().name().to_owned());
    }

    fn set_totals(&mut self, totals: Totals) {
        (self.now.objects, self.now.bytes, self.now.puts_today) = (totals.objects, totals.bytes, totals.puts);
    }

    /// Notes how far a connection has come that ends now.
    fn connection_ends(&mut self, shipper: &Shipper) {
        self.set_progress(shipper);
        self.before = self.before.and(shipper.uploads());
        self.set_totals(self.before);
    }

    fn say(&mut self, state: OffsiteState, error: Option<&anyhow::Error>, orders: &Orders) {
        self.now.answers_degraded_since = orders.degraded_since(&self.now.url);
        // A node that was started again ships by another process already, while this one still ends: that one's word counts.
        if state == OffsiteState::Stopped && self.written.is_some() {
            let found = OffsiteStatus::read(&self.lightning_dir, &self.now.url);
            if found.is_some_and(|found| found.updated != self.now.updated) {
                return;
            }
        }
        let now = Timestamp::now().to_string();
        if state == OffsiteState::Shipping {
            if self.now.last_error.is_some() {
                log::info!("{}: shipping again", self.now.url);
            }
            (self.now.degraded_since, self.now.last_error) = (None, None);
        } else if self.now.degraded_since.is_none() {
            self.now.degraded_since = Some(now.clone());
        }
        if let Some(error) = error {
            self.now.last_error = Some(with_causes(error.as_ref()));
        }
        (self.now.state, self.now.updated) = (state, now);
        self.written = Some(Instant::now());
        if let Err(error) = self.now.write(&self.lightning_dir) {
            log::warn!("the status of {} cannot be written: {error}", self.now.url);
        }
    }
}
