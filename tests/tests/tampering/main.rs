//! Every file of a small node and its backup cut, flipped, zeroed, swapped, doubled, removed, taken from another backup, put
//! back from an older copy, or replaced by what is no file at all: what is read then is an error or what was recorded, never
//! anything else, and the recorder refuses or goes on without losing what the node has.
//!
//! `BACKUPFS_TAMPERINGS` cuts and as many flips are tried per file, evenly spread; `all` tries every byte and every bit.
//! `BACKUPFS_TAMPERED_FILES=pruned` tries them on these files only.

mod cases;
mod recorded;
mod victim;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use cases::{Case, cases, kind};
use recorded::Recorded;
use victim::{Outcome, Recorder, Then, Victim};

/// Environment variable: how many cuts, and how many flips, of each file.
const TAMPERINGS: &str = "BACKUPFS_TAMPERINGS";

/// The same unless told otherwise.
const TAMPERINGS_USUAL: usize = 10;

/// Environment variable: the kind of the files, as the table says it, if not all are to be tampered with.
const FILES: &str = "BACKUPFS_TAMPERED_FILES";

/// Every so many tamperings of a backup a recorder is let at it.
const RECORDER_EVERY: usize = 5;

/// Victims that are tampered with at the same time. Most of the time of a case goes by waiting: damage at the end of a log is
/// looked at several times.
const VICTIMS: usize = 16;

/// Failures that are told before it is given up.
const TOLD_MAX: usize = 10;

/// Tamperings after which it is told how far it is.
const TOLD_EVERY: usize = 10_000;

/// What came of the tamperings of one kind.
#[derive(Debug, Default)]
struct Tally {
    tampered: usize,
    harmless: usize,
    unreadable: usize,
    refused: usize,
    went_on: usize,
    spools_on: usize,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.tampered += 1;
        self.harmless += usize::from(outcome.harmless);
        self.unreadable += usize::from(outcome.unreadable);
        match outcome.recorder {
            Some(Recorder::Refused) => self.refused += 1,
            Some(Recorder::WentOn) => self.went_on += 1,
            Some(Recorder::SpoolsOn) => self.spools_on += 1,
            None => {}
        }
    }
}

