//! The mount, with the tools that an operator has.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::mounted::{Mounted, fuse_is_here, is_mounted};
use tests::skip::skipped;
use tests::small_node::SmallNode;
use tests::{cli, compare};

/// Versions 1, 2, then 3 and 4 lost in a gap, 5 to 12.
fn mounted() -> Option<(SmallNode, Mounted)> {
    if !fuse_is_here() {
        return None;
    }
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    node.run_without_plugin(3);
    node.start();
    for _ in 0..7 {
        node.commit();
    }
    let mounted = Mounted::start(&node.home.backup());
    Some((node, mounted))
}

fn tool(mounted: &Mounted, program: &str, arguments: &[&str]) -> cli::Ran {
    cli::run(Command::new(program).current_dir(mounted.path()).args(arguments))
}

#[test]
fn the_tree_is_as_described() {
    let Some((_node, mounted)) = mounted() else { return };
    let top = tool(&mounted, "ls", &[]).expect_done("ls");
    assert_eq!(top.stdout.split_whitespace().collect::<Vec<_>>(), ["README", "by-time", "latest", "versions"]);
    let versions = tool(&mounted, "ls", &["-U", "versions"]).expect_done("ls");
    let numbers: Vec<_> = versions.stdout.split_whitespace().collect();
    assert_eq!(numbers, ["1", "2", "5", "6", "7", "8", "9", "10", "11", "12"], "numeric order, without the gap");
    let files = tool(&mounted, "ls", &["-la", "versions/7"]).expect_done("ls");
    for name in ["lightningd.sqlite3", "changes.sql", "info.json"] {
        assert!(files.stdout.contains(name), "{}", files.stdout);
    }
    assert_eq!(fs::read_link(mounted.join("latest")).unwrap(), Path::new("versions/12"));
    let readme = fs::read_to_string(mounted.join("README")).unwrap();
    assert!(readme.contains("latest") && readme.lines().count() > 5, "{readme}");
    // Every name that is listed is there, and every size is right.
    let found = tool(&mounted, "find", &[".", "-type", "f", "-size", "+0"]).expect_done("find");
    assert_eq!(found.stdout.lines().count(), 1 + 10 * 3 - empty_changes(&mounted), "{}", found.stdout);
    for path in found.stdout.lines() {
        let path = mounted.join(path);
        assert_eq!(fs::read(&path).unwrap().len() as u64, path.metadata().unwrap().len(), "{}", path.display());
    }
}

/// Versions that came from a snapshot were changed by no statement.
fn empty_changes(mounted: &Mounted) -> usize {
    let versions = fs::read_dir(mounted.join("versions")).expect("a directory");
    let changes = versions.map(|version| version.expect("an entry").path().join("changes.sql"));
    changes.filter(|changes| changes.metadata().expect("the size").len() == 0).count()
}

/// A path through the mount needs the permissions of each directory, and `ls -l` asks for extended attributes: the kernel must not ask
/// the mount each time. So took `ls -l` of 200,000 versions 39 seconds instead of 2.
#[test]
fn the_kernel_knows_the_permissions_of_directories_and_that_there_are_no_extended_attributes() {
    const STATS: u64 = 4000;
    let Some((_node, mounted)) = mounted() else { return };
    // One read for each request.
    let requests = || -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", mounted.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
    };
    let readme = mounted.join("README");
    let mut value = [0; 16];
    let before = requests();
    for _ in 0..STATS {
        assert!(readme.metadata().unwrap().is_file());
        let answer = rustix::fs::getxattr(&readme, "security.selinux", &mut value);
        assert_eq!(answer.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    }
    let asked = requests() - before;
    assert!(asked < STATS / 4, "{asked} requests for {STATS} files");
}

