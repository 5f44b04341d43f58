//! Every file of a small backup cut, flipped, zeroed, swapped, doubled, removed, taken from another backup, put back from
//! an older copy, or replaced by what is no file at all: what is read then is an error or what was recorded, never anything
//! else, and the recorder refuses or goes on without losing what the node has.
//!
//! `BACKUPFS_TAMPERINGS` cuts and as many flips are tried per file, evenly spread; `all` tries every byte and every bit.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Backup, BackupUrl, DataVersion, DbWrite, LogLimits, Recording, Sealer, Timestamp, Views};
use mountfs::demo::pretend_lightningd::Commit;
use tests::home::Home;
use tests::small_node::{NODE_ID, SmallNode, creation};

/// Environment variable: how many cuts, and how many flips, of each file.
const TAMPERINGS: &str = "BACKUPFS_TAMPERINGS";

/// The same unless told otherwise.
const TAMPERINGS_USUAL: usize = 10;

/// Every so many tamperings a recorder is let at the backup.
const RECORDER_EVERY: usize = 5;

const LIMITS: LogLimits = LogLimits { bytes: 64 << 10, statements: 60 };

/// Versions of the history.
const VERSIONS: u32 = 80;

/// What every version holds, as a hash of its bytes and its statements.
type Held = BTreeMap<u32, u64>;

/// A node with a history of its own, and its backup: several segments, snapshots, a log.
struct Recorded {
    node: SmallNode,
    held: Held,
    /// The files as they were in the middle of it.
    older: BTreeMap<String, Vec<u8>>,
}

fn url(backup: &Path) -> BackupUrl {
    backup.to_str().expect("a path in UTF-8").parse().expect("a URL")
}

fn record(recording: &mut Recording, data_version: DataVersion, statements: &[String]) -> Result<(), String> {
    let statements: Vec<_> = statements.iter().map(|statement| statement.as_str().into()).collect();
    let write = DbWrite { data_version, statements: &statements, received_at: Timestamp::now() };
    recording.record(&write).map(|_| ()).map_err(|error| error.to_string())
}

fn seal(backup: &Path, recording: &Recording) {
    let opened = Arc::new(Backup::open(&url(backup)).expect("a backup"));
    let newest = recording.newest().expect("a version").seq;
    let mut sealer = Sealer::new(opened, LIMITS).expect("a sealer");
    sealer.advance(newest, &mut |_| ControlFlow::Continue(())).expect("all of it replays");
}

/// Changes, riders, a change that was lost with its node, versions that went unseen, restarts.
fn recorded() -> Recorded {
    let home = Home::new();
    home.init();
    let mut node = SmallNode::at(home);
    let open = |node: &SmallNode| Recording::open(&node.home.lightning_dir(), LIMITS).expect("a backup");
    let backup = node.home.backup();
    let mut recording = open(&node);
    let mut older = BTreeMap::new();
    node.lightningd.start_without_recorder().expect("the node starts");
    for number in 1..=VERSIONS {
        let data_version = DataVersion::new(number);
        let statements = if number == 1 { creation(NODE_ID) } else { node.transaction(data_version) };
        let is_unseen = matches!(number, 25..=27 | 60);
        if number == 33 {
            let rider = "PRAGMA foreign_keys = OFF;".to_owned();
            record(&mut recording, data_version.previous(), &[rider]).expect("a rider");
            let rider = "PRAGMA foreign_keys = ON;".to_owned();
            record(&mut recording, data_version.previous(), &[rider]).expect("a rider");
        }
        if matches!(number, 12 | 50) {
            let lost = node.transaction(data_version);
            record(&mut recording, data_version, &lost).expect("a change that is lost");
            drop(recording);
            recording = open(&node);
        }
        if !is_unseen {
            record(&mut recording, data_version, &statements).expect("a change");
        }
        node.lightningd.write(data_version, &statements, Commit::WithoutPlugin).expect("a commit");
        if matches!(number, 20 | 40 | 65) {
            seal(&backup, &recording);
        }
        if number == 45 {
            older = files(&backup);
        }
    }
    drop(recording);
    node.lightningd.kill();
    let held = read(&backup).expect("nothing is wrong yet").0;
    assert_eq!(held.len(), VERSIONS as usize - 2, "all but those that went unseen before one that was healed");
    Recorded { node, held, older }
}

/// The files of a backup.
fn files(backup: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(backup).expect("a backup").map(|entry| entry.expect("an entry"));
    let read = |path: PathBuf| fs::read(path).expect("a file");
    entries.map(|entry| (entry.file_name().into_string().expect("a name"), read(entry.path()))).collect()
}

