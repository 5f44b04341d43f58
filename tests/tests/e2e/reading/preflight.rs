//! `backupfs preflight`, and what `restore` makes of it: whether a database is an old state.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::SystemTime;

use rusqlite::Connection;
use serde_json::{Value, json};
use tests::home::{Home, everything};
use tests::skip::skipped;
use tests::witness::{SEED, WitnessChannel, emergency_recover, node_id_of, write_database, write_files, write_private};
use tests::{binaries, cli, traces};

/// The channel of most tests.
const CHANNEL: WitnessChannel = WitnessChannel { id: 0xaa, revocations: 681 };

/// Words of the mnemonic of BIP39's test vectors.
const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

/// The exit code of `preflight --json`, and its object.
fn preflight(arguments: &[&OsStr]) -> (i32, Value) {
    let mut all = vec![OsStr::new("preflight"), OsStr::new("--json")];
    all.extend(arguments);
    let ran = cli::backupfs(&all);
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    let mut lines = ran.json_lines();
    assert_eq!(lines.len(), 1, "{ran:?}");
    (ran.code, lines.remove(0))
}

fn reasons(object: &Value) -> Vec<String> {
    object["reasons"].as_array().expect("reasons").iter().map(|it| it.as_str().expect("a text").to_owned()).collect()
}

/// Asserts the exit code, the verdict, and that one of the reasons has these words.
#[track_caller]
fn expect(answer: (i32, Value), code: i32, words: &str) -> Value {
    let (found, object) = answer;
    let verdict = ["current", "stale", "unknown"][usize::try_from(code).expect("an exit code")];
    assert_eq!((found, object["verdict"].as_str()), (code, Some(verdict)), "{object:#}");
    assert!(reasons(&object).iter().any(|reason| reason.contains(words)), "no {words:?} in {object:#}");
    object
}

/// A lightning-dir with keys, a database with one channel, and a witness that agrees.
fn node() -> Home {
    let home = Home::new();
    write_files(&home.lightning_dir(), &[CHANNEL]);
    drop(write_database(&home.database(), CHANNEL));
    home
}

fn sql(home: &Home, statements: &str) {
    Connection::open(home.database()).and_then(|it| it.execute_batch(statements)).expect("statements");
}

fn file_in(home: &Home, name: &str) -> PathBuf {
    home.lightning_dir().join(name)
}

/// The files of the node, with their contents and times.
fn files(home: &Home) -> Vec<(PathBuf, Option<Vec<u8>>, Option<SystemTime>)> {
    let time = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
    everything(&home.lightning_dir()).into_iter().map(|(path, bytes)| (path.clone(), bytes, time(&path))).collect()
}

