//! Servers that send what no server should: a program that prints takes the place of `ssh`.
#![expect(clippy::big_endian_bytes, reason = "the protocol's numbers are big-endian")]

use std::fs;
use std::process::Command;

use proptest::prelude::*;

use super::super::StoreUrl;
use super::connection::Broken;
use super::*;

const VERSION: &[u8] = b"\0\0\0\x05\x02\0\0\0\x03";

fn limits() -> Limits {
    let stall = Duration::from_millis(150);
    Limits { connect: Duration::from_secs(10), stall, call: Duration::from_secs(2) }
}

/// A connection to a server that greets with `greeting`, and answers the first requests with `replies`.
fn connect(greeting: &[u8], replies: &[u8]) -> Result<SftpStore, Broken> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("greeting"), greeting).unwrap();
    fs::write(path("replies"), replies).unwrap();
    // Two requests are waited for, by their lengths, so that someone waits for the replies.
    let script = "cat \"$0\"; head -c 40 >/dev/null; cat \"$1\"; exec cat >/dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, &path("greeting"), &path("replies")]);
    let connection = Connection::start(&mut command, limits())?;
    // `sh` has opened the second file only with the first request.
    let StoreUrl::Sftp(url) = "sftp://nas/srv/a-directory-with-a-long-name".parse().unwrap() else {
        panic!("a directory")
    };
    let store = SftpStore::new(url, limits());
    *store.connection.lock().unwrap() = Some(Arc::new(connection));
    KEPT.lock().unwrap().push(directory);
    Ok(store)
}

/// Directories that programs still read from.
static KEPT: Mutex<Vec<tempfile::TempDir>> = Mutex::new(Vec::new());

fn packet(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

#[test]
fn a_greeting_that_is_none_is_refused() {
    for greeting in [
        &b"Welcome to the machine\r\n"[..],
        b"\0\0\0\x04\x02\0\0\0",
        b"\xff\xff\xff\xff\x02",
        b"\0\0\0\x05\x02\0\0\0\x02",
        b"\0\0\0\x05\x65\0\0\0\x03",
        b"\0\0\0\x09\x02\0\0\0\x03\xff\xff\xff\xff",
    ] {
        assert_eq!(connect(greeting, b"").map(|_| ()).unwrap_err(), Broken::Protocol, "{greeting:?}");
    }
}

#[test]
fn a_program_that_ends_has_its_last_words_shown() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo 'nas: Permission denied (publickey).' >&2; exit 255"]);
    let Err(Broken::Ended(said)) = Connection::start(&mut command, limits()).map(|_| ()) else { panic!("no end") };
    assert!(said.contains("Permission denied"), "{said}");
    let mut command = Command::new("/nonexistent/ssh");
    assert!(matches!(Connection::start(&mut command, limits()).map(|_| ()), Err(Broken::NotStarted(_))));
}

#[test]
fn a_reply_of_another_kind_or_length_is_an_error() {
    for (replies, expected) in [
        // To the opening: data, names, a handle that is none, one that is followed by nothing.
        (packet(b"\x67\0\0\0\0\0\0\0\x01x"), Failure::Protocol),
        (packet(b"\x68\0\0\0\0\0\0\0\0"), Failure::Protocol),
        (packet(b"\x66\0\0\0\0\0\0\0\0"), Failure::Protocol),
        (packet(b"\x66\0\0\0\0\0\0\0\x01h"), Failure::Unreachable),
        (packet(b"\x65\0\0\0\0\0\0\0\x09"), Failure::Unreachable),
        (packet(b"\x65\0\0\0\0\0\0\0\x03"), Failure::Refused),
        // A packet of 4 GiB, one that is never whole, and none.
        (b"\xff\xff\xff\xff\x65".to_vec(), Failure::Protocol),
        (b"\0\0\xff\xff\x65".to_vec(), Failure::Unreachable),
        (Vec::new(), Failure::Unreachable),
    ] {
        let store = connect(VERSION, &replies).unwrap();
        let error = store.get("s/1", None).unwrap_err();
        assert_eq!(error.failure, expected, "{replies:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_replies_panic_or_are_waited_for_without_end(
        replies in prop::collection::vec((100u8..106, 0u32..6, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        call in 0..4,
    ) {
        let replies: Vec<u8> =
            replies.iter().flat_map(|(kind, id, body)| packet(&[&[*kind], &id.to_be_bytes()[..], body].concat())).collect();
        let store = connect(VERSION, &replies).unwrap();
        let start = Instant::now();
        let failed = match call {
            0 => store.get("s/1", Some(0..9)).map(|_| ()),
            1 => store.list("").map(|_| ()),
            2 => store.put_new("s/1", b"x").map(|_| ()),
            _ => store.remove("s/1"),
        };
        let _ = failed;
        prop_assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
