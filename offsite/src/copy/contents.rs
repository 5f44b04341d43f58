//! [`Contents`]: the files of a backup that the objects of a copy amount to.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use format::names;
use format::units::Seq;

use crate::copy::catalogs::Catalogs;
use crate::copy::chunks::Chunks;
use crate::copy::logs::{AssembledLog, LogContent};
use crate::copy::object_file::ObjectFile;
use crate::copy_error::CopyError;
use crate::objects::{File, Object, Run};
use crate::ship::listing::Listing;

/// How often files are looked for while no new log shows that a log was finished.
const LIST_INTERVAL: Duration = Duration::from_secs(15);

/// The contents of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// In objects.
    Parts(Arc<ObjectFile>),
    /// In memory: the manifest, or a log, which may grow.
    Bytes(Arc<RwLock<LogContent>>),
}

/// The files of a copy.
#[derive(Debug)]
pub struct Contents {
    files: BTreeMap<String, Content>,
    /// The logs behind the newest segment, ascending.
    logs: Vec<AssembledLog>,
    /// Seq behind the newest segment.
    sealed_behind: u64,
    /// Seq of the last record before that which the copy lacks; 0 when it lacks none.
    missing_through: u64,
    /// What was reported as wrong with the logs.
    broken: Option<String>,
    manifest: Option<(u32, Arc<RwLock<LogContent>>)>,
    /// Empty when they are ignored.
    catalogs: Catalogs,
    use_of_catalogs: UseOfCatalogs,
    listed: Instant,
}

/// Whether what catalogs say is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseOfCatalogs {
    /// It saves requests.
    Used,
    /// Everything is read where it is: the copy is checked, or removed from.
    Ignored,
}