#[test]
fn what_stat_says_fits_what_was_recorded() {
    let Some((node, mounted)) = mounted() else { return };
    let listed = cli::backupfs(&["versions".as_ref(), node.home.backup().as_os_str(), "--json".as_ref()]);
    let mut inodes = BTreeSet::new();
    for line in listed.json_lines() {
        let version = line["data_version"].as_u64().unwrap();
        let file = mounted.database(version);
        if line["status"] != "recorded" {
            assert_eq!(file.metadata().unwrap_err().kind(), ErrorKind::NotFound);
            continue;
        }
        let meta = file.metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o400, "{line}");
        let at: jiff::Timestamp = line["recorded_at"].as_str().unwrap().parse().unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (at.as_second(), i64::from(at.subsec_nanosecond())), "{line}");
        assert!(inodes.insert(meta.ino()), "an inode twice: {line}");
        let info = fs::read(mounted.join(format!("versions/{version}/info.json"))).unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        for field in ["data_version", "seq", "recorded_at"] {
            assert_eq!(info[field], line[field], "{field} of version {version}");
        }
        for field in ["pages", "statements", "bytes"] {
            assert!(info[field].is_u64(), "no {field} in {info}");
        }
    }
    let stat = tool(&mounted, "stat", &["-c", "%s", "versions/6/lightningd.sqlite3"]).expect_done("stat");
    assert_eq!(stat.stdout.trim(), mounted.database(6).metadata().unwrap().len().to_string());
}

#[test]
fn a_copy_is_the_file_and_the_same_twice() {
    let Some((node, mounted)) = mounted() else { return };
    let copy = node.home.join("copy");
    let to = copy.to_str().unwrap();
    tool(&mounted, "cp", &["versions/9/lightningd.sqlite3", to]).expect_done("cp");
    tool(&mounted, "cmp", &["versions/9/lightningd.sqlite3", to]).expect_done("cmp");
    compare::same_contents(&copy, &mounted.database(9), &[]).unwrap();
    let again = Mounted::start(&node.home.backup());
    assert_eq!(fs::read(&copy).unwrap(), fs::read(again.database(9)).unwrap(), "another mount, the same bytes");
}

#[test]
fn the_sqlite3_command_line_reads_a_version() {
    let Some((node, mounted)) = mounted() else { return };
    if Command::new("sqlite3").arg("-version").output().is_err() {
        skipped("no sqlite3 command line here");
        return;
    }
    let select = "select intval from vars where name = 'data_version'; pragma integrity_check;";
    for (file, version) in [("versions/8/lightningd.sqlite3", "8"), ("latest/lightningd.sqlite3", "12")] {
        let ran = tool(&mounted, "sqlite3", &["-readonly", file, select]).expect_done("sqlite3");
        assert_eq!(ran.stdout.split_whitespace().collect::<Vec<_>>(), [version, "ok"]);
    }
    drop(node);
}

