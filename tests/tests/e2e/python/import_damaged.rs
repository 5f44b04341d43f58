//! `backupfs import` of files of the Python plugin that are not whole.

use std::fs;

use tests::cli;
use tests::home::Home;
use tests::listing::{self, Status};
use tests::python_node::{History, expect_newest, import, transaction};
use tests::small_node::{NODE_ID, creation};

/// The file, which version of it is imported, and what is said.
type Imported = (&'static str, Vec<u8>, u32, Vec<&'static str>);

/// A copy that was made while the plugin was writing, or cut short, or after a power cut: all that is whole is imported, and it
/// is said what may be missing.
#[test]
fn what_is_whole_is_imported_and_what_may_be_missing_is_said() {
    let home = Home::new();
    let mut node = History::new(&home);
    for _ in 0..3 {
        node.next();
    }
    let before_last = node.file.bytes().len();
    let header_of_4 = node.file.bytes()[..512].to_vec();
    node.next();
    let good = node.file.bytes();
    let with_header = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    let zeros_from = |at: usize| [&good[..at], &vec![0; good.len() - at]].concat();
    let older = {
        let mut more = node.file.clone();
        (6..9).for_each(|version| more.change(version, &transaction(version, 0)));
        [&header_of_4, &more.bytes()[512..]].concat()
    };
    let second = 512 + 9 + creation(NODE_ID).join("\0").len();
    let missing_5 = vec!["version 5 is the newest", "end with version 4", "missing"];
    let cases: Vec<Imported> = vec![
        (
            "a header that is older",
            older.clone(),
            8,
            vec!["version 4 is the newest", "go on to version 8", "may be missing"],
        ),
        ("the same and junk", [&older[..], b"junk"].concat(), 8, vec!["version 4 is the newest", "the last 4 bytes"]),
        (
            "the same and zeros",
            [&older[..], &[0; 4096]].concat(),
            8,
            vec!["go on to version 8", "the last 4096 bytes", "zeros"],
        ),
        ("a header ahead", with_header(7, 9), 5, vec!["version 9 is the newest", "end with version 5", "missing"]),
        ("cut in a record", good[..good.len() - 7].to_vec(), 4, missing_5.clone()),
        ("cut between records", good[..second].to_vec(), 1, vec!["end with version 1", "counts 5", "there are 1"]),
        ("too many counted", with_header(35, 7), 5, vec!["counts 7", "there are 5", "may be missing"]),
        ("zeros behind it", [&good[..], &[0; 5000]].concat(), 5, vec!["the last 5000 bytes", "zeros"]),
        ("zeros in place of a record", zeros_from(before_last), 4, missing_5.clone()),
        ("zeros from its length on", zeros_from(before_last + 3), 4, missing_5.clone()),
        ("zeros from its type on", zeros_from(before_last + 8), 4, missing_5.clone()),
        ("zeros from its text on", zeros_from(before_last + 9), 4, missing_5.clone()),
        ("zeros in its text", zeros_from(before_last + 40), 4, missing_5.clone()),
        ("zeros at its end", zeros_from(good.len() - 1), 4, missing_5),
    ];
    let file = home.join("file.bkp");
    for (what, bytes, newest, needles) in cases {
        fs::write(&file, bytes).unwrap();
        let ran = import(&home, &file, &[]).expect_done(what);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        for needle in needles {
            assert!(said.contains(needle), "{what}: {needle}: {said}");
        }
        assert!(!said.contains("RESCUE"), "{what}: {said}");
        let listed = listing::versions(&home.backup(), &[]);
        assert_eq!(listing::with_status(&listed, Status::Recorded), (1..=newest).collect::<Vec<u32>>(), "{what}");
        fs::remove_dir_all(home.backup()).unwrap();
    }
    // With a node: where something is missing its database must be newer, and never older than what is known.
    let lightning_dir = home.lightning_dir().to_str().unwrap().to_owned();
    let connecting = ["--lightning-dir", lightning_dir.as_str()];
    for (bytes, says) in [(older, "old state"), (with_header(7, 6), "does not prove")] {
        fs::write(&file, bytes).unwrap();
        let before = home.everything();
        import(&home, &file, &connecting).expect_refused(2, &[says]);
        assert_eq!(home.everything(), before);
    }
    fs::write(&file, zeros_from(before_last)).unwrap();
    import(&home, &file, &connecting).expect_done("the node's database is at version 5");
}