impl Contents {
    /// Lists the copy, and reads its manifest and logs.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(chunks: &Chunks, use_of_catalogs: UseOfCatalogs) -> Result<Self, CopyError> {
        let mut contents = Self {
            files: BTreeMap::new(),
            logs: Vec::new(),
            sealed_behind: 1,
            missing_through: 0,
            broken: None,
            manifest: None,
            catalogs: Catalogs::default(),
            use_of_catalogs,
            listed: Instant::now(),
        };
        contents.read_all(chunks)?;
        Ok(contents)
    }

    /// Reads what was shipped since the last call.
    ///
    /// # Errors
    /// When it cannot be read; what is known stays.
    pub fn read_new(&mut self, chunks: &Chunks) -> Result<(), CopyError> {
        let logs = self.logs.len();
        self.read_logs(chunks)?;
        // A log that is followed by another one is sealed soon.
        if self.logs.len() != logs || self.logs.len() > 1 || self.listed.elapsed() >= LIST_INTERVAL {
            self.read_all(chunks)?;
        }
        Ok(())
    }

    /// Lists the copy, and reads what was shipped since the last call.
    ///
    /// # Errors
    /// When it cannot be read; what is known stays.
    pub(crate) fn read_all(&mut self, chunks: &Chunks) -> Result<(), CopyError> {
        self.read_files(chunks)?;
        self.read_logs(chunks)
    }

    /// The content of a file.
    pub fn get(&self, name: &str) -> Option<&Content> {
        self.files.get(name)
    }

    /// The names of the files.
    pub fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    /// Seq behind the last record that the copy has.
    pub fn holds(&self) -> u64 {
        self.logs.last().map_or(self.sealed_behind, AssembledLog::next_seq)
    }

    /// Seq of the last record before the newest that the copy lacks, because it was not shipped yet, or was lost; 0 when it lacks none.
    pub fn missing_through(&self) -> u64 {
        self.missing_through
    }

    /// The run that shipped the newest bytes of the logs, and when, in microseconds since 1970.
    pub fn newest_shipped(&self) -> Option<(Run, i64)> {
        self.logs.last().and_then(|log| Some((log.run()?, log.shipped_at()?)))
    }

    fn read_files(&mut self, chunks: &Chunks) -> Result<(), CopyError> {
        let listing = Listing::read(chunks.store())?;
        if self.use_of_catalogs == UseOfCatalogs::Used {
            self.catalogs.read_new(&listing, chunks);
        }
        let catalogs = &self.catalogs;
        let mut files = BTreeMap::new();
        // A backup has one, and no process locks that of a copy.
        files.insert(names::LOCK.to_owned(), Content::Bytes(Arc::default()));
        if let Some(&newest) = listing.manifests().last() {
            if self.manifest.as_ref().is_none_or(|(number, _)| *number != newest) {
                let bytes = chunks.whole(&Object::Manifest(newest).to_string())?;
                self.manifest = Some((newest, Arc::new(RwLock::new(LogContent::fixed(bytes)))));
            }
            if let Some((_, bytes)) = &self.manifest {
                files.insert(names::MANIFEST.to_owned(), Content::Bytes(Arc::clone(bytes)));
            }
        }
        let pruned = listing.shown_pruned();
        self.sealed_behind = match pruned {
            Some(File::Pruned { last, .. }) => last.saturating_add(1),
            _ => 1,
        };
        for file in listing.files() {
            let name = match file {
                File::Segment { first, .. } => Seq::new(first).map(names::segment),
                File::Snapshot { seq } => Seq::new(seq).map(names::snapshot),
                File::Pruned { .. } if Some(file) == pruned => Some(names::PRUNED.to_owned()),
                File::Pruned { .. } => None,
            };
            let (Some(name), Some(parts)) = (name, listing.complete(file)) else { continue };
            if let File::Segment { last, .. } = file {
                self.sealed_behind = self.sealed_behind.max(last.saturating_add(1));
            }
            let content = match self.files.get(&name) {
                Some(Content::Parts(known)) if known.is(file, &parts, catalogs) => Arc::clone(known),
                _ => match ObjectFile::new(file, &parts) {
                    Ok(content) => Arc::new(content.beside(catalogs)),
                    // The rest can be read without it. What needs it says that it is missing.
                    Err(error) => {
                        log::error!("{error}");
                        continue;
                    }
                },
            };
            files.insert(name, Content::Parts(content));
        }
        let missing = listing.last_missing_up_to(self.sealed_behind.saturating_sub(1));
        self.missing_through = if listing.pruned_covers(missing) { 0 } else { missing };
        self.logs.retain(|log| log.first() >= self.sealed_behind);
        self.files = files;
        self.list_logs();
        self.listed = Instant::now();
        Ok(())
    }

    /// Puts the logs together, from the one behind the newest segment on.
    fn read_logs(&mut self, chunks: &Chunks) -> Result<(), CopyError> {
        let (mut first, mut epoch, mut at) = (self.sealed_behind, 0, 0);
        loop {
            if self.logs.get(at).is_none_or(|log| log.first() != first) {
                self.logs.truncate(at);
                self.logs.push(AssembledLog::new(first));
            }
            let Some(log) = self.logs.get_mut(at) else { break };
            match log.read_new(chunks, epoch) {
                // What was shipped before it can be read; what the node had then says how much is missing.
                Err(error @ (CopyError::Damaged { .. } | CopyError::Seal(_) | CopyError::NotUnderstood { .. })) => {
                    if self.broken.as_ref() != Some(&error.to_string()) {
                        log::error!("{error}; what was shipped after that is not shown");
                        self.broken = Some(error.to_string());
                    }
                }
                read => read?,
            }
            // Records only go on: seqs that go back would be read in circles.
            if log.is_empty() || log.next_seq() <= log.first() {
                self.logs.truncate(at);
                break;
            }
            (first, epoch, at) = (log.next_seq(), log.epoch(), at + 1);
        }
        self.list_logs();
        Ok(())
    }

    fn list_logs(&mut self) {
        self.files.retain(|name, _| names::parse_log(name).is_none());
        for log in &self.logs {
            if let Some(first) = Seq::new(log.first()) {
                self.files.insert(names::log(first), Content::Bytes(Arc::clone(log.content())));
            }
        }
    }
}
