//! The whole system against a simple model: any sequence of writes, crashes, stops, and runs without the plugin.
//!
//! The model knows which versions the node committed, which of them the recorder was told of, and what the database was
//! after each. The backup must list and restore exactly that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use tests::listing::{self, Status};
use tests::reference::Reference;
use tests::small_node::SmallNode;
use tests::{cli, compare};

/// Environment variable: how many sequences are tried.
const CASES: &str = "BACKUPFS_MODEL_CASES";

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A transaction, reported and committed.
    Write,
    /// `PRAGMA foreign_keys` alone.
    Rider,
    /// Reported, and never committed.
    CrashBeforeCommit,
    /// Reported and committed, then SIGKILL.
    CrashAfterCommit,
    /// The node runs for a while without the plugin.
    WithoutPlugin { transactions: u32 },
    /// A clean stop.
    Stop,
    /// A copy of the database from long ago is put in the place of the real one; and, after the refusal, back.
    OldStatePutBack,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Write),
        2 => Just(Op::Rider),
        2 => Just(Op::CrashBeforeCommit),
        1 => Just(Op::CrashAfterCommit),
        1 => (1..=3_u32).prop_map(|transactions| Op::WithoutPlugin { transactions }),
        1 => Just(Op::Stop),
        1 => Just(Op::OldStatePutBack),
    ]
}

/// What the backup must be, and the node that makes it so.
struct Model {
    node: SmallNode,
    running: bool,
    /// Restorable versions, each with a copy of the database.
    recorded: BTreeMap<u32, PathBuf>,
    rewound: Vec<u32>,
    /// Recorded and lost in a crash, until a snapshot took their place.
    replaced: Vec<u32>,
    missing: Vec<u32>,
    /// The newest version that the recorder was told of.
    last: u32,
    /// Whether `last` was lost in a crash, and its number taken by a transaction that was not reported.
    taken: bool,
    copies: u32,
}

