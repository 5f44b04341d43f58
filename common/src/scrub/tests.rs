//! Whatever rots is found, and written anew where parity or memory suffices.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::backup::source::Source;
use crate::config::log_limits::LogLimits;
use crate::recording::BackupWriter;
use crate::seal::{MendedLog, Sealer, seal_backup};
use crate::storage::faulty::FaultyDirectory;
use crate::testing::{Fate, Node, remove_parity};
use crate::verify::{Scope, verify};
use format::log_header::LOG_HEADER_LEN;

const LIMITS: LogLimits = LogLimits { bytes: 1 << 16, statements: 300 };

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn write(node: &mut Node, recording: &mut BackupWriter, changes: usize) {
    for change in 0..changes {
        node.write(recording, &format!("{change:0200}"), Fate::Committed).unwrap();
    }
}

/// A backup with a snapshot and segments.
fn sample() -> Node {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    write(&mut node, &mut recording, 400);
    drop(recording);
    seal_backup(&node.backup_lock.backend_url, &mut |_| go_on()).unwrap();
    node
}

fn files(backup: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(backup).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let wanted = names.filter(|name| Protected::parse(name).is_some() || names::parse_parity(name).is_some());
    wanted.map(|name| (name.clone(), fs::read(backup.join(&name)).unwrap())).collect()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// A scrub that nothing holds up.
fn scrub_of(backup: Arc<Backup>) -> Scrub {
    Scrub::new(backup, Arc::new(go_on))
}

/// A whole pass.
fn pass(scrub: &Scrub) -> Vec<ScrubbedPart> {
    let mut parts: Vec<ScrubbedPart> = Vec::new();
    loop {
        let after = parts.last().map(|part| part.through.clone());
        match scrub.read_part(after.as_deref()).unwrap() {
            ControlFlow::Continue(Some(part)) => parts.push(part),
            ControlFlow::Continue(None) => return parts,
            ControlFlow::Break(()) => panic!("nothing breaks"),
        }
    }
}

fn damaged(parts: &[ScrubbedPart]) -> (Vec<&DamagedBlock>, Vec<&DamagedBlock>) {
    (parts.iter().flat_map(|part| &part.healed).collect(), parts.iter().flat_map(|part| &part.unhealable).collect())
}

fn block(name: &str, offset: u64) -> DamagedBlock {
    DamagedBlock { name: name.to_owned(), offset }
}

#[test]
fn a_pass_reads_every_byte_and_finds_nothing_in_a_sound_backup() {
    let node = sample();
    let parts = pass(&scrub_of(node.backup()));
    assert_eq!(damaged(&parts), (vec![], vec![]));
    let all = files(node.backup_path());
    let sealed = |name: &&String| Protected::parse(name).is_some();
    let bytes: usize = all.iter().filter(|(name, _)| sealed(name)).map(|(_, bytes)| bytes.len()).sum();
    let parity = all
        .iter()
        .filter(|(name, _)| !sealed(name))
        .map(|(_, bytes)| bytes.len() / PARITY_BLOCK_LEN * PARITY_BLOCK_LEN);
    assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), (bytes + parity.sum::<usize>()) as u64);
    let last = all.keys().rfind(|name| name.starts_with("segment-")).unwrap();
    assert_eq!(parts.last().map(|part| &part.through), Some(last));
}

#[test]
fn what_rots_is_found_and_the_holder_of_the_lock_makes_it_whole() {
    let node = sample();
    let sound = files(node.backup_path());
    for name in sound.keys() {
        let path = node.backup_path().join(name);
        let at = sound[name].len() - 10;
        change(&path, |bytes| bytes[at] ^= 4);
        let _lock = node.backup().directory().lock(names::LOCK).unwrap();
        let backup = node.backup();
        let parts = pass(&scrub_of(Arc::clone(&backup)));
        let (healed, unhealable) = damaged(&parts);
        let is_it = |block: &&DamagedBlock| {
            let bytes = block.offset..block.offset + PARITY_BLOCK_LEN as u64;
            block.name == *name && bytes.contains(&(at as u64))
        };
        assert!(healed.iter().copied().any(|block| is_it(&block)), "{name}: {healed:?}");
        assert_eq!((healed.len(), unhealable.len()), (1, 0), "{name}");
        Sealer::new(backup, LIMITS).unwrap().keep_up(&mut go_on);
        assert!(files(node.backup_path()) == sound, "{name}");
        crate::repair::remove_kept(&node.backup_lock.backend_url).unwrap();
    }
    assert!(verify(&node.backup_lock.backend_url, Scope::default(), &|_, _| {}).unwrap().is_clean());
}

