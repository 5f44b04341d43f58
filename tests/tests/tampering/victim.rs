//! A copy of a node and its backup that is tampered with again and again, and what must hold then.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{BackupLock, BackupWriter, DataVersion, Timestamp, with_causes};
use tests::home::Home;
use tests::small_node::bump;

use crate::cases::{Case, Tampering, numbered};
use crate::recorded::{Files, Held, LIMITS, Recorded, read, record};

/// What came of a tampering.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcome {
    /// Nothing was lost by it.
    pub harmless: bool,
    /// Nothing could be read at all.
    pub unreadable: bool,
    pub recorder: Option<Recorder>,
}

/// What a recorder did with a backup that was tampered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorder {
    Refused,
    WentOn,
    /// It records to the spool, which cannot be drained.
    SpoolsOn,
}

/// Whether a recorder is let at what was tampered with, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Read,
    ReadAndRecord,
}

/// A copy that is put right again before each tampering.
pub struct Victim<'a> {
    recorded: &'a Recorded,
    another: &'a Recorded,
    home: Home,
    good: Files,
}

impl<'a> Victim<'a> {
    pub fn of(recorded: &'a Recorded, another: &'a Recorded) -> Self {
        let home = Home::in_memory();
        let good = recorded.files.iter().map(|(path, bytes)| (path.clone(), moved(bytes, &recorded.home, &home)));
        let victim = Self { recorded, another, good: good.collect(), home };
        victim.put_all();
        victim
    }

    /// Everything is as it was recorded.
    pub fn put_all(&self) {
        for directory in ["node.bkp", "regtest", "spool"] {
            let directory = self.home.join(directory);
            if directory.exists() {
                fs::remove_dir_all(&directory).expect("a directory");
            }
        }
        self.put(&self.good);
    }

    fn put(&self, files: &Files) {
        for (path, bytes) in files {
            let path = self.home.join(path);
            fs::create_dir_all(path.parent().expect("it is in a directory")).expect("a directory");
            fs::write(path, bytes).expect("a file");
        }
    }

    /// All files of the backup are those of an older copy.
    pub fn put_older_backup(&self) {
        fs::remove_dir_all(self.home.backup()).expect("a backup");
        let older = self.recorded.older.iter().filter(|(path, _)| path.starts_with("node.bkp"));
        self.put(&older.map(|(path, bytes)| (path.clone(), self.from(self.recorded, bytes))).collect());
    }

    fn outside(&self) -> PathBuf {
        self.home.join("outside")
    }

    /// What is in a file of another home, as if it had been made here.
    fn from(&self, recorded: &Recorded, bytes: &[u8]) -> Vec<u8> {
        moved(bytes, &recorded.home, &self.home)
    }

    /// Tampers with one file, looks at what is read, and puts everything right again.
    ///
    /// # Errors
    /// When something is read, or recorded, that was not so.
    pub fn tamper(&self, case: &Case, then: Then) -> Result<Outcome, String> {
        let path = self.home.join(&case.file);
        let bytes = self.good.get(&case.file).map(Vec::as_slice).unwrap_or_default();
        let replacement = match &case.tampering {
            Tampering::Is { other, of } => {
                use crate::cases::Whose;
                let (recorded, files) = match of {
                    Whose::This => (self.recorded, &self.recorded.files),
                    Whose::Another => (self.another, &self.another.files),
                    Whose::Older => (self.recorded, &self.recorded.older),
                };
                self.from(recorded, &files[other])
            }
            Tampering::BackAgain => self.from(self.recorded, &self.recorded.older[&case.file]),
            _ => Vec::new(),
        };
        case.tampering.apply(&path, bytes, &self.outside(), &replacement);
        let outcome = self.look(then)?;
        if case.tampering == Tampering::BackAgain && !outcome.harmless {
            return Err("what was dropped is read again".to_owned());
        }
        if case.tampering == Tampering::LinkToItsContents {
            if fs::read(self.outside()).expect("it is there") != bytes {
                return Err("a link was followed and written through".to_owned());
            }
            fs::remove_file(self.outside()).expect("it is there");
        }
        match (then, &case.tampering) {
            (Then::Read, Tampering::DoubledAs(number)) => {
                let copy = numbered(&path, *number).expect("it has a number");
                if self.good.contains_key(&numbered(&case.file, *number).expect("it has a number")) {
                    self.put_all();
                } else {
                    fs::remove_file(copy).expect("it is there");
                }
            }
            (Then::Read, _) => self.put_right(&path, &case.file),
            // A recorder changes other files, too.
            (Then::ReadAndRecord, _) => self.put_all(),
        }
        Ok(outcome)
    }