/// The table of a real node that was killed under load: its versions against its own `emergency.recover`.
#[test]
fn the_versions_of_a_real_node_are_distinguished_by_its_revocations() {
    let Some(folder) = traces::folder("witness") else { return };
    let home = Home::new();
    let backup = home.join("node.bkp");
    let file = home.join("file.bkp");
    assert!(folder.unpack("file.bkp.zst", &file));
    cli::backupfs(&["import".as_ref(), file.as_os_str(), backup.as_os_str()]).expect_done("import");
    let keys = folder.path().join("hsm_secret");
    let witness = folder.path().join("emergency.recover");
    let options: [&OsStr; 4] =
        ["--hsm-secret".as_ref(), keys.as_os_str(), "--emergency-recover".as_ref(), witness.as_os_str()];
    println!("version  in database  in witness  verdict  exit code");
    for (version, expected) in
        [(5729, 681), (5728, 681), (5727, 681), (5724, 680), (5719, 680), (5679, 675), (5229, 621), (4229, 504)]
    {
        let database = home.join(format!("{version}.sqlite3"));
        let number = version.to_string();
        cli::backupfs(&[
            "restore".as_ref(),
            "--version".as_ref(),
            number.as_ref(),
            "--accept-stale-state".as_ref(),
            backup.as_os_str(),
            database.as_os_str(),
        ])
        .expect_done("restore");
        let (code, object) = preflight(&[&options[..], &[database.as_os_str()]].concat());
        let channel = &object["channels"][0];
        let [theirs, ours] = ["revocations_witness", "revocations_database"].map(|key| channel[key].clone());
        let [in_database, in_witness] = [&ours, &theirs].map(Value::to_string);
        let verdict = object["verdict"].as_str().unwrap();
        println!("{version:>7}  {in_database:>11}  {in_witness:>10}  {verdict:>7}  {code:>9}");
        assert_eq!((&ours, &theirs, &object["data_version"]), (&json!(expected), &json!(681), &json!(version)));
        assert_eq!(code, i32::from(expected < 681), "{object:#}");
        assert_eq!(channel["state"], "CHANNELD_NORMAL");
    }
    // The node as it was killed, with its journal, and beside its backup.
    for name in ["lightningd.sqlite3", "lightningd.sqlite3-journal"] {
        assert!(folder.unpack(&format!("{name}.zst"), &file_in(&home, name)));
    }
    for name in ["hsm_secret", "emergency.recover"] {
        write_private(&file_in(&home, name), &fs::read(folder.path().join(name)).unwrap());
    }
    let before = files(&home);
    let dir = home.lightning_dir();
    let object = expect(preflight(&["--backup".as_ref(), backup.as_os_str(), dir.as_os_str()]), 0, "all equal");
    assert_eq!((&object["data_version"], &object["backup"]["behind"]), (&json!(5728), &json!(0)));
    assert_eq!(object["backup"]["same"], true);
    assert!(object["reasons"].to_string().contains("has one version more, 5729"), "{object:#}");
    assert_eq!(files(&home), before, "nothing is changed");
    // Nothing was revoked between these two, and much was between those.
    let behind = |version: u32| {
        let database = home.join(format!("{version}.sqlite3"));
        let backup = ["--backup".as_ref(), backup.as_os_str(), database.as_os_str()];
        preflight(&[&options[..], &backup[..]].concat())
    };
    let object = expect(behind(5727), 1, "0 commitments were revoked");
    assert_eq!((&object["backup"]["behind"], &object["backup"]["same"]), (&json!(2), &json!(true)));
    let object = expect(behind(4229), 1, "REVOKED STATE");
    assert_eq!(object["backup"]["between"]["revoked"][0]["peer"], 681 - 504);
}

#[test]
fn a_current_database_is_current_and_nothing_secret_is_said() {
    let home = node();
    let ran = cli::backupfs(&["preflight".as_ref(), home.lightning_dir().as_os_str()]).expect_done("preflight");
    assert!(ran.stdout.contains("CURRENT") && ran.stdout.contains(&"aa".repeat(32)), "{ran:?}");
    assert!(!ran.stdout.contains(&"07".repeat(8)), "{ran:?}");
    // One revocation fewer is an old state.
    write_files(&home.lightning_dir(), &[WitnessChannel { revocations: 682, ..CHANNEL }]);
    let ran = cli::backupfs(&["preflight".as_ref(), home.lightning_dir().as_os_str()]);
    ran.expect_refused(1, &["do not start", "OLD STATE"]);
    // Several files: the newest evidence counts.
    let older = home.join("older.recover");
    write_private(&older, &emergency_recover(SEED, &[CHANNEL]));
    let newer = file_in(&home, "emergency.recover");
    let dir = home.lightning_dir();
    let named: &[&OsStr] = &["--emergency-recover".as_ref(), older.as_os_str()];
    expect(preflight(&[named, &[dir.as_os_str()]].concat()), 0, "No revocation is missing");
    let both = [named, &["--emergency-recover".as_ref(), newer.as_os_str(), dir.as_os_str()]].concat();
    expect(preflight(&both), 1, "by up to 1");
}

/// Its file is no backup that could be compared.
#[test]
fn the_backup_lock_of_the_python_plugin_names_no_backup() {
    let home = node();
    let theirs = home.join("file.bkp");
    fs::write(&theirs, "").unwrap();
    home.write_backup_lock(&json!({"backend_url": format!("file://{}", theirs.display())}).to_string());
    let object = expect(preflight(&[home.lightning_dir().as_os_str()]), 0, "all equal");
    assert_eq!(object["backup"], Value::Null);
}

/// A panic once: JSON has texts only.
#[test]
fn a_path_may_have_other_bytes_than_utf_8() {
    let home = node();
    let renamed = home.join(OsStr::from_bytes(b"node\xff"));
    fs::rename(home.lightning_dir(), &renamed).unwrap();
    let object = expect(preflight(&[renamed.as_os_str()]), 0, "all equal");
    assert!(object["database"].as_str().is_some_and(|path| path.contains("node\u{fffd}")), "{object:#}");
}

