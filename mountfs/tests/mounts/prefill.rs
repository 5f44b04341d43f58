//! Files put into the kernel's page cache in the background, with a cache that is watched instead of a kernel.

use std::ffi::OsStr;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fixture::Node;
use common::Follower;
use mountfs::tree::fs::Fs;
use mountfs::tree::prefill::PageCache;

const ROOT: u64 = 1;

/// Longest wait for something that must happen, and how long is waited for what must not.
const TIMEOUT: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(100);

/// Bytes handed over at once.
const CHUNK: usize = 1 << 20;

struct Chunk {
    inode: u64,
    offset: u64,
    bytes: Vec<u8>,
}

/// Takes a chunk when the test allows it, and sends it to the test.
struct Watched {
    taken: Mutex<Sender<Chunk>>,
    allowed: Mutex<Receiver<io::Result<()>>>,
}

impl PageCache for Watched {
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let chunk = Chunk { inode, offset, bytes: bytes.to_vec() };
        // The test may be over.
        let _: Result<(), _> = self.taken.lock().unwrap().send(chunk);
        self.allowed.lock().unwrap().recv().unwrap_or(Ok(()))
    }
}

/// A tree over versions 1 to 3, with a cache; the databases of 2 and 3 are several chunks long.
struct Tree {
    node: Node,
    fs: Fs,
    follower: Follower,
    taken: Receiver<Chunk>,
    allow: Sender<io::Result<()>>,
}

fn many_rows(version: u32, filler: char) -> String {
    let row = filler.to_string().repeat(400);
    format!(
        "INSERT INTO rows SELECT {version}, '{row}' || i FROM \
         (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) SELECT i FROM n)"
    )
}

impl Tree {
    fn new() -> Self {
        let mut node = Node::with_versions(1);
        node.write(2, &[many_rows(2, 'x')], "2026-11-22T00:02:00Z");
        node.write(3, &[many_rows(3, 'y')], "2026-11-22T00:03:00Z");
        let (fs, follower) = node.tree();
        let (send, taken) = mpsc::channel();
        let (allow, allowed) = mpsc::channel();
        fs.prefill().begin(Arc::new(Watched { taken: Mutex::new(send), allowed: Mutex::new(allowed) }));
        Self { node, fs, follower, taken, allow }
    }

    fn inode(&self, version: u32) -> u64 {
        let mut inode = ROOT;
        for name in ["versions", &version.to_string(), "lightningd.sqlite3"] {
            inode = self.fs.lookup(inode, OsStr::new(name)).unwrap().attr.inode;
        }
        inode
    }

    fn open(&self, version: u32) -> u64 {
        self.fs.open(self.inode(version)).unwrap().0
    }

    fn whole(&self, handle: u64) -> Vec<u8> {
        self.fs.read(handle, 0, u32::MAX, &mut Vec::new()).unwrap().to_vec()
    }

    /// Reads pages here and there, as a query does.
    fn hop(&self, handle: u64, reads: u64) {
        for read in 0..reads {
            self.fs.read(handle, read * 37 % 500 * 4096, 4096, &mut Vec::new()).unwrap();
        }
    }

    fn allow_all(&self) {
        for _ in 0..1000 {
            // The cache is dropped when no thread fills it any more.
            let _: Result<(), _> = self.allow.send(Ok(()));
        }
    }

    fn expect_chunk(&self) -> Chunk {
        self.taken.recv_timeout(TIMEOUT).expect("a chunk")
    }

    #[track_caller]
    fn expect_none(&self) {
        assert!(self.taken.recv_timeout(MOMENT).is_err(), "a chunk that is not needed");
    }

    /// Takes the chunks of a file, which must be the whole of it in order.
    #[track_caller]
    fn expect_whole(&self, inode: u64, bytes: &[u8]) {
        let mut so_far = Vec::new();
        while so_far.len() < bytes.len() {
            let chunk = self.expect_chunk();
            assert_eq!((chunk.inode, chunk.offset), (inode, so_far.len() as u64));
            so_far.extend(chunk.bytes);
            assert!(so_far.len() == bytes.len() || so_far.len().is_multiple_of(CHUNK), "a page in part");
        }
        assert!(so_far == bytes, "other bytes than those that are read");
    }
}

