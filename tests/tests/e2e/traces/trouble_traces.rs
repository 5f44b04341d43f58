//! Every recorded trace once more, with trouble in the middle: the backup's place fails, is full or is gone for a while, and
//! `backup.lock` says in each of the three ways what is to be done then.
//!
//! Long traces begin near their end, with the database as it was by then. With `BACKUPFS_TRACES_WHOLE=1` all of each is
//! played, with every trouble under every policy: that takes many minutes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::DataVersion;
use mountfs::demo::pretend_lightningd::Answer;
use mountfs::demo::trace::TraceEvent;
use rustix::io::Errno;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::fault_fs::{Caching, Call, Effect, FaultFs, Rule};
use tests::home::Home;
use tests::listing::{self, Status};
use tests::play::pass_over;
use tests::reference::Reference;
use tests::runs::Runs;
use tests::schedule::{Fate, Outcome, Schedule};
use tests::skip::skipped;
use tests::traces::{self, TraceFolder};
use tests::{cli, compare};

/// So many writes of a trace are played, unless all are.
const WRITES: usize = 180;

/// Logs end after so many statements: some are begun and sealed in each trace.
const LOG_STATEMENTS: usize = 400;

/// Under the policy that waits, the trouble is over after so long.
const TROUBLE_LASTS: Duration = Duration::from_millis(300);

const TIMEOUT: Duration = Duration::from_secs(60);

/// Tables whose contents the unreported transactions of a gap may change.
const TOUCHED_IN_GAPS: &[&str] = &["vars", "network_events", "datastore"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Wait,
    Stop,
    Spool,
}

impl Policy {
    const ALL: [Self; 3] = [Self::Wait, Self::Stop, Self::Spool];

    fn in_backup_lock(self) -> Value {
        match self {
            Self::Wait => json!({"wait_s": 30}),
            Self::Stop => json!("stop"),
            Self::Spool => json!({"spool": "", "wait_s": 0}),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Every call fails with EIO.
    Failing,
    /// Nothing can be written.
    Full,
    /// The directory is not there.
    Gone,
}

impl Trouble {
    const ALL: [Self; 3] = [Self::Failing, Self::Full, Self::Gone];
}

/// What is played of a trace.
struct Tail {
    folder: TraceFolder,
    /// Holds the database before the first write.
    directory: TempDir,
    fates: Vec<Fate>,
    /// From the first write that is played on; before it whatever belongs to its run.
    events: Vec<TraceEvent>,
    /// Committed unseen, among what is played.
    missing: Vec<u32>,
    /// Position, among what is played, of the write that meets the trouble first.
    trouble: usize,
}

impl Tail {
    fn of(folder: TraceFolder) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let database = directory.path().join("before.sqlite3");
        folder.start_database(&database);
        let schedule = Schedule::of(folder.events());
        let all = schedule.fates();
        let from = schedule.before_the_last(WRITES);
        let mut rest = folder.events();
        let mut events =
            if from > 0 { pass_over(&mut rest, from, &schedule, &Reference::open(&database)) } else { Vec::new() };
        events.extend(rest.map(|event| event.expect("an intact trace")));
        let fates = all[from..].to_vec();
        let first = if from == 0 { None } else { Some(all[from - 1].data_version) };
        let missing = schedule.missing().into_iter().filter(|&version| first.is_none_or(|first| version > first));
        let missing = missing.map(DataVersion::get).collect();
        let trouble = in_the_middle(&fates, &events);
        Self { folder, directory, fates, events, missing, trouble }
    }

    /// The position of the write before which the place is well again, when changes are spooled.
    fn well_again(&self, trouble: Trouble) -> usize {
        let until_gap = (self.trouble..self.fates.len()).find(|&at| self.fates[at].missed_before > 0);
        let last = until_gap.unwrap_or(self.fates.len());
        match trouble {
            // Drained while the node goes on, for as long as there is something to go on with.
            Trouble::Failing | Trouble::Full => last.min(self.trouble + self.fates.len().div_ceil(4)),
            // In between there may be stops, starts and crashes.
            Trouble::Gone => last,
        }
    }
}

/// A write in the middle that is neither the first of its run nor one that comes when the node is stopping.
fn in_the_middle(fates: &[Fate], events: &[TraceEvent]) -> usize {
    let (mut position, mut in_run, mut stopping) = (0, 0, false);
    let mut found = None;
    for event in events {
        match event {
            TraceEvent::Start => (in_run, stopping) = (0, false),
            TraceEvent::Shutdown => stopping = true,
            TraceEvent::Write(_) => {
                if in_run > 0 && !stopping && (found.is_none() || position <= fates.len() / 2) {
                    found = Some(position);
                }
                position += 1;
                in_run += 1;
            }
            TraceEvent::Init | TraceEvent::Kill { .. } | TraceEvent::End | TraceEvent::QuietExit => {}
        }
    }
    found.expect("a run with two writes")
}

/// The backup's place, which is made to fail.
struct Place {
    fs: FaultFs,
    below: PathBuf,
}

impl Place {
    fn fail(&self, trouble: Trouble) {
        match trouble {
            Trouble::Failing => drop(self.fs.faults().fail_everything(Errno::IO)),
            Trouble::Full => {
                let calls = [Call::Write, Call::Create, Call::MkDir, Call::Allocate];
                self.fs.faults().add(Rule::new(Effect::Fail(Errno::NOSPC)).calls(&calls));
            }
            Trouble::Gone => fs::rename(self.backup(), self.aside()).expect("the backup is there"),
        }
    }