#[test]
fn htlcs_that_have_run_out_are_a_warning_and_no_reason() {
    let home = node();
    sql(&home, "INSERT INTO channel_htlcs VALUES (1, 1, 116, 5000, 2), (2, 1, 115, 7000, 12), (3, 1, 100, 9000, 9)");
    let object = expect(preflight(&[home.lightning_dir().as_os_str()]), 0, "2 HTLCs have run out");
    let deadline =
        |expiry: u32, amount: u64| json!({"channel_id": "aa".repeat(32), "cltv_expiry": expiry, "amount_msat": amount});
    assert_eq!(object["deadlines"], json!([deadline(115, 7000), deadline(116, 5000)]));
}

/// What is done to a node, its exit code, and words of the sentence that is said about it.
type BadInput = (&'static str, fn(&Home), i32, &'static str);

const BAD_INPUTS: &[BadInput] = &[
    (
        "no emergency.recover",
        |home| fs::remove_file(file_in(home, "emergency.recover")).expect("a file"),
        2,
        "There is no",
    ),
    (
        "an emergency.recover of another node",
        |home| write_private(&file_in(home, "emergency.recover"), &emergency_recover([8; 32], &[CHANNEL])),
        2,
        "cannot be decrypted with this hsm_secret",
    ),
    ("a truncated one", |home| tamper(home, |bytes| bytes.truncate(bytes.len() - 5)), 2, "cannot be decrypted"),
    ("one that is cut to nothing", |home| tamper(home, |bytes| bytes.truncate(10)), 2, "it was cut off"),
    ("one with a bit flipped", |home| tamper(home, |bytes| bytes[60] ^= 4), 2, "cannot be decrypted"),
    (
        "a channel that the database does not have",
        |home| write_files(&home.lightning_dir(), &[WitnessChannel { id: 0xbb, revocations: 3 }]),
        2,
        "which the database does not have",
    ),
    (
        "a channel more than the database has",
        |home| write_files(&home.lightning_dir(), &[CHANNEL, WitnessChannel { id: 0xbb, revocations: 3 }]),
        2,
        "which the database does not have",
    ),
    ("a closed channel", |home| sql(home, "UPDATE channels SET state = 10"), 2, "is closed in the database"),
    (
        "a mnemonic with a typo",
        |home| keys(home, &[&[0; 32], WORDS.replace("useful", "usefull").as_bytes()].concat()),
        2,
        "word 8 of its mnemonic is not in the English list",
    ),
    (
        "a passphrase that is missing",
        |home| keys(home, &[&[1; 32], WORDS.as_bytes()].concat()),
        2,
        "is protected by a passphrase",
    ),
    (
        "no hsm_secret",
        |home| fs::remove_file(file_in(home, "hsm_secret")).expect("a file"),
        2,
        "hsm_secret: without it",
    ),
    ("an hsm_secret of another node", |home| keys(home, &[8; 32]), 2, "but the database is of node"),
    (
        "an hsm_secret and an emergency.recover of a peer, who counts the revocations of this node",
        |home| {
            keys(home, &[8; 32]);
            let theirs = WitnessChannel { revocations: 700, ..CHANNEL };
            write_private(&file_in(home, "emergency.recover"), &emergency_recover([8; 32], &[theirs]));
        },
        2,
        "but the database is of node",
    ),
    ("no shachains", |home| sql(home, "DROP TABLE shachains"), 2, "it has no table shachains"),
    (
        "an old schema",
        |home| sql(home, "ALTER TABLE channels DROP COLUMN full_channel_id"),
        2,
        "no column full_channel_id",
    ),
    ("no database", |home| fs::remove_file(home.database()).expect("a file"), 2, "There is no database"),
    (
        "a database that is none",
        |home| fs::write(home.database(), [0x5a; 9000]).expect("a file"),
        2,
        "as a SQLite database",
    ),
    (
        "a database cut in the middle",
        |home| fs::File::options().write(true).open(home.database()).expect("a file").set_len(8192).expect("a file"),
        2,
        "",
    ),
];

fn keys(home: &Home, bytes: &[u8]) {
    write_private(&file_in(home, "hsm_secret"), bytes);
}

