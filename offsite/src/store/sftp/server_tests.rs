//! Against a real OpenSSH server, where it is installed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;

use super::super::conformance_tests::{conforms, pattern};
use super::super::{ConditionalPut, OBJECT_BYTES_MAX, StoreUrl, open, probe_conditional_put};
use super::*;
use crate::testing::{Access, Sshd};

fn short() -> Limits {
    let stall = Duration::from_secs(2);
    Limits { connect: Duration::from_secs(20), stall, call: Duration::from_secs(60) }
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

#[test]
fn openssh_conforms() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let store = sshd.store("home/a b/copy", Limits::default());
    let error = store.create_base().unwrap_err();
    assert_eq!(error.failure, Failure::NotFound, "{error}");
    fs::create_dir(sshd.path("home/a b")).unwrap();
    for _ in 0..2 {
        store.create_base().unwrap();
    }
    conforms(&store);
    assert_eq!(files_below(&sshd.path("home")), Vec::<String>::new());
    assert_eq!(probe_conditional_put(&store, "probe", b"probe").unwrap(), ConditionalPut::Enforced);
}

#[test]
fn a_url_opens_the_store() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let store = open(&sshd.url("home"), None, None).unwrap();
    store.put_new("s/1", b"x").unwrap();
    assert_eq!(fs::read(sshd.path("home/s/1")).unwrap(), b"x");
    assert!(store.url().starts_with("sftp://127.0.0.1:"));
    let proxy = "socks5://127.0.0.1:9050".parse().unwrap();
    let error = open(&sshd.url("home"), None, Some(proxy)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("ProxyCommand"), "{error}");
}

