//! A whole backup of which one file is another one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use common::{Backup, BackupUrl, Views};
use format::segment::{BLOCK_HEADER_LEN, SegmentHeader};
use format_fuzz::crc::{crc32c, seal};
use tempfile::TempDir;

use super::corpus::{BACKUPS, CORPUS, blocks};
use super::pruned::seal_pruned;

/// Most bytes that are read of a version.
const READ_MAX: u64 = 4 << 20;

/// Checksums of what the versions of each backup are.
static VERSIONS: LazyLock<Vec<BTreeMap<u32, u32>>> = LazyLock::new(|| {
    let versions: Vec<_> = BACKUPS.iter().map(|name| read(&CORPUS.path().join(name), usize::MAX)).collect();
    assert!(versions.iter().all(|versions| versions.len() > 10), "the backups of the corpus have versions");
    versions
});

thread_local! {
    /// Copies of the backups that this thread may spoil.
    static SCRATCH: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The first byte is the number of a file; the others are what is in it. What can be opened is what was recorded.
pub(super) fn file(input: &[u8]) -> bool {
    let Some((number, bytes)) = input.split_first() else { return false };
    let number = usize::from(*number) % CORPUS.files.len();
    let backup = BACKUPS.iter().position(|name| *name == CORPUS.files[number].0).expect("one of the backups");
    let versions = with_files(&[(number, bytes)]);
    for (version, sum) in &versions {
        assert_eq!(VERSIONS[backup].get(version), Some(sum), "version {version} is another one");
    }
    !versions.is_empty()
}

/// The same with checksums that are right.
pub(super) fn file_sealed(input: &[u8]) -> bool {
    let Some((number, bytes)) = input.split_first() else { return false };
    let number = usize::from(*number) % CORPUS.files.len();
    let (backup, name, intact) = &CORPUS.files[number];
    let mut bytes = bytes.to_vec();
    let numbered = CORPUS.files.iter().enumerate();
    let uuid: [u8; 16] = numbered
        .clone()
        .find(|(_, (of, name, _))| of == backup && name == "manifest")
        .and_then(|(_, (.., bytes))| bytes[16..32].try_into().ok())
        .expect("a manifest");
    if name.starts_with("log-") {
        seal_log(&uuid, &mut bytes);
    } else if name.starts_with("segment-") {
        seal_segment(intact, &mut bytes);
    } else if name == "pruned" {
        seal_pruned(&uuid, intact, &mut bytes);
    } else if name.starts_with("snapshot-") {
        let Some(footer) = seal_snapshot(&mut bytes) else { return false };
        // Its record names its checksum.
        let log = numbered.clone().find(|(_, (of, name, _))| of == backup && name.starts_with("log-"));
        let (log_number, (.., log)) = log.expect("a log");
        let mut log = log.clone();
        log[64 + 40 + 21..][..4].copy_from_slice(&footer);
        seal_log(&uuid, &mut log);
        return !with_files(&[(number, &bytes), (log_number, &log)]).is_empty();
    } else {
        seal(&mut bytes);
    }
    !with_files(&[(number, &bytes)]).is_empty()
}

/// The versions of a backup some files of which are replaced for the moment.
fn with_files(files: &[(usize, &[u8])]) -> BTreeMap<u32, u32> {
    SCRATCH.with_borrow_mut(|scratch| {
        let scratch = scratch.get_or_insert_with(|| {
            let scratch = tempfile::tempdir().expect("a directory");
            for backup in BACKUPS {
                fs::create_dir(scratch.path().join(backup)).expect("a directory");
            }
            for (backup, name, bytes) in &CORPUS.files {
                fs::write(scratch.path().join(backup).join(name), bytes).expect("a file");
            }
            scratch
        });
        let path = |number: usize| {
            let (backup, name, _) = &CORPUS.files[number];
            scratch.path().join(backup).join(name)
        };
        for &(number, bytes) in files {
            fs::write(path(number), bytes).expect("a file");
        }
        let backup = scratch.path().join(CORPUS.files[files[0].0].0);
        let versions = read(&backup, 3);
        for &(number, _) in files {
            fs::write(path(number), &CORPUS.files[number].2).expect("a file");
        }
        versions
    })
}

/// Opens the newest versions, and as many of the oldest: number and checksum of each that can be opened.
fn read(backup: &Path, at_each_end: usize) -> BTreeMap<u32, u32> {
    let url: BackupUrl = backup.to_str().and_then(|path| path.parse().ok()).expect("a path");
    let Ok(backup) = Backup::open(&url) else { return BTreeMap::new() };
    let backup = Arc::new(backup);
    let (history, _) = backup.read_history();
    let mut versions = Vec::new();
    let _ = history.for_versions_after(None, &mut |version| {
        versions.push(version.clone());
        std::ops::ControlFlow::Continue(())
    });
    let views = Views::new(Arc::clone(&backup), 1 << 20);
    let count = versions.len();
    let wanted = versions.into_iter().enumerate();
    let wanted = wanted.filter(|(at, _)| *at < at_each_end || at.saturating_add(at_each_end) >= count);
    let mut found = BTreeMap::new();
    for (_, version) in wanted {
        let _ = history.records_of(&version).and_then(|addresses| backup.statements(&addresses));
        let Ok(plan) = history.plan(&version) else { continue };
        let Ok(view) = views.open(&plan) else { continue };
        let mut bytes = vec![0; usize::try_from(view.size_bytes().min(READ_MAX)).expect("small")];
        if view.read_at(0, &mut bytes).is_ok() {
            found.insert(version.data_version.get(), crc32fast(&bytes));
        }
        let _ = view.read_at(view.size_bytes().saturating_sub(1), &mut [0; 2]);
    }
    found
}

/// Not the one of the format, which is slow here: a sum that another content is not likely to have.
fn crc32fast(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mixed = words.iter().fold(u64::MAX, |sum, word| {
        (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    crc32c(&[&mixed.to_le_bytes(), rest])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// Header and records, each with the checksum of the one before.
fn seal_log(uuid: &[u8], bytes: &mut [u8]) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(64) else { return };
    seal(header);
    let mut before: [u8; 4] = header[12..16].try_into().expect("4 bytes");
    while rest.starts_with(b"BREC") {
        let Some(len) = u32_at(rest, 8).and_then(|len| len.checked_add(40)) else { return };
        let Some((record, later)) = rest.split_at_mut_checked(len) else { return };
        record[12..16].copy_from_slice(&before);
        before = crc32c(&[uuid, &record[8..]]).to_le_bytes();
        record[4..8].copy_from_slice(&before);
        rest = later;
    }
}

/// Header, footer, and the blocks where they were in the intact file.
fn seal_segment(intact: &[u8], bytes: &mut [u8]) {
    let len = bytes.len();
    if len < 64 + 152 {
        return;
    }
    seal(&mut bytes[..64]);
    let header: [u8; 4] = bytes[60..64].try_into().expect("4 bytes");
    bytes[len - 152 + 8..][..4].copy_from_slice(&header);
    seal(&mut bytes[len - 152..]);
    let Ok(header) = SegmentHeader::decode(bytes.first_chunk().expect("64 bytes")) else { return };
    for (_, block) in blocks(intact) {
        let start = usize::try_from(block.offset).expect("small");
        if let Some(whole) = bytes.get_mut(start..start + BLOCK_HEADER_LEN + block.len as usize) {
            let (sum, payload) = whole.split_at_mut(BLOCK_HEADER_LEN);
            sum.copy_from_slice(&header.block_checksum(block.offset, payload).to_le_bytes());
        }
    }
}

/// Header, groups, index, footer; gives the footer's checksum.
fn seal_snapshot(bytes: &mut [u8]) -> Option<[u8; 4]> {
    let len = bytes.len();
    let footer = len.checked_sub(32).filter(|&footer| footer >= 80)?;
    seal(&mut bytes[..80]);
    let header: [u8; 4] = bytes[76..80].try_into().ok()?;
    bytes[footer + 8..footer + 12].copy_from_slice(&header);
    let index = u32_at(bytes, footer + 16)?;
    if bytes[40] == 0 && index <= footer {
        let (groups, entries) = bytes[..footer].split_at_mut(index);
        let mut at = 80_usize;
        for entry in entries.chunks_exact_mut(8) {
            let end = u32_at(entry, 0).and_then(|len| at.checked_add(len))?;
            let Some(group) = groups.get(at..end) else { break };
            entry[4..].copy_from_slice(&crc32c(&[group]).to_le_bytes());
            at = end;
        }
        let sum = crc32c(&[entries]);
        bytes[footer + 12..footer + 16].copy_from_slice(&sum.to_le_bytes());
    }
    seal(&mut bytes[footer..]);
    bytes[len - 4..].try_into().ok()
}