/// Every version that can be opened, and how many cannot although they are listed.
///
/// # Errors
/// When nothing can be read.
fn read(backup: &Path) -> Result<(Held, usize), String> {
    let backup = Arc::new(Backup::open(&url(backup)).map_err(|error| error.to_string())?);
    let (history, _) = backup.read_history();
    let views = Views::new(Arc::clone(&backup), 0);
    let (mut held, mut refused) = (Held::new(), 0);
    for number in 1..=VERSIONS + 2 {
        let open = || -> Result<Option<u64>, String> {
            let Some(version) = history.version(DataVersion::new(number)).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            let plan = history.plan(&version).map_err(|error| error.to_string())?;
            let view = views.open(&plan).map_err(|error| error.to_string())?;
            let mut bytes = vec![0; usize::try_from(view.size_bytes()).expect("a small database")];
            view.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
            let records = history.records_of(&version).map_err(|error| error.to_string())?;
            let statements = backup.statements(&records).map_err(|error| error.to_string())?;
            let mut hasher = DefaultHasher::new();
            (bytes, statements, version.recorded_at.as_micros()).hash(&mut hasher);
            Ok(Some(hasher.finish()))
        };
        match open() {
            Ok(Some(hash)) => drop(held.insert(number, hash)),
            Ok(None) => {}
            Err(text) => {
                assert!(text.len() > 20, "an error that says nothing: {text}");
                refused += 1;
            }
        }
    }
    Ok((held, refused))
}

/// What came of a tampering.
#[derive(Default)]
struct Tally {
    tampered: usize,
    /// Nothing was lost by it.
    harmless: usize,
    /// Nothing could be read at all.
    unreadable: usize,
    recorder_refused: usize,
    recorder_went_on: usize,
}

/// A copy of the backup and its node, to be tampered with again and again.
struct Victim<'a> {
    recorded: &'a Recorded,
    good: BTreeMap<String, Vec<u8>>,
    home: Home,
    tally: Tally,
}

impl<'a> Victim<'a> {
    fn of(recorded: &'a Recorded) -> Self {
        let home = Home::new();
        fs::copy(recorded.node.home.database(), home.database()).expect("the database");
        let lock = fs::read_to_string(recorded.node.home.backup_lock()).expect("backup.lock");
        let [from, to] =
            [recorded.node.home.backup(), home.backup()].map(|path| path.to_str().expect("UTF-8").to_owned());
        home.write_backup_lock(&lock.replace(&from, &to));
        let good = files(&recorded.node.home.backup());
        Self { recorded, good, home, tally: Tally::default() }
    }

    /// Tampers with a fresh copy and looks at what is read.
    fn tamper(&mut self, what: &str, tamper: impl FnOnce(&Path)) {
        let backup = self.home.backup();
        let _ = fs::remove_dir_all(&backup);
        fs::create_dir(&backup).expect("a directory");
        for (name, bytes) in &self.good {
            fs::write(backup.join(name), bytes).expect("a file");
        }
        tamper(&backup);
        self.tally.tampered += 1;
        let Ok((held, _)) = read(&backup) else {
            self.tally.unreadable += 1;
            return;
        };
        for (version, hash) in &held {
            assert_eq!(
                self.recorded.held.get(version),
                Some(hash),
                "{what}: version {version} is not what was recorded"
            );
        }
        self.tally.harmless += usize::from(held == self.recorded.held);
        if self.tally.tampered.is_multiple_of(RECORDER_EVERY) {
            self.record(what);
        }
    }

    /// The node's next write goes to the tampered backup: it is refused, or recorded with all that the node has.
    fn record(&mut self, what: &str) {
        let next = DataVersion::new(VERSIONS + 1);
        let lightning_dir = self.home.lightning_dir();
        let went_on = Recording::open(&lightning_dir, LIMITS)
            .map_err(|error| error.to_string())
            .and_then(|mut recording| record(&mut recording, next, &[tests::small_node::bump(next)]));
        if let Err(text) = went_on {
            assert!(text.len() > 30, "{what}: a refusal that says nothing: {text}");
            self.tally.recorder_refused += 1;
            return;
        }
        self.tally.recorder_went_on += 1;
        let (held, _) = read(&self.home.backup()).expect("what was just written to can be read");
        let newest = held.contains_key(&(VERSIONS + 1));
        // A snapshot of the node's database stands for what was cut off.
        let before = held.get(&VERSIONS);
        assert!(
            newest && before.is_some(),
            "{what}: went on, but the newest versions are not there: {:?}",
            held.keys()
        );
    }
}

