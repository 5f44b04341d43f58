//! [`spawn`]: the process that ships the backup to its off-site copies, started and started again.
//!
//! Shipping is another program's, `backupfs ship`: this process connects to no network, and nothing that a store does can hold up an
//! answer. It ends when its standard input does, so also when this process is killed.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use common::BackupLock;

use crate::status::Status;

/// The program, beside this one or in a directory of `PATH`.
const PROGRAM: &str = "backupfs";

/// The pauses before the process is started again: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// A process that has run for so long has done its work: the next pause is short again.
const RAN_WELL: Duration = Duration::from_secs(600);

/// Starts the thread that keeps the process running, if `backup.lock` names off-site copies.
///
/// # Errors
/// When no thread can be started.
pub fn spawn(lightning_dir: &Path, status: &Arc<Status>) -> io::Result<()> {
    let lock = match BackupLock::read(lightning_dir) {
        Ok(lock) if !lock.offsite.is_empty() => lock,
        // A file that cannot be read is reported where the backup is opened.
        Ok(_) | Err(_) => return Ok(()),
    };
    status.set_offsite(lightning_dir, lock.offsite);
    let lightning_dir = lightning_dir.to_owned();
    thread::Builder::new().name("shipping".to_owned()).spawn(move || keep_running(&lightning_dir))?;
    Ok(())
}

fn keep_running(lightning_dir: &Path) {
    let Some(program) = find_program() else {
        log::error!(
            "there is no program {PROGRAM} beside backup-recorder or in PATH, so nothing is shipped to the off-site copies; install \
             it there, and start the node again"
        );
        return;
    };
    let mut pause = PAUSES.0;
    loop {
        let began = Instant::now();
        match start(&program, lightning_dir) {
            Ok(child) => log::info!("shipping to the off-site copies has ended ({})", wait(child)),
            Err(error) => {
                log::error!("cannot start {}: {error}; nothing is shipped to the off-site copies", program.display())
            }
        }
        if began.elapsed() >= RAN_WELL {
            pause = PAUSES.0;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn find_program() -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(fs::canonicalize(own).ok()?.with_file_name(PROGRAM)));
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    beside.into_iter().chain(in_path.map(|directory| directory.join(PROGRAM))).find(|program| program.is_file())
}

fn start(program: &Path, lightning_dir: &Path) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["ship", "--until-stdin-ends", "--lightning-dir"]).arg(lightning_dir);
    // Its standard input ends with this process. Standard output belongs to lightningd.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

/// The level and the text of a line such as `[2026-11-20T14:00:00Z WARN ] text`; all of any other line, as a warning.
fn level_and_text(line: &str) -> (log::Level, &str) {
    line.strip_prefix('[')
        .and_then(|line| line.split_once("] "))
        .and_then(|(head, text)| Some((head.split_once(' ')?.1.trim_end().parse().ok()?, text)))
        .unwrap_or((log::Level::Warn, line))
}

/// Logs what the process says until it ends, and returns how it ended.
fn wait(mut child: Child) -> String {
    let input = child.stdin.take();
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
            let (level, text) = level_and_text(&line);
            log::log!(level, "offsite: {text}");
        }
    }
    let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    drop(input);
    ended
}

#[cfg(test)]
mod tests {
    use super::level_and_text;
    use log::Level;

    #[test]
    fn a_line_of_the_log_has_its_level_and_no_second_time() {
        for (line, level, text) in [
            ("[2026-11-20T14:00:00Z INFO ] began", Level::Info, "began"),
            ("[2026-11-20T14:00:00Z ERROR] [2] it ] ended", Level::Error, "[2] it ] ended"),
            ("thread 'main' panicked at x.rs:1:1:", Level::Warn, "thread 'main' panicked at x.rs:1:1:"),
            ("[x] y", Level::Warn, "[x] y"),
        ] {
            assert_eq!(level_and_text(line), (level, text));
        }
    }
}
