//! A directory that remembers what was done to it, and can tell what a power cut would have left, for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Access, Directory, RealDirectory, StorageError, StoredFile};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A real directory and a journal of the calls that changed it.
#[derive(Debug)]
pub(crate) struct JournaledDirectory {
    real: RealDirectory,
    journal: Arc<Mutex<Journal>>,
}

#[derive(Debug, Default)]
struct Journal {
    /// Which file has which name now, and what was durable at the beginning.
    names: BTreeMap<String, usize>,
    initial_names: BTreeMap<String, usize>,
    initial_contents: Vec<Vec<u8>>,
    files: usize,
    calls: Vec<Call>,
}

#[derive(Debug, Clone)]
enum Call {
    Write { file: usize, offset: usize, bytes: Vec<u8> },
    SyncFile(usize),
    Name(NameCall),
    SyncNames,
    Acknowledged(String),
}

#[derive(Debug, Clone)]
enum NameCall {
    Create { name: String, file: usize },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// What becomes of writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
    FirstHalf,
    AllButFirstSector,
}

impl Unsynced {
    pub(crate) const ALL: [Self; 4] = [Self::Lost, Self::Kept, Self::FirstHalf, Self::AllButFirstSector];
}

/// A moment at which power fails, and what the disk makes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PowerCut {
    /// Calls made before.
    pub(crate) after: usize,
    pub(crate) unsynced: Unsynced,
    /// Creations, renames and removals since the directory was synced that last all the same; the first ones, for they are
    /// journaled in order.
    pub(crate) names_kept: usize,
}

impl JournaledDirectory {
    /// What is there now counts as durable.
    pub(crate) fn new(path: &Path) -> Self {
        let mut journal = Journal::default();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            journal.initial_contents.push(fs::read(entry.path()).unwrap());
            journal.initial_names.insert(entry.file_name().into_string().unwrap(), journal.files);
            journal.files += 1;
        }
        journal.names = journal.initial_names.clone();
        Self { real: RealDirectory::new(path), journal: Arc::new(Mutex::new(journal)) }
    }

    /// Notes that something was acknowledged.
    pub(crate) fn acknowledge(&self, what: &str) {
        self.note(Call::Acknowledged(what.to_owned()));
    }

    /// All that power can leave, at any moment so far.
    pub(crate) fn power_cuts(&self) -> Vec<PowerCut> {
        let calls = self.journal.lock().unwrap().calls.clone();
        let mut cuts = Vec::new();
        let mut names = 0;
        for after in 0..=calls.len() {
            match after.checked_sub(1).map(|last| &calls[last]) {
                Some(Call::Name(_)) => names += 1,
                Some(Call::SyncNames) => names = 0,
                _ => {}
            }
            for unsynced in Unsynced::ALL {
                cuts.extend((0..=names).map(|names_kept| PowerCut { after, unsynced, names_kept }));
            }
        }
        cuts
    }

    /// Leaves in `to`, which is empty, what there is after a power cut. Returns what had been acknowledged.
    pub(crate) fn leave(&self, cut: PowerCut, to: &Path) -> Vec<String> {
        let journal = self.journal.lock().unwrap();
        let mut contents = journal.initial_contents.clone();
        contents.resize(journal.files, Vec::new());
        let mut names = journal.initial_names.clone();
        let (mut writes, mut name_calls, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
        for call in &journal.calls[..cut.after] {
            match call {
                Call::Write { file, offset, bytes } => writes.push((*file, *offset, bytes.as_slice())),
                Call::SyncFile(synced) => {
                    let is_synced = |&(file, ..): &(usize, usize, &[u8])| file == *synced;
                    for (file, offset, bytes) in writes.iter().copied().filter(is_synced) {
                        write(&mut contents[file], offset, bytes);
                    }
                    writes.retain(|write| !is_synced(write));
                }
                Call::Name(call) => name_calls.push(call),
                Call::SyncNames => name_calls.drain(..).for_each(|call| call.apply(&mut names)),
                Call::Acknowledged(what) => acknowledged.push(what.clone()),
            }
        }
        for (file, offset, bytes) in writes {
            let to_next_sector = (SECTOR - offset % SECTOR).min(bytes.len());
            match cut.unsynced {
                Unsynced::Lost => {}
                Unsynced::Kept => write(&mut contents[file], offset, bytes),
                Unsynced::FirstHalf => write(&mut contents[file], offset, &bytes[..bytes.len() / 2]),
                Unsynced::AllButFirstSector => {
                    write(&mut contents[file], offset + to_next_sector, &bytes[to_next_sector..]);
                }
            }
        }
        name_calls[..cut.names_kept].iter().for_each(|call| call.apply(&mut names));
        for (name, file) in names {
            fs::write(to.join(name), &contents[file]).unwrap();
        }
        acknowledged
    }

    fn note(&self, call: Call) {
        self.journal.lock().unwrap().calls.push(call);
    }

    fn note_name(&self, call: NameCall) {
        let mut journal = self.journal.lock().unwrap();
        call.apply(&mut journal.names);
        journal.calls.push(Call::Name(call));
    }

    fn journaled(&self, name: &str, file: Box<dyn StoredFile>) -> Box<dyn StoredFile> {
        let number = self.journal.lock().unwrap().names[name];
        Box::new(JournaledFile { file, number, journal: Arc::clone(&self.journal) })
    }
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    contents.resize(contents.len().max(offset + bytes.len()), 0);
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl NameCall {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Rename { from, to } => {
                let file = names.remove(from).unwrap();
                names.insert(to.clone(), file);
            }
            Self::Remove { name } => {
                names.remove(name).unwrap();
            }
        }
    }
}

impl Directory for JournaledDirectory {
    fn path(&self) -> &Path {
        self.real.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        Ok(self.journaled(name, self.real.open(name, access)?))
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        let created = self.real.create(name)?;
        let file = {
            let mut journal = self.journal.lock().unwrap();
            journal.files += 1;
            journal.files - 1
        };
        self.note_name(NameCall::Create { name: name.to_owned(), file });
        Ok(self.journaled(name, created))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.real.rename(from, to)?;
        self.note_name(NameCall::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.real.remove(name)?;
        self.note_name(NameCall::Remove { name: name.to_owned() });
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.real.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.note(Call::SyncNames);
        self.real.sync()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.real.lock(name)
    }
}

#[derive(Debug)]
struct JournaledFile {
    file: Box<dyn StoredFile>,
    number: usize,
    journal: Arc<Mutex<Journal>>,
}

impl StoredFile for JournaledFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.file.read_len()
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.file.check_in_place()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let at = usize::try_from(offset).unwrap();
        let call = Call::Write { file: self.number, offset: at, bytes: bytes.to_vec() };
        self.journal.lock().unwrap().calls.push(call);
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.journal.lock().unwrap().calls.push(Call::SyncFile(self.number));
        self.file.sync()
    }
}
