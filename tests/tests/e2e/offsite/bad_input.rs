//! What an operator gets wrong, and what goes wrong with a store: each is said in a sentence with what to do, and the node records on.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use offsite::keys::master_key::MasterKey;
use offsite::keys::words::words;
use offsite::testing::{Access, FaultyServer, Kind, Sshd, Trouble};
use serde_json::Value;
use tests::cli::{self, Ran};
use tests::skip::skipped;
use tests::wait::until;

use super::remote::{Remote, backupfs_of};
use super::shipped::{TIMEOUT, write_private};

/// The longest message, in lines: what is wrong, and how many copies it is wrong with, or where the help is.
const LINES_MAX: usize = 3;

/// Expects a refusal in a sentence with these words.
#[track_caller]
fn expect_said(ran: Ran, needles: &[&str]) {
    let ran = ran.expect_refused(2, needles);
    assert!(ran.stderr.lines().count() <= LINES_MAX, "{ran:?}");
    for strange in [" { ", "unwrap", "Error(", "os error 0"] {
        assert!(!ran.stderr.contains(strange), "{strange:?} in {ran:?}");
    }
}

/// The copy cannot be shipped to. By hand that is said; under the recorder the node records on, and its status says the same.
#[track_caller]
fn expect_not_shipped(remote: &mut Remote, needles: &[&str]) {
    expect_said(remote.ship(), needles);
    let before = remote.list()[0]["updated"].clone();
    remote.node.start();
    remote.node.commit();
    // The process of the run before may still say what it met.
    let began = Instant::now();
    loop {
        let status = remote.node.backup_status()["offsite"][0].take();
        let error = status["last_error"].as_str().unwrap_or_default().to_lowercase();
        if status["updated"] != before && needles.iter().all(|needle| error.contains(&needle.to_lowercase())) {
            break;
        }
        assert!(began.elapsed() < TIMEOUT, "{needles:?}: {status}");
        thread::sleep(Duration::from_millis(50));
    }
    remote.node.commit();
    remote.node.stop();
    remote.node.expect_all_recorded();
}

/// A port that nothing listens at.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port on loopback").local_addr().expect("an address").port()
}

#[test]
fn a_copy_that_cannot_be_begun_is_refused_and_nothing_of_it_is_kept() {
    let server = FaultyServer::start();
    let mut remote = Remote::in_bucket(&server);
    let lock = fs::read(remote.node.home.backup_lock()).unwrap();
    for text in ["access_key=other\nsecret_key=other\n", "access_key=faulty-access\nsecret_key=other\n"] {
        remote.set_credentials(text);
        expect_said(remote.add(&[]), &["check the access key and the secret key"]);
    }
    remote.set_credentials(&FaultyServer::credentials_file());
    fs::set_permissions(remote.credentials(), fs::Permissions::from_mode(0o644)).unwrap();
    expect_said(remote.add(&[]), &["can be read by other users", "chmod 600"]);
    fs::remove_file(remote.credentials()).unwrap();
    expect_said(remote.add(&[]), &["needs credentials", "access_key=", "AWS_ACCESS_KEY_ID"]);
    let named = format!("--credentials={}", remote.credentials().display());
    expect_said(remote.add(&[&named]), &["cannot read the credentials", "No such file"]);
    remote.set_credentials(&FaultyServer::credentials_file());

    let nothing_there = format!("127.0.0.1:{}", closed_port());
    for proxy in ["socks5", "http"] {
        let proxy = format!("--proxy={proxy}://{nothing_there}");
        expect_said(remote.add(&[&proxy]), &["proxy", "look whether"]);
    }
    expect_said(remote.add(&["--proxy=gopher://127.0.0.1:9050"]), &["proxy", "socks5://"]);
    server.plant("photos/2026/one.jpg", "jpg");
    let endpoint = remote.url.split_once('?').unwrap().1.to_owned();
    for (url, needles) in [
        (format!("s3://bukket/node?{endpoint}"), &["create the bucket, or correct the URL"][..]),
        (format!("s3://bucket/photos?{endpoint}"), &["not a copy of a backup", "empty prefix"]),
        (format!("s3://bucket/node?endpoint=http://{nothing_there}"), &["refused", "look whether the server"]),
        (
            format!("s3://bucket/node?{}", endpoint.replace("endpoint", "endpiont")),
            &["endpiont", "unknown", "endpoint"],
        ),
        (format!("s3://bucket/node//copy?{endpoint}"), &["prefix", "empty part", "remove it"]),
        (format!("s3://bucket/node?{endpoint}&region=eu central"), &["region", "such as"]),
        (format!("s3://bucket/node?{endpoint}&ca=/nowhere.pem"), &["/nowhere.pem", "PEM file"]),
        ("s3://bucket/node".to_owned(), &["endpoint", "is missing", "?endpoint=https://"]),
        ("s3:/bucket/node".to_owned(), &["should begin with s3://"]),
        ("sftp://nas".to_owned(), &["path", "is missing", "sftp://HOST/PATH"]),
        ("sftp://nas:home/node".to_owned(), &["port", "number"]),
        ("file://nas/node".to_owned(), &["three /"]),
    ] {
        expect_said(remote.add_at(&url, &[]), needles);
    }
    assert_eq!(fs::read(remote.node.home.backup_lock()).unwrap(), lock);
    assert_eq!(server.objects().len(), 1, "nothing was stored: {:?}", server.objects());
    remote.node.start();
    remote.node.commit();
    remote.node.stop();
    remote.node.expect_all_recorded();
}

