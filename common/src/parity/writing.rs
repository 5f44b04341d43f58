//! A parity set written: the file gets its name when it is durable.

use std::ops::ControlFlow;

use crate::parity::code::{Block, StripeEncoder};
use crate::parity::mending::mend;
use crate::parity::set_file::{MemberFiles, ParitySet};
use crate::parity::share::ParityShare;
use crate::storage::{Directory, StorageError, TEMPORARY_ENDING, remove_if_present};
use format::parity::{Member, PARITY_BLOCK_LEN, ParityLayout, ParityTable, Protected};
use format::{checksum, names};
use uuid::Uuid;

/// The reason why a set was not written.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// A member cannot be read, or it is damaged and parity does not suffice to mend it.
    Member(Protected),
    /// A file system call failed.
    Storage(StorageError),
    /// It was stopped.
    Stopped,
}

impl From<StorageError> for NotWritten {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// Called often during work that takes long: `Break` stops it.
pub(crate) type Watch<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// Writes the parity of these members, of which there is at least one. Those of them that are members of `before` are read as they were
/// when that was written. The name is durable only after the directory is synced. If it fails, nothing is left behind.
pub(crate) fn write_set(
    directory: &dyn Directory,
    uuid: Uuid,
    members: Vec<Member>,
    share: ParityShare,
    before: Option<&ParitySet>,
    watch: Watch<'_>,
) -> Result<(), NotWritten> {
    let Some(first) = members.first().copied() else { return Ok(()) };
    let data_blocks = members.iter().map(Member::blocks).sum();
    let Some(parity_per_stripe) = share.parity_per_stripe(data_blocks) else { return Ok(()) };
    let layout = ParityLayout::new(members, parity_per_stripe).map_err(|_| NotWritten::Member(first.file))?;
    let name = names::parity(&first.file.name());
    let temporary = format!("{name}{TEMPORARY_ENDING}");
    remove_if_present(directory, &temporary)?;
    let written = write(directory, uuid, layout, (&temporary, before), watch);
    if written.is_err() {
        // Frees the space: the disk may be full.
        remove_if_present(directory, &temporary)?;
        return written;
    }
    Ok(directory.rename(&temporary, &name)?)
}

/// Bytes between syncs: a single sync of many could keep a slow disk busy for longer than the deadline of a call.
const SYNC_BYTES: usize = 8 << 20;

fn write(
    directory: &dyn Directory,
    uuid: Uuid,
    layout: ParityLayout,
    (temporary, before): (&str, Option<&ParitySet>),
    watch: Watch<'_>,
) -> Result<(), NotWritten> {
    let file = directory.create(temporary)?;
    let files = MemberFiles::of(directory, &layout);
    let [mut data, mut parity] = [layout.data_blocks(), layout.parity_blocks()]
        .map(|blocks| vec![0_u32; usize::try_from(blocks).unwrap_or(usize::MAX)]);
    // Written at once where the blocks follow each other.
    let mut following = Vec::new();
    let (is_one, mut unsynced) = (layout.stripes() == 1, 0);
    for stripe in 0..layout.stripes() {
        let mut encoder = StripeEncoder::new(layout.data_of(stripe).count(), layout.parity_per_stripe());
        for block in layout.data_of(stripe) {
            if block.is_multiple_of(256) && watch().is_break() {
                return Err(NotWritten::Stopped);
            }
            let bytes = sound_block(&layout, &files, block, before, directory)?;
            set(&mut data, block, checksum(&[&*bytes]));
            encoder.add(&bytes);
        }
        let mut blocks = Vec::new();
        encoder.finish(&mut |bytes| blocks.extend_from_slice(bytes));
        for (block, bytes) in layout.parity_of(stripe).zip(blocks.chunks(PARITY_BLOCK_LEN)) {
            set(&mut parity, block, checksum(&[bytes]));
            if !is_one {
                file.write_at(bytes, layout.parity_offset(block))?;
            }
        }
        unsynced += blocks.len();
        if is_one {
            following = blocks;
        } else if unsynced >= SYNC_BYTES {
            file.sync()?;
            unsynced = 0;
        }
    }
    let table = ParityTable { uuid, layout, data, parity }.encode();
    file.write_at(&[table, following].concat(), 0)?;
    Ok(file.sync()?)
}

fn set(sums: &mut [u32], block: u64, sum: u32) {
    if let Some(place) = usize::try_from(block).ok().and_then(|block| sums.get_mut(block)) {
        *place = sum;
    }
}

/// A block as it was when its file was sealed, as far as is known.
fn sound_block(
    layout: &ParityLayout,
    files: &MemberFiles<'_>,
    block: u64,
    before: Option<&ParitySet>,
    directory: &dyn Directory,
) -> Result<Box<Block>, NotWritten> {
    let bytes = files.block(layout, block);
    let (member, offset) = layout.place_of(block).expect("BUG: a stripe has blocks of its layout");
    let known = before.and_then(|before| Some((before, before.layout().blocks_of(member.file)?.1)));
    let bytes = match known {
        None => bytes,
        Some((before, blocks)) => {
            let known = blocks.start + offset / PARITY_BLOCK_LEN as u64;
            bytes
                .filter(|bytes| before.is_data(known, bytes))
                .or_else(|| mend(before, directory, std::iter::once(known)).blocks.remove(&known))
        }
    };
    bytes.ok_or(NotWritten::Member(member.file))
}