/// Of a damaged file everything before the damage becomes a backup that says what it is.
#[test]
fn what_is_before_the_damage_is_rescued_when_that_is_asked_for() {
    let home = Home::new();
    let mut node = History::new(&home);
    for _ in 0..3 {
        node.next();
    }
    let fifth = node.file.bytes().len();
    node.next();
    let good = node.file.bytes();
    let at_5 = fs::read(home.database()).unwrap();
    let spoilt = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    let continued = |versions: &[u32], first: &str| {
        let mut file = node.file.clone();
        for (number, version) in versions.iter().enumerate() {
            let mut statements = transaction(*version, 0);
            if number == 0 {
                statements.insert(0, first.to_owned());
            }
            file.change(*version, &statements);
        }
        file.bytes()
    };
    let cases = [
        ("an unknown type", spoilt(fifth + 8, 3), 4, "type is 3"),
        ("a length", spoilt(fifth, 0xff), 4, "claims"),
        ("no text", spoilt(fifth + 9, 0xff), 4, "UTF-8"),
        ("a gap", continued(&[7, 8], "DELETE FROM invoices WHERE 0"), 5, "version 7 follows 5"),
        ("backwards", continued(&[3], "DELETE FROM invoices WHERE 0"), 5, "backwards"),
        ("a change that fails", continued(&[6, 7, 8], "DROP TABLE absent"), 5, "no such table"),
        ("a change that is not the next", continued(&[6, 7], "UPDATE vars SET intval = 1"), 5, "does not follow"),
        ("the end of the file", continued(&[6], "DROP TABLE absent"), 5, "no such table"),
    ];
    let file = home.join("file.bkp");
    let lightning_dir = home.lightning_dir().to_str().unwrap().to_owned();
    let connecting = ["--until-damage", "--lightning-dir", lightning_dir.as_str()];
    for (what, bytes, newest, why) in cases {
        fs::write(&file, bytes).unwrap();
        let before = home.everything();
        import(&home, &file, &[]).expect_refused(2, &[why, "--until-damage"]);
        if newest == 5 {
            import(&home, &file, &connecting).expect_refused(2, &["--lightning-dir out"]);
        }
        assert_eq!(home.everything(), before, "{what}: nothing is made");
        let ran = import(&home, &file, &["--until-damage"]).expect_done(what);
        assert!(ran.stderr.contains("RESCUE") && ran.stderr.contains(why), "{what}: {ran:?}");
        let text = fs::read_to_string(home.backup().join("RESCUED.txt")).unwrap();
        assert!(text.contains(why) && text.contains(&format!("after version {newest} is missing")), "{what}: {text}");
        let listed = listing::versions(&home.backup(), &[]);
        assert_eq!(listing::with_status(&listed, Status::Recorded), (1..=newest).collect::<Vec<u32>>(), "{what}");
        let verified = cli::backupfs(&["verify".as_ref(), home.backup().as_os_str()]).expect_done("verify");
        assert!(verified.stdout.contains("RESCUED.txt: note"), "{verified:?}");
        if newest == 5 {
            expect_newest(&home, &home.database());
        }
        fs::remove_dir_all(home.backup()).unwrap();
    }
    // The database of the node is newer than what could be rescued.
    fs::write(&file, spoilt(fifth + 8, 3)).unwrap();
    import(&home, &file, &connecting).expect_done("the node goes on from its own database");
    fs::remove_dir_all(home.backup()).unwrap();
    // Without damage it is an import, and where nothing is before the damage nothing is made.
    fs::write(&file, &good).unwrap();
    let ran = import(&home, &file, &["--until-damage"]).expect_done("import");
    assert!(!ran.stderr.contains("RESCUE") && !home.backup().join("RESCUED.txt").exists(), "{ran:?}");
    fs::remove_dir_all(home.backup()).unwrap();
    fs::write(&file, spoilt(512 + 8, 3)).unwrap();
    import(&home, &file, &["--until-damage"]).expect_refused(2, &["type is 3", "another copy"]);
    assert_eq!(fs::read(home.database()).unwrap(), at_5);
}
