//! The blocks of the file `pruned`, and the checksums in it.

use std::ops::Range;

use format::pruned::{PRUNED_FOOTER_LEN, PRUNED_HEADER_LEN, PrunedFooter, PrunedSegment};
use format::pruned_directory::PrunedDirectory;
use format::segment::BLOCK_HEADER_LEN;
use format_fuzz::crc::{crc32c, seal};

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// Where the directory of an intact file is, without its checksum.
fn directory(file: &[u8]) -> Range<usize> {
    let footer = PrunedFooter::decode(file.last_chunk().expect("a footer")).expect("a footer");
    small(footer.directory_offset) + BLOCK_HEADER_LEN..file.len() - PRUNED_FOOTER_LEN
}

/// Where the directory of an intact file is, and the pruned segments.
pub(super) fn blocks(file: &[u8]) -> Vec<Range<usize>> {
    let range = directory(file);
    let directory = PrunedDirectory::decode(&file[range.clone()]).expect("a directory");
    let begin = |offset: u64| small(offset) + BLOCK_HEADER_LEN;
    let segments = directory.segments.iter().map(|entry| begin(entry.offset)..begin(entry.offset) + entry.len as usize);
    [range].into_iter().chain(segments).collect()
}

/// Puts the right checksums everywhere, where they are in the intact file.
pub(super) fn seal_pruned(uuid: &[u8], intact: &[u8], bytes: &mut [u8]) {
    let range = directory(intact);
    let listed = PrunedDirectory::decode(&intact[range.clone()]).expect("a directory");
    let len = bytes.len();
    if len < PRUNED_HEADER_LEN + PRUNED_FOOTER_LEN {
        return;
    }
    let put = |bytes: &mut [u8], begin: usize, len: usize, before: &[&[u8]]| {
        let Some((sum, covered)) = bytes.get_mut(begin..begin + 4 + len).and_then(|all| all.split_first_chunk_mut())
        else {
            return;
        };
        *sum = crc32c(&[before, &[&*covered]].concat()).to_le_bytes();
    };
    for entry in &listed.segments {
        let begin = small(entry.offset);
        let found = PrunedSegment::decode(&intact[begin + BLOCK_HEADER_LEN..][..entry.len as usize], entry.offset);
        for block in found.expect("a pruned segment").blocks {
            let before = [uuid, &entry.segment.get().to_le_bytes(), &block.offset.to_le_bytes()];
            assert_eq!(BLOCK_HEADER_LEN, 4);
            put(bytes, small(block.file_offset), block.len as usize, &before);
        }
        put(bytes, begin, entry.len as usize, &[uuid, &entry.offset.to_le_bytes()]);
    }
    let begin = range.start - BLOCK_HEADER_LEN;
    put(bytes, begin, range.len(), &[uuid, &(begin as u64).to_le_bytes()]);
    let sum: Option<[u8; 4]> = bytes.get(begin..).and_then(|rest| rest.first_chunk().copied());
    seal(&mut bytes[..PRUNED_HEADER_LEN]);
    let header: [u8; 4] = *bytes[..PRUNED_HEADER_LEN].last_chunk().expect("it is longer");
    let footer = &mut bytes[len - PRUNED_FOOTER_LEN..];
    footer[8..12].copy_from_slice(&header);
    if let Some(sum) = sum {
        footer[12..16].copy_from_slice(&sum);
    }
    seal(footer);
}