#[test]
fn nothing_can_be_written() {
    let Some((node, mounted)) = mounted() else { return };
    let here = node.home.join("here");
    fs::write(&here, "").unwrap();
    let database = "versions/8/lightningd.sqlite3";
    let attempts: [(&str, &[&str]); 9] = [
        ("touch", &["new"]),
        ("touch", &[database]),
        ("mkdir", &["versions/13"]),
        ("rm", &["-f", database]),
        ("mv", &["README", "READ"]),
        ("chmod", &["0644", database]),
        ("ln", &["-s", "x", "link"]),
        ("rmdir", &["versions/8"]),
        ("truncate", &["-s", "0", database]),
    ];
    for (program, arguments) in attempts {
        let ran = cli::run(Command::new(program).current_dir(mounted.path()).env("LC_ALL", "C").args(arguments));
        assert!(ran.code != 0 && ran.stderr.contains("Read-only file system"), "{program} {arguments:?}: {ran:?}");
    }
    let refused = [
        fs::File::options().write(true).open(mounted.database(8)).map(drop),
        fs::write(mounted.join("versions/8/new"), ""),
        fs::hard_link(mounted.join("README"), mounted.join("link")),
        symlink("x", mounted.join("by-time/link")),
    ];
    for attempt in refused {
        assert_eq!(attempt.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let Some((_node, mounted)) = mounted() else { return };
    // 3 and 4 were lost in the gap; the others are no names of versions at all.
    for name in ["3", "4", "13", "0", "007", "+7", "-1", "4294967296", "99999999999999999999", "x", "7 "] {
        let error = mounted.join("versions").join(name).symlink_metadata().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
    }
    for path in ["nothing", "versions/7/nothing", "by-time/1999", "versions/7/lightningd.sqlite3-journal"] {
        assert_eq!(mounted.join(path).symlink_metadata().unwrap_err().kind(), ErrorKind::NotFound, "{path}");
    }
    let error = fs::read_dir(mounted.join("README")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
}

#[test]
fn links_by_time_lead_to_their_versions() {
    let Some((_node, mounted)) = mounted() else { return };
    let links = links_below(&mounted.join("by-time"));
    let mut targets = BTreeSet::new();
    for link in &links {
        let name = link.file_name().unwrap().to_str().unwrap();
        let (time, version) = name.rsplit_once("-v").expect("a version in the name");
        let directory = link.canonicalize().expect("a link that leads somewhere");
        assert_eq!(directory, mounted.join("versions").join(version).canonicalize().unwrap());
        // by-time/2026/11/22/14h/05m07.123456s
        let at: PathBuf = link.strip_prefix(mounted.join("by-time")).unwrap().with_file_name(time);
        let info = fs::read(directory.join("info.json")).unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        let recorded_at = info["recorded_at"].as_str().unwrap();
        assert_eq!(as_moment(&at), recorded_at, "{}", link.display());
        targets.insert(version.parse::<u32>().unwrap());
    }
    assert_eq!(targets, BTreeSet::from([1, 2, 5, 6, 7, 8, 9, 10, 11, 12]));
    assert_eq!(links.len(), targets.len());
}

/// `2026/11/22/14h/05m07.123456s` as RFC 3339.
fn as_moment(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_str().expect("ASCII")).collect();
    let [year, month, day, hour, rest] = parts[..] else { panic!("{}", path.display()) };
    let (minute, second) = rest.split_once('m').expect("minutes");
    let [hour, second] = [hour.strip_suffix('h').expect("hours"), second.strip_suffix('s').expect("seconds")];
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")
}

fn links_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("what an entry is");
        assert!(!kind.is_file() && !kind.is_fifo(), "only directories and links: {}", entry.path().display());
        if kind.is_dir() {
            found.append(&mut links_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn sigterm_unmounts_and_is_a_success() {
    let Some((_node, mut mounted)) = mounted() else { return };
    assert!(mounted.is_mounted());
    let status = mounted.terminate().expect("it ends");
    assert!(status.success(), "{status}");
    assert!(!mounted.is_mounted());
}

#[test]
fn a_file_that_is_open_does_not_keep_the_mount() {
    let Some((_node, mut mounted)) = mounted() else { return };
    let open = fs::File::open(mounted.database(8)).unwrap();
    let status = mounted.terminate().expect("it ends");
    assert!(status.success(), "{status}");
    assert!(!mounted.is_mounted());
    drop(open);
}

#[test]
fn a_stale_mount_is_replaced() {
    let Some((node, mounted)) = mounted() else { return };
    let mut stale = mounted;
    let path = stale.kill().to_owned();
    assert!(is_mounted(&path) && fs::read_dir(&path).is_err(), "stale");
    // The same directory again, as the operator would.
    let mut daemon = Command::new(tests::binaries::backupfs())
        .arg("mount")
        .args([node.home.backup().as_path(), &path])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = daemon.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let version = compare::data_version(&path.join("latest/lightningd.sqlite3"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM).unwrap();
    let status = daemon.wait().unwrap();
    assert_eq!(version.unwrap(), 12, "{line}");
    assert!(status.success() && !is_mounted(&path), "{status}");
}
