//! [`ParitySets`]: the parity sets of a backup, kept complete.
//!
//! What is on the disk if the power fails in between: a set gets its name when it is durable, and takes the place of the one that it
//! extends in one step, so each file has its old parity or its new one. That the name lasts is not waited for: a set that is missing is
//! made again. A file is removed only after the parity of the files that stay was made without it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::parity::mending::first_member;
use crate::parity::set_file::ParitySet;
use crate::parity::share::ParityShare;
use crate::parity::writing::{NotWritten, Watch, write_set};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, Trouble, read_on, remove_if_present};
use format::checked::{CHECKED_LEN_MAX, CheckedSnapshots};
use format::manifest::Manifest;
use format::names;
use format::parity::{Member, Protected};
use format::units::Seq;
use uuid::Uuid;

/// Segments are added to a set until it has so many data blocks, which are 4 MiB: then its parity blocks are enough for a run of 64 KiB
/// by the default share alone.
const SET_BLOCKS: u64 = 1024;

/// Segments of a set at most: all are read, and open, whenever one is added.
const SET_SEGMENTS_MAX: usize = 16;

/// How often files are looked at again, after a set was found unusable meanwhile.
const ATTEMPTS: usize = 3;

/// The parity sets of a backup whose user has its lock.
#[derive(Debug)]
pub(crate) struct ParitySets {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    /// `None`: that of what there is, without any none.
    share: Option<ParityShare>,
    /// The members of each set by the first, as far as they were read.
    sets: BTreeMap<Protected, Vec<Member>>,
    /// Files that could not be read when their parity was to be made.
    unreadable: BTreeSet<Protected>,
    /// Whether [`complete`](Self::complete) has come to its end, so that only new files are without parity.
    is_complete: bool,
}

/// What came of a set that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    /// A member cannot be read, which was logged.
    Unreadable,
    /// The set before it cannot be used any more, and with it what is known of the files in it.
    Unusable,
    Stopped,
}

/// The message for parity that could not be written.
pub(crate) fn not_written(error: &StorageError) -> String {
    format!("no parity is made for new files: {error}: {}. Nothing is lost by that; it is tried again", error.source)
}

/// Whether an error is about one file, and not about the directory that it is in.
pub(crate) fn is_of_the_file(error: &StorageError) -> bool {
    !matches!(error.trouble(), Trouble::OutOfReach | Trouble::NoPermission | Trouble::TooManyFiles)
}

impl ParitySets {
    /// The sets in `directory`; nothing is read yet. Until [`set_share`](Self::set_share) is called, parity is made only where there is
    /// some already.
    pub(crate) fn new(directory: Arc<dyn Directory>, uuid: Uuid) -> Self {
        Self { directory, uuid, share: None, sets: BTreeMap::new(), unreadable: BTreeSet::new(), is_complete: false }
    }

    /// Sets the share of the sets that are written from now on. [`NONE`](ParityShare::NONE) removes all at the next call.
    pub(crate) fn set_share(&mut self, share: ParityShare) {
        self.share = Some(share);
        self.is_complete = false;
    }

    /// Forgets a set whose file was found damaged: the next call of [`complete`](Self::complete) reads it again, and removes it if it is.
    pub(crate) fn forget(&mut self, first: Protected) {
        self.sets.remove(&first);
        self.is_complete = false;
    }

    /// Whether new files get parity.
    pub(crate) fn makes_any(&self) -> bool {
        let is_asked_for = self.share.map_or(!self.sets.is_empty(), |share| share != ParityShare::NONE);
        is_asked_for && !self.directory.is_far()
    }