#[test]
fn a_url_or_words_with_a_typo_are_refused_where_a_copy_is_read() {
    let server = FaultyServer::start();
    let remote = Remote::in_bucket(&server);
    remote.add(&[]).expect_done("offsite add");
    remote.expect_shipped();
    let right = fs::read_to_string(remote.words()).unwrap();
    let read = |url: &str| cli::run(remote.reading(&["versions"]).arg(url));
    for (url, needles) in [
        (remote.url.replace("/node?", "/nood?"), &["there is no copy of a backup", "check the URL"][..]),
        (remote.url.replace("s3://", "s4://"), &["s3://", "sftp://"]),
        (remote.url.replace("bucket", "bukket"), &["create the bucket, or correct the URL"]),
    ] {
        expect_said(read(&url), needles);
    }
    let with_words = |text: &str| {
        let file = remote.drawer("typo");
        write_private(&file, text);
        let mut command = backupfs_of(&remote.drawer(""));
        command.arg("versions").arg("--words").arg(&file).arg("--credentials").arg(remote.credentials());
        cli::run(command.arg(&remote.url))
    };
    let list: Vec<&str> = right.split_whitespace().filter(|word| !word.ends_with('.')).collect();
    assert_eq!(list.len(), 24, "{list:?}");
    expect_said(with_words(&list[1..].join(" ")), &["there are 23 words", "left out"]);
    // Not every exchange is noticed by the checksum, but one in 256; then the key is another one.
    let mut exchanged = list.clone();
    let other = (1..24).find(|&at| list[at] != list[0]).unwrap();
    exchanged.swap(0, other);
    expect_said(with_words(&exchanged.join(" ")), &["word"]);
    let of_another_copy = words(&MasterKey::generate().unwrap());
    expect_said(with_words(&of_another_copy), &["they are of another copy"]);
    with_words(&right).expect_done("versions with the right words");
}

#[test]
fn a_store_that_does_not_take_what_is_shipped_does_not_stop_the_node() {
    let server = FaultyServer::start();
    let mut remote = Remote::in_bucket(&server);
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    remote.expect_shipped();
    remote.words();
    for (status, code) in [(507, "InsufficientStorage"), (403, "QuotaExceeded")] {
        server.always(Some(Kind::Put), Trouble::Answer(status, code));
        expect_not_shipped(&mut remote, &["make room there"]);
    }
    server.no_trouble();
    // The key was revoked by the provider.
    remote.set_credentials("access_key=other\nsecret_key=other\n");
    expect_not_shipped(&mut remote, &["check the access key and the secret key"]);
    remote.set_credentials(&FaultyServer::credentials_file());
    remote.expect_shipped();
    remote.expect_nothing_missing();
}

/// Replaces the description of a copy.
fn edit_description(server: &FaultyServer, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let objects = server.objects();
    let (_, before) = objects.iter().find(|(name, _)| name == "node/id").expect("a description");
    let mut description = serde_json::from_slice(before).expect("JSON");
    edit(&mut description);
    server.plant("node/id", description.to_string());
    before.to_vec()
}

#[test]
fn a_copy_that_became_another_one_gets_nothing_and_does_not_stop_the_node() {
    let server = FaultyServer::start();
    let mut remote = Remote::in_bucket(&server);
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    remote.expect_shipped();
    remote.words();
    let stored = server.objects().len();
    // Another node's.
    let own = edit_description(&server, |id| id["backup"] = uuid::Uuid::new_v4().to_string().into());
    expect_not_shipped(&mut remote, &["copy of another backup", "a prefix of its own"]);
    // One that a later release went on with, whatever that has in it.
    let newer = ["newer backupfs", "install that"];
    server.plant("node/id", own.clone());
    edit_description(&server, |id| id["format"] = 2.into());
    expect_not_shipped(&mut remote, &newer);
    edit_description(&server, |id| *id = serde_json::json!({"format": 3, "seal": {"kind": "threshold"}}));
    expect_said(remote.ship(), &newer);
    expect_said(remote.read(&["versions"]), &newer);
    expect_said(remote.add(&[]), &newer);
    server.plant("node/id", own);
    // The key fits no wrap: the node was restored with the hsm_secret of another one.
    let secret = remote.dir().join("hsm_secret");
    write_private(&secret, [8; 32]);
    expect_not_shipped(&mut remote, &["opens no key of this copy", "hsm_secret"]);
    assert_eq!(server.objects().len(), stored, "nothing was stored");
    write_private(&secret, [7; 32]);
    remote.expect_shipped();
    remote.expect_nothing_missing();
}