    fn put_right(&self, path: &Path, file: &Path) {
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => fs::remove_dir(path).expect("an empty directory"),
            Ok(meta) if !meta.is_file() => fs::remove_file(path).expect("it is there"),
            _ => {}
        }
        match self.good.get(file) {
            Some(bytes) => fs::write(path, bytes).expect("a file"),
            None => fs::remove_file(path).expect("it is there"),
        }
    }

    /// What is read is an error or what was recorded, and then the recorder does nothing wrong.
    ///
    /// # Errors
    /// When that is not so.
    pub fn look(&self, then: Then) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let before = match read(&self.home, self.recorded.newest) {
            Ok(read) => {
                let as_recorded = |version, contents| self.recorded.ever.get(version) == Some(contents);
                if let Some((version, _)) = read.held.iter().find(|(version, contents)| !as_recorded(version, contents))
                {
                    return Err(format!("version {version} is not what was recorded"));
                }
                outcome.harmless = read.held == self.recorded.readable;
                read.held
            }
            Err(text) if text.len() > 20 => {
                outcome.unreadable = true;
                Held::new()
            }
            Err(text) => return Err(format!("an error that says nothing: {text}")),
        };
        if then == Then::ReadAndRecord {
            outcome.recorder = Some(self.record(&before)?);
        }
        Ok(outcome)
    }

    /// The node's next write goes to what was tampered with: it is refused, or recorded with all that the node has, and what
    /// could be read before still can.
    fn record(&self, before: &Held) -> Result<Recorder, String> {
        let newest = self.recorded.newest;
        let went_on = match self.go_on() {
            Ok(went_on) => went_on,
            Err(text) if text.len() > 30 => return Ok(Recorder::Refused),
            Err(text) => return Err(format!("a refusal that says nothing: {text}")),
        };
        if went_on == Recorder::SpoolsOn {
            return Ok(went_on);
        }
        let held = read(&self.home, newest).map_err(|error| format!("went on with what cannot be read: {error}"))?.held;
        for (version, has) in [(newest, self.recorded.node_has), (newest + 1, self.recorded.node_has_next)] {
            match held.get(&version) {
                Some(contents) if contents.database == has => {}
                Some(_) => return Err(format!("went on, and version {version} is not what the node has")),
                None => return Err(format!("went on, and version {version} is not there: {:?}", held.keys())),
            }
        }
        let (older, was) = (held.range(..newest), before.range(..newest));
        match older.clone().find(|(version, contents)| self.recorded.ever.get(version) != Some(contents)) {
            Some((version, _)) => Err(format!("went on, and version {version} is not what was recorded")),
            None if older.count() < was.count() => {
                Err("went on, and fewer versions can be read than before".to_owned())
            }
            None => Ok(went_on),
        }
    }

    /// As the recorder does: it drains a spool first if it can.
    fn go_on(&self) -> Result<Recorder, String> {
        let (lightning_dir, in_flight) = (self.home.lightning_dir(), Arc::default());
        let lock = BackupLock::read(&lightning_dir).map_err(|error| with_causes(&error))?;
        let spooling =
            BackupWriter::open_spool(&lock, &lightning_dir, LIMITS, &in_flight).map_err(|error| with_causes(&error))?;
        let next = DataVersion::new(self.recorded.newest + 1);
        let write = |recording: &mut BackupWriter| record(recording, next, &[bump(next)], Timestamp::now());
        if let Some(mut spooling) = spooling {
            let plan = spooling.drain_plan().expect("it goes to a spool");
            let drained = plan.attach().and_then(|mut drain| {
                drain.advance(spooling.end())?;
                Ok(drain)
            });
            match drained {
                Ok(drain) => spooling.return_to_backup(drain).map_err(|error| with_causes(&error))?,
                Err(error) if with_causes(&error).len() > 30 => {
                    write(&mut spooling)?;
                    return Ok(Recorder::SpoolsOn);
                }
                Err(error) => return Err(with_causes(&error)),
            }
        }
        let mut recording = BackupWriter::open_locked(&lock, &lightning_dir, LIMITS, &in_flight)
            .map_err(|error| with_causes(&error))?;
        write(&mut recording)?;
        Ok(Recorder::WentOn)
    }
}

/// What is in a file of one home as it is in the same file of another: some say where they are. Homes have paths of one
/// length.
fn moved(bytes: &[u8], from: &Home, to: &Home) -> Vec<u8> {
    let [from, to] = [from, to].map(|home| home.join("").to_str().expect("a path in UTF-8").as_bytes().to_vec());
    assert_eq!(from.len(), to.len());
    let mut moved = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from) {
        at += found;
        moved[at..at + from.len()].copy_from_slice(&to);
        at += from.len();
    }
    moved
}