/// A parity file whose head is damaged protects nothing, and is made again.
#[test]
fn parity_that_cannot_be_used_is_made_again() {
    let node = sample();
    let sound = files(node.backup_path());
    for name in sound.keys().filter(|name| names::parse_parity(name).is_some()) {
        change(&node.backup_path().join(name), |bytes| bytes[30] ^= 1);
        let backup = node.backup();
        let mut sealer = Sealer::new(Arc::clone(&backup), LIMITS).unwrap();
        let parts = pass(&scrub_of(backup));
        assert_eq!(damaged(&parts), (vec![&block(name, 0)], vec![]), "{name}");
        sealer.keep_up(&mut go_on);
        assert!(files(node.backup_path()) == sound, "{name}");
    }
}

/// A disk that answers nothing in many places: each part is left after a bounded number of reads, and the others are read.
#[test]
fn what_cannot_be_mended_is_said_and_the_rest_is_read() {
    let node = sample();
    let all = files(node.backup_path());
    let segments: Vec<&String> = all.keys().filter(|name| name.starts_with("segment-")).collect();
    let faulty = FaultyDirectory::new(node.backup_path());
    for segment in &segments {
        faulty.make_unreadable(segment, 0..u64::MAX);
        let set = set_of(&faulty, Protected::parse(segment).unwrap()).unwrap().unwrap();
        let name = set.path().file_name().unwrap().to_str().unwrap();
        faulty.make_unreadable(name, set.layout().parity_offset(0)..u64::MAX);
    }
    let backup = Arc::new(Backup::open(Source::new("it".to_owned(), Arc::new(faulty))).unwrap());
    let parts = pass(&scrub_of(backup));
    let (healed, unhealable) = damaged(&parts);
    assert!(healed.iter().all(|block| block.name.starts_with("parity-")), "{healed:?}");
    assert!(!unhealable.is_empty() && unhealable.len() < 40, "{}", unhealable.len());
    assert!(unhealable.iter().all(|block| block.name.starts_with("segment-")));
    assert!(parts.iter().any(|part| part.through.starts_with("snapshot-") && part.bytes > 0));
    assert_eq!(files(node.backup_path()), all);
}

#[test]
fn without_parity_files_are_checked_by_their_own_checksums() {
    let node = sample();
    remove_parity(node.backup_path());
    let scrub = scrub_of(node.backup());
    assert_eq!(damaged(&pass(&scrub)), (vec![], vec![]));
    for name in files(node.backup_path()).keys() {
        change(&node.backup_path().join(name), |bytes| bytes[20] ^= 1);
        assert_eq!(damaged(&pass(&scrub)), (vec![], vec![&block(name, 0)]), "{name}");
        change(&node.backup_path().join(name), |bytes| bytes[20] ^= 1);
    }
}

#[test]
fn it_stops_within_a_part() {
    let node = sample();
    let scrub = Scrub::new(node.backup(), Arc::new(|| ControlFlow::Break(())));
    assert!(scrub.read_part(Some(names::MANIFEST)).unwrap().is_break());
    remove_parity(node.backup_path());
    assert!(scrub.read_part(Some(names::MANIFEST)).unwrap().is_break());
}

/// Regression: an empty directory where the disk was mounted was a backup without damage.
#[test]
fn a_backup_that_is_not_there_is_not_sound() {
    let node = sample();
    let backup = node.backup();
    let aside = node.dir.path().join("aside");
    fs::rename(node.backup_path(), &aside).unwrap();
    fs::create_dir(node.backup_path()).unwrap();
    assert!(scrub_of(backup).read_part(None).is_err());
}

