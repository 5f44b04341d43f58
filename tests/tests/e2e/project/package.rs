//! The Debian package: built as docs/services.md says, and looked into.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::cli::{self, Ran};
use tests::skip::skipped;
use tests::{binaries, cli::backupfs};

/// What a package must have.
const FILES: [&str; 11] = [
    "-rwxr-xr-x ./usr/bin/backupfs",
    "-rwxr-xr-x ./usr/bin/backup-recorder",
    "lrwxrwxrwx ./usr/sbin/mount.fuse.backupfs",
    "-rw-r--r-- ./usr/lib/systemd/system/backupfs.service",
    "-rw-r--r-- ./usr/share/man/man1/backupfs.1.gz",
    "-rw-r--r-- ./usr/share/man/man1/backupfs-restore.1.gz",
    "-rw-r--r-- ./usr/share/bash-completion/completions/backupfs",
    "-rw-r--r-- ./usr/share/zsh/vendor-completions/_backupfs",
    "-rw-r--r-- ./usr/share/fish/vendor_completions.d/backupfs.fish",
    "-rw-r--r-- ./usr/share/doc/backupfs/README.md",
    "-rw-r--r-- ./usr/share/doc/backupfs/docs/format.md",
];

fn is_there(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

fn dpkg_deb(option: &str, package: &Path) -> Ran {
    cli::run(Command::new("dpkg-deb").arg(option).arg(package)).expect_done("dpkg-deb")
}

#[test]
fn it_has_all_that_is_needed_to_run() {
    if !is_there("cargo-deb", "--version") || !is_there("dpkg-deb", "--version") {
        skipped("cargo-deb or dpkg-deb is not installed, the Debian package is not tested");
        return;
    }
    let program = binaries::backupfs();
    let (target, out) = (program.parent().unwrap().parent().unwrap(), tempfile::tempdir().unwrap());
    let made = target.join("package");
    backupfs(&["man".as_ref(), made.join("man").as_os_str()]).expect_done("man");
    for shell in ["bash", "zsh", "fish"] {
        let script = backupfs(&["completions", shell]).expect_done("completions").stdout;
        fs::write(made.join(format!("backupfs.{shell}")), script).unwrap();
    }
    // Those built for the tests, as they are: stripping and compressing them takes longer than all else.
    let package = out.path().join("backupfs.deb");
    let mut build = Command::new("cargo-deb");
    build.args(["deb", "-p", "mountfs", "--no-build", "--no-strip", "--fast", "--profile", "dev", "--output"]);
    cli::run(build.arg(&package).current_dir(binaries::workspace())).expect_done("cargo deb");

    let listed = dpkg_deb("--contents", &package).stdout;
    let of = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(format!("{} {}", fields.next()?, fields.nth(4)?))
    };
    let contents: Vec<String> = listed.lines().filter_map(of).collect();
    for file in FILES {
        assert!(contents.iter().any(|line| line == file), "no {file} in {listed}");
    }
    let about = dpkg_deb("--field", &package).stdout;
    for field in ["Package: backupfs", "Version: 0.1.0", "Depends: libc6", "Enhances: lightningd", "Recommends: fuse3"]
    {
        assert!(about.contains(field), "no {field} in {about}");
    }
    // What is in it runs.
    let unpacked = out.path().join("unpacked");
    cli::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked)).expect_done("unpacking");
    let version = cli::run(Command::new(unpacked.join("usr/bin/backupfs")).arg("--version")).expect_done("--version");
    assert_eq!(version.stdout, "backupfs 0.1.0\n");
    assert_eq!(fs::read_link(unpacked.join("usr/sbin/mount.fuse.backupfs")).unwrap(), Path::new("../bin/backupfs"));
}