    /// Makes the parity of a segment that was just sealed, and is sound. Where all others have theirs, the directory is not listed:
    /// with tens of thousands of files that would take as long as sealing.
    ///
    /// # Errors
    /// The same as for [`complete`](Self::complete).
    pub(crate) fn add_sealed(
        &mut self,
        first: Seq,
        is_sound: &dyn Fn(Protected) -> bool,
        watch: Watch<'_>,
    ) -> Result<ControlFlow<()>, StorageError> {
        if !self.is_complete {
            return self.complete(is_sound, watch);
        }
        if !self.makes_any() {
            return Ok(ControlFlow::Continue(()));
        }
        self.is_complete = false;
        for file in [Protected::Manifest, Protected::Checked] {
            if let Some(members) = self.sets.get(&file).cloned()
                && self.is_outdated(file, &members)?
            {
                return self.complete(is_sound, watch);
            }
        }
        let outcome = match self.measure(Protected::Segment(first))? {
            Some(member) => self.add(member, watch)?,
            None => Outcome::Unreadable,
        };
        match outcome {
            Outcome::Written | Outcome::Unreadable => self.is_complete = true,
            // Now each file is looked at.
            Outcome::Unusable => return self.complete(is_sound, watch),
            Outcome::Stopped => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Makes the parity that is missing. Cheap when there is nothing to do. A file gets parity when `is_sound` says that it is sound:
    /// parity of damaged bytes would keep them. In a directory that is far there is none.
    ///
    /// # Errors
    /// When a file system call fails. The next call does the rest.
    pub(crate) fn complete(
        &mut self,
        is_sound: &dyn Fn(Protected) -> bool,
        watch: Watch<'_>,
    ) -> Result<ControlFlow<()>, StorageError> {
        if self.directory.is_far() {
            return Ok(ControlFlow::Continue(()));
        }
        self.is_complete = false;
        // A set that was found unusable leaves files without parity.
        for _ in 0..ATTEMPTS {
            match self.complete_listed(is_sound, watch)? {
                Outcome::Written | Outcome::Unreadable => {
                    self.is_complete = true;
                    return Ok(ControlFlow::Continue(()));
                }
                Outcome::Unusable => {}
                Outcome::Stopped => break,
            }
        }
        Ok(ControlFlow::Break(()))
    }

    fn complete_listed(
        &mut self,
        is_sound: &dyn Fn(Protected) -> bool,
        watch: Watch<'_>,
    ) -> Result<Outcome, StorageError> {
        let listed = self.directory.list()?;
        let present: BTreeSet<Protected> = listed.iter().filter_map(|name| Protected::parse(name)).collect();
        let named: BTreeSet<Protected> = listed.iter().filter_map(|name| first_member(name)).collect();
        match self.share {
            Some(ParityShare::NONE) => {
                self.sets.clear();
                return self.remove_all(named).map(|()| Outcome::Written);
            }
            None if named.is_empty() => return Ok(Outcome::Written),
            _ => {}
        }
        self.load(named)?;
        for (first, members) in self.sets.clone() {
            let left: Vec<Member> = members.iter().filter(|member| present.contains(&member.file)).copied().collect();
            if left.len() < members.len() {
                match self.shrink(first, left, watch)? {
                    Outcome::Written | Outcome::Unreadable => {}
                    outcome @ (Outcome::Unusable | Outcome::Stopped) => return Ok(outcome),
                }
            } else if self.is_outdated(first, &members)? {
                self.remove(first)?;
            }
        }
        let covered: BTreeSet<Protected> = self.sets.values().flatten().map(|member| member.file).collect();
        for file in present.into_iter().filter(|file| !covered.contains(file)) {
            if watch().is_break() {
                return Ok(Outcome::Stopped);
            }
            if self.unreadable.contains(&file) {
                continue;
            }
            let Some(member) = self.measure(file)? else { continue };
            if !is_sound(file) {
                self.note_unreadable(file);
                continue;
            }
            match self.add(member, watch)? {
                Outcome::Written | Outcome::Unreadable => {}
                outcome @ (Outcome::Unusable | Outcome::Stopped) => return Ok(outcome),
            }
        }
        Ok(Outcome::Written)
    }

    /// Makes the parity of files that stay without those that are about to be removed.
    ///
    /// # Errors
    /// When a file system call fails.
    pub(crate) fn release(
        &mut self,
        is_leaving: &dyn Fn(Protected) -> bool,
        watch: Watch<'_>,
    ) -> Result<ControlFlow<()>, StorageError> {
        if self.directory.is_far() {
            return Ok(ControlFlow::Continue(()));
        }
        self.is_complete = false;
        self.load(self.directory.list()?.iter().filter_map(|name| first_member(name)).collect())?;
        for (first, members) in self.sets.clone() {
            let left: Vec<Member> = members.iter().filter(|member| !is_leaving(member.file)).copied().collect();
            // What is left of an unusable set is looked at with the next call of `complete`.
            if left.len() < members.len() && self.shrink(first, left, watch)? == Outcome::Stopped {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads which files the sets with these first members are of. One that is damaged is removed: it is made again.
    fn load(&mut self, named: BTreeSet<Protected>) -> Result<(), StorageError> {
        self.sets.retain(|first, _| named.contains(first));
        for first in named {
            if self.sets.contains_key(&first) {
                continue;
            }
            match ParitySet::open(&*self.directory, first) {
                Ok(set) if set.table().uuid == self.uuid => {
                    self.sets.insert(first, set.layout().members().to_vec());
                }
                Ok(set) => self.remove_unusable(first, &format!("{} is of another backup", set.path().display()))?,
                // It was removed with the file that was replaced.
                Err(ReadError::Storage(error)) if error.is_not_found() => {}
                Err(ReadError::Storage(error)) if !is_of_the_file(&error) => return Err(error),
                Err(error) => self.remove_unusable(first, &error.to_string())?,
            }
        }
        Ok(())
    }

    fn remove_unusable(&self, first: Protected, why: &str) -> Result<(), StorageError> {
        log::warn!("{why}. It was parity, and is made again; what it protects is not damaged by that");
        remove_if_present(&*self.directory, &names::parity(&first.name()))
    }

    fn remove_all(&self, named: BTreeSet<Protected>) -> Result<(), StorageError> {
        named.into_iter().try_for_each(|first| remove_if_present(&*self.directory, &names::parity(&first.name())))
    }

    fn remove(&mut self, first: Protected) -> Result<(), StorageError> {
        self.sets.remove(&first);
        remove_if_present(&*self.directory, &names::parity(&first.name()))
    }

    /// Writes a set without the members that leave, while these are still there: they are needed to mend the others. A set that cannot
    /// be written anew stays as it is.
    fn shrink(&mut self, first: Protected, left: Vec<Member>, watch: Watch<'_>) -> Result<Outcome, StorageError> {
        let Some(now_first) = left.first().map(|member| member.file) else {
            return self.remove(first).map(|()| Outcome::Written);
        };
        let outcome = self.write(left.clone(), Some(first), watch)?;
        if outcome == Outcome::Written {
            if now_first != first {
                self.remove(first)?;
            }
            self.sets.insert(now_first, left);
        }
        Ok(outcome)
    }

    /// Adds a file to the newest set of segments, if it is one and there is room, or else to a new set.
    fn add(&mut self, member: Member, watch: Watch<'_>) -> Result<Outcome, StorageError> {
        let newest = self.sets.last_key_value().filter(|_| matches!(member.file, Protected::Segment(_)));
        let open = newest.filter(|(first, members)| {
            let blocks: u64 = members.iter().map(Member::blocks).sum();
            let is_behind = members.last().is_some_and(|last| last.file < member.file);
            matches!(first, Protected::Segment(_))
                && is_behind
                && blocks < SET_BLOCKS
                && members.len() < SET_SEGMENTS_MAX
        });
        let extended = open.map(|(&first, members)| (first, [&members[..], &[member]].concat()));
        if let Some((first, members)) = extended {
            let outcome = self.write(members.clone(), Some(first), watch)?;
            match outcome {
                Outcome::Written => drop(self.sets.insert(first, members)),
                // A set of its own, unless it is the new file that is damaged.
                Outcome::Unreadable if !self.unreadable.contains(&member.file) => return self.add_alone(member, watch),
                Outcome::Unreadable | Outcome::Unusable | Outcome::Stopped => {}
            }
            return Ok(outcome);
        }
        self.add_alone(member, watch)
    }

    fn add_alone(&mut self, member: Member, watch: Watch<'_>) -> Result<Outcome, StorageError> {
        let outcome = self.write(vec![member], None, watch)?;
        if outcome == Outcome::Written {
            self.sets.insert(member.file, vec![member]);
        }
        Ok(outcome)
    }

    fn write(
        &mut self,
        members: Vec<Member>,
        before: Option<Protected>,
        watch: Watch<'_>,
    ) -> Result<Outcome, StorageError> {
        let before = match before.map(|first| (first, ParitySet::open(&*self.directory, first))) {
            None => None,
            Some((_, Ok(set))) if set.table().uuid == self.uuid => Some(set),
            Some((_, Err(ReadError::Storage(error)))) if !is_of_the_file(&error) && !error.is_not_found() => {
                return Err(error);
            }
            // It says nothing about its members any more: parity of damaged bytes would keep them.
            Some((first, _)) => {
                self.sets.remove(&first);
                return Ok(Outcome::Unusable);
            }
        };
        let share = self.share.unwrap_or_default();
        match write_set(&*self.directory, self.uuid, members, share, before.as_ref(), watch) {
            Ok(()) => Ok(Outcome::Written),
            Err(NotWritten::Stopped) => Ok(Outcome::Stopped),
            Err(NotWritten::Storage(error)) => Err(error),
            Err(NotWritten::Member(file)) => {
                self.note_unreadable(file);
                Ok(Outcome::Unreadable)
            }
        }
    }

    fn note_unreadable(&mut self, file: Protected) {
        if self.unreadable.insert(file) {
            log::warn!(
                "no parity is made for {}, which is damaged, or too large; `backupfs verify` says what damage costs",
                self.directory.path().join(file.name()).display()
            );
        }
    }

    /// A file with its length; `None` for an empty one, one that is gone, and one that cannot be read.
    fn measure(&mut self, file: Protected) -> Result<Option<Member>, StorageError> {
        let len = self.directory.open(&file.name(), Access::Read).and_then(|file| file.read_len());
        match len {
            Ok(len) => Ok(Some(Member { file, len }).filter(|_| len > 0)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) if is_of_the_file(&error) => {
                self.note_unreadable(file);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a set is of a small file that was replaced since. (The parity of other files is removed with them, or before they are
    /// replaced.)
    fn is_outdated(&self, first: Protected, members: &[Member]) -> Result<bool, StorageError> {
        let is_sound = |bytes: &[u8]| match first {
            Protected::Manifest => Manifest::decode(bytes).is_ok(),
            _ => CheckedSnapshots::decode(bytes, self.uuid).is_ok(),
        };
        if !matches!(first, Protected::Manifest | Protected::Checked) {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        let read = self.directory.open(&first.name(), Access::Read);
        match read.and_then(|file| read_on(&*file, &mut bytes, 0, CHECKED_LEN_MAX)) {
            Ok(()) if is_sound(&bytes) => {}
            Err(error) if !is_of_the_file(&error) => return Err(error),
            _ => return Ok(false),
        }
        let Ok(set) = ParitySet::open(&*self.directory, first) else { return Ok(true) };
        let is_same_length = members.iter().all(|member| member.len == bytes.len() as u64);
        Ok(!is_same_length || !set.is_of(&bytes))
    }
}