fn tamper(home: &Home, change: fn(&mut Vec<u8>)) {
    let path = file_in(home, "emergency.recover");
    let mut bytes = fs::read(&path).expect("a file");
    change(&mut bytes);
    write_private(&path, &bytes);
}

#[test]
fn bad_input_is_a_sentence_and_changes_nothing() {
    for (what, make, code, words) in BAD_INPUTS {
        let home = node();
        make(&home);
        let before = files(&home);
        println!("{what}");
        let object = expect(preflight(&[home.lightning_dir().as_os_str()]), *code, words);
        assert_eq!(files(&home), before, "{what}");
        for reason in object["reasons"].as_array().unwrap() {
            let reason = reason.as_str().unwrap().trim_end_matches('.');
            let is_repeated = reason.rsplit_once(": ").is_some_and(|(before, cause)| before.contains(cause));
            assert!(!is_repeated, "{what}: said twice: {reason}");
        }
        // What is said for people says the same.
        let ran = cli::backupfs(&["preflight".as_ref(), home.lightning_dir().as_os_str()]);
        assert_eq!(ran.code, *code, "{what}: {ran:?}");
        assert!(ran.stdout.contains("COULD NOT TELL"), "{what}: {ran:?}, {object:#}");
    }
}

#[test]
fn a_passphrase_is_taken_from_a_file_and_a_wrong_one_is_reported() {
    let home = node();
    let dir = home.lightning_dir();
    let passphrase = home.join("passphrase");
    write_private(&passphrase, b"not this one\n");
    keys(&home, &[&[1; 32], WORDS.as_bytes()].concat());
    let named = ["--passphrase-file".as_ref(), passphrase.as_os_str(), dir.as_os_str()];
    expect(preflight(&named), 2, "the passphrase is wrong");
    // For a node that needs none, it is not used.
    keys(&home, &SEED);
    expect(preflight(&named), 0, "is that of this node");
    let missing = ["preflight".as_ref(), "--passphrase-file".as_ref(), "/nonexistent".as_ref(), dir.as_os_str()];
    keys(&home, &[&[1; 32], WORDS.as_bytes()].concat());
    cli::backupfs(&missing).expect_refused(2, &["passphrase", "/nonexistent"]);
}

/// A seed that libsodium has encrypted with the passphrase `a pass phrase`: `lightning-1`, and zeros.
const ENCRYPTED: &str = "a96250d20baed9c08bff8806007b80cbfe60a41e509a340cac0b66241f6bf02cae648beffb9f3be8748302eb250709e7fff37029f858334fb7f67a9a593a3680f1e0e63f265b3f2f78";

/// A node whose seed is encrypted.
fn node_with_a_passphrase() -> Home {
    let home = node();
    let mut seed = [0; 32];
    seed[..11].copy_from_slice(b"lightning-1");
    write_private(&file_in(&home, "emergency.recover"), &emergency_recover(seed, &[CHANNEL]));
    sql(&home, &format!("UPDATE vars SET blobval = x'{}' WHERE name = 'node_id'", node_id_of(seed)));
    let byte = |at: usize| u8::from_str_radix(&ENCRYPTED[at..at + 2], 16).expect("hexadecimal");
    keys(&home, &(0..ENCRYPTED.len()).step_by(2).map(byte).collect::<Vec<u8>>());
    home
}

#[test]
fn an_encrypted_seed_is_read_with_a_passphrase_from_a_file_or_the_terminal() {
    let home = node_with_a_passphrase();
    let dir = home.lightning_dir();
    let passphrase = home.join("passphrase");
    let named = ["--passphrase-file".as_ref(), passphrase.as_os_str(), dir.as_os_str()];
    write_private(&passphrase, b"a pass phrase\n");
    expect(preflight(&named), 0, "all equal");
    write_private(&passphrase, b"A pass phrase\n");
    expect(preflight(&named), 2, "the passphrase is wrong");
    expect(preflight(&[dir.as_os_str()]), 2, "is protected by a passphrase");

    let Some((status, said)) = on_a_terminal(&dir, b"a pass phrase\n") else { return };
    assert!(status.success() && said.contains("CURRENT"), "{status}: {said}");
    assert!(!said.contains("a pass phrase"), "it is not shown: {said}");
    // Who does not know it gets what can be told without the keys.
    let Some((status, said)) = on_a_terminal(&dir, b"\n") else { return };
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("is protected by a passphrase") && said.contains("COULD NOT TELL"), "{said}");
}

