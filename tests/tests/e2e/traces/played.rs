//! Every recorded trace, played to a real recorder as it happened and read back through a real mount. Of a long trace only the
//! end is played, unless `BACKUPFS_TRACES_WHOLE` is set.
//!
//! The judge is an independent replay in a plain SQLite file, and the database that the real node ended with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, ensure};
use common::DataVersion;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::mounted::{Mounted, fuse_is_here, soon};
use tests::play::{Played, Sample, play};
use tests::schedule::{Outcome, Schedule};
use tests::traces::{self, TraceFolder};
use tests::{cli, compare};

/// Tables whose contents the unreported transactions of a gap may change.
const TOUCHED_IN_GAPS: &[&str] = &["vars", "network_events", "datastore"];

fn check(name: &str) {
    if let (Some(folder), true) = (traces::folder(name), fuse_is_here()) {
        checked(&folder).unwrap_or_else(|error| panic!("trace {name}: {error:?}"));
    }
}

fn checked(folder: &TraceFolder) -> anyhow::Result<()> {
    let home = Home::new();
    let mut mounted = None;
    let played = play(folder, &home, |samples| {
        // From here on the mount follows the recorder to the end of the trace.
        let live = mounted.insert(Mounted::start(&home.backup()));
        let (version, sample) = samples.last_key_value().expect("the first write is a sample");
        soon("the sample is there", || live.database(version).exists());
        check_version(live, *version, sample).unwrap_or_else(|error| panic!("read while recording: {error:?}"));
    });
    let mounted = mounted.expect("every trace has a middle");
    let (newest, _) = played.samples.last_key_value().context("no samples")?;
    mounted.expect_newest_soon(newest);
    report_answers(&played);
    check_crashes(folder, &played.schedule);
    check_listing(&home, &played);

    // Two halves at a time: there are two cores in the smallest machine that this is meant for.
    let samples: Vec<_> = played.samples.iter().collect();
    thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let (samples, mounted) = (&samples, &mounted);
            scope.spawn(move || {
                samples.iter().skip(half).step_by(2).try_for_each(|(version, sample)| {
                    check_version(mounted, **version, sample).with_context(|| format!("version {version}"))
                })
            })
        });
        halves.into_iter().try_for_each(|half| half.join().expect("a check that does not panic"))
    })?;

    check_end(folder, &home, &mounted)?;
    check_verify(&home);
    check_restore(&home, &played.samples, &mounted)
}

/// One version through the mount: size, contents, soundness, statements.
fn check_version(mounted: &Mounted, version: DataVersion, sample: &Sample) -> anyhow::Result<()> {
    let file = mounted.database(version);
    let size = file.metadata().context("stat")?.len();
    let bytes = fs::read(&file).context("reading the file")?;
    ensure!(bytes.len() as u64 == size, "stat says {size} bytes, there are {}", bytes.len());
    compare::same_contents(&sample.database, &file, &[])?;
    // A database in the middle of a migration need not be sound; ours must be as good as the real one.
    let [expected, actual] = [&sample.database, &file].map(|file| compare::sound(file).err());
    ensure!(expected.is_some() == actual.is_some(), "the replay is sound: {expected:?}; the mount: {actual:?}");
    let info: serde_json::Value =
        serde_json::from_slice(&fs::read(mounted.join(format!("versions/{version}/info.json")))?)?;
    ensure!(info["data_version"] == version.get(), "info.json says {info}");
    let changes = fs::read_to_string(mounted.join(format!("versions/{version}/changes.sql")))?;
    contains_in_order(&changes, sample.statements.as_deref().unwrap_or_default())
}

fn contains_in_order(text: &str, statements: &[String]) -> anyhow::Result<()> {
    let mut rest = text;
    for statement in statements {
        let at = rest.find(statement.as_str()).with_context(|| format!("changes.sql lacks {statement}"))?;
        // What separates statements is up to the file; that nothing else is between them is not.
        let between = &rest[..at];
        ensure!(!between.contains("UPDATE"), "changes.sql has {between:?} before {statement}");
        rest = &rest[at + statement.len()..];
    }
    ensure!(statements.is_empty() || rest.len() < 100, "changes.sql goes on after the last statement: {rest}");
    Ok(())
}

/// `backupfs versions` lists what happened: all that was committed, all that was lost, all that was missed.
fn check_listing(home: &Home, played: &Played) {
    let listed = listing::versions(&home.backup(), &[]);
    let of = |status| listing::with_status(&listed, status);
    // The image that heals a gap is itself a version: the last transaction before the recorder was back.
    let healed = played.schedule.fates().iter().filter(|fate| fate.missed_before > 0);
    let healed: Vec<u32> = healed.map(|fate| fate.data_version.previous().get()).collect();
    let mut recorded: Vec<u32> = played.schedule.versions().keys().map(|version| version.get()).collect();
    recorded.extend(played.first.map(DataVersion::get));
    recorded.extend(&healed);
    recorded.sort_unstable();
    // A node that existed before data_version did starts with the snapshot of a version without a number.
    let extra = usize::from(played.first.is_none() && of(Status::Recorded).first() == Some(&0));
    assert_eq!(of(Status::Recorded)[extra..], recorded);
    let lost = played.schedule.fates().iter().filter(|fate| fate.outcome == Outcome::Lost);
    assert_eq!(of(Status::Rewound), lost.map(|fate| fate.data_version.get()).collect::<Vec<_>>());
    let missing: Vec<u32> = played.schedule.missing().iter().map(|version| version.get()).collect();
    let missing: Vec<u32> = missing.into_iter().filter(|version| !healed.contains(version)).collect();
    assert_eq!(of(Status::Missing), missing);
    let seqs: Vec<_> = listed.iter().filter_map(|version| version.seq).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "seq must count up: {seqs:?}");
}

