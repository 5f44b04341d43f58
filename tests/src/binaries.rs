//! The programs under test: those built from these sources, never ones left over from an earlier build.
//!
//! Cargo hands a test the binaries of its own package only (`CARGO_BIN_EXE_…`), and ours are in two other packages.
//! Under `cargo test -p tests` nothing would rebuild them, and a test of an old program proves nothing. So the first use
//! in each process has cargo build them, in the profile and target directory of the test itself; that takes a fraction
//! of a second when they are up to date.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::guard;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(build);

/// The CLN plugin.
pub fn backup_recorder() -> PathBuf {
    guard::note();
    DIRECTORY.join("backup-recorder")
}

/// The operator's program.
pub fn backupfs() -> PathBuf {
    guard::note();
    DIRECTORY.join("backupfs")
}

static WORKSPACE: LazyLock<PathBuf> = LazyLock::new(|| {
    // Cargo says it again when it runs the tests: the sources may have been moved since they were compiled.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().expect("BUG: the package is in a workspace").to_owned()
});

/// Where the workspace is.
pub fn workspace() -> &'static Path {
    &WORKSPACE
}

fn build() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    // A test is target/<profile directory>/deps/<test>, a benchmark target/<profile directory>/<program>.
    let mut ancestors = program.ancestors().skip(1).skip_while(|directory| directory.ends_with("deps"));
    let directory = ancestors.next().expect("a program lies in target/<profile>").to_owned();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = directory.parent().expect("a profile directory lies in the target directory");
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo says to a test about its package is news to the build script of ring: all that needs ring would be compiled once
    // more here, and once more by the next `cargo test`.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| name.starts_with(of))) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .current_dir(workspace())
        // With the features of the whole workspace, as `cargo test --workspace`: nothing is compiled twice.
        .args(["build", "--quiet", "--workspace", "--exclude", "bench", "--bins", "--profile", profile, "--target-dir"])
        .arg(target)
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "building the programs under test: {}", String::from_utf8_lossy(&built.stderr));
    // To compile is not to hang.
    guard::restart();
    directory
}
