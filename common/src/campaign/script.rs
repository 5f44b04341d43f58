//! The scripted history: what a node does, and when its recorder preallocates, seals, stops and fails.

use std::borrow::Cow;
use std::fs;
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;

use super::random::Random;
use crate::testing::contents;

/// Version of the node when its backup is created.
pub(super) const FIRST_VERSION: u32 = 10;

/// A step of the script.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// `lightningd` calls the hook.
    Write(Arc<HookCall>),
    /// The preallocation thread runs.
    Preallocate,
    /// The sealing thread runs.
    Seal,
    /// A compaction runs.
    Compact,
    /// `lightningd` stops, with this database, and starts again.
    CleanRestart(Arc<Vec<u8>>),
    /// The recorder is killed, and started again.
    Restart,
    /// The next write to the backup fails.
    Trouble(Trouble),
    /// The spool is drained into the backup.
    Drain,
}

/// How the next write fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    /// Number of the failing call.
    pub(super) nth: usize,
    /// Whether a failing write leaves its first half.
    pub(super) is_short: bool,
    pub(super) then: Then,
}

/// The recorder's reaction to a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It opens the backup again.
    Reopen,
    /// It continues in the spool.
    Spool,
    /// It refuses, and `lightningd` dies.
    Die,
}

/// A call of the hook.
#[derive(Debug)]
pub(super) struct HookCall {
    pub(super) data_version: u32,
    pub(super) statements: Vec<Cow<'static, str>>,
    pub(super) is_rider: bool,
    /// The version on `lightningd`'s disk while it waits.
    pub(super) database: Arc<Vec<u8>>,
    pub(super) contents_before: Arc<Vec<String>>,
    pub(super) contents_after: Arc<Vec<String>>,
}

/// The node, with its steps so far.
pub(super) struct Teller {
    dir: TempDir,
    connection: Connection,
    version: u32,
    random: Random,
    database: Arc<Vec<u8>>,
    contents: Arc<Vec<String>>,
    steps: Vec<Step>,
}

/// The script: the initial database with its rows, and the steps.
pub(super) struct Script {
    pub(super) database: Arc<Vec<u8>>,
    pub(super) contents: Arc<Vec<String>>,
    pub(super) steps: Vec<Step>,
}

impl Script {
    pub(super) fn new(seed: u64, rounds: u32) -> Self {
        let mut teller = Teller::new(seed);
        let (database, contents) = (Arc::clone(&teller.database), Arc::clone(&teller.contents));
        for _ in 0..rounds {
            teller.tell_everything();
        }
        Self { database, contents, steps: teller.steps }
    }
}