/// Regression: what is dropped while it is read was reported as damaged.
#[test]
fn files_that_are_dropped_meanwhile_are_not_damaged() {
    let node = sample();
    let path = node.backup_path().to_owned();
    let segments: Vec<String> = files(&path).into_keys().filter(|name| name.starts_with("segment-")).collect();
    for dropped in [&segments[..1], &segments[1..2], &segments[..]] {
        let copy = tempfile::tempdir().unwrap();
        for (name, bytes) in files(&path) {
            fs::write(copy.path().join(name), bytes).unwrap();
        }
        let dropping: Vec<_> = dropped.iter().map(|name| copy.path().join(name)).collect();
        let watching = move || {
            dropping.iter().for_each(|path| drop(fs::remove_file(path)));
            ControlFlow::Continue(())
        };
        let url: crate::config::backup_url::BackupUrl = copy.path().to_str().unwrap().parse().unwrap();
        let backup = Arc::new(Backup::open(&url).unwrap());
        let scrub = Scrub::new(backup, Arc::new(watching));
        assert_eq!(damaged(&pass(&scrub)), (vec![], vec![]), "{dropped:?}");
    }
}

/// Regression: a file between those of a set was never read.
#[test]
fn a_file_between_those_of_a_set_is_read() {
    let node = sample();
    let segments: Vec<String> =
        files(node.backup_path()).into_keys().filter(|name| name.starts_with("segment-")).collect();
    let [_, second, ..] = &segments[..] else { panic!("{segments:?}") };
    remove_parity(node.backup_path());
    let path = node.backup_path().join(second);
    change(&path, |bytes| bytes[20] ^= 1);
    // It gets no parity, for it is damaged; those before and behind it share a set.
    Sealer::new(node.backup(), LIMITS).unwrap().keep_up(&mut go_on);
    assert!(!files(node.backup_path()).contains_key(&names::parity(second)));
    let backup = node.backup();
    backup.set_parity_share("2%".parse().unwrap());
    Sealer::new(Arc::clone(&backup), LIMITS).unwrap().keep_up(&mut go_on);
    let parts = pass(&scrub_of(backup));
    assert_eq!(damaged(&parts), (vec![], vec![&block(second, 0)]));
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    assert!(bytes < 2 * files(node.backup_path()).values().map(|bytes| bytes.len() as u64).sum::<u64>(), "not twice");
}

/// Regression: the parity of a small file that was replaced mended the new one into the old one.
#[test]
fn a_small_file_that_is_replaced_has_no_parity_of_the_one_before() {
    let mut node = sample();
    let mut recording = node.record_within(LIMITS);
    let backup = Arc::new(recording.backup());
    let mut sealer = Sealer::new(Arc::clone(&backup), LIMITS).unwrap();
    sealer.keep_up(&mut go_on);
    // The node's id, which is learned from the first database that has one.
    node.execute(&mut recording, "UPDATE vars SET blobval = x'02' || zeroblob(32) WHERE name = 'node_id'");
    write(&mut node, &mut recording, 20);
    drop(recording);
    let scrub = scrub_of(node.backup());
    assert_eq!(damaged(&pass(&scrub)), (vec![], vec![]));
    let mut recording = node.record_within(LIMITS);
    write(&mut node, &mut recording, 400);
    sealer.advance(recording.newest().unwrap().seq, &mut |_| go_on()).unwrap();
    assert_eq!(damaged(&pass(&scrub)), (vec![], vec![]));
    let parity = [names::MANIFEST, names::CHECKED].map(names::parity);
    assert!(parity.iter().all(|name| node.backup_path().join(name).exists()), "it is made again");
}

fn log_of(node: &Node) -> std::path::PathBuf {
    let logs = fs::read_dir(node.backup_path()).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).max().unwrap()
}

/// Changes bytes in place, as rot does: the recorder has the file open.
fn rot(path: &Path, offset: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", offset).unwrap();
}

