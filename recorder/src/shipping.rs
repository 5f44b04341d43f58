//! [`spawn`]: the process that ships the backup to its off-site copies, started and started again.
//!
//! Shipping is another program's, `backupfs ship`: this process connects to no network, and nothing that a store does can hold up an
//! answer, unless `backup.lock` says that answers wait for a copy ([`Holding`]). It ends when its standard input does, so also when
//! this process is killed.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use common::BackupLock;

use crate::holding::Holding;
use crate::status::Status;

/// The program, beside this one or in a directory of `PATH`.
const PROGRAM: &str = "backupfs";

/// The pauses before the process is started again: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The longest pause where answers wait for a copy.
const PAUSE_WAITED_FOR: Duration = Duration::from_secs(10);

/// A process that has run for so long has done its work: the next pause is short again.
const RAN_WELL: Duration = Duration::from_secs(600);

/// Starts the thread that keeps the process running, if `backup.lock` names off-site copies. Returns those that answers wait for, also
/// when no thread can be started: then they wait in vain, for as long as they may.
pub fn spawn(lightning_dir: &Path, status: &Arc<Status>) -> (io::Result<()>, Option<Arc<Holding>>) {
    let lock = match BackupLock::read(lightning_dir) {
        Ok(lock) if !lock.offsite.is_empty() => lock,
        // A file that cannot be read is reported where the backup is opened.
        Ok(_) | Err(_) => return (Ok(()), None),
    };
    let holding = Holding::new(lightning_dir, &lock.offsite, status);
    status.set_offsite(lightning_dir, lock.offsite);
    holding.iter().for_each(|holding| status.set_holding(holding));
    let (lightning_dir, shared) = (lightning_dir.to_owned(), holding.clone());
    let thread = thread::Builder::new().name("shipping".to_owned());
    (thread.spawn(move || keep_running(&lightning_dir, shared.as_ref())).map(drop), holding)
}

fn keep_running(lightning_dir: &Path, holding: Option<&Arc<Holding>>) {
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
        match start(&program, lightning_dir, holding) {
            Ok(child) => log::info!("shipping to the off-site copies has ended ({})", wait(child, holding)),
            Err(error) => {
                log::error!("cannot start {}: {error}; nothing is shipped to the off-site copies", program.display())
            }
        }
        if began.elapsed() >= RAN_WELL {
            pause = PAUSES.0;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(if holding.is_some() { PAUSE_WAITED_FOR } else { PAUSES.1 });
    }
}

fn find_program() -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(fs::canonicalize(own).ok()?.with_file_name(PROGRAM)));
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    beside.into_iter().chain(in_path.map(|directory| directory.join(PROGRAM))).find(|program| program.is_file())
}

fn start(program: &Path, lightning_dir: &Path, holding: Option<&Arc<Holding>>) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["ship", "--until-stdin-ends", "--lightning-dir"]).arg(lightning_dir);
    // Its standard input ends with this process. Our standard output belongs to lightningd.
    let stdout = if holding.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped()).spawn()
}

/// The level and the text of a line such as `[2026-11-20T14:00:00Z WARN ] text`; all of any other line, as a warning.
fn level_and_text(line: &str) -> (log::Level, &str) {
    line.strip_prefix('[')
        .and_then(|line| line.split_once("] "))
        .and_then(|(head, text)| Some((head.split_once(' ')?.1.trim_end().parse().ok()?, text)))
        .unwrap_or((log::Level::Warn, line))
}

/// Logs what the process says until it ends, and returns how it ended.
fn wait(mut child: Child, holding: Option<&Arc<Holding>>) -> String {
    let mut input = child.stdin.take();
    if let (Some(holding), Some(output)) = (holding, child.stdout.take()) {
        let following = Arc::clone(holding);
        let thread = thread::Builder::new().name("shipped".to_owned());
        let told = thread.spawn(move || following.follow(BufReader::new(output)));
        let tells = input.take().map_or(Ok(()), |input| holding.begin_telling(input));
        if let Err(error) = told.map(drop).and(tells) {
            log::error!("how far the off-site copies are cannot be followed: {error}; answers wait for them in vain");
        }
    }
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
            let (level, text) = level_and_text(&line);
            log::log!(level, "offsite: {text}");
        }
    }
    let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    holding.iter().for_each(|holding| holding.end_telling());
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
