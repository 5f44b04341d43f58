//! Repair: damaged files of a backup are written anew, from their parity or from another copy of the same backup.
//!
//! Nothing is invented: a file is replaced only by the bytes that it had when it was sealed. Their checksums say so, and the file as it
//! is then is sound by its own checksums, which the damaged one is not. Parity that contradicts a sound file is wrong, and is made anew.
//!
//! What is on the disk if the power fails: until the rename the damaged file, as it was, and a temporary one that the next recorder
//! removes; from then on the mended one. The damaged one has a second name before the first is taken from it.
//!
//! * `soundness`: a file checked by its own checksums; `writing_back`: a file written anew.
//! * `other_copy`: the same backup elsewhere.

mod other_copy;
mod soundness;
#[cfg(test)]
mod tests;
mod writing_back;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use crate::backup::source::Source;
use crate::backup::{Backup, OpenError};
use crate::config::backup_url::BackupUrl;
use crate::parity::mending::{first_member, mend};
use crate::parity::set_file::{MemberFiles, ParitySet};
use crate::parity::sets::is_of_the_file;
use crate::parity::writing::Watch;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, RealDirectory, StorageError, remove_if_present};
use format::names;
use format::parity::{Member, PARITY_BLOCK_LEN, Protected};
use format::units::Seq;
use other_copy::OtherCopy;
pub(crate) use soundness::is_sound;
use uuid::Uuid;
use writing_back::{Written, expect_room, write_back};

/// The reason why a backup is not repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The other copy cannot be opened.
    #[error("the other copy is of no use: {source}")]
    OtherCopy {
        /// The reason.
        source: OpenError,
    },
    /// The other copy is of another backup.
    #[error("{url} is another backup, with the UUID {found} instead of {expected}; nothing is taken from it")]
    OtherBackup {
        /// The URL of the other copy.
        url: String,
        /// Its UUID.
        found: Uuid,
        /// That of the backup.
        expected: Uuid,
    },
    /// A recorder has the lock.
    #[error(
        "{url} is locked: a recorder writes to it, or another command changes it. A recorder mends what it finds damaged by itself; to \
         have everything mended now, stop lightningd first"
    )]
    Locked {
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A file that was written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MendedFile {
    /// Name of the file.
    pub name: String,
    /// Number of its blocks that were damaged.
    pub blocks: u64,
    /// Name under which the damaged file is kept; `None` where it could not be kept, or was missing.
    pub kept_as: Option<String>,
}

/// A file that could not be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmendedFile {
    /// Name of the file.
    pub name: String,
    /// Byte of the first block that is lost.
    pub offset: u64,
    /// Number of its blocks that are lost.
    pub blocks: u64,
}

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Files that were written anew.
    pub mended: Vec<MendedFile>,
    /// Files that could not be mended.
    pub unmended: Vec<UnmendedFile>,
    /// Parity files that were made again.
    pub parity: u64,
}

/// Bytes that a repair has checked, and the total.
pub type RepairProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Repairs the backup at `url`: each block of each sealed file is compared with the checksums of its parity set. What parity cannot mend,
/// and what is missing, is taken from `other`, if there is one. `Break` from `watch` ends it after the current file.
///
/// # Errors
/// When another process has the lock, the other copy is of no use, or a file system call fails. What was mended until then stays.
pub fn repair_backup(
    url: &BackupUrl,
    other: Option<&Source>,
    watch: RepairProgress<'_>,
) -> Result<Repaired, RepairError> {
    let backup = Backup::open(url)?;
    let _lock = backup.directory().lock(names::LOCK).map_err(|error| match error.source.kind() {
        io::ErrorKind::WouldBlock => RepairError::Locked { url: url.clone() },
        _ => error.into(),
    })?;
    let other = other.map(|other| OtherCopy::open(other, backup.manifest().uuid)).transpose()?;
    repair_in(&backup, other.as_ref(), &|_| true, watch)
}