#[test]
fn a_reader_who_hops_about_gets_the_whole_file_and_others_nothing() {
    let tree = Tree::new();
    tree.allow_all();
    let hopping = tree.open(3);
    let bytes = tree.whole(hopping);
    assert!(bytes.len() > 3 * CHUNK, "{}", bytes.len());
    tree.hop(hopping, 20);
    // From beginning to end, in the chunks of read-ahead.
    let copying = tree.open(3);
    for offset in (0..bytes.len() as u64).step_by(128 << 10).cycle().take(200) {
        tree.fs.read(copying, offset, 128 << 10, &mut Vec::new()).unwrap();
    }
    tree.expect_none();
    tree.hop(hopping, 30);
    tree.expect_whole(tree.inode(3), &bytes);
    // Once is enough for an open file.
    tree.hop(hopping, 500);
    tree.expect_none();
}

#[test]
fn closing_stops_it() {
    let tree = Tree::new();
    let handle = tree.open(3);
    tree.hop(handle, 40);
    tree.expect_chunk();
    tree.fs.close(handle);
    tree.allow_all();
    tree.expect_none();
    // The next open of the file is filled nevertheless.
    let handle = tree.open(3);
    let bytes = tree.whole(handle);
    tree.hop(handle, 40);
    tree.expect_whole(tree.inode(3), &bytes);
}

#[test]
fn the_end_of_the_mount_stops_it_without_waiting() {
    let tree = Tree::new();
    let handle = tree.open(3);
    tree.hop(handle, 40);
    tree.expect_chunk();
    // The chunk is still being taken: this must not wait for it.
    tree.fs.prefill().end();
    tree.allow_all();
    tree.expect_none();
    tree.hop(handle, 500);
    tree.expect_none();
}

#[test]
fn a_kernel_that_takes_nothing_is_left_alone() {
    let tree = Tree::new();
    let handle = tree.open(3);
    let bytes = tree.whole(handle);
    tree.allow.send(Err(io::ErrorKind::Unsupported.into())).unwrap();
    tree.hop(handle, 500);
    tree.expect_chunk();
    tree.allow_all();
    tree.expect_none();
    assert!(tree.whole(handle) == bytes);
}

#[test]
fn only_some_files_are_filled_at_once_and_each_by_one() {
    let tree = Tree::new();
    let (second, third, again) = (tree.open(2), tree.open(3), tree.open(3));
    for handle in [third, again, second] {
        tree.hop(handle, 40);
    }
    let mut begun = [tree.expect_chunk(), tree.expect_chunk()].map(|chunk| (chunk.inode, chunk.offset));
    begun.sort_unstable();
    assert_eq!(begun, [(tree.inode(2), 0), (tree.inode(3), 0)]);
    tree.expect_none();
    // Neither is waited for by those who read.
    tree.hop(again, 500);
}

/// The version is recorded again while the file is being filled: its inode keeps the bytes that were opened, the other
/// inode gets none of them.
#[test]
fn a_rewound_version_does_not_get_into_the_file_of_the_new_one() {
    let mut tree = Tree::new();
    let (handle, inode) = (tree.open(3), tree.inode(3));
    let bytes = tree.whole(handle);
    tree.hop(handle, 40);
    tree.node.write(3, &[many_rows(3, 'z')], "2026-11-22T00:10:00Z");
    tree.follower.poll(tree.fs.history_lock()).unwrap();
    tree.allow_all();
    tree.expect_whole(inode, &bytes);
    let (new, new_inode) = (tree.open(3), tree.inode(3));
    let new_bytes = tree.whole(new);
    assert!(new_inode != inode && new_bytes != bytes);
    tree.hop(new, 40);
    tree.expect_whole(new_inode, &new_bytes);
}
