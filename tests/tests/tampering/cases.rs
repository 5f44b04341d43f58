//! What is done to a file.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::recorded::{Files, Recorded};

/// Bytes of a sector, which is written as a whole or not.
const SECTOR: usize = 512;

/// What is done to one file of a good backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tampering {
    /// It ends before this byte.
    Cut(usize),
    /// This bit is another.
    Flipped(usize),
    /// Zeros for a sector from this byte on.
    Zeroed(usize),
    /// It is what another file is.
    Is {
        other: PathBuf,
        of: Whose,
    },
    Removed,
    LinkToItsContents,
    Fifo,
    Directory,
    /// Its beginning follows its end.
    Grown,
    /// Zeros do.
    GrownByZeros,
    /// There is a copy with this number.
    DoubledAs(u64),
    /// A file that was there once and is gone.
    BackAgain,
}

/// Whose file is put in the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    This,
    Another,
    Older,
}

impl Tampering {
    /// The row of the table in which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cut(_) => "cut",
            Self::Flipped(_) => "bit flipped",
            Self::Zeroed(_) => "sector zeroed",
            Self::Is { .. } => "another file",
            Self::DoubledAs(_) => "doubled",
            Self::BackAgain => "put back",
            Self::Removed => "removed",
            Self::LinkToItsContents | Self::Fifo | Self::Directory => "no file",
            Self::Grown | Self::GrownByZeros => "grown",
        }
    }

    /// Does it to the file at `path`, which holds `bytes`; `outside` is a place that is not in the backup, `replacement`
    /// what another file holds.
    pub fn apply(&self, path: &Path, bytes: &[u8], outside: &Path, replacement: &[u8]) {
        let write = |bytes: &[u8]| fs::write(path, bytes).expect("a file");
        let remove = || fs::remove_file(path).expect("it is there");
        match *self {
            Self::Cut(len) => write(&bytes[..len]),
            Self::Flipped(bit) => {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                write(&flipped);
            }
            Self::Zeroed(from) => {
                let mut zeroed = bytes.to_vec();
                zeroed[from..bytes.len().min(from + SECTOR)].fill(0);
                write(&zeroed);
            }
            Self::Is { .. } | Self::BackAgain => write(replacement),
            Self::Removed => remove(),
            Self::LinkToItsContents => {
                remove();
                fs::write(outside, bytes).expect("a file");
                symlink(outside, path).expect("a link");
            }
            Self::Fifo => {
                remove();
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, path, fifo, 0o600.into(), 0).expect("a FIFO");
            }
            Self::Directory => {
                remove();
                fs::create_dir(path).expect("a directory");
            }
            Self::Grown => write(&[bytes, &bytes[..written(bytes).min(4096)]].concat()),
            Self::GrownByZeros => write(&[bytes, &[0; 100]].concat()),
            Self::DoubledAs(number) => {
                fs::write(numbered(path, number).expect("it has a number"), bytes).expect("a file");
            }
        }
    }
}

impl fmt::Display for Tampering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(at) => write!(f, "cut at {at}"),
            Self::Flipped(bit) => write!(f, "bit {} of byte {} flipped", bit % 8, bit / 8),
            Self::Zeroed(at) => write!(f, "a sector zeroed from {at} on"),
            Self::Is { other, of } => {
                let of = match of {
                    Whose::This => "of this backup",
                    Whose::Another => "of another backup",
                    Whose::Older => "of an older copy",
                };
                write!(f, "is {} {of}", other.display())
            }
            Self::DoubledAs(number) => write!(f, "doubled as {number}"),
            Self::Removed
            | Self::LinkToItsContents
            | Self::Fifo
            | Self::Directory
            | Self::Grown
            | Self::GrownByZeros
            | Self::BackAgain => {
                write!(f, "{self:?}")
            }
        }
    }
}

/// One thing that is done to one file.
#[derive(Debug, Clone)]
pub struct Case {
    pub file: PathBuf,
    pub tampering: Tampering,
}

/// The path of a file of this kind with another number; `None` for one without.
pub fn numbered(path: &Path, number: u64) -> Option<PathBuf> {
    let (kind, _) = path.file_name()?.to_str()?.split_once("-0")?;
    Some(path.with_file_name(format!("{kind}-{number:020}")))
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.split_once('-')?.1.parse().ok()
}

/// Everything that is done to these files, `wanted` cuts and flips of each, or all that are possible.
pub fn cases(recorded: &Recorded, attacked: &[PathBuf], another: &Files, wanted: Option<usize>) -> Vec<Case> {
    let mut cases = Vec::new();
    for file in attacked {
        let bytes = &recorded.files[file];
        // With some of the zeros behind, which are there to be written to.
        let len = bytes.len().min(written(bytes) + 64);
        let mut add = |tampering| cases.push(Case { file: file.clone(), tampering });
        spread(len, wanted).for_each(|at| add(Tampering::Cut(at)));
        spread(len * 8, wanted).for_each(|bit| add(Tampering::Flipped(bit)));
        spread(len, wanted.map(|wanted| wanted / 4)).for_each(|at| add(Tampering::Zeroed(at)));
        for (others, of) in [(&recorded.files, Whose::This), (another, Whose::Another), (&recorded.older, Whose::Older)]
        {
            // A swap of names says the most among files of one kind.
            let alike = others.keys().filter(|other| kind(other) == kind(file));
            alike.for_each(|other| add(Tampering::Is { other: other.clone(), of }));
        }
        add(Tampering::Removed);
        add(Tampering::LinkToItsContents);
        add(Tampering::Fifo);
        add(Tampering::Directory);
        add(Tampering::Grown);
        add(Tampering::GrownByZeros);
        // Within the zeros, and as a copy ends that was interrupted at the end of a record or of a block.
        for at in [written(bytes), (len + bytes.len()) / 2, bytes.len().saturating_sub(1)] {
            if at < bytes.len() {
                add(Tampering::Cut(at));
            }
        }
        if let Some(number) = number_of(file) {
            for copy in [number + 1, number - 1, number + 1000, 0, u64::MAX] {
                add(Tampering::DoubledAs(copy));
            }
        }
    }
    let gone = recorded.older.keys().filter(|path| !recorded.files.contains_key(*path));
    cases.extend(gone.map(|path| Case { file: path.clone(), tampering: Tampering::BackAgain }));
    cases
}

/// What a file is, by its name; with the directory, for a spool has logs, too.
pub fn kind(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kind = match name.split_once("-0") {
        Some((kind, _)) => kind.to_owned(),
        None => name,
    };
    if path.starts_with("spool") { format!("spool/{kind}") } else { kind }
}

/// `wanted` numbers below `limit`, evenly spread, the first ones and the last among them; all when there is no `wanted`.
fn spread(limit: usize, wanted: Option<usize>) -> impl Iterator<Item = usize> {
    let step = wanted.map_or(1, |wanted| (limit / wanted.max(1)).max(1));
    let last = limit.checked_sub(1).filter(|last| !last.is_multiple_of(step));
    (0..limit).step_by(step).chain(last)
}

/// Where the zeros at the end of a file begin: what is behind is room for records.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}