impl Model {
    fn new() -> Self {
        let mut node = SmallNode::created();
        // From the second run on, whole logs are sealed while the node runs.
        node.lightningd.end_logs_after(20);
        let mut model = Self {
            node,
            running: true,
            recorded: BTreeMap::new(),
            rewound: Vec::new(),
            replaced: Vec::new(),
            missing: Vec::new(),
            last: 1,
            taken: false,
            copies: 0,
        };
        model.record(1);
        model
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Write => self.write(Commit::Normal),
            Op::CrashBeforeCommit => self.write(Commit::CrashBeforeCommit),
            Op::CrashAfterCommit => self.write(Commit::CrashAfterCommit),
            Op::Rider => self.rider(),
            Op::WithoutPlugin { transactions } => self.run_without_plugin(transactions),
            Op::Stop if self.running => {
                self.node.stop();
                self.running = false;
            }
            Op::Stop => {}
            Op::OldStatePutBack => self.put_old_state_back(),
        }
    }

    fn version(&self) -> u32 {
        self.node.data_version().get()
    }

    fn is_pending(&self) -> bool {
        self.version() + 1 == self.last
    }

    /// The version rules, as far as the outside sees them: what the recorder learns from a write that starts at the
    /// version the database holds now.
    fn notice(&mut self) {
        let committed = self.version();
        if self.is_pending() {
            self.rewound.push(self.last);
            self.recorded.remove(&self.last);
        } else if self.taken && committed == self.last {
            self.replaced.push(self.last);
            self.record(committed);
        } else if committed > self.last {
            self.missing.extend(self.last + 1..committed);
            self.record(committed);
        }
        self.last = committed;
        self.taken = false;
    }

    /// The backup has `version` now, and it is what the node's database is.
    fn record(&mut self, version: u32) {
        let copy = self.copy();
        self.recorded.insert(version, copy);
    }

    fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let copy = self.node.home.join(format!("copy-{}", self.copies));
        fs::copy(self.node.home.database(), &copy).expect("copying the database");
        copy
    }

    fn ensure_running(&mut self) {
        if !self.running {
            self.node.start();
            self.running = true;
        }
    }

    fn write(&mut self, commit: Commit) {
        self.ensure_running();
        self.notice();
        let next = DataVersion::new(self.last).next();
        let statements = self.node.transaction(next);
        // Known from a replay of our own: a transaction that is lost in a crash is in no database of the node.
        let after = self.copy();
        Reference::open(&after).apply(&statements);
        let answer = self.node.lightningd.write(next, &statements, commit).expect("the pretended node works");
        assert!(answer.is_continue(), "{answer:?}; {}", self.node.home.recorder_stderr());
        self.last = next.get();
        self.recorded.insert(self.last, after);
        self.running = commit == Commit::Normal;
    }

    fn rider(&mut self) {
        self.ensure_running();
        self.notice();
        let version = DataVersion::new(self.last);
        let rider = ["PRAGMA foreign_keys = ON;"];
        let answer = self.node.lightningd.write(version, &rider, Commit::Normal).expect("the pretended node works");
        assert!(answer.is_continue(), "{answer:?}; {}", self.node.home.recorder_stderr());
    }

    fn run_without_plugin(&mut self, transactions: u32) {
        self.taken |= self.is_pending();
        if self.running {
            self.node.stop();
            self.running = false;
        }
        self.node.run_without_plugin(transactions.into());
    }

    fn put_old_state_back(&mut self) {
        if self.running {
            self.node.stop();
            self.running = false;
        }
        let Some((&old, copy)) = self.recorded.iter().find(|&(&version, _)| version + 2 <= self.last) else { return };
        // Asking for the version rolls back what a crash has left, so that the file alone is the database.
        self.version();
        let database = self.node.home.database();
        let now = self.node.home.join("now");
        fs::copy(&database, &now).expect("putting the real database aside");
        fs::copy(copy, &database).expect("putting an old one in its place");
        self.node.start();
        match self.node.write(Commit::Normal) {
            Answer::Refused { message } => {
                assert!(message.contains(&self.last.to_string()) && message.contains("restore"), "{message}");
            }
            other => panic!("version {old} put back where the backup has {}: {other:?}", self.last),
        }
        // Asked again for what the crash of a refusal leaves.
        assert_eq!(self.version(), old, "refused before the commit");
        fs::copy(&now, &database).expect("putting the real database back");
    }

    /// The backup is what the model says.
    fn check(mut self) {
        if self.running {
            self.node.lightningd.end_input().expect("the recorder ends by itself");
        }
        let backup = self.node.home.backup();
        let listed = listing::versions(&backup, &[]);
        let of = |status| listing::with_status(&listed, status);
        assert_eq!(of(Status::Recorded), self.recorded.keys().copied().collect::<Vec<_>>(), "recorded");
        assert_eq!(of(Status::Rewound), self.rewound, "rewound");
        assert_eq!(of(Status::Replaced), self.replaced, "replaced");
        assert_eq!(of(Status::Missing), self.missing, "missing");
        let step = (self.recorded.len() / 5).max(1);
        for (&version, copy) in self.recorded.iter().rev().step_by(step) {
            let restored = self.node.home.join(format!("restored-{version}.sqlite3"));
            restore(&backup, version, &restored);
            compare::same_contents(copy, &restored, &[]).unwrap_or_else(|error| panic!("version {version}: {error}"));
        }
        if let Some(&missing) = self.missing.first() {
            let nowhere = self.node.home.join("nowhere.sqlite3");
            let ran = run_restore(&backup, missing, &nowhere);
            assert!(ran.code == 2 && !nowhere.exists(), "version {missing} is missing: {ran:?}");
        }
    }
}

fn restore(backup: &Path, version: u32, to: &Path) {
    run_restore(backup, version, to).expect_done("restore");
}

fn run_restore(backup: &Path, version: u32, to: &Path) -> cli::Ran {
    let version = version.to_string();
    let arguments = [Path::new("restore"), backup, to, "--version".as_ref(), version.as_ref()];
    cli::backupfs(&[&arguments[..], &["--accept-stale-state".as_ref()]].concat())
}

#[test]
fn the_backup_lists_and_restores_what_the_node_did() {
    let cases = std::env::var(CASES).ok().and_then(|cases| cases.parse().ok()).unwrap_or(8);
    let failure_persistence =
        Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/model.txt")) as Box<_>);
    // A case takes seconds: a few steps of shrinking are all that anyone waits for.
    let config = Config { cases, failure_persistence, max_shrink_iters: 60, ..Config::default() };
    let outcome = TestRunner::new(config).run(&vec(op(), 1..30), |ops| {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
        }
        model.check();
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
