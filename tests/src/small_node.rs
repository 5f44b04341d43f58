//! A node whose statements are made up here: a few tables, and the variables that the recorder looks at.

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit, PretendLightningd};
use serde_json::{Value, json};

use crate::home::Home;
use crate::listing::{self, Status};
use crate::{cli, compare};

/// A node with a backup. Every transaction it makes is different from all others it ever made.
pub struct SmallNode {
    /// Its files.
    pub home: Home,
    /// The node itself.
    pub lightningd: PretendLightningd,
    made: u64,
}

/// The identity of a [`SmallNode`] unless a test asks for another.
pub const NODE_ID: &str = "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What turns version `data_version - 1` into `data_version`.
pub fn bump(data_version: DataVersion) -> String {
    let before = data_version.previous();
    format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {before}")
}

/// The statements of a new node's first transaction, which makes version 1.
pub fn creation(node_id: &str) -> Vec<String> {
    [
        "CREATE TABLE vars (name TEXT, val TEXT, intval INTEGER, blobval BLOB, PRIMARY KEY (name));",
        "CREATE TABLE invoices (id INTEGER, label TEXT UNIQUE, msatoshi INTEGER, PRIMARY KEY (id));",
        "CREATE TABLE forwards (in_htlc INTEGER, out_htlc INTEGER, fee INTEGER, PRIMARY KEY (in_htlc, out_htlc));",
        "CREATE TABLE htlcs (id INTEGER, invoice INTEGER REFERENCES invoices(id) ON DELETE CASCADE, preimage BLOB);",
        // Without an index, a VACUUM would number the implicit rowids anew.
        "CREATE INDEX htlcs_idx ON htlcs (id);",
        "INSERT INTO vars (name, intval) VALUES ('data_version', 0);",
        &format!("INSERT INTO vars (name, blobval) VALUES ('node_id', x'{node_id}');"),
        &bump(DataVersion::new(1)),
    ]
    .map(str::to_owned)
    .to_vec()
}

impl SmallNode {
    /// A new node with an empty backup, running, with its first transaction made.
    pub fn created() -> Self {
        let mut node = Self::before_its_first_write();
        node.lightningd.start().expect("the recorder starts");
        let answer = node.lightningd.write(DataVersion::new(1), &creation(NODE_ID), Commit::Normal).expect("a write");
        assert!(answer.is_continue(), "the first write: {answer:?}; {}", node.home.recorder_stderr());
        node.lightningd.init().expect("the recorder takes init");
        node
    }

    /// A new node with an empty backup, not running.
    pub fn before_its_first_write() -> Self {
        let home = Home::new();
        home.init();
        Self { lightningd: home.lightningd(), home, made: 0 }
    }

    /// A node with the files that are there, not running.
    pub fn at(home: Home) -> Self {
        // Far from what the node that left these files can have used.
        Self { lightningd: home.lightningd(), home, made: 1_000_000 }
    }

    /// Restores the newest version; its contents must be those of the node's database.
    #[track_caller]
    pub fn expect_restorable(&self) {
        let to = tempfile::tempdir().expect("a directory");
        let restored = to.path().join("restored.sqlite3");
        let backup = self.home.backup();
        cli::backupfs(&["restore".as_ref(), backup.as_os_str(), restored.as_os_str()]).expect_done("restore");
        compare::same_contents(&self.home.database(), &restored, &[]).expect("what was restored is what the node has");
    }

    /// The versions that can be restored, as `backupfs versions` lists them.
    pub fn recorded_versions(&self) -> Vec<u32> {
        listing::with_status(&listing::versions(&self.home.backup(), &[]), Status::Recorded)
    }

    /// Every version of the node must be recorded once, and none be rewound or missing; the newest must be restorable.
    #[track_caller]
    pub fn expect_all_recorded(&self) {
        self.expect_restorable();
        let listed = listing::versions(&self.home.backup(), &[]);
        let all: Vec<u32> = (1..=self.data_version().get()).collect();
        assert_eq!(listing::with_status(&listed, Status::Recorded), all);
        assert_eq!(listing::with_status(&listed, Status::Rewound), Vec::<u32>::new());
        assert_eq!(listing::with_status(&listed, Status::Missing), Vec::<u32>::new());
    }

