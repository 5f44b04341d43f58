//! Many changes through the real recorder, with stops, crashes and kills in between: it takes no more of the machine at the
//! end than at the beginning, and everything is there.
//!
//! By hand, with the figures of each stretch:
//!
//! ```sh
//! BACKUPFS_SOAK_CHANGES=1000000 cargo test --release -p tests --test e2e recording::soak -- --nocapture
//! ```

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Backup, BackupUrl};
use format_fuzz::seeded::Seeded;
use mountfs::demo::pretend_lightningd::{Answer, Commit};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tests::footprint::Footprint;
use tests::small_node::{SmallNode, bump};
use tests::wait::until;
use tests::{cli, compare};

/// Environment variable: how many changes are recorded.
const CHANGES: &str = "BACKUPFS_SOAK_CHANGES";

/// Changes of the first stretch, of which ten make a segment. Not more: each such log takes as much room as a long one until
/// it is sealed, and is there sooner than the one before is sealed.
const FIRST_STRETCH: u64 = 2_000;

/// Statements after which logs end in it.
const FIRST_LOG_STATEMENTS: usize = 60;

/// The same for the stretches that follow, half of the changes together, each by a recorder of its own. They only ever
/// become longer: what is left of a stretch is sealed by the next recorder, which takes keyframes as its own limits say.
const LOG_STATEMENTS: [usize; 10] = [300, 300, 600, 600, 1_200, 1_200, 2_400, 2_400, 4_000, 6_000];

/// The same for the last stretch, the other half of the changes: half as many as usual, so that a short run has three logs.
const LAST_LOG_STATEMENTS: usize = 6_000;

/// How often a recorder is looked at in a stretch.
const LOOKS: u64 = 16;

/// Rows that the node has at any time, so that its database grows no further.
const ROWS: u64 = 2_000;

/// What a recorder may take at most.
const PEAK_KIB: u64 = 64 << 10;

/// Descriptors that a recorder is allowed by the system, as usual: what it keeps open goes by that.
const DESCRIPTORS_ALLOWED: u64 = 1_024;

/// Descriptors a recorder may have open: a few of its own, and segments it may need again, a quarter of what is allowed.
const DESCRIPTORS: usize = 320;

/// By how much more memory the last quarter of the last stretch may take than the one before.
const GROWTH_KIB: u64 = 8 << 10;

/// How long the sealer may need for what is left when the last change is recorded.
const SEALING_TIMEOUT: Duration = Duration::from_secs(120);

struct Soak {
    node: SmallNode,
    made: u64,
    random: Seeded,
}

/// How a stretch ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    CleanStop,
    RecorderKilledBetweenWrites,
    RecorderKilledInAWrite,
    NodeKilledBeforeItsCommit,
    NodeKilledAfterItsCommit,
}

const ENDINGS: [Ending; 5] = [
    Ending::CleanStop,
    Ending::RecorderKilledInAWrite,
    Ending::NodeKilledBeforeItsCommit,
    Ending::RecorderKilledBetweenWrites,
    Ending::NodeKilledAfterItsCommit,
];

impl Soak {
    fn statements(&mut self) -> Vec<String> {
        self.made += 1;
        let made = self.made;
        let (row, old) = (made % ROWS, made.saturating_sub(ROWS));
        let other = self.random.below(ROWS);
        let preimage = "5a".repeat(usize::try_from(self.random.below(200)).unwrap_or(0) + 20);
        vec![
            format!("INSERT OR REPLACE INTO invoices (id, label, msatoshi) VALUES ({row}, 'soak {made}', {made})"),
            format!("INSERT INTO htlcs (id, preimage) VALUES ({made}, x'{made:016x}{preimage}')"),
            format!("UPDATE htlcs SET preimage = x'{preimage}' WHERE id = {}", made.saturating_sub(other)),
            format!("DELETE FROM htlcs WHERE id = {old}"),
            format!("INSERT OR REPLACE INTO forwards (rowid, in_htlc, out_htlc, fee) VALUES ({row}, {row}, 1, {made})"),
            bump(self.node.data_version().next()),
        ]
    }

    fn write(&mut self, commit: Commit) -> Answer {
        let next = self.node.data_version().next();
        let statements = self.statements();
        let answer = self.node.lightningd.write(next, &statements, commit).expect("the pretended node works");
        assert!(!matches!(answer, Answer::Refused { .. }), "{answer:?}; {}", self.node.home.recorder_stderr());
        answer
    }

    fn look(&mut self) -> Footprint {
        Footprint::of(self.node.lightningd.recorder().expect("it runs").pid()).expect("a look at the recorder")
    }

    /// One recorder from its start on, which takes so many changes; returns what was seen of it.
    fn stretch(&mut self, changes: u64, log_statements: usize) -> Vec<Footprint> {
        self.node.lightningd.end_logs_after(log_statements);
        let began = Instant::now();
        self.node.start();
        let recorder = self.node.lightningd.recorder().expect("it runs").pid();
        let recorder = Pid::from_raw(recorder.try_into().expect("a process id"));
        let allowed = Rlimit { current: Some(DESCRIPTORS_ALLOWED), maximum: Some(DESCRIPTORS_ALLOWED) };
        prlimit(recorder, Resource::Nofile, allowed).expect("a lower limit for the recorder");
        assert!(self.write(Commit::Normal).is_continue());
        let first_answer = began.elapsed();
        self.node.lightningd.init().expect("the recorder takes init");
        let mut looks = Vec::new();
        for change in 1..changes {
            assert!(self.write(Commit::Normal).is_continue(), "{}", self.node.home.recorder_stderr());
            if change % (changes / LOOKS).max(1) == 0 {
                looks.push(self.look());
            }
        }
        looks.push(self.look());
        let seconds = began.elapsed().as_secs_f64();
        let most = |of: fn(&Footprint) -> u64| looks.iter().map(of).max().unwrap_or_default();
        println!(
            "to version {:>8}: {changes:>7} changes in {seconds:>6.1} s, logs of {log_statements:>6} statements, \
             first answer {:>5.1} ms, {:>3} logs left, resident {:>6} KiB at most, {:>6} at the end, peak {:>6} KiB, {:>3} descriptors",
            self.node.data_version(),
            first_answer.as_secs_f64() * 1e3,
            files(self, "log-"),
            most(|look| look.resident_kib),
            looks.last().map_or(0, |look| look.resident_kib),
            most(|look| look.peak_kib),
            most(|look| look.descriptors as u64),
        );
        println!("    resident MiB: {}", series(looks.iter().map(|look| look.resident_kib >> 10)));
        looks
    }

