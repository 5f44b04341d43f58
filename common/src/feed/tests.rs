//! A copy that is made of a feed's files and pieces is the same backup, whatever is sealed meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{Feed, FeedPosition, FinishedFile};
use crate::backup::Backup;
use crate::backup::view::View;
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::history::History;
use crate::recording::BackupWriter;
use crate::seal::Sealer;
use crate::testing::{Fate, Node};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::names;
use format::units::{DataVersion, Seq};

const LIMITS: LogLimits = LogLimits { bytes: 1 << 16, statements: 32 };

/// A copy: its files by name; logs without the zeros behind their records.
#[derive(Default)]
struct Copy(BTreeMap<String, Vec<u8>>);

impl Copy {
    fn take_pieces(&mut self, feed: &mut Feed) {
        while let Some(piece) = feed.next_piece().unwrap() {
            let log = self.0.entry(names::log(piece.log)).or_default();
            assert_eq!(log.len() as u64, piece.offset, "pieces follow each other");
            log.extend_from_slice(&piece.bytes);
            assert_eq!(piece.end, feed.position());
        }
    }

    fn take_files(&mut self, feed: &Feed) {
        for file in feed.finished_files().unwrap() {
            let name = file.name();
            let bytes = fs::read(feed.backup().path().join(&name)).unwrap();
            self.0.insert(name, bytes);
            if let FinishedFile::Segment { first, last } = file {
                let sealed = |name: &String| names::parse_log(name).is_some_and(|log| log >= first && log <= last);
                self.0.retain(|name, _| !sealed(name));
            }
        }
    }

    /// Writes the copy as a directory, and expects it to have the same versions with the same contents.
    fn expect_equal(&self, node: &Node, versions: impl Iterator<Item = u32>) {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(node.backup_path().join(names::MANIFEST), dir.path().join(names::MANIFEST)).unwrap();
        for (name, bytes) in &self.0 {
            let mut bytes = bytes.clone();
            if names::parse_log(name).is_some() {
                let header = LogHeader::decode(bytes[..LOG_HEADER_LEN].try_into().unwrap()).unwrap();
                let unit = usize::try_from(header.unit).unwrap();
                bytes.resize((bytes.len() + 1).next_multiple_of(unit), 0);
            }
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let copied = open(dir.path());
        let (history, read) = copied.read_history();
        read.unwrap();
        let (original, read) = node.backup().read_history();
        read.unwrap();
        assert_eq!(history.newest(), original.newest());
        assert_eq!(history.version_count(), original.version_count());
        for version in versions {
            // The node's bytes: those of a version are the same, sealed or not.
            let of = |backup: &Arc<Backup>, history: &History| {
                let version = history.version(DataVersion::new(version)).unwrap().unwrap();
                let view = View::open(backup, &history.plan(&version).unwrap()).unwrap();
                let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
                assert_eq!(view.read_at(0, &mut bytes).unwrap(), bytes.len());
                bytes
            };
            assert!(of(&copied, &history) == of(&node.backup(), &original), "version {version} is another one");
        }
    }
}

fn open(path: &Path) -> Arc<Backup> {
    let url: BackupUrl = path.to_str().unwrap().parse().unwrap();
    Arc::new(Backup::open(&url).unwrap())
}

fn seal(node: &Node, recording: &BackupWriter) {
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    sealer.advance(recording.newest().unwrap().seq, &mut |_| ControlFlow::Continue(())).unwrap();
}

fn commit(node: &mut Node, recording: &mut BackupWriter, count: u32) {
    for _ in 0..count {
        node.write(recording, &"more ".repeat(200), Fate::Committed).unwrap();
    }
}

#[test]
fn a_copy_of_files_and_pieces_is_the_same_backup() {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    let mut feed = Feed::begin(node.backup()).unwrap();
    let mut copy = Copy::default();
    for round in 0..12 {
        commit(&mut node, &mut recording, 7);
        // Sealed before, between and after the reading: what was sealed unread is in a segment.
        match round % 3 {
            0 => copy.take_pieces(&mut feed),
            1 => {
                seal(&node, &recording);
                copy.take_pieces(&mut feed);
            }
            _ => {
                copy.take_pieces(&mut feed);
                seal(&node, &recording);
            }
        }
        copy.take_files(&feed);
        copy.take_pieces(&mut feed);
        copy.expect_equal(&node, 10..=10 + (round + 1) * 7);
    }
    assert!(copy.0.keys().filter(|name| names::parse_segment(name).is_some()).count() > 3, "{:?}", copy.0.keys());
}

#[test]
fn a_feed_goes_on_where_another_one_was() {
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    let mut copy = Copy::default();
    let mut at = Feed::begin(node.backup()).unwrap().position();
    for _ in 0..9 {
        commit(&mut node, &mut recording, 4);
        let mut feed = match Feed::resume(node.backup(), &at).unwrap() {
            Some(feed) => feed,
            None => Feed::begin(node.backup()).unwrap(),
        };
        copy.take_pieces(&mut feed);
        copy.take_files(&feed);
        at = feed.position();
    }
    copy.expect_equal(&node, 10..=46);
    // Another record there: what the position says was lost, and its seq used again.
    let other = FeedPosition { previous_checksum: at.previous_checksum ^ 1, ..at };
    assert!(Feed::resume(node.backup(), &other).unwrap().is_none());
    let ahead = FeedPosition { next_seq: at.next_seq + 1, ..at };
    assert!(Feed::resume(node.backup(), &ahead).unwrap().is_none());
    seal(&node, &recording);
    let first = FeedPosition { log: 1, ..at };
    assert!(Feed::resume(node.backup(), &first).unwrap().is_none(), "its log is sealed");
    assert!(Seq::new(at.log).is_some());
}

#[test]
fn damage_is_reported_and_nothing_before_it_is_lost() {
    let mut node = Node::new("");
    let mut recording = node.record();
    let mut feed = Feed::begin(node.backup()).unwrap();
    let mut copy = Copy::default();
    commit(&mut node, &mut recording, 3);
    copy.take_pieces(&mut feed);
    let (path, at) = (node.backup_path().join(names::log(Seq::FIRST)), feed.position());
    commit(&mut node, &mut recording, 2);
    let sound = fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    damaged[usize::try_from(at.offset).unwrap() + 50] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(feed.next_piece().is_err());
    assert_eq!(feed.position(), at);
    fs::write(&path, &sound).unwrap();
    copy.take_pieces(&mut feed);
    copy.take_files(&feed);
    copy.expect_equal(&node, 10..=15);
}
