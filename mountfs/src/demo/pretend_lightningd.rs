//! [`PretendLightningd`]: a simulated node, which handles its database and a real recorder as `lightningd` v26.06.6 does.
//!
//! For each write it opens a transaction, executes the statements, calls the hook `db_write` and commits on
//! "continue". Failures around the commit are simulated on request ([`Commit`]), crashes included: a crash leaves the files as
//! SIGKILL leaves them, with a hot journal if there was one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use common::{DataVersion, LogLimits};
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value, json};

mod recorder_process;

pub use recorder_process::{RecorderError, RecorderProcess, RecorderStderr};

/// The name of the database in the lightning-dir.
const DATABASE: &str = "lightningd.sqlite3";

/// The settings of a simulated node.
#[derive(Debug, Clone)]
pub struct PretendSettings {
    /// The recorder to load as a plugin.
    pub recorder: PathBuf,
    /// The directory with the database and `backup.lock`; the recorder's working directory.
    pub lightning_dir: PathBuf,
    /// The durability of the database.
    pub synchronous: Synchronous,
    /// The destination of the recorder's standard error.
    pub stderr: RecorderStderr,
    /// The timeout of each wait for the recorder.
    pub timeout: Duration,
}

impl PretendSettings {
    /// A node at `lightning_dir` with this recorder: without sync, with a timeout of 30 s, the recorder's errors shown.
    pub fn new(recorder: impl Into<PathBuf>, lightning_dir: impl Into<PathBuf>) -> Self {
        Self {
            recorder: recorder.into(),
            lightning_dir: lightning_dir.into(),
            synchronous: Synchronous::Off,
            stderr: RecorderStderr::default(),
            timeout: Duration::from_secs(30),
        }
    }
}

/// The durability of the node's own database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronous {
    /// The database is never synced: fast, and enough where only processes are killed.
    Off,
    /// The database is synced as by a real node.
    Full,
}

/// The events around the commit of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The ordinary case: the transaction is committed when the recorder answers "continue".
    Normal,
    /// The recorder answered; `lightningd` is killed before its COMMIT.
    CrashBeforeCommit,
    /// `lightningd` is killed right after its COMMIT.
    CrashAfterCommit,
    /// `lightningd` commits without calling the hook: the plugin is not loaded, or was dropped early at a stop.
    WithoutPlugin,
    /// The recorder is killed this long after the call. If it has answered by then, the transaction is committed.
    KillRecorder {
        /// The time from the moment the call was sent.
        after: Duration,
    },
}

/// The answer of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The answer was "continue".
    Continue {
        /// The time from the first byte sent to the last byte received; zero where no recorder was called.
        elapsed: Duration,
    },
    /// Any other answer: `lightningd` rolls back and stops with this message.
    Refused {
        /// The message of the recorder.
        message: String,
    },
    /// The recorder ended without an answer: `lightningd` rolls back and stops.
    Died,
}

impl Answer {
    /// Whether the transaction may be committed.
    pub fn is_continue(&self) -> bool {
        matches!(self, Self::Continue { .. })
    }
}

/// The failure of a simulated node. Refusals and deaths of the recorder are no failures: they are [`Answer`]s.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PretendError {
    /// The recorder cannot be started, or the conversation with it failed.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The node's own database refuses the statements.
    #[error("the pretended node's database at data_version {data_version} refused: {statement}")]
    Database {
        /// The version of the write.
        data_version: DataVersion,
        /// The statement, cut to a readable length.
        statement: String,
        /// The error of SQLite.
        #[source]
        source: rusqlite::Error,
    },
    /// The statements do not lead to the version of the write.
    #[error("the statements lead to data_version {found}, not to {expected}")]
    OutOfStep {
        /// The version of the write.
        expected: DataVersion,
        /// The version in the database after the statements.
        found: DataVersion,
    },
    /// The node is down: [`PretendLightningd::start`] first.
    #[error("the pretended node is not running")]
    Down,
    /// The recorder answered a request other than a write with an error.
    #[error("the recorder answered {method} with an error: {answer}")]
    NotAnswered {
        /// The method.
        method: String,
        /// The whole answer.
        answer: Value,
    },
    /// A file of the node cannot be read or written.
    #[error("cannot handle {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

