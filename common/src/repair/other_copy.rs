//! [`OtherCopy`]: the same backup elsewhere, from which files are taken that cannot be mended here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::soundness::last_four;
use super::writing_back::{Written, write_back};
use super::{MendedFile, Repair, RepairError, Repaired};
use crate::backup::Backup;
use crate::backup::source::Source;
use crate::parity::code::Block;
use crate::parity::set_file::{MemberFiles, ParitySet, read_block};
use crate::segment::{SegmentFile, Segments};
use crate::storage::{Access, Directory, StorageError};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::names;
use format::parity::{PARITY_BLOCK_LEN, Protected};
use format::units::Seq;
use uuid::Uuid;

/// Another copy of the backup, in a directory or off site.
#[derive(Debug)]
pub(crate) struct OtherCopy(Arc<dyn Directory>);

impl OtherCopy {
    /// Opens the copy, which must be of the backup with this UUID.
    pub(super) fn open(source: &Source, uuid: Uuid) -> Result<Self, RepairError> {
        let backup = Backup::open(source).map_err(|source| RepairError::OtherCopy { source })?;
        match backup.manifest().uuid {
            found if found != uuid => Err(RepairError::OtherBackup { url: source.to_string(), found, expected: uuid }),
            _ => Ok(Self(Arc::clone(backup.directory()))),
        }
    }

    /// Those of the data blocks of a set that the copy has: each with its checksum.
    pub(super) fn blocks(&self, set: &ParitySet, wanted: &BTreeSet<u64>) -> BTreeMap<u64, Box<Block>> {
        let files = MemberFiles::of(&*self.0, set.layout());
        let block = |&block: &u64| {
            let bytes = files.block(set.layout(), block).filter(|bytes| set.is_data(block, bytes))?;
            Some((block, bytes))
        };
        wanted.iter().filter_map(block).collect()
    }

    /// Takes segments and full snapshots that are missing, or damaged without parity, and that fit: a segment continues the chain of
    /// its neighbours here, and a snapshot is the one that a segment here names.
    pub(super) fn fetch_missing(&self, repair: &Repair<'_>, repaired: &mut Repaired) -> Result<(), RepairError> {
        let mended: BTreeSet<&str> = repaired.mended.iter().map(|file| &*file.name).collect();
        let here: BTreeSet<String> = repair.directory.list()?.into_iter().collect();
        let mut wanted = Vec::new();
        for name in self.0.list()? {
            let Some(file) = Protected::parse(&name) else { continue };
            let is_of_kind = matches!(file, Protected::Segment(_) | Protected::Snapshot(_));
            let is_whole = here.contains(&name) && (mended.contains(&*name) || repair.is_sound(file, &name)?);
            if is_of_kind && !is_whole && self.fits(repair, file, &here)? {
                wanted.push(file);
            }
        }
        for file in wanted {
            self.fetch(repair, file, repaired)?;
        }
        Ok(())
    }

    fn fits(&self, repair: &Repair<'_>, file: Protected, here: &BTreeSet<String>) -> Result<bool, StorageError> {
        match file {
            Protected::Segment(first) => Ok(self.segment_fits(repair, first, here)),
            Protected::Snapshot(seq) => {
                let checksum = self.0.open(&file.name(), Access::Read).and_then(|file| last_four(&*file))?;
                let named = repair.snapshots.get(&seq);
                Ok(named.is_some() && named == checksum.as_ref())
            }
            _ => Ok(false),
        }
    }

    /// A segment fits between what is before it, if there is anything, and what begins right behind it, which there must be: nothing
    /// that was recorded here is hidden by it.
    fn segment_fits(&self, repair: &Repair<'_>, first: Seq, here: &BTreeSet<String>) -> bool {
        let segments = Segments::new(Arc::clone(repair.directory), repair.uuid);
        // What was dropped here stays dropped.
        let Ok(_) = segments.look_what_is_dropped() else { return false };
        if segments.pruned().is_some_and(|pruned| pruned.range_of(first).is_some()) {
            return false;
        }
        let Ok(new) = SegmentFile::open(&*self.0, repair.uuid, first) else { return false };
        let (header, footer) = (new.header(), new.footer());
        let others = || here.iter().filter_map(|name| names::parse_segment(name)).filter(|other| *other != first);
        let logs = || here.iter().filter_map(|name| names::parse_log(name));
        if others().chain(logs()).any(|other| (first..=footer.last_seq).contains(&other)) {
            return false;
        }
        let next = footer.last_seq.next();
        let begins_after = match segments.open(next) {
            Ok(after) => Some(after.header().previous_checksum),
            Err(_) => previous_checksum_of_log(&**repair.directory, next),
        };
        let before = others().filter(|other| *other < first).max().and_then(|before| segments.open(before).ok());
        let fits_before = before.is_none_or(|before| {
            let end = before.footer();
            end.last_seq.next() != first || end.last_checksum == header.previous_checksum
        });
        fits_before && begins_after == Some(footer.last_checksum)
    }

    fn fetch(&self, repair: &Repair<'_>, file: Protected, repaired: &mut Repaired) -> Result<(), RepairError> {
        let name = file.name();
        let source = self.0.open(&name, Access::Read)?;
        let len = source.read_len()?;
        let mut block = |number: u64| {
            let offset = number * PARITY_BLOCK_LEN as u64;
            read_block(
                &*source,
                offset,
                usize::try_from(len - offset).unwrap_or(PARITY_BLOCK_LEN).min(PARITY_BLOCK_LEN),
            )
        };
        let written = write_back(repair, (file, len), &mut block, &mut || ControlFlow::Continue(()))?;
        if let Written::Whole { kept_as } = written {
            repaired.unmended.retain(|unmended| unmended.name != name);
            repaired.mended.push(MendedFile { name, blocks: len.div_ceil(PARITY_BLOCK_LEN as u64), kept_as });
        }
        Ok(())
    }
}

/// The checksum that the log with this first record goes on from; `None` when there is no such log.
fn previous_checksum_of_log(directory: &dyn Directory, first: Seq) -> Option<u32> {
    let file = directory.open(&names::log(first), Access::Read).ok()?;
    let mut bytes = [0; LOG_HEADER_LEN];
    file.read_at(&mut bytes, 0).ok()?;
    Some(LogHeader::decode(&bytes).ok()?.previous_checksum)
}