#[test]
fn only_the_owner_reads_what_is_stored() {
    use std::os::unix::fs::PermissionsExt;
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    sshd.store("home", short()).put_new("s/t/1", b"x").unwrap();
    for (path, mode) in [("home/s", 0o700), ("home/s/t", 0o700), ("home/s/t/1", 0o600)] {
        assert_eq!(fs::metadata(sshd.path(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn a_directory_that_is_not_there_gets_no_files() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let store = sshd.store("home/none", short());
    for error in [
        store.list("").unwrap_err(),
        store.get("s/1", None).unwrap_err(),
        store.put_new("s/1", b"x").unwrap_err(),
        store.put_new("id", b"x").unwrap_err(),
        store.replace("s/1", b"x").unwrap_err(),
        store.remove("s/1").unwrap_err(),
    ] {
        assert_eq!(error.failure, Failure::NotFound);
        assert!(error.message.contains("the directory is not there"), "{error}");
    }
    assert!(!sshd.path("home/none").exists());
}

#[test]
fn a_server_that_permits_nothing_is_told() {
    let Some(sshd) = Sshd::start(Access::ReadOnly) else { return };
    fs::write(sshd.path("home/id"), b"x").unwrap();
    let store = sshd.store("home", short());
    assert_eq!(store.get("id", None).unwrap(), b"x");
    for error in [
        store.put_new("s/1", b"x").unwrap_err(),
        store.put_new("h", b"x").unwrap_err(),
        store.replace("id", b"y").unwrap_err(),
        store.remove("id").unwrap_err(),
    ] {
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.contains("does not permit"), "{error}");
    }
}

#[test]
fn another_host_key_and_another_user_are_told() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    for (key, expected) in [("other", "has changed"), ("none", "is not known")] {
        sshd.know_host_key(key);
        let error = sshd.store("home", short()).list("").unwrap_err();
        assert_eq!(error.failure, Failure::Identity, "{error}");
        assert!(error.message.contains(expected) && error.message.contains("ssh -F "), "{error}");
    }
    sshd.know_host_key("host");
    sshd.log_in_with("other");
    let error = sshd.store("home", short()).list("").unwrap_err();
    assert_eq!(error.failure, Failure::Refused, "{error}");
    assert!(error.message.contains("Permission denied"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let StoreUrl::Sftp(url) = sshd.url("home") else { panic!("a directory of a server") };
    drop(sshd);
    let store = SftpStore::new(SftpUrl { config: Some("/dev/null".into()), ..url }, short());
    let error = store.list("").unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable, "{error}");
    assert!(error.message.contains("Connection refused"), "{error}");
}

#[test]
fn a_server_killed_in_the_middle_leaves_nothing_in_part() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let store = sshd.store("home", short());
    let bytes = pattern(OBJECT_BYTES_MAX);
    let mut cut = 0;
    for round in 0..12_u64 {
        let name = format!("x/{round}");
        store.list("").unwrap();
        let put = thread::scope(|scope| {
            let putting = scope.spawn(|| store.put_new(&name, &bytes));
            thread::sleep(Duration::from_millis(round * 15));
            assert!(sshd.signal_sessions(Signal::KILL) > 0);
            putting.join().unwrap()
        });
        match put {
            Ok(put) => assert_eq!(put, Put::Stored),
            Err(error) => {
                assert_eq!(error.failure, Failure::Unreachable, "{error}");
                cut += 1;
            }
        }
        // The next call connects again.
        match store.list(&name).unwrap().as_slice() {
            [] => assert_eq!(store.put_new(&name, &bytes[..9]).unwrap(), Put::Stored),
            [listed] => assert_eq!(listed.len, OBJECT_BYTES_MAX as u64),
            more => panic!("{more:?}"),
        }
    }
    assert!(cut > 0);
}

#[test]
fn an_ssh_killed_in_the_middle_is_started_again() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let store = sshd.store("home", short());
    let bytes = pattern(OBJECT_BYTES_MAX);
    store.put_new("x/1", &bytes).unwrap();
    let process = i32::try_from(store.process().unwrap()).unwrap();
    let read = thread::scope(|scope| {
        let reading = scope.spawn(|| store.get("x/1", None));
        thread::sleep(Duration::from_millis(5));
        rustix::process::kill_process(rustix::process::Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
        reading.join().unwrap()
    });
    match read {
        Ok(read) => assert!(read == bytes),
        Err(error) => assert_eq!(error.failure, Failure::Unreachable, "{error}"),
    }
    assert!(store.get("x/1", None).unwrap() == bytes);
    assert_ne!(i32::try_from(store.process().unwrap()).unwrap(), process);
}

#[test]
fn a_server_that_hangs_is_given_up_and_asked_anew() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let store = sshd.store("home", short());
    store.put_new("s/1", b"x").unwrap();
    assert!(sshd.signal_sessions(Signal::STOP) > 0);
    let start = Instant::now();
    let errors: Vec<StoreError> = thread::scope(|scope| {
        let reading = scope.spawn(|| store.get("s/1", None).unwrap_err());
        let writing = scope.spawn(|| store.put_new("s/2", &pattern(OBJECT_BYTES_MAX)).unwrap_err());
        vec![reading.join().unwrap(), writing.join().unwrap()]
    });
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(errors.iter().all(|error| error.failure == Failure::Unreachable), "{errors:?}");
    assert_eq!(store.get("s/1", None).unwrap(), b"x");
}

#[test]
fn links_and_leftovers_are_not_listed() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    fs::write(sshd.path("home/.upload-1"), b"x").unwrap();
    fs::write(sshd.path("home/a_b"), b"x").unwrap();
    std::os::unix::fs::symlink(sshd.path("host.pub"), sshd.path("home/link")).unwrap();
    std::os::unix::fs::symlink(sshd.path("."), sshd.path("home/s")).unwrap();
    let store = sshd.store("home", short());
    assert_eq!(store.list("").unwrap(), []);
    assert_eq!(store.put_new("link", b"x").unwrap(), Put::Exists);
    assert_eq!(store.remove_leftovers(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.remove_leftovers(Duration::ZERO).unwrap(), 1);
    assert!(!sshd.path("home/.upload-1").exists() && sshd.path("home/a_b").exists());
    let large = fs::File::create(sshd.path("home/large")).unwrap();
    large.set_len(1 << 40).unwrap();
    assert_eq!(store.get("large", None).unwrap_err().failure, Failure::Protocol);
    assert_eq!(store.get("large", Some(1 << 39..(1 << 39) + 3)).unwrap(), [0; 3]);
}

/// Names the test below has for its other half.
const HELD: &str = "OFFSITE_TEST_HELD_URL";

/// The other half of the test below: holds a connection until it is killed. By itself it does nothing.
#[test]
fn a_connection_is_held() {
    let Ok(url) = std::env::var(HELD) else { return };
    let Ok(StoreUrl::Sftp(url)) = url.parse() else { panic!("a directory of a server") };
    let store = SftpStore::new(url, Limits::default());
    store.list("").unwrap();
    println!("\nprocess {}", store.process().unwrap());
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn ssh_ends_with_the_program_however_that_ends() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let is_there = |process: u32| {
        let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    let gone = |process: u32| {
        let start = Instant::now();
        while is_there(process) && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(20));
        }
        !is_there(process)
    };
    let store = sshd.store("home", short());
    store.list("").unwrap();
    let process = store.process().unwrap();
    assert!(is_there(process));
    drop(store);
    assert!(gone(process));

    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::sftp::server_tests::a_connection_is_held", "--nocapture"])
        .env(HELD, sshd.url("home").to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    let process: u32 = lines.find_map(|line| line.strip_prefix("process ")?.parse().ok()).unwrap();
    assert!(is_there(process));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(gone(process));
}
