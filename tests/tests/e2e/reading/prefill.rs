//! Databases of some size, read page by page through the mount, while and after the kernel gets the whole file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tests::home::Home;
use tests::mounted::{Mounted, fuse_is_here};
use tests::skip::skipped;
use tests::small_node::{NODE_ID, creation};

const PAGE_BYTES: usize = 4096;

/// Longest wait for the kernel to have the whole file.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A node whose database has about so many MiB, of which version 1 is a snapshot, and the bytes of that.
fn big_node(mib: u32) -> (Home, Vec<u8>) {
    let home = Home::new();
    let database = Connection::open(home.database()).expect("a new database");
    for statement in creation(NODE_ID) {
        database.execute_batch(&statement).expect("a statement");
    }
    let rows = format!(
        "CREATE TABLE payments (hash BLOB, onion BLOB);
         INSERT INTO payments WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
             SELECT randomblob(32), randomblob(900) FROM n;
         CREATE INDEX payments_hash ON payments (hash);",
        mib * 1024
    );
    database.execute_batch(&rows).expect("rows");
    database.close().expect("closing the database");
    home.init();
    let bytes = fs::read(home.database()).expect("the database");
    assert!(bytes.len() >= mib as usize * 1_000_000, "{} bytes", bytes.len());
    (home, bytes)
}

/// Reads pages all over the file, from the place given on; each must be as it was recorded.
fn hop(file: &File, bytes: &[u8], from: usize, count: usize) {
    let pages = bytes.len() / PAGE_BYTES;
    for read in 0..count {
        // A prime step leads to every page once.
        let offset = (from + read * 7919) % pages * PAGE_BYTES;
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, offset as u64).expect("a page");
        assert!(page == bytes[offset..offset + PAGE_BYTES], "at byte {offset}");
    }
}

/// Pages of the file that the kernel has; `None` where there is no tool to ask.
fn cached_pages(path: &Path) -> Option<usize> {
    let ran = Command::new("fincore").args(["--noheadings", "--raw", "--output", "PAGES"]).arg(path).output();
    let Ok(ran) = ran else {
        skipped("no fincore here: whether files get into the page cache is not tested");
        return None;
    };
    assert!(ran.status.success(), "{ran:?}");
    Some(String::from_utf8(ran.stdout).expect("ASCII").trim().parse().expect("a number"))
}

#[test]
fn a_reader_who_hops_about_gets_right_bytes_all_the_time_and_soon_from_the_kernel() {
    if !fuse_is_here() {
        return;
    }
    let (home, bytes) = big_node(40);
    let mounted = Mounted::start(&home.backup());
    let path = mounted.database(1);
    let file = File::open(&path).expect("the database");
    hop(&file, &bytes, 0, 20);
    if cached_pages(&path).is_some_and(|pages| pages > 1000) {
        panic!("a few pages are no reason to fill the page cache");
    }
    // From here on the file is filled for this reader, while others read it, too.
    hop(&file, &bytes, 20 * 7919, 40);
    thread::scope(|scope| {
        for reader in 0..3 {
            let (path, bytes) = (&path, &bytes);
            scope.spawn(move || hop(&File::open(path).expect("the database"), bytes, reader * 1000, 3000));
        }
    });
    // The readers have asked for two thirds of the pages. The kernel may take a few pages back at any time.
    let pages = bytes.len() / PAGE_BYTES;
    let nearly_all = pages - pages / 50;
    let since = Instant::now();
    while cached_pages(&path).is_some_and(|cached| cached < nearly_all) {
        assert!(since.elapsed() < TIMEOUT, "{:?} of {pages} pages", cached_pages(&path));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(fs::read(&path).expect("the database") == bytes);
}

#[test]
fn files_that_are_closed_at_once_and_opened_again_have_the_right_bytes() {
    if !fuse_is_here() {
        return;
    }
    let (home, bytes) = big_node(20);
    let mounted = Mounted::start(&home.backup());
    for round in 0..30 {
        let file = File::open(mounted.database(1)).expect("the database");
        hop(&file, &bytes, round * 100, 40);
        drop(file);
    }
    assert!(fs::read(mounted.database(1)).expect("the database") == bytes);
}

#[test]
fn unmounting_does_not_wait_until_the_kernel_has_the_file() {
    if !fuse_is_here() {
        return;
    }
    let (home, bytes) = big_node(60);
    for still_open in [true, false] {
        let mut mounted = Mounted::start(&home.backup());
        let file = File::open(mounted.database(1)).expect("the database");
        hop(&file, &bytes, 0, 33);
        let open = still_open.then_some(file);
        let since = Instant::now();
        let status = mounted.terminate().expect("it ends");
        assert!(status.success(), "{status}");
        assert!(since.elapsed() < Duration::from_secs(2), "after {:?}", since.elapsed());
        assert!(!mounted.is_mounted());
        drop(open);
    }
}