/// `wanted` numbers below `limit`, evenly spread, the first ones and the last among them; all when there is no `wanted`.
fn spread(limit: usize, wanted: Option<usize>) -> Vec<usize> {
    let step = wanted.map_or(1, |wanted| (limit / wanted.max(1)).max(1));
    let mut numbers: Vec<usize> = (0..limit).step_by(step).chain(limit.checked_sub(1)).collect();
    numbers.dedup();
    numbers
}

/// Where the zeros at the end of a file begin: what is behind is room for records.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

#[test]
fn what_is_read_from_files_that_were_tampered_with_is_an_error_or_what_was_recorded() {
    let wanted = match std::env::var(TAMPERINGS) {
        Ok(all) if all == "all" => None,
        Ok(number) => Some(number.parse().expect("a number, or `all`")),
        Err(_) => Some(TAMPERINGS_USUAL),
    };
    let recorded = recorded();
    let other = self::recorded();
    let theirs = files(&other.node.home.backup());
    let mut victim = Victim::of(&recorded);
    let good = victim.good.clone();
    assert!(good.keys().filter(|name| name.starts_with("segment-")).count() > 3, "{:?}", good.keys());
    for (name, bytes) in &good {
        let used = written(bytes);
        // With some of the zeros behind, which are there to be written to.
        let attacked = bytes.len().min(used + 64);
        for cut in spread(attacked, wanted) {
            victim
                .tamper(&format!("{name} cut at {cut}"), |backup| fs::write(backup.join(name), &bytes[..cut]).unwrap());
        }
        for bit in spread(attacked * 8, wanted) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            victim
                .tamper(&format!("{name}, bit {bit} flipped"), |backup| fs::write(backup.join(name), flipped).unwrap());
        }
        for from in spread(attacked, wanted.map(|wanted| wanted / 4)) {
            let mut zeroed = bytes.clone();
            zeroed[from..bytes.len().min(from + 512)].fill(0);
            victim.tamper(&format!("{name}, a sector zeroed at {from}"), |backup| {
                fs::write(backup.join(name), zeroed).unwrap();
            });
        }
        for (others, from) in [(&good, "this"), (&theirs, "another"), (&recorded.older, "an older copy of this")] {
            for (other_name, other_bytes) in others {
                // A swap of names says the most among files of one kind.
                if other_name[..3] == name[..3] {
                    victim.tamper(&format!("{name} is {other_name} of {from} backup"), |backup| {
                        fs::write(backup.join(name), other_bytes).unwrap();
                    });
                }
            }
        }
        victim.tamper(&format!("{name} removed"), |backup| fs::remove_file(backup.join(name)).unwrap());
        let outside = victim.home.join("outside");
        fs::write(&outside, bytes).unwrap();
        victim.tamper(&format!("{name} a link to its contents"), |backup| {
            fs::remove_file(backup.join(name)).unwrap();
            symlink(&outside, backup.join(name)).unwrap();
        });
        assert!(fs::read(&outside).unwrap() == *bytes, "{name}: a link was followed and written through");
        victim.tamper(&format!("{name} a FIFO"), |backup| {
            fs::remove_file(backup.join(name)).unwrap();
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, backup.join(name), fifo, 0o600.into(), 0).unwrap();
        });
        victim.tamper(&format!("{name} a directory"), |backup| {
            fs::remove_file(backup.join(name)).unwrap();
            fs::create_dir(backup.join(name)).unwrap();
        });
        victim.tamper(&format!("{name} grown"), |backup| {
            fs::write(backup.join(name), [&bytes[..], &bytes[..used.min(4096)]].concat()).unwrap();
        });
        if let Some((kind, digits)) = name.split_once('-') {
            let number: u64 = digits.parse().unwrap();
            for copy in [number + 1, number - 1, number + 1000, 0, u64::MAX] {
                victim.tamper(&format!("{name} doubled as {copy}"), |backup| {
                    fs::write(backup.join(format!("{kind}-{copy:020}")), bytes).unwrap();
                });
            }
        }
    }
    victim.tamper("all files of an older copy", |backup| {
        for name in good.keys() {
            fs::remove_file(backup.join(name)).unwrap();
        }
        for (name, bytes) in &recorded.older {
            fs::write(backup.join(name), bytes).unwrap();
        }
    });
    let Tally { tampered, harmless, unreadable, recorder_refused, recorder_went_on } = victim.tally;
    println!(
        "{tampered} tamperings: {harmless} cost nothing, after {unreadable} nothing could be read; \
         the recorder refused {recorder_refused} times and went on {recorder_went_on} times"
    );
    assert!(harmless < tampered / 2 && unreadable < tampered / 3 && recorder_refused > 5 && recorder_went_on > 5);
}