/// Writes the files anew that parity has mended in memory since they were opened. The caller has the lock.
///
/// # Errors
/// When a file system call fails. What was mended until then stays.
pub(crate) fn write_back_healed(backup: &Backup, watch: Watch<'_>) -> Result<Repaired, RepairError> {
    let healed: BTreeSet<String> = backup.healed().into_iter().map(|healed| healed.name).collect();
    if healed.is_empty() {
        return Ok(Repaired::default());
    }
    // Before much is read: without room it would be in vain.
    for name in &healed {
        match backup.directory().open(name, Access::Read).and_then(|file| file.read_len()) {
            Ok(len) => expect_room(&**backup.directory(), name, len)?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut flow = ControlFlow::Continue(());
    let repaired = repair_in(backup, None, &|file| healed.contains(&file.name()), &mut |_, _| {
        flow = watch();
        flow
    })?;
    // Each is tried once, whatever has become of it: it is mended whenever it is read.
    if flow.is_continue() {
        healed.iter().for_each(|name| backup.directory().forget_healed(name));
    }
    Ok(repaired)
}

/// Repairs the `wanted` files of a backup. The caller has the lock.
fn repair_in(
    backup: &Backup,
    other: Option<&OtherCopy>,
    wanted: &dyn Fn(Protected) -> bool,
    watch: RepairProgress<'_>,
) -> Result<Repaired, RepairError> {
    // Not the directory of the backup, whose files mend themselves: here the damage has to be seen.
    let directory = &backup.directory().unhealed().unwrap_or_else(|| Arc::clone(backup.directory()));
    let repair = Repair { directory, uuid: backup.manifest().uuid, other, snapshots: named_snapshots(backup) };
    let firsts: BTreeSet<Protected> = directory.list()?.iter().filter_map(|name| first_member(name)).collect();
    let (mut repaired, mut sets) = (Repaired::default(), Vec::new());
    for first in firsts {
        match ParitySet::open(&**directory, first) {
            Ok(set) if set.table().uuid == repair.uuid => {
                if set.layout().members().iter().any(|member| wanted(member.file)) {
                    sets.push(set);
                }
            }
            Err(ReadError::Storage(error)) if !is_of_the_file(&error) => return Err(error.into()),
            // It is made again below, of what is sound.
            Ok(_) | Err(_) => {
                backup.parity().forget(first);
                repaired.parity += 1;
            }
        }
    }
    let bytes = |set: &ParitySet| set.layout().members().iter().map(|member| member.len).sum::<u64>();
    let (mut done, total) = (0, sets.iter().map(bytes).sum());
    let mut flow = ControlFlow::Continue(());
    for set in &sets {
        if flow.is_continue() {
            repair.set(set, &mut repaired, &mut || watch(done, total))?;
        }
        done += bytes(set);
        flow = watch(done, total);
    }
    if let Some(other) = other.filter(|_| flow.is_continue()) {
        other.fetch_missing(&repair, &mut repaired)?;
    }
    if flow.is_continue() {
        let is_sound = |file: Protected| repair.is_sound(file, &file.name()).unwrap_or(false);
        let _goes_on = backup.parity().complete(&is_sound, &mut || watch(total, total))?;
    }
    directory.sync()?;
    Ok(repaired)
}

/// The checksums by which segments and logs name their snapshots.
fn named_snapshots(backup: &Backup) -> BTreeMap<Seq, u32> {
    // Damage costs what it names; a snapshot that nothing names is taken for what its own checksums say.
    let names = backup.directory().list().unwrap_or_default();
    let segments = names.iter().filter_map(|name| names::parse_segment(name));
    let footers = segments.filter_map(|first| backup.segments().footer(first).ok());
    let mut named: BTreeMap<Seq, u32> =
        footers.filter_map(|footer| footer.snapshot).map(|id| (id.seq, id.footer_checksum)).collect();
    if let Ok((history, mut follower)) = Arc::new(backup.again()).follow()
        && follower.poll(&history).is_ok()
    {
        let history = history.into_inner().unwrap_or_else(PoisonError::into_inner);
        named.extend(history.unsealed_snapshots().map(|(seq, snapshot)| (seq, snapshot.footer_checksum)));
    }
    named
}

/// A repair under way.
struct Repair<'a> {
    directory: &'a Arc<dyn Directory>,
    uuid: Uuid,
    other: Option<&'a OtherCopy>,
    snapshots: BTreeMap<Seq, u32>,
}

impl Repair<'_> {
    /// Whether the file with this name, which may be temporary, is sound as `file`.
    fn is_sound(&self, file: Protected, name: &str) -> Result<bool, StorageError> {
        let named = match file {
            Protected::Snapshot(seq) => self.snapshots.get(&seq).copied(),
            _ => None,
        };
        is_sound(self.directory, self.uuid, file, name, named)
    }

    /// Mends the members of a set, and then the set.
    fn set(&self, set: &ParitySet, repaired: &mut Repaired, watch: Watch<'_>) -> Result<(), RepairError> {
        let damaged: Vec<u64> = set.damaged_data(&**self.directory).collect();
        let (unmended_before, mut is_contradicted) = (repaired.unmended.len(), false);
        for member in set.layout().members() {
            let Some((_, blocks)) = set.layout().blocks_of(member.file) else { continue };
            let name = member.file.name();
            let len = match self.directory.open(&name, Access::Read).and_then(|file| file.read_len()) {
                Ok(len) => len,
                // It was dropped, or it is taken from the other copy.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let own: BTreeSet<u64> = damaged.iter().copied().filter(|block| blocks.contains(block)).collect();
            if own.is_empty() && len == member.len {
                continue;
            }
            if self.is_sound(member.file, &name)? {
                // The parity of another file, or a hostile one: never trusted over checksums that are right.
                log::warn!("the parity of {name} contradicts it, though it is sound; it is made again");
                is_contradicted = true;
            } else {
                self.member(set, *member, &own, repaired, watch)?;
            }
        }
        // What is left of it may mend, or check, what is not mended yet.
        if repaired.unmended.len() > unmended_before {
            return Ok(());
        }
        if is_contradicted || set.damaged_parity().next().is_some() {
            // It is made again when all sets were looked at.
            repaired.parity += 1;
            let first = set.layout().members().first().map(|member| member.file.name()).unwrap_or_default();
            remove_if_present(&**self.directory, &names::parity(&first))?;
        }
        Ok(())
    }

    fn member(
        &self,
        set: &ParitySet,
        member: Member,
        damaged: &BTreeSet<u64>,
        repaired: &mut Repaired,
        watch: Watch<'_>,
    ) -> Result<(), RepairError> {
        let Some((_, blocks)) = set.layout().blocks_of(member.file) else { return Ok(()) };
        let mut mended = mend(set, &**self.directory, damaged.iter().copied());
        mended.lost.retain(|block| blocks.contains(block));
        if let Some(other) = self.other.filter(|_| !mended.lost.is_empty()) {
            let of_other = other.blocks(set, &mended.lost);
            mended.lost.retain(|block| !of_other.contains_key(block));
            mended.blocks.extend(of_other);
        }
        let (name, count) = (member.file.name(), damaged.len() as u64);
        if let Some(first) = mended.lost.first() {
            let offset = (first - blocks.start) * PARITY_BLOCK_LEN as u64;
            repaired.unmended.push(UnmendedFile { name, offset, blocks: mended.lost.len() as u64 });
            return Ok(());
        }
        let files = MemberFiles::of(&**self.directory, set.layout());
        let mut block = |number: u64| {
            let block = blocks.start + number;
            let sound = || files.block(set.layout(), block).filter(|bytes| set.is_data(block, bytes));
            mended.blocks.get(&block).cloned().or_else(sound)
        };
        match write_back(self, (member.file, member.len), &mut block, watch)? {
            Written::Whole { kept_as } => repaired.mended.push(MendedFile { name, blocks: count, kept_as }),
            Written::NotSound => repaired.unmended.push(UnmendedFile { name, offset: 0, blocks: count }),
            Written::Stopped => {}
        }
        Ok(())
    }
}

/// Removes the damaged files that repairs have kept, once a verification has found nothing. Returns how many there were.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_kept(url: &BackupUrl) -> Result<u64, StorageError> {
    remove_kept_where(&RealDirectory::new(url.path()), &|_| Ok(true))
}

/// Removes those whose mended file is sound, read back by another run than the one that wrote it.
pub(crate) fn remove_kept_of_sound(backup: &Backup) -> Result<u64, StorageError> {
    remove_kept_where(&**backup.directory(), &|file| {
        is_sound(backup.directory(), backup.manifest().uuid, file, &file.name(), None)
    })
}

fn remove_kept_where(
    directory: &dyn Directory,
    is_wanted: &dyn Fn(Protected) -> Result<bool, StorageError>,
) -> Result<u64, StorageError> {
    let mut removed = 0;
    for name in directory.list()? {
        let Some(file) = names::parse_damaged(&name).and_then(Protected::parse) else { continue };
        let is_wanted = match is_wanted(file) {
            // The file was sealed, or dropped.
            Err(error) if error.is_not_found() => true,
            is_wanted => is_wanted?,
        };
        if is_wanted {
            remove_if_present(directory, &name)?;
            removed += 1;
        }
    }
    Ok(removed)
}