/// By the kind of the file and what was done to it.
type Tallies = BTreeMap<(String, &'static str), Tally>;

fn wanted() -> Option<usize> {
    match std::env::var(TAMPERINGS) {
        Ok(all) if all == "all" => None,
        Ok(number) => Some(number.parse().expect("a number, or `all`")),
        Err(_) => Some(TAMPERINGS_USUAL),
    }
}

/// Tampers with these files of a copy, one at a time, in every way.
fn tampered(recorded: &Recorded, another: &Recorded, attacked: &[PathBuf], recorder_every: usize) -> Tallies {
    let mut cases = cases(recorded, attacked, &another.files, wanted());
    if let Ok(only) = std::env::var(FILES) {
        cases.retain(|case| kind(&case.file) == only);
    }
    let (tallies, failures) = (Mutex::new(Tallies::new()), Mutex::new(Vec::new()));
    let (taken, began) = (AtomicUsize::new(0), Instant::now());
    // Far from one another one after the other, for those at which there is a wait are next to one another.
    let stride = (cases.len() / VICTIMS..).find(|&stride| is_coprime(stride.max(1), cases.len())).unwrap_or(1).max(1);
    let work = || {
        let victim = Victim::of(recorded, another);
        loop {
            let turn = taken.fetch_add(1, Ordering::Relaxed);
            if turn >= cases.len() || locked(&failures).len() >= TOLD_MAX {
                return;
            }
            if turn > 0 && turn.is_multiple_of(TOLD_EVERY) {
                println!("{turn} of {} tamperings after {:.0} s", cases.len(), began.elapsed().as_secs_f64());
            }
            let number = turn * stride % cases.len();
            let case: &Case = &cases[number];
            let then = if number.is_multiple_of(recorder_every) { Then::ReadAndRecord } else { Then::Read };
            let outcome = catch_unwind(AssertUnwindSafe(|| victim.tamper(case, then)));
            match outcome.unwrap_or_else(|_| Err("panicked".to_owned())) {
                Ok(outcome) => {
                    let key = (kind(&case.file), case.tampering.kind());
                    locked(&tallies).entry(key).or_default().add(outcome);
                }
                Err(what) => {
                    locked(&failures).push(format!("{} {}: {what}", case.file.display(), case.tampering));
                    victim.put_all();
                }
            }
        }
    };
    thread::scope(|scope| (0..VICTIMS).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().expect("no case panics with it");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let tallies = tallies.into_inner().expect("no case panics with it");
    for ((kind, how), tally) in &tallies {
        println!("{kind:14} {how:14} {tally:?}");
    }
    let all: usize = tallies.values().map(|tally| tally.tampered).sum();
    assert_eq!(all, cases.len());
    println!("{all} tamperings in {:.1} s", began.elapsed().as_secs_f64());
    tallies
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no case panics with it")
}

fn is_coprime(a: usize, b: usize) -> bool {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

fn sum(tallies: &Tallies, of: impl Fn(&Tally) -> usize) -> usize {
    tallies.values().map(of).sum()
}

#[test]
fn what_is_read_from_a_backup_that_was_tampered_with_is_an_error_or_what_was_recorded() {
    let (recorded, another) = (Recorded::with_all_kinds().without_parity(), Recorded::with_all_kinds());
    let victim = Victim::of(&recorded, &another);
    let untouched = victim.look(Then::ReadAndRecord).expect("nothing is wrong");
    assert!(untouched.harmless && untouched.recorder == Some(Recorder::WentOn), "{untouched:?}");
    victim.put_all();
    victim.put_older_backup();
    let older = victim.look(Then::ReadAndRecord).expect("an older copy is read as it was");
    println!("all files of an older copy: {older:?}");
    let attacked: Vec<_> = recorded.files.keys().filter(|path| path.starts_with("node.bkp")).cloned().collect();
    let tallies = tampered(&recorded, &another, &attacked, RECORDER_EVERY);
    if std::env::var_os(FILES).is_some() {
        return;
    }
    let tampered = sum(&tallies, |tally| tally.tampered);
    let harmless = sum(&tallies, |tally| tally.harmless);
    let unreadable = sum(&tallies, |tally| tally.unreadable);
    assert!(harmless < tampered / 2 && 0 < unreadable && unreadable < tampered / 3, "{harmless}, {unreadable}");
    assert!(sum(&tallies, |tally| tally.refused) > 5 && sum(&tallies, |tally| tally.went_on) > 5);
}

/// What is tampered with in one place of one sealed file is read as it was.
#[test]
fn with_its_parity_hardly_any_tampering_makes_a_version_unreadable() {
    let (recorded, another) = (Recorded::with_all_kinds(), Recorded::with_all_kinds());
    let attacked: Vec<_> = recorded.files.keys().filter(|path| path.starts_with("node.bkp")).cloned().collect();
    let tallies = tampered(&recorded, &another, &attacked, RECORDER_EVERY);
    if std::env::var_os(FILES).is_some() {
        return;
    }
    let tampered = sum(&tallies, |tally| tally.tampered);
    let harmless = sum(&tallies, |tally| tally.harmless);
    let unreadable = sum(&tallies, |tally| tally.unreadable);
    assert!(harmless > tampered / 2 && unreadable < tampered / 20, "{tampered}, {harmless}, {unreadable}");
}

#[test]
fn a_recorder_whose_own_files_were_tampered_with_refuses_or_goes_on_with_all_that_the_node_has() {
    let (recorded, another) = (Recorded::with_spooled_changes(), Recorded::with_spooled_changes());
    let is_attacked =
        |path: &&PathBuf| path.starts_with("spool") || path.ends_with("backup.lock") || path.ends_with("backup.spool");
    let attacked: Vec<_> = recorded.files.keys().filter(is_attacked).cloned().collect();
    let kinds: Vec<_> = attacked.iter().map(|path| kind(path)).collect();
    let expected = ["backup.lock", "backup.spool", "spool/LOCK", "spool/log", "spool/preallocated", "spool/spool"];
    assert_eq!(kinds, expected);
    let tallies = tampered(&recorded, &another, &attacked, 1);
    if std::env::var_os(FILES).is_some() {
        return;
    }
    assert!(sum(&tallies, |tally| tally.refused) > 5 && sum(&tallies, |tally| tally.went_on) > 5);
}