    /// The recorder is killed in a lull, as a real node has many: the next one replays what is not sealed, to compare it with
    /// the database, before its first answer; after minutes of writes without a pause that takes longer than anybody waits.
    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::CleanStop => self.node.stop(),
            Ending::RecorderKilledBetweenWrites => {
                expect_all_sealed(self);
                self.node.lightningd.kill();
            }
            Ending::RecorderKilledInAWrite => {
                expect_all_sealed(self);
                let after = Duration::from_micros(self.random.below(500));
                self.write(Commit::KillRecorder { after });
            }
            Ending::NodeKilledBeforeItsCommit => assert!(self.write(Commit::CrashBeforeCommit).is_continue()),
            Ending::NodeKilledAfterItsCommit => assert!(self.write(Commit::CrashAfterCommit).is_continue()),
        }
    }

    /// Puts a copy of the node's database, which is down, aside.
    fn copy(&self) -> (u32, PathBuf) {
        // Looking for the version rolls back what a crash left, as the node's next start does.
        let version = self.node.data_version().get();
        let copy = self.node.home.join(format!("copy-{version}.sqlite3"));
        fs::copy(self.node.home.database(), &copy).expect("a copy of the database");
        (version, copy)
    }
}

fn series(numbers: impl Iterator<Item = u64>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

fn files(soak: &Soak, prefix: &str) -> usize {
    let names =
        fs::read_dir(soak.node.home.backup()).expect("a backup").map(|entry| entry.expect("a file").file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())).count()
}

/// Waits until the sealer has nothing left to seal; returns how many segments there are.
#[track_caller]
fn expect_all_sealed(soak: &Soak) -> usize {
    assert!(until(SEALING_TIMEOUT, || files(soak, "log-") <= 2), "sealing does not keep up");
    files(soak, "segment-")
}

#[test]
fn a_recorder_stays_as_small_as_it_was_and_loses_nothing() {
    let changes: u64 = std::env::var(CHANGES).ok().and_then(|changes| changes.parse().ok()).unwrap_or(4_000);
    let node = SmallNode::created();
    let mut soak = Soak { node, made: 0, random: Seeded::new(20_261_122) };
    soak.node.stop();
    let mut looks = soak.stretch(FIRST_STRETCH, FIRST_LOG_STATEMENTS);
    let sealed = expect_all_sealed(&soak);
    // So many that it would have shown had each left a descriptor behind, beside those that are kept on purpose.
    assert!(sealed > DESCRIPTORS / 2, "{sealed}");
    soak.end(Ending::CleanStop);

    let mut copies = Vec::new();
    for (at, statements) in LOG_STATEMENTS.into_iter().enumerate() {
        looks.extend(soak.stretch(changes / 2 / LOG_STATEMENTS.len() as u64, statements));
        soak.end(ENDINGS[at % ENDINGS.len()]);
        copies.push(soak.copy());
    }

    let last = soak.stretch(changes / 2, LAST_LOG_STATEMENTS);
    let sealed = expect_all_sealed(&soak);
    println!("{sealed} segments");
    looks.extend(&last);
    looks.push(soak.look());
    for look in looks {
        assert!(look.peak_kib <= PEAK_KIB && look.descriptors <= DESCRIPTORS, "{look:?}");
    }
    // The first looks come before everything that a recorder needs was used for the first time.
    let settled = &last[last.len() / 2..];
    let (first, second) = settled.split_at(settled.len() / 2);
    let mean = |looks: &[Footprint]| looks.iter().map(|look| look.resident_kib).sum::<u64>() / looks.len() as u64;
    assert!(mean(second) <= mean(first) + GROWTH_KIB, "memory grows: {last:?}");
    soak.node.stop();
    expect_everything(&soak, &copies);
}

fn expect_everything(soak: &Soak, copies: &[(u32, PathBuf)]) {
    soak.node.expect_restorable();
    let backup = soak.node.home.backup();
    let url = backup.to_str().expect("UTF-8").parse::<BackupUrl>().expect("a URL");
    let (history, read) = Arc::new(Backup::open(&url).expect("the backup")).read_history();
    read.expect("all of it");
    assert_eq!(history.version_count(), u64::from(soak.node.data_version().get()), "each version once");
    for (version, copy) in copies {
        let restored = soak.node.home.join(format!("restored-{version}.sqlite3"));
        let version = version.to_string();
        let arguments = ["restore", "--version", &version, "--accept-stale-state"].map(AsRef::as_ref);
        let arguments = arguments.into_iter().chain([backup.as_os_str(), restored.as_os_str()]).collect::<Vec<_>>();
        cli::backupfs(&arguments).expect_done("restore");
        compare::same_contents(copy, &restored, &[]).unwrap_or_else(|error| panic!("version {version}: {error}"));
    }
}
