//! `backupfs mount --daemon`: the mount in a process in the background.
//!
//! It is this program started again, not a fork: a process with threads cannot be forked safely, and before it has threads the
//! success of the mount is not known. Until the mount answers, the new process writes to the same terminal; then it leaves it,
//! and the first process ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, anyhow};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::mount::MountArgs;
use super::{Failure, Verbosity};
use crate::say;

/// Starts the process in the background, and returns when its mount answers.
///
/// # Errors
/// Exit code 2 when nothing was mounted; the process in the background has printed the reason.
pub fn start(args: &MountArgs, verbosity: Verbosity) -> Result<(), Failure> {
    let program = std::env::current_exe().context("cannot find this program to start it in the background")?;
    let mut child = Command::new(program)
        .args(arguments(args, verbosity))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start this program in the background")?;
    let mut answered = false;
    // The output ends when the process leaves the terminal, or dies.
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        say!("{}", line.context("cannot read the output of the process in the background")?);
        answered = true;
    }
    if answered {
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the process in the background")?;
    Err(Failure::Failed(anyhow!("nothing is mounted: the process in the background ended with {status}")))
}

fn arguments(args: &MountArgs, verbosity: Verbosity) -> Vec<OsString> {
    let MountArgs { allow_other, daemon: _, syslog: _, detached: _, cache_mb, url, read, mountpoint } = args;
    let mut arguments: Vec<OsString> = verbosity.to_arguments().into_iter().map(OsString::from).collect();
    arguments.extend(["mount", "--detached", "--cache-mb", &cache_mb.to_string()].map(OsString::from));
    if *allow_other {
        arguments.push("--allow-other".into());
    }
    arguments.extend(read.to_arguments());
    // URL and mount point may begin with a dash.
    arguments.extend(["--".into(), url.to_string().into(), mountpoint.into()]);
    arguments
}

/// Leaves the terminal: its signals do not reach this process any more, and readers of the output get its end.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn leave_terminal() -> io::Result<()> {
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    // As the working directory it would keep a file system from being unmounted. All paths in use are absolute.
    std::env::set_current_dir("/")?;
    // Fails only for the leader of a session, which is as good.
    let _leads = setsid();
    dup2_stdin(&nothing)?;
    dup2_stderr(&nothing)?;
    dup2_stdout(&nothing)?;
    Ok(())
}