/// A simulated node on a real database, with a real recorder. Dropping it kills the recorder and rolls back.
#[derive(Debug)]
pub struct PretendLightningd {
    settings: PretendSettings,
    recorder: Option<RecorderProcess>,
    database: Option<Connection>,
    /// The additional environment of the recorder.
    environment: Vec<(&'static str, String)>,
}

impl PretendLightningd {
    /// A node that is not running yet. Its database is created by the first start if it does not exist.
    pub fn new(settings: PretendSettings) -> Self {
        Self { settings, recorder: None, database: None, environment: Vec::new() }
    }

    /// The path of the node's database.
    pub fn database_path(&self) -> PathBuf {
        self.settings.lightning_dir.join(DATABASE)
    }

    /// The node's directory.
    pub fn lightning_dir(&self) -> &Path {
        &self.settings.lightning_dir
    }

    /// Sets the number of statements after which the recorder's logs end, and are sealed, from the next start on.
    pub fn end_logs_after(&mut self, statements: usize) {
        self.environment = vec![(LogLimits::STATEMENTS_VARIABLE, statements.to_string())];
    }

    /// The running recorder; `None` while the node is down or runs without it.
    pub fn recorder(&mut self) -> Option<&mut RecorderProcess> {
        self.recorder.as_mut()
    }

    /// Starts the recorder, asks for its manifest, then opens the database, as `lightningd` does. Writes may follow at
    /// once: [`init`](Self::init) comes after the first of them.
    ///
    /// # Errors
    /// [`PretendError`] of the recorder or the database.
    pub fn start(&mut self) -> Result<Value, PretendError> {
        self.kill();
        let settings = &self.settings;
        let recorder = RecorderProcess::start(
            &settings.recorder,
            &settings.lightning_dir,
            &settings.stderr,
            &self.environment,
            settings.timeout,
        )?;
        self.recorder = Some(recorder);
        let manifest = self.rpc("getmanifest", &json!({"allow-deprecated-apis": false}))?;
        self.open_database()?;
        Ok(manifest)
    }

    /// Starts without any plugin: every write is a [`Commit::WithoutPlugin`].
    ///
    /// # Errors
    /// [`PretendError::Database`].
    pub fn start_without_recorder(&mut self) -> Result<(), PretendError> {
        self.kill();
        self.open_database()
    }

    /// Sends `init`: the start is over.
    ///
    /// # Errors
    /// [`PretendError::NotAnswered`] and [`PretendError::Recorder`].
    pub fn init(&mut self) -> Result<Value, PretendError> {
        let configuration = json!({
            "lightning-dir": self.settings.lightning_dir, "rpc-file": "lightning-rpc", "startup": true,
            "network": "regtest", "feature_set": {"init": "08", "node": "08", "channel": "", "invoice": "02"},
        });
        self.rpc("init", &json!({"options": {}, "configuration": configuration}))
    }

    /// Calls a method of the recorder and returns its result.
    ///
    /// # Errors
    /// [`PretendError::NotAnswered`] when the answer is an error.
    pub fn rpc(&mut self, method: &str, params: &Value) -> Result<Value, PretendError> {
        let mut answer = self.recorder.as_mut().ok_or(PretendError::Down)?.ask(method, params)?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(PretendError::NotAnswered { method: method.to_owned(), answer }),
        }
    }

    /// The version of the database; `None` before the first write. Reads the file even while the node is down.
    ///
    /// # Errors
    /// [`PretendError::Database`].
    pub fn data_version(&self) -> Result<Option<DataVersion>, PretendError> {
        let failed = database_error(DataVersion::default(), "the data_version");
        match &self.database {
            Some(database) => data_version(database).map_err(failed),
            None if !self.database_path().exists() => Ok(None),
            None => Connection::open(self.database_path()).and_then(|database| data_version(&database)).map_err(failed),
        }
    }

    /// The node's connection to its database, for reads and for writes without the hook; `None` while down.
    pub fn database(&self) -> Option<&Connection> {
        self.database.as_ref()
    }