    fn heal(&self) {
        self.fs.faults().heal();
        if self.aside().exists() {
            fs::rename(self.aside(), self.backup()).expect("the backup was put aside");
        }
    }

    fn backup(&self) -> PathBuf {
        self.below.join("node.bkp")
    }

    fn aside(&self) -> PathBuf {
        self.below.join("aside.bkp")
    }
}

/// Plays what is to be played; `None` where no file system can be mounted.
fn play(tail: &Tail, policy: Policy, trouble: Trouble) -> Option<()> {
    let home = Home::new();
    let before = tail.directory.path().join("before.sqlite3");
    if before.exists() {
        fs::copy(&before, home.database()).expect("copying a database");
    }
    let [disk, mounted] = ["disk", "mounted"].map(|name| home.join(name));
    for directory in [&disk, &mounted] {
        fs::create_dir(directory).expect("a directory");
    }
    let fs = match FaultFs::mount(&disk, &mounted, Caching::Kernel) {
        Ok(fs) => fs,
        Err(error) => {
            skipped(format_args!("no file system can be mounted here ({error}), traces are not played with trouble"));
            return None;
        }
    };
    let place = Arc::new(Place { fs, below: disk });
    let backup = mounted.join("node.bkp");
    let lightning_dir = home.lightning_dir();
    cli::backupfs(&["init".as_ref(), "--lightning-dir".as_ref(), lightning_dir.as_os_str(), backup.as_os_str()])
        .expect_done("init");
    symlink(&backup, home.backup()).expect("a link");
    home.set_on_unreachable(policy.in_backup_lock());
    let mut lightningd = home.lightningd();
    lightningd.end_logs_after(LOG_STATEMENTS);
    let first = lightningd.data_version().expect("the version of the start database");
    let mut runs = Runs::new(&home, lightningd);
    let mut position = 0;
    let mut refusals = 0;
    for event in &tail.events {
        let TraceEvent::Write(write) = event else {
            runs.around(event);
            continue;
        };
        let fate = tail.fates[position];
        let healing = (position == tail.trouble).then(|| {
            place.fail(trouble);
            match policy {
                Policy::Wait => Some(thread::spawn({
                    let place = Arc::clone(&place);
                    move || {
                        thread::sleep(TROUBLE_LASTS);
                        place.heal();
                    }
                })),
                Policy::Stop | Policy::Spool => None,
            }
        });
        if policy == Policy::Spool && position == tail.well_again(trouble) {
            place.heal();
        }
        runs.skip_gap(fate, write);
        let asked = Instant::now();
        let mut answer = runs.write(fate, write).expect("the node's database takes what it took");
        if let (Policy::Stop, Answer::Refused { message }) = (policy, &answer) {
            assert!(message.contains("so that it is not tried again"), "{message}");
            refusals += 1;
            place.heal();
            answer = runs.write_again(fate, write).expect("the node's database takes what it took");
        }
        assert!(
            answer.is_continue(),
            "write {position} of {}: {answer:?}; {}",
            tail.fates.len(),
            home.recorder_stderr()
        );
        if let Some(Some(healing)) = healing {
            assert!(asked.elapsed() >= TROUBLE_LASTS, "it did not wait");
            healing.join().expect("a thread that ends");
        }
        if position == tail.trouble && policy == Policy::Spool {
            assert!(spools(&home), "nothing is spooled");
        }
        position += 1;
    }
    runs.around(&TraceEvent::End);
    assert_eq!((position, refusals), (tail.fates.len(), usize::from(policy == Policy::Stop)));
    place.heal();
    if policy == Policy::Spool {
        drain(&home, &mut runs);
    }
    check_listing(tail, &home, first);
    check_end(tail, &home);
    // Files of the recorder are closed by now.
    drop(runs);
    Some(())
}

/// Whether a spool of this node holds anything.
fn spools(home: &Home) -> bool {
    let Ok(mut spools) = fs::read_dir(home.join("spool")) else { return false };
    spools.any(|spool| fs::read_dir(spool.expect("an entry").path()).expect("a spool").count() > 1)
}

/// Starts the node once more if there is still something in the spool.
fn drain(home: &Home, runs: &mut Runs<'_>) {
    if !spools(home) {
        return;
    }
    runs.start();
    runs.init();
    let deadline = Instant::now() + TIMEOUT;
    while spools(home) {
        assert!(Instant::now() < deadline, "the spool is not drained: {}", home.recorder_stderr());
        thread::sleep(Duration::from_millis(10));
    }
    runs.around(&TraceEvent::End);
}

/// All that was committed, once; all that was lost; all that was missed.
fn check_listing(tail: &Tail, home: &Home, first: Option<DataVersion>) {
    let listed = listing::versions(&home.backup(), &[]);
    let of = |status| listing::with_status(&listed, status);
    let healed = tail.fates.iter().filter(|fate| fate.missed_before > 0);
    let healed: Vec<u32> = healed.map(|fate| fate.data_version.previous().get()).collect();
    let committed = tail.fates.iter().filter(|fate| fate.outcome == Outcome::Committed);
    let mut recorded: Vec<u32> = committed.map(|fate| fate.data_version.get()).collect();
    recorded.extend(first.map(DataVersion::get));
    recorded.extend(&healed);
    recorded.sort_unstable();
    // A rider belongs to the version before it.
    recorded.dedup();
    // A node that existed before data_version did starts with the snapshot of a version without a number.
    let extra = usize::from(first.is_none() && of(Status::Recorded).first() == Some(&0));
    assert_eq!(of(Status::Recorded)[extra..], recorded);
    let lost = tail.fates.iter().filter(|fate| fate.outcome == Outcome::Lost);
    assert_eq!(of(Status::Rewound), lost.map(|fate| fate.data_version.get()).collect::<Vec<_>>());
    let missing: Vec<u32> = tail.missing.iter().copied().filter(|version| !healed.contains(version)).collect();
    assert_eq!(of(Status::Missing), missing);
}

/// The newest version is what the pretended node has, and what the real one ended with.
fn check_end(tail: &Tail, home: &Home) {
    let [restored, end] = ["restored.sqlite3", "end.sqlite3"].map(|name| home.join(name));
    cli::backupfs(&["restore".as_ref(), home.backup().as_os_str(), restored.as_os_str()]).expect_done("restore");
    compare::same_contents(&home.database(), &restored, &[]).expect("the pretended node's database");
    if tail.folder.end_database(&end) {
        let has_gap = Schedule::of(tail.folder.events()).has_gap();
        let except = if has_gap { TOUCHED_IN_GAPS } else { &[] };
        compare::same_contents(&end, &restored, except).expect("the real node's last database");
    }
}

/// Every policy meets a trouble; which one depends on the trace, unless all are asked for.
fn check(name: &str, number: usize) {
    let Some(folder) = traces::folder(name) else { return };
    let tail = Tail::of(folder);
    for (at, policy) in Policy::ALL.into_iter().enumerate() {
        for trouble in Trouble::ALL {
            if !traces::are_whole() && Trouble::ALL[(number + at) % Trouble::ALL.len()] != trouble {
                continue;
            }
            let began = Instant::now();
            if play(&tail, policy, trouble).is_none() {
                return;
            }
            println!("{policy:?}, {trouble:?}: {} writes in {:.1?}", tail.fates.len(), began.elapsed());
        }
    }
}

macro_rules! traces {
    ($($test:ident: $folder:literal, $number:literal;)*) => {
        $(#[test]
        fn $test() {
            check($folder, $number);
        })*
    };
}

traces! {
    channels: "channels", 0;
    crash: "crash", 1;
    demo: "demo", 2;
    fresh: "fresh", 0;
    stops: "stops", 1;
    python_backup_fresh: "python-backup/fresh", 2;
    migration_dangling_peer: "migrations/dangling-peer", 0;
    migration_invoices_pre_waitindex: "migrations/invoices_pre_waitindex", 1;
    migration_l1_before_moves_in_db: "migrations/l1-before-moves-in-db", 2;
    migration_last_tx_closed: "migrations/last_tx_closed", 0;
    migration_no_local_basepoints: "migrations/no-local-basepoints", 1;
    migration_oldstyle_scids: "migrations/oldstyle-scids", 2;
    migration_pubkey_regen: "migrations/pubkey_regen", 0;
    migration_runes_bad_id: "migrations/runes_bad_id", 1;
    migration_upgrade_inflight: "migrations/upgrade_inflight", 2;
    migration_v0_12_1_forward: "migrations/v0.12.1-forward", 0;
}
