//! A node whose changes come an hour apart, compacted.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::Backup;
use crate::backup::shared_lock::SharedLock;
use crate::backup::views::Views;
use crate::compact::*;
use crate::config::log_limits::LogLimits;
use crate::recording::BackupWriter;
use crate::seal::Sealer;
use crate::testing::{Fate, Node};
use crate::verify::{Report, Scope, verify};
use format::units::DataVersion;

/// Logs of a few changes.
pub(in crate::compact) const LIMITS: LogLimits = LogLimits { bytes: 4 << 10, statements: 40 };

pub(in crate::compact) const HOUR: i64 = 3_600_000_000;

/// A whole number of weeks after 1970, so that hours and days begin with it; in the future, because `init` reads the real clock.
pub(super) const BEGIN: i64 = 3500 * 7 * 24 * HOUR;

pub(in crate::compact) const AT_ONCE: Manner = Manner { pace: Pace::Full, grace: Duration::ZERO };

/// A node with an hour, or another number of microseconds, between changes.
pub(in crate::compact) struct Hourly {
    pub(in crate::compact) node: Node,
    pub(in crate::compact) apart: i64,
    pub(in crate::compact) limits: LogLimits,
    hours: i64,
    state: u64,
}

/// The versions: the bytes of each database, and the statements.
pub(in crate::compact) type Held = BTreeMap<u32, (Vec<u8>, Vec<String>)>;

impl Hourly {
    pub(in crate::compact) fn new() -> Self {
        Self { node: Node::new("PRAGMA page_size = 512"), apart: HOUR, limits: LIMITS, hours: 0, state: 7 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }

    pub(in crate::compact) fn now(&self) -> Timestamp {
        Timestamp::from_micros(BEGIN + self.hours * self.apart).unwrap()
    }

    /// What is to be compacted by.
    pub(in crate::compact) fn clock(&self) -> (Timestamp, Clock<'static>) {
        (self.now(), Clock::Trusted)
    }

    pub(super) fn write(&mut self, recording: &mut BackupWriter, note: &str, fate: Fate) {
        self.hours += 1;
        let at = self.now();
        self.node.write_at(recording, note, fate, at).unwrap();
    }

    /// Changes of all kinds: added and removed rows, unrecorded versions, changes that were never committed.
    pub(in crate::compact) fn live(&mut self, changes: usize) {
        let mut recording = self.node.record_within(self.limits);
        for _ in 0..changes {
            let note = "x".repeat(1 + usize::try_from(self.random(400)).unwrap());
            match self.random(40) {
                0 => self.write(&mut recording, &note, Fate::Unseen),
                1 => {
                    self.write(&mut recording, &note, Fate::Lost);
                    drop(recording);
                    recording = self.node.record_within(self.limits);
                }
                2..5 => {
                    let sql = "DELETE FROM payments WHERE id % 3 = (SELECT max(id) FROM payments) % 3";
                    self.hours += 1;
                    let statements = [sql.into(), self.node.statements("").pop().unwrap()];
                    let (data_version, received_at) = (DataVersion::new(self.node.version + 1), self.now());
                    let transaction = self.node.connection.transaction().unwrap();
                    for statement in &statements {
                        transaction.execute(statement, []).unwrap();
                    }
                    recording
                        .record(&crate::log::DbWrite { data_version, statements: &statements, received_at })
                        .unwrap();
                    transaction.commit().unwrap();
                    self.node.version += 1;
                }
                _ => self.write(&mut recording, &note, Fate::Committed),
            }
        }
        let newest = recording.newest().unwrap().seq;
        let mut sealer = Sealer::new(self.node.backup(), self.limits).unwrap();
        sealer.advance(newest, &mut |_| ControlFlow::Continue(())).unwrap();
    }

    pub(in crate::compact) fn lock(&self) -> SharedLock {
        SharedLock::of(self.node.backup().directory().lock(names::LOCK).unwrap())
    }

    pub(in crate::compact) fn compact(&self, policy: &KeepPolicy) -> Compaction {
        let mut watch = |_| ControlFlow::Continue(());
        match self.node.backup().compact(policy, self.clock(), AT_ONCE, &self.lock(), &mut watch).unwrap() {
            CompactOutcome::Done(compaction) => compaction,
            CompactOutcome::Interrupted => panic!("no test interrupts it"),
        }
    }

    pub(in crate::compact) fn held(&self) -> Held {
        held(&self.node.backup())
    }

    pub(in crate::compact) fn verify(&self) -> Report {
        verify(&self.node.backup_lock.backend_url, Scope::default(), &|_, _| {}).unwrap()
    }

    pub(in crate::compact) fn files(&self) -> Vec<String> {
        let mut names = self.node.backup().directory().list().unwrap();
        names.sort_unstable();
        names
    }

    /// Length of all files but parity.
    pub(in crate::compact) fn bytes(&self) -> u64 {
        let bytes = self.node.backup().read_bytes().unwrap();
        bytes.total() - bytes.parity
    }
}

pub(super) fn held(backup: &Arc<Backup>) -> Held {
    let (history, read) = backup.read_history();
    read.unwrap();
    let views = Views::new(Arc::clone(backup), 1 << 20);
    let mut all = Held::new();
    let read = history.for_versions_after(None, &mut |version| {
        let view = views.open(&history.plan(version).unwrap()).unwrap();
        let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
        assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
        let statements = backup.statements(&history.records_of(version).unwrap()).unwrap();
        all.insert(version.data_version.get(), (bytes, statements));
        ControlFlow::Continue(())
    });
    read.unwrap();
    assert_eq!(history.version_count(), all.len() as u64);
    all
}

pub(in crate::compact) fn policy(within: &str, daily: &str) -> KeepPolicy {
    let span = |text: &str| Some(text.parse().unwrap());
    KeepPolicy { within: span(within), daily: span(daily), ..KeepPolicy::default() }
}

/// Checks that all versions are as before, and that there are no others.
pub(in crate::compact) fn expect_part_of(now: &Held, before: &Held, what: &str) {
    for (version, held) in now {
        assert!(before.get(version) == Some(held), "{what}: version {version} is another one");
    }
}
