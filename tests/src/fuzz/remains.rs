//! The blocks of the file `remains`, and the checksums in it.

use std::ops::Range;

use format::remains::{BLOCK_HEADER_LEN, REMAINS_FOOTER_LEN, REMAINS_HEADER_LEN, RemainsFooter, SegmentPart};
use format::remains_directory::RemainsDirectory;
use format::segment::PIECE_HEADER_LEN;
use format_fuzz::crc::{crc32c, seal};

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// Where the directory of an intact file is, without its checksum.
fn directory(file: &[u8]) -> Range<usize> {
    let footer = RemainsFooter::decode(file.last_chunk().expect("a footer")).expect("a footer");
    small(footer.directory_offset) + BLOCK_HEADER_LEN..file.len() - REMAINS_FOOTER_LEN
}

/// Where the directory of an intact file is, and its parts.
pub(super) fn blocks(file: &[u8]) -> Vec<Range<usize>> {
    let place = directory(file);
    let directory = RemainsDirectory::decode(&file[place.clone()]).expect("a directory");
    let begin = |offset: u64| small(offset) + BLOCK_HEADER_LEN;
    let parts = directory.parts.iter().map(|part| begin(part.offset)..begin(part.offset) + part.len as usize);
    [place].into_iter().chain(parts).collect()
}

/// Puts the right checksums everywhere, where they are in the intact file.
pub(super) fn seal_remains(uuid: &[u8], intact: &[u8], bytes: &mut [u8]) {
    let place = directory(intact);
    let listed = RemainsDirectory::decode(&intact[place.clone()]).expect("a directory");
    let len = bytes.len();
    if len < REMAINS_HEADER_LEN + REMAINS_FOOTER_LEN {
        return;
    }
    let put = |bytes: &mut [u8], begin: usize, len: usize, before: &[&[u8]]| {
        let Some((sum, covered)) = bytes.get_mut(begin..begin + 4 + len).and_then(|all| all.split_first_chunk_mut())
        else {
            return;
        };
        *sum = crc32c(&[before, &[&*covered]].concat()).to_le_bytes();
    };
    for part in &listed.parts {
        let begin = small(part.offset);
        let found = SegmentPart::decode(&intact[begin + BLOCK_HEADER_LEN..][..part.len as usize], part.offset);
        for piece in found.expect("a part").pieces {
            let before = [uuid, &part.segment.get().to_le_bytes(), &piece.offset.to_le_bytes()];
            assert_eq!(PIECE_HEADER_LEN, 4);
            put(bytes, small(piece.place), piece.len as usize, &before);
        }
        put(bytes, begin, part.len as usize, &[uuid, &part.offset.to_le_bytes()]);
    }
    let begin = place.start - BLOCK_HEADER_LEN;
    put(bytes, begin, place.len(), &[uuid, &(begin as u64).to_le_bytes()]);
    let sum: Option<[u8; 4]> = bytes.get(begin..).and_then(|rest| rest.first_chunk().copied());
    seal(&mut bytes[..REMAINS_HEADER_LEN]);
    let header: [u8; 4] = *bytes[..REMAINS_HEADER_LEN].last_chunk().expect("it is longer");
    let footer = &mut bytes[len - REMAINS_FOOTER_LEN..];
    footer[8..12].copy_from_slice(&header);
    if let Some(sum) = sum {
        footer[12..16].copy_from_slice(&sum);
    }
    seal(footer);
}