    /// Sets `vars.data_version` behind the recorder's back: the recorded bump of a version after a gap names the version
    /// before it literally, and the statements of the gap are not known.
    ///
    /// # Errors
    /// [`PretendError::Database`], [`PretendError::Down`].
    pub fn set_data_version(&mut self, data_version: DataVersion) -> Result<(), PretendError> {
        const SET: &str = "UPDATE vars SET intval = ?1 WHERE name = 'data_version'";
        let database = self.database.as_ref().ok_or(PretendError::Down)?;
        database.execute(SET, [data_version.get()]).map(drop).map_err(database_error(data_version, SET))
    }

    /// One write: a transaction, or, when it is a rider (a PRAGMA alone), a statement outside one.
    ///
    /// When the answer is not "continue", or the commit is one of the crashes, the node is down afterwards.
    ///
    /// # Errors
    /// [`PretendError`]; refusals and the recorder's death are [`Answer`]s.
    pub fn write<S: AsRef<str>>(
        &mut self,
        data_version: DataVersion,
        statements: &[S],
        commit: Commit,
    ) -> Result<Answer, PretendError> {
        let database = self.database.as_ref().ok_or(PretendError::Down)?;
        let rider = matches!(statements, [only] if is_pragma(only.as_ref()));
        let execute = |sql: &str| database.execute_batch(sql).map_err(database_error(data_version, sql));
        if !rider {
            execute("BEGIN")?;
            statements.iter().try_for_each(|statement| execute(statement.as_ref()))?;
            expect_data_version(database, data_version)?;
        }
        let answer = match (&mut self.recorder, commit) {
            (_, Commit::WithoutPlugin) => Answer::Continue { elapsed: Duration::ZERO },
            (None, _) => return Err(PretendError::Down),
            (Some(recorder), commit) => call_hook(recorder, data_version, statements, commit)?,
        };
        if !answer.is_continue() || commit == Commit::CrashBeforeCommit {
            self.crash()?;
            return Ok(answer);
        }
        if rider {
            statements.iter().try_for_each(|statement| execute(statement.as_ref()))?;
        } else {
            execute("COMMIT")?;
        }
        match commit {
            Commit::CrashAfterCommit | Commit::KillRecorder { .. } => self.crash()?,
            Commit::Normal | Commit::CrashBeforeCommit | Commit::WithoutPlugin => {}
        }
        Ok(answer)
    }

    /// Sends the `shutdown` notification. Writes may still follow; [`stop`](Self::stop) waits for the recorder's end.
    ///
    /// # Errors
    /// [`PretendError::Recorder`].
    pub fn announce_shutdown(&mut self) -> Result<(), PretendError> {
        Ok(self.recorder.as_mut().ok_or(PretendError::Down)?.notify("shutdown", &json!({}))?)
    }

    /// Waits until the recorder has ended by itself after [`announce_shutdown`](Self::announce_shutdown), and closes the
    /// database.
    ///
    /// # Errors
    /// [`PretendError::Recorder`] when the recorder does not end.
    pub fn stop(&mut self) -> Result<ExitStatus, PretendError> {
        let status = self.recorder.as_mut().ok_or(PretendError::Down)?.wait_for_exit()?;
        self.recorder = None;
        self.database = None;
        Ok(status)
    }

    /// Ends the recorder's input without a notification, waits until it has ended, and closes the database.
    ///
    /// # Errors
    /// [`PretendError::Recorder`] when the recorder does not end.
    pub fn end_input(&mut self) -> Result<ExitStatus, PretendError> {
        let status = self.recorder.as_mut().ok_or(PretendError::Down)?.end_input()?;
        self.recorder = None;
        self.database = None;
        Ok(status)
    }