    /// The recorder's `backup-status`.
    pub fn backup_status(&mut self) -> Value {
        let lightningd = &mut self.lightningd;
        match lightningd.rpc("backup-status", &json!({})) {
            Ok(status) if status.is_object() => status,
            // It has no methods before `init`.
            _ => {
                lightningd.init().expect("the recorder takes init");
                lightningd.rpc("backup-status", &json!({})).expect("an answer")
            }
        }
    }

    /// The part of `backup-status` about the spool; null when there is none.
    pub fn spool_status(&mut self) -> Value {
        self.backup_status()["spool"].take()
    }

    /// The version of the node's database; 0 before the first write.
    pub fn data_version(&self) -> DataVersion {
        self.lightningd.data_version().expect("the node's version").unwrap_or_default()
    }

    /// The statements of a transaction that makes `data_version`, never the same twice.
    pub fn transaction(&mut self, data_version: DataVersion) -> Vec<String> {
        self.made += 1;
        let made = self.made;
        let mut statements = vec![
            format!("INSERT INTO invoices (label, msatoshi) VALUES ('tea №{made} ''quoted''\n', {})", made * 1000),
            format!(
                "INSERT INTO htlcs (id, invoice, preimage) \
                 SELECT {made}, max(id), x'{made:064x}' || zeroblob({}) FROM invoices",
                made * 37 % 3000
            ),
            format!("INSERT INTO forwards (rowid, in_htlc, out_htlc, fee) VALUES ({}, {made}, 1, 2)", made + 100),
        ];
        if made.is_multiple_of(5) {
            // Takes its HTLCs with it, by the foreign key.
            statements.push(format!("DELETE FROM invoices WHERE label LIKE 'tea №{}%'", made - 3));
        }
        statements.push(bump(data_version));
        statements
    }

    /// One new transaction, with what happens around its commit.
    pub fn write(&mut self, commit: Commit) -> Answer {
        let next = self.data_version().next();
        let statements = self.transaction(next);
        self.lightningd.write(next, &statements, commit).expect("the pretended node works")
    }

    /// One new transaction, committed.
    #[track_caller]
    pub fn commit(&mut self) -> DataVersion {
        let answer = self.write(Commit::Normal);
        assert!(answer.is_continue(), "{answer:?}; {}", self.home.recorder_stderr());
        self.data_version()
    }

    /// One transaction with these statements, committed.
    #[track_caller]
    pub fn commit_also(&mut self, statements: &[&str]) {
        let next = self.data_version().next();
        let mut all: Vec<String> = statements.iter().map(|&statement| statement.to_owned()).collect();
        all.push(bump(next));
        let answer = self.lightningd.write(next, &all, Commit::Normal).expect("the pretended node works");
        assert!(answer.is_continue(), "{answer:?}; {}", self.home.recorder_stderr());
    }

    /// Starts the node with its recorder; `init` follows the first write of a start.
    pub fn start(&mut self) {
        self.lightningd.start().expect("the recorder starts");
    }

    /// Starts the node and makes its first write, which must be refused; returns the message.
    #[track_caller]
    pub fn start_refused(&mut self) -> String {
        self.start();
        match self.write(Commit::Normal) {
            Answer::Refused { message } => message,
            other => panic!("not refused: {other:?}; {}", self.home.recorder_stderr()),
        }
    }

    /// The node runs without its plugin for some transactions, and is down afterwards.
    pub fn run_without_plugin(&mut self, transactions: u64) {
        self.lightningd.kill();
        self.lightningd.start_without_recorder().expect("the node starts");
        for _ in 0..transactions {
            self.write(Commit::WithoutPlugin);
        }
        self.lightningd.kill();
    }

    /// Stops the node as `lightningd` does, and waits for the recorder.
    pub fn stop(&mut self) {
        self.lightningd.announce_shutdown().expect("the recorder lives");
        let status = self.lightningd.stop().expect("the recorder ends by itself");
        assert!(status.success(), "the recorder ended with {status}: {}", self.home.recorder_stderr());
    }
}
