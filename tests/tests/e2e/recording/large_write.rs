//! A write as large as a migration can be: recorded, sealed, verified, restored, and what it takes of memory.

use std::fs;
use std::time::{Duration, Instant};

use tests::footprint::Footprint;
use tests::home::Home;
use tests::small_node::SmallNode;
use tests::wait::until;
use tests::{cli, compare};

/// Says how many MiB the write has; with it the write also goes to a file of the Python plugin and back.
const KNOB: &str = "BACKUPFS_LARGE_WRITE_MIB";

/// What the recorder may take in memory: so many times the write, and this.
const TIMES: u64 = 6;
const BESIDES_KIB: u64 = 64 << 10;

/// As the bookkeeper's accounts were moved: an INSERT for each event.
fn migration(mib: usize) -> Vec<String> {
    let mut statements = vec!["CREATE TABLE chain_events (id INTEGER PRIMARY KEY, account TEXT, note TEXT)".to_owned()];
    let (mut bytes, mut id) = (0, 0_u64);
    while bytes < mib << 20 {
        id += 1;
        let account = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let statement = format!(
            "INSERT INTO chain_events (id, account, note) VALUES ({id}, '{account:0>64x}', '{:\"<150}')",
            account.rotate_left(17)
        );
        bytes += statement.len();
        statements.push(statement);
    }
    statements
}

/// How many logs there are; the newest is never sealed.
fn logs(home: &Home) -> usize {
    let names = fs::read_dir(home.backup()).expect("a backup").map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(b"log-")).count()
}

#[test]
fn a_write_above_64_mib_is_recorded_sealed_verified_and_restored() {
    let mib = std::env::var(KNOB).map_or(66, |mib| mib.parse().expect("a number of MiB"));
    let mut node = SmallNode::created();
    let next = node.data_version().next();
    let statements = migration(mib);
    let pid = node.lightningd.recorder().expect("it runs").pid();
    let before = Instant::now();
    node.commit_also(&statements.iter().map(String::as_str).collect::<Vec<_>>());
    let answered = before.elapsed();
    let peak = || Footprint::of(pid).expect("it runs").peak_kib;
    let to_record = peak();
    // Its log is finished with the next write.
    node.commit();
    let newest = node.commit();
    assert!(until(Duration::from_secs(600), || logs(&node.home) == 1), "{}", node.home.recorder_stderr());
    let to_seal = peak();
    println!(
        "{mib} MiB: committed after {answered:.1?}, peak {} MiB recorded, {} MiB sealed after {:.1?}",
        to_record >> 10,
        to_seal >> 10,
        before.elapsed()
    );
    let status = node.backup_status();
    assert_eq!(status["replay"]["problem"], serde_json::Value::Null, "{status}");
    node.stop();
    let most = TIMES * (mib as u64) * 1024 + BESIDES_KIB;
    assert!(to_seal <= most, "{to_seal} KiB, more than {most}");
    let backup = node.home.backup();
    cli::backupfs(&["verify".as_ref(), backup.as_os_str()]).expect_done("verify");
    node.expect_restorable();
    let shown = cli::backupfs(&["show".as_ref(), backup.as_os_str(), next.to_string().as_ref()]).expect_done("show");
    assert!(shown.stdout.len() > mib << 20 && shown.stdout.contains(&statements[2]), "{} bytes", shown.stdout.len());
    assert_eq!(newest.get(), next.get() + 2);
    if std::env::var_os(KNOB).is_none() {
        return;
    }
    // There and back again.
    let (file, again) = (node.home.join("file.bkp"), node.home.join("again.bkp"));
    cli::backupfs(&["export".as_ref(), backup.as_os_str(), file.as_os_str()]).expect_done("export");
    cli::backupfs(&["import".as_ref(), file.as_os_str(), again.as_os_str()]).expect_done("import");
    let restored = node.home.join("restored.sqlite3");
    cli::backupfs(&["restore".as_ref(), again.as_os_str(), restored.as_os_str()]).expect_done("restore");
    compare::same_contents(&node.home.database(), &restored, &[]).expect("the same");
}