/// Runs `preflight` on a terminal, where this is typed as the passphrase; `None` where there is no terminal to be had.
fn on_a_terminal(dir: &Path, typed: &[u8]) -> Option<(ExitStatus, String)> {
    let command = format!("{} preflight {}", binaries::backupfs().display(), dir.display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = script.spawn() else {
        skipped(format_args!("in part: there is no program script"));
        return None;
    };
    let (mut stdin, mut stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let (mut said, mut byte) = (Vec::new(), [0]);
    // What is typed before the question is thrown away.
    while !said.ends_with(b"hsm_secret: ") && stdout.read(&mut byte).expect("output") == 1 {
        said.push(byte[0]);
    }
    stdin.write_all(typed).expect("an answer");
    stdout.read_to_end(&mut said).expect("output");
    let status = child.wait().expect("it ends");
    Some((status, String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn databases_of_old_releases_are_never_safe() {
    for name in [
        "dangling-peer",
        "invoices_pre_waitindex",
        "last_tx_closed",
        "no-local-basepoints",
        "oldstyle-scids",
        "pubkey_regen",
        "runes_bad_id",
        "upgrade_inflight",
        "v0.12.1-forward",
        "l1-before-moves-in-db",
    ] {
        let Some(folder) = traces::folder(&format!("migrations/{name}")) else { return };
        let home = node();
        let database = home.join("start.sqlite3");
        assert!(folder.start_database(&database), "{name}");
        let dir = home.lightning_dir();
        let files = [dir.join("hsm_secret"), dir.join("emergency.recover")];
        let (code, object) = preflight(&[
            "--hsm-secret".as_ref(),
            files[0].as_os_str(),
            "--emergency-recover".as_ref(),
            files[1].as_os_str(),
            database.as_os_str(),
        ]);
        println!("{name}: {:?}", reasons(&object).first());
        assert_eq!((code, &object["verdict"]), (2, &json!("unknown")), "{name}: {object:#}");
    }
}

#[test]
fn a_database_is_read_beside_its_node_and_not_when_that_locks_it() {
    let home = node();
    let dir = home.lightning_dir();
    let writer = Connection::open(home.database()).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE; UPDATE vars SET intval = 8 WHERE name = 'data_version'").unwrap();
    let listens = UnixListener::bind(file_in(&home, "lightning-rpc")).unwrap();
    let object = expect(preflight(&[dir.as_os_str()]), 2, "lightningd is running");
    assert_eq!(object["data_version"], 7, "what is committed is read");
    drop(listens);
    fs::remove_file(file_in(&home, "lightning-rpc")).unwrap();
    expect(preflight(&[dir.as_os_str()]), 0, "all equal");
    writer.execute_batch("ROLLBACK; BEGIN EXCLUSIVE").unwrap();
    expect(preflight(&[dir.as_os_str()]), 2, "is locked");
}

/// As a crash leaves it. The journal is rolled back in a copy.
#[test]
fn a_hot_journal_is_rolled_back_in_a_copy() {
    let home = node();
    let crashed = Home::new();
    write_files(&crashed.lightning_dir(), &[CHANNEL]);
    let writer = Connection::open(home.database()).unwrap();
    writer
        .execute_batch(
            "CREATE TABLE big (x); PRAGMA cache_size = 1; BEGIN; UPDATE vars SET intval = 8 WHERE name = 'data_version';
             UPDATE shachains SET min_index = 5; UPDATE channels SET state = 10",
        )
        .unwrap();
    for _ in 0..50 {
        writer.execute("INSERT INTO big VALUES (zeroblob(3000))", []).unwrap();
    }
    for name in ["lightningd.sqlite3", "lightningd.sqlite3-journal"] {
        fs::copy(file_in(&home, name), file_in(&crashed, name)).unwrap();
    }
    drop(writer);
    let before = files(&crashed);
    let object = expect(preflight(&[crashed.lightning_dir().as_os_str()]), 0, "A crash left the database");
    assert_eq!(object["data_version"], 7);
    assert_eq!(files(&crashed), before, "it is left as it was");
}