/// What the trace's own record says of its crashes is what was played.
fn check_crashes(folder: &TraceFolder, schedule: &Schedule) {
    let first = schedule.fates().first().expect("a write").data_version.get();
    let crashes: Vec<_> = folder.crashes().into_iter().filter(|crash| crash.last_traced >= first).collect();
    let lost: Vec<u32> = crashes.iter().filter(|crash| crash.lost_last).map(|crash| crash.last_traced).collect();
    let played = schedule.fates().iter().filter(|fate| fate.outcome == Outcome::Lost);
    assert_eq!(lost, played.map(|fate| fate.data_version.get()).collect::<Vec<_>>());
    assert!(crashes.iter().all(|crash| crash.lost_last == (crash.db_after_crash != crash.last_traced)));
}

/// The newest version is what the real node ended with.
fn check_end(folder: &TraceFolder, home: &Home, mounted: &Mounted) -> anyhow::Result<()> {
    let newest = mounted.join("latest/lightningd.sqlite3");
    compare::same_contents(&home.database(), &newest, &[]).context("the pretended node's database")?;
    let end = home.join("end.sqlite3");
    if folder.end_database(&end) {
        // Also a gap before what was played: the replay of the trace lacks it.
        let except = if Schedule::of(folder.events()).has_gap() { TOUCHED_IN_GAPS } else { &[] };
        compare::same_contents(&end, &newest, except).context("the real node's last database")?;
    }
    Ok(())
}

/// `backupfs verify` finds everything as it should be, and the database to be what the newest version is.
fn check_verify(home: &Home) {
    let (backup, database) = (home.backup(), home.database());
    let verify = ["verify".as_ref(), backup.as_os_str()];
    let verified = cli::backupfs(&verify).expect_done("verify");
    assert!(!verified.stdout.contains("on other pages"), "the same SQLite has sealed it: {verified:?}");
    println!("{}", verified.stdout);
    cli::backupfs(&[&verify[..], &["--against".as_ref(), database.as_os_str()]].concat())
        .expect_done("verify --against");
}

/// `backupfs restore` gives the bytes of the mount, for the newest version and for one from the middle.
fn check_restore(home: &Home, samples: &BTreeMap<DataVersion, Sample>, mounted: &Mounted) -> anyhow::Result<()> {
    let (newest, _) = samples.last_key_value().context("no samples")?;
    let middle = samples.keys().nth(samples.len() / 2).context("no samples")?;
    let [backup, to_newest, to_middle] =
        [home.backup(), home.join("restored.sqlite3"), home.join("restored-middle.sqlite3")];
    let restore = [Path::new("restore"), &backup];
    cli::backupfs(&[&restore[..], &[&to_newest]].concat()).expect_done("restore of the newest version");
    let number = middle.to_string();
    let older = [&to_middle, Path::new("--version"), number.as_ref(), "--accept-stale-state".as_ref()];
    cli::backupfs(&[&restore[..], &older].concat()).expect_done("restore of an older version");
    for (version, restored) in [(newest, to_newest), (middle, to_middle)] {
        let same = fs::read(&restored)? == fs::read(mounted.database(version))?;
        ensure!(same, "restore of version {version} differs from the mount");
    }
    Ok(())
}

fn report_answers(played: &Played) {
    let mut answers = played.answers.clone();
    answers.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| answers[answers.len() * percent / 100]);
    println!("{} writes answered: p50 {p50:?}, p99 {p99:?}", answers.len());
}

macro_rules! traces {
    ($($test:ident: $folder:literal,)*) => {
        $(#[test]
        fn $test() {
            check($folder);
        })*
    };
}

traces! {
    channels: "channels",
    crash: "crash",
    demo: "demo",
    fresh: "fresh",
    stops: "stops",
    python_backup_fresh: "python-backup/fresh",
    migration_dangling_peer: "migrations/dangling-peer",
    migration_invoices_pre_waitindex: "migrations/invoices_pre_waitindex",
    migration_l1_before_moves_in_db: "migrations/l1-before-moves-in-db",
    migration_last_tx_closed: "migrations/last_tx_closed",
    migration_no_local_basepoints: "migrations/no-local-basepoints",
    migration_oldstyle_scids: "migrations/oldstyle-scids",
    migration_pubkey_regen: "migrations/pubkey_regen",
    migration_runes_bad_id: "migrations/runes_bad_id",
    migration_upgrade_inflight: "migrations/upgrade_inflight",
    migration_v0_12_1_forward: "migrations/v0.12.1-forward",
}