    /// Dies as by SIGKILL: an open transaction is neither committed nor rolled back, its journal stays. The recorder sees
    /// its input end.
    ///
    /// # Errors
    /// [`PretendError::Io`] when the files cannot be left as a crash leaves them; [`PretendError::Recorder`] when the
    /// recorder does not end.
    pub fn crash(&mut self) -> Result<(), PretendError> {
        let database = self.database_path();
        let files = [database.clone(), with_suffix(&database, "-journal")];
        if self.database.as_ref().is_some_and(|database| !database.is_autocommit()) {
            // Closing the connection would roll back, so the present files are copied and restored afterwards.
            let now = files.each_ref().map(|file| fs::read(file).ok());
            self.database = None;
            for (file, bytes) in files.iter().zip(now) {
                bytes
                    .map_or(Ok(()), |bytes| fs::write(file, bytes))
                    .map_err(|source| PretendError::Io { path: file.clone(), source })?;
            }
        }
        self.database = None;
        if let Some(mut recorder) = self.recorder.take() {
            recorder.end_input()?;
        }
        Ok(())
    }

    /// Ends node and recorder at once, so that the recorder cannot react.
    pub fn kill(&mut self) {
        self.recorder = None;
        self.database = None;
    }

    fn open_database(&mut self) -> Result<(), PretendError> {
        let synchronous = match self.settings.synchronous {
            Synchronous::Off => "OFF",
            Synchronous::Full => "FULL",
        };
        let pragmas =
            format!("PRAGMA foreign_keys = ON; PRAGMA journal_mode = DELETE; PRAGMA synchronous = {synchronous};");
        let opened = Connection::open(self.database_path()).and_then(|database| {
            database.execute_batch(&pragmas)?;
            Ok(database)
        });
        self.database = Some(opened.map_err(database_error(DataVersion::default(), "the start"))?);
        Ok(())
    }
}

/// Calls the hook and, for [`Commit::KillRecorder`], kills the recorder meanwhile.
fn call_hook<S: AsRef<str>>(
    recorder: &mut RecorderProcess,
    data_version: DataVersion,
    statements: &[S],
    commit: Commit,
) -> Result<Answer, PretendError> {
    let writes: Vec<&str> = statements.iter().map(AsRef::as_ref).collect();
    let called = Instant::now();
    let answered =
        recorder.send("db_write", &json!({"data_version": data_version.get(), "writes": writes})).and_then(|id| {
            if let Commit::KillRecorder { after } = commit {
                thread::sleep(after);
                recorder.kill()?;
            }
            recorder.answer_to(&id)
        });
    let elapsed = called.elapsed();
    match answered {
        Ok(answer) if answer["result"]["result"] == "continue" => Ok(Answer::Continue { elapsed }),
        Ok(answer) => {
            let message = answer["error"]["message"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
            Ok(Answer::Refused { message })
        }
        Err(RecorderError::Died { .. }) => Ok(Answer::Died),
        Err(error) => Err(error.into()),
    }
}

/// Checks that the statements have led to the version that the recorder is going to get.
fn expect_data_version(database: &Connection, expected: DataVersion) -> Result<(), PretendError> {
    match data_version(database).map_err(database_error(expected, "the data_version"))? {
        Some(found) if found == expected => Ok(()),
        found => Err(PretendError::OutOfStep { expected, found: found.unwrap_or_default() }),
    }
}

/// The data_version of a database; `None` for a new database, or one of an old release.
fn data_version(database: &Connection) -> Result<Option<DataVersion>, rusqlite::Error> {
    const SELECT: &str = "SELECT intval FROM vars WHERE name = 'data_version'";
    // In a database of an old release `vars` has no such column, in a new one there is no `vars`.
    let columns = "SELECT count(*) FROM pragma_table_info('vars') WHERE name = 'intval'";
    if database.prepare_cached(columns)?.query_row([], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let version = database.prepare_cached(SELECT)?.query_row([], |row| row.get(0)).optional()?;
    Ok(version.map(DataVersion::from_database))
}

fn is_pragma(statement: &str) -> bool {
    statement.trim_start().get(..6).is_some_and(|start| start.eq_ignore_ascii_case("pragma"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn database_error(data_version: DataVersion, statement: &str) -> impl FnOnce(rusqlite::Error) -> PretendError {
    let statement = statement.chars().take(300).collect();
    move |source| PretendError::Database { data_version, statement, source }
}