/// The newest log has no parity. What rots in it is written anew from memory, its last record too.
#[test]
fn a_record_that_rots_in_the_newest_log_is_written_anew_from_memory() {
    let mut node = Node::new("");
    let mut recording = node.record_within(LogLimits::default());
    write(&mut node, &mut recording, 30);
    let backup = Arc::new(recording.backup());
    let mut sealer = Sealer::new(Arc::clone(&backup), LogLimits::default()).unwrap();
    sealer.advance(recording.newest().unwrap().seq, &mut |_| go_on()).unwrap();
    let scrub = scrub_of(Arc::clone(&backup));
    let newest = Some(recording.newest().unwrap().seq);
    assert!(matches!(scrub.read_logs(newest).unwrap(), ControlFlow::Continue(None)));
    let log = log_of(&node);
    let sound = fs::read(&log).unwrap();
    let end = sound.iter().rposition(|&byte| byte != 0).unwrap() as u64;
    for offset in [0, 40, LOG_HEADER_LEN as u64 + 600, end / 2, end - 5] {
        rot(&log, offset);
        match scrub.read_logs(newest) {
            Ok(ControlFlow::Continue(Some(damaged))) => {
                assert!(damaged.error.to_string().contains("log-"), "{}", damaged.error);
                assert_eq!(sealer.mend_log(damaged.seq).unwrap(), MendedLog::Whole(1), "{offset}");
            }
            other => panic!("{offset}: {other:?}"),
        }
        assert!(fs::read(&log).unwrap() == sound, "{offset}");
    }
    write(&mut node, &mut recording, 3);
    // What the sealer has not read, it does not have.
    rot(&log, end + 20);
    let newest = Some(recording.newest().unwrap().seq);
    let ControlFlow::Continue(Some(damaged)) = scrub.read_logs(newest).unwrap() else { panic!("it is not found") };
    assert_eq!(sealer.mend_log(damaged.seq).unwrap(), MendedLog::NotKept);
}

/// A sector of it that cannot be read is not written: that might fail for the recorder, too. It is sealed from memory.
#[test]
fn a_log_that_cannot_be_read_is_reported_and_another_backup_is_not_written_to() {
    let mut node = Node::new("");
    let mut recording = node.record_within(LogLimits::default());
    write(&mut node, &mut recording, 30);
    let newest = recording.newest().unwrap().seq;
    let faulty = FaultyDirectory::new(node.backup_path());
    let log = log_of(&node);
    let name = log.file_name().unwrap().to_str().unwrap().to_owned();
    let directory: Arc<dyn Directory> = Arc::new(faulty);
    let backup = Arc::new(Backup::open(Source::new("it".to_owned(), Arc::clone(&directory))).unwrap());
    let mut sealer = Sealer::new(Arc::clone(&backup), LogLimits::default()).unwrap();
    sealer.advance(newest, &mut |_| go_on()).unwrap();
    let unreadable = FaultyDirectory::new(node.backup_path());
    unreadable.make_unreadable(&name, 4096..8192);
    let other = Arc::new(Backup::open(Source::new("it".to_owned(), Arc::new(unreadable))).unwrap());
    let ControlFlow::Continue(Some(damaged)) = scrub_of(other).read_logs(Some(newest)).unwrap() else {
        panic!("it is not found")
    };
    assert!(matches!(damaged.error, ReadError::Storage(_)), "{}", damaged.error);
    // Another backup in its place.
    let sound = fs::read(node.backup_path().join(names::MANIFEST)).unwrap();
    let foreign = Node::new("");
    fs::copy(foreign.backup_path().join(names::MANIFEST), node.backup_path().join(names::MANIFEST)).unwrap();
    rot(&log, 300);
    let before = fs::read(&log).unwrap();
    assert_eq!(sealer.mend_log(damaged.seq).unwrap(), MendedLog::Replaced);
    assert!(fs::read(&log).unwrap() == before);
    fs::write(node.backup_path().join(names::MANIFEST), sound).unwrap();
    assert_eq!(sealer.mend_log(damaged.seq).unwrap(), MendedLog::Whole(1));
}

#[test]
fn a_log_that_was_sealed_meanwhile_is_not_damaged() {
    let mut node = sample();
    let mut recording = node.record_within(LIMITS);
    write(&mut node, &mut recording, 150);
    let backup = Arc::new(recording.backup());
    let mut sealer = Sealer::new(Arc::clone(&backup), LIMITS).unwrap();
    let log = log_of(&node);
    let before = sealer.progress().sealed_through.unwrap().seq;
    rot(&log, 400);
    let ControlFlow::Continue(Some(damaged)) = scrub_of(backup).read_logs(None).unwrap() else { panic!("not found") };
    assert_eq!(sealer.mend_log(damaged.seq).unwrap(), MendedLog::NotKept);
    assert_eq!(sealer.mend_log(before).unwrap(), MendedLog::Sealed);
}