impl Teller {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("db")).unwrap();
        connection
            .execute_batch(
                "PRAGMA synchronous = OFF; PRAGMA page_size = 512;
                 CREATE TABLE vars (name TEXT PRIMARY KEY, val TEXT, intval INTEGER, blobval BLOB);
                 CREATE TABLE payments (id INTEGER PRIMARY KEY, note TEXT, amount INTEGER, preimage BLOB);",
            )
            .unwrap();
        connection.execute("INSERT INTO vars (name, intval) VALUES ('data_version', ?1)", [FIRST_VERSION]).unwrap();
        let (version, random, steps) = (FIRST_VERSION, Random(seed), Vec::new());
        let (database, contents) = (Arc::default(), Arc::default());
        let mut teller = Self { dir, connection, version, random, database, contents, steps };
        teller.look();
        teller
    }

    /// A history with all kinds of steps.
    fn tell_everything(&mut self) {
        use Step::{Compact, Drain, Preallocate, Restart, Seal};
        self.tell_rolls();
        self.steps.push(Compact);
        self.tell_rewinds_and_gaps();
        self.steps.extend([Seal, Preallocate]);
        self.tell_trouble();
        self.steps.extend([Seal, Compact]);
        self.tell_spells_in_the_spool();
        self.clean_restart();
        self.committed(2);
        self.steps.extend([Drain, Seal, Restart, Compact]);
        self.committed(1);
    }

    /// Logs that end: with and without preallocation, with the newest name durable or not.
    fn tell_rolls(&mut self) {
        use Step::{Preallocate, Restart, Seal};
        self.committed(2);
        // The node's id is read at the beginning of a run.
        self.steps.push(Restart);
        self.committed(1);
        self.steps.push(Preallocate);
        // The next log but one begins without preallocation, while the name of the previous one may not be durable.
        self.committed(15);
        self.steps.push(Preallocate);
        self.committed(5);
        self.steps.push(Restart);
        self.committed(6);
        self.steps.extend([Preallocate, Seal]);
        self.committed(5);
        self.steps.extend([Preallocate, Seal]);
    }

    fn tell_rewinds_and_gaps(&mut self) {
        use Step::{Preallocate, Restart, Seal};
        self.clean_restart();
        self.committed(2);
        self.lost();
        self.steps.push(Restart);
        self.committed(1);
        for sql in ["PRAGMA foreign_keys = OFF;", "PRAGMA foreign_keys = ON;"] {
            self.rider(sql);
            self.committed(1);
        }
        self.steps.push(Preallocate);
        self.unseen(2);
        self.committed(3);
        self.steps.push(Seal);
        self.unseen(1);
        self.committed(2);
        // Dies before the COMMIT of a change, and runs without the recorder until another transaction has its number.
        self.lost();
        self.unseen(1);
        self.steps.push(Restart);
        self.committed(2);
    }

    /// Failing calls to the backup, after each of which it is opened again.
    fn tell_trouble(&mut self) {
        for (nth, is_short, then) in
            [(1, false, Then::Reopen), (0, true, Then::Die), (0, true, Then::Reopen), (1, false, Then::Die)]
        {
            self.committed(2);
            self.steps.push(Step::Trouble(Trouble { nth, is_short, then }));
            self.committed(1);
        }
        // The second of two records, so that both are cut off again.
        self.lost();
        self.steps.extend([Step::Restart, Step::Trouble(Trouble { nth: 3, is_short: false, then: Then::Reopen })]);
        self.committed(2);
    }

    fn tell_spells_in_the_spool(&mut self) {
        use Step::{Drain, Preallocate, Restart, Seal};
        for (nth, is_short) in [(1, false), (0, true)] {
            self.committed(1);
            self.steps.push(Step::Trouble(Trouble { nth, is_short, then: Then::Spool }));
            self.committed(4);
            self.steps.push(Preallocate);
            self.committed(4);
            self.steps.push(Restart);
            self.committed(1);
            self.lost();
            self.steps.push(Restart);
            self.committed(5);
            self.steps.push(Drain);
            self.committed(3);
            self.steps.push(Seal);
        }
    }

    fn committed(&mut self, count: usize) {
        (0..count).for_each(|_| self.transaction(true, true));
    }

    /// Recorded, but the node dies before COMMIT.
    fn lost(&mut self) {
        self.transaction(true, false);
    }

    /// Committed without the recorder.
    fn unseen(&mut self, count: usize) {
        (0..count).for_each(|_| self.transaction(false, true));
    }

    fn transaction(&mut self, is_recorded: bool, is_committed: bool) {
        let old = self.version;
        let note = format!("{}", self.random.next())
            .repeat(1 + self.random.below(if old.is_multiple_of(5) { 45 } else { 15 }));
        let mut statements: Vec<Cow<'static, str>> = vec![
            format!("INSERT INTO payments (note, amount, preimage) VALUES ('{note}', {old}, x'00ff')").into(),
            format!("UPDATE payments SET amount = amount + 1 WHERE id % 3 = {}", old % 3).into(),
            format!("DELETE FROM payments WHERE id < (SELECT max(id) FROM payments) - {}", old % 7 + 2).into(),
            format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {old}").into(),
        ];
        if old == FIRST_VERSION + 1 {
            // The recorder reads its id, and then writes the manifest again.
            statements.insert(0, "INSERT INTO vars (name, blobval) VALUES ('node_id', zeroblob(33))".into());
        }
        self.connection.execute_batch("BEGIN").unwrap();
        for statement in &statements {
            self.connection.execute(statement, []).unwrap();
        }
        if is_recorded {
            let contents_after = Arc::new(contents(&self.connection));
            self.steps.push(Step::Write(Arc::new(HookCall {
                data_version: old + 1,
                statements,
                is_rider: false,
                database: Arc::clone(&self.database),
                contents_before: Arc::clone(&self.contents),
                contents_after,
            })));
        }
        self.connection.execute_batch(if is_committed { "COMMIT" } else { "ROLLBACK" }).unwrap();
        self.version += u32::from(is_committed);
        self.look();
    }

    /// A change outside of any transaction.
    fn rider(&mut self, sql: &'static str) {
        self.connection.execute_batch(sql).unwrap();
        self.steps.push(Step::Write(Arc::new(HookCall {
            data_version: self.version,
            statements: vec![sql.into()],
            is_rider: true,
            database: Arc::clone(&self.database),
            contents_before: Arc::clone(&self.contents),
            contents_after: Arc::clone(&self.contents),
        })));
    }

    fn clean_restart(&mut self) {
        self.steps.push(Step::CleanRestart(Arc::clone(&self.database)));
    }

    /// Sets the current state of the database.
    fn look(&mut self) {
        self.database = Arc::new(fs::read(self.dir.path().join("db")).unwrap());
        self.contents = Arc::new(contents(&self.connection));
    }
}