#[test]
fn a_server_with_another_host_key_gets_nothing_and_does_not_stop_the_node() {
    let Some(sshd) = Sshd::start(Access::ReadWrite) else { return };
    let mut remote = Remote::new(sshd.url("home/node.copy"));
    remote.add(&["--every", "1s"]).expect_done("offsite add");
    remote.expect_shipped();
    remote.words();
    sshd.know_host_key("other");
    expect_not_shipped(&mut remote, &["the host key of the server has changed", "ask who runs it", "ssh-keygen -R"]);
    sshd.know_host_key("none");
    expect_said(remote.ship(), &["the host key of the server is not known", "once by hand, as the user of the node"]);
    sshd.know_host_key("host");
    sshd.log_in_with("other");
    expect_said(remote.ship(), &["does not let this user in", "give it the public key"]);
    sshd.log_in_with("user");
    expect_said(remote.add_at(&sshd.url("nowhere/node.copy").to_string(), &[]), &["make the directory"]);
    remote.expect_shipped();
    remote.expect_nothing_missing();
}

/// `openssl s_server`, ended however the test ends.
struct TlsServer(Child);

impl TlsServer {
    /// With a certificate of its own, made in `directory`; `None` where there is no `openssl`.
    fn start(directory: &Path, port: u16) -> Option<Self> {
        let in_directory = |name: &str| directory.join(name).display().to_string();
        let (key, certificate) = (in_directory("key.pem"), in_directory("cert.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args([
                "-addext",
                "subjectAltName=DNS:localhost",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-keyout",
                &key,
                "-out",
                &certificate,
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|made| made.success()) {
            skipped("there is no openssl, and no certificate that does not fit");
            return None;
        }
        let server = Command::new("openssl")
            .args(["s_server", "-www", "-quiet", "-accept", &format!("localhost:{port}")])
            .args(["-key", &key, "-cert", &certificate])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let server = Self(server);
        assert!(until(TIMEOUT, || TcpStream::connect(("localhost", port)).is_ok()), "openssl does not listen");
        Some(server)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn a_certificate_that_does_not_fit_is_refused() {
    let remote = Remote::new("s3://bucket/node?endpoint=https://localhost");
    remote.set_credentials(&FaultyServer::credentials_file());
    let port = closed_port();
    let Some(_server) = TlsServer::start(&remote.drawer(""), port) else { return };
    let url = format!("s3://bucket/node?endpoint=https://localhost:{port}");
    expect_said(remote.add_at(&url, &[]), &["certificate", "ca="]);
    // Of another name.
    let trusted = format!("ca={}", remote.drawer("cert.pem").display());
    let url = format!("s3://bucket/node?endpoint=https://127.0.0.1:{port}&{trusted}");
    expect_said(remote.add_at(&url, &[]), &["certificate"]);
    // The right one, of something that is no store.
    let url = format!("s3://bucket/node?endpoint=https://localhost:{port}&{trusted}");
    expect_said(remote.add_at(&url, &[]), &["the answer"]);
}

#[test]
fn a_cache_that_is_a_link_or_of_another_user_is_not_used() {
    let server = FaultyServer::start();
    let remote = Remote::in_bucket(&server);
    remote.add(&[]).expect_done("offsite add");
    remote.expect_shipped();
    let (_, id) = server.objects().into_iter().find(|(name, _)| name == "node/id").expect("a description");
    let id: Value = serde_json::from_slice(&id).expect("JSON");
    let cache = remote.drawer("cache/backupfs").join(id["copy"].as_str().expect("a UUID"));
    let elsewhere = remote.drawer("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir_all(cache.parent().unwrap()).unwrap();
    symlink(&elsewhere, &cache).unwrap();
    let shown = |reason: &str| {
        let ran = remote.read(&["versions"]).expect_done("versions");
        let warnings = ran.stderr.lines().filter(|line| line.contains("is not used to keep"));
        assert_eq!(warnings.filter(|line| line.contains(reason)).count(), 1, "{ran:?}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing is kept there");
    };
    shown("it is a link");
    fs::remove_file(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    if std::os::unix::fs::chown(&cache, Some(65534), None).is_err() {
        return skipped("a directory cannot be given to another user, and a cache of one is not tested");
    }
    shown("it belongs to another user");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "nothing is kept there");
}
