//! [`EvidenceArgs`]: the options that say where the keys of a node are, and its `emergency.recover`; and the passphrase.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use common::preflight::key_file::{KeyFile, KeyFileError, NodeKeys};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrets::emergency_recover::EMERGENCY_RECOVER;
use secrets::passphrase::{PASSPHRASE_MAX, Passphrase, PassphraseError};
use zeroize::Zeroizing;

use crate::restore::lightning_dir::HSM_SECRET;

/// Paths of the keys, and of the evidence of the newest state of the node.
#[derive(Debug, Default, Args)]
pub struct EvidenceArgs {
    /// A file emergency.recover, if not the one in the lightning-dir; may be given several times
    #[arg(long, value_name = "FILE")]
    pub emergency_recover: Vec<PathBuf>,
    /// The keys of the node.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Path of the keys of a node, and of their passphrase.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArgs {
    /// The file hsm_secret, if not the one in the lightning-dir
    #[arg(long, value_name = "FILE")]
    pub hsm_secret: Option<PathBuf>,
    /// A file with the passphrase of hsm_secret in its first line; without it, a terminal is asked
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl EvidenceArgs {
    /// The files `emergency.recover`: those that were named, or that of the lightning-dir.
    pub(super) fn witnesses(&self, lightning_dir: &Path) -> Vec<PathBuf> {
        match self.emergency_recover.as_slice() {
            [] => vec![lightning_dir.join(EMERGENCY_RECOVER)],
            named => named.to_vec(),
        }
    }
}

impl KeyArgs {
    /// The keys of the node, or why there are none.
    ///
    /// # Errors
    /// When a passphrase is needed and cannot be read.
    pub(super) fn keys(&self, lightning_dir: &Path) -> anyhow::Result<Result<NodeKeys, KeyFileError>> {
        let path = self.hsm_secret.clone().unwrap_or_else(|| lightning_dir.join(HSM_SECRET));
        let file = match KeyFile::read(&path) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let passphrase = match &self.passphrase_file {
            Some(named) => Some(passphrase_in(named)?),
            None if file.needs_passphrase() && io::stdin().is_terminal() => asked_for(&path)?,
            None => None,
        };
        Ok(file.unlock(passphrase.as_ref()))
    }
}

/// The passphrase in the first line of a file.
fn passphrase_in(path: &Path) -> anyhow::Result<Passphrase> {
    let read = || File::open(path).and_then(|file| first_line(file, PASSPHRASE_MAX));
    let line = read().with_context(|| format!("cannot read the passphrase in {}", path.display()))?;
    Passphrase::from_first_line(&line).with_context(|| format!("{} has no passphrase", path.display()))
}

/// The passphrase that is typed on the terminal, which does not show it; `None` for an empty line: who does not know it can go on
/// without the keys.
fn asked_for(path: &Path) -> anyhow::Result<Option<Passphrase>> {
    let cannot = "cannot ask for the passphrase; put it into a file and name that with --passphrase-file";
    let line = answer_to(&format!("Passphrase of {}: ", path.display()), PASSPHRASE_MAX).context(cannot)?;
    match Passphrase::from_first_line(&line) {
        Err(PassphraseError::Empty) => Ok(None),
        passphrase => Ok(Some(passphrase?)),
    }
}

/// A line of at most `len_max` bytes of text that is typed on the terminal, which does not show it.
///
/// # Errors
/// When the terminal cannot be asked, or the answer is no text.
pub(super) fn ask(question: &str, len_max: usize) -> anyhow::Result<Zeroizing<String>> {
    let line = answer_to(question, len_max).context("cannot ask on this terminal; name a file instead")?;
    let text = std::str::from_utf8(&line).context("what was typed is no text")?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn answer_to(question: &str, len_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    let line = {
        let _hidden = Hidden::begin(&stdin)?;
        let mut to = io::stderr();
        // Without the question it can still be answered.
        let _: io::Result<()> = write!(to, "{question}").and_then(|()| to.flush());
        first_line(stdin.lock(), len_max)
    };
    // The line feed that was typed was not shown.
    crate::note!("");
    line
}

/// A line, read byte by byte: what a buffer read ahead would not be wiped. One byte more than the maximum shows that it is too long.
fn first_line(mut from: impl Read, len_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(len_max + 1));
    let mut byte = Zeroizing::new([0]);
    while line.len() <= len_max && from.read(byte.as_mut_slice())? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(line)
}

/// A terminal that does not show what is typed, while this exists.
struct Hidden<'a> {
    terminal: &'a io::Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a io::Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal.as_fd())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _: Result<(), _> = tcsetattr(self.terminal.as_fd(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read_and_no_more_than_a_passphrase() {
        assert_eq!(first_line(b"one\ntwo".as_slice(), 10).unwrap().as_slice(), b"one");
        assert_eq!(first_line(b"one".as_slice(), 10).unwrap().as_slice(), b"one");
        assert_eq!(first_line(io::repeat(b'x'), 10).unwrap().len(), 11);
        assert!(passphrase_in(Path::new("/nonexistent/passphrase")).is_err());
        assert!(passphrase_in(Path::new("/dev/zero")).is_err());
    }
}
