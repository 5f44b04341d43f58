//! [`Object`]: the objects of a copy, and their names.
//!
//! | name | object |
//! | --- | --- |
//! | `id` | which copy of which backup this is |
//! | `k/KEYID` | the wraps of a master key |
//! | `w/EPOCH-RANDOM` | the claim of a run of `backupfs ship` |
//! | `h/EPOCH-RANDOM` | the heartbeat of that run, which is replaced |
//! | `m/N` | the manifest of the backup; the highest N counts |
//! | `s/FIRST-LAST.PART-PARTS` | a part of a segment, with the seqs of its first and last record |
//! | `x/SEQ.PART-PARTS` | a part of a snapshot |
//! | `c/FIRST-LAST` | the catalog of the segments with these records |
//! | `p/LAST-RUN.PART-PARTS` | a part of `pruned`, with the seq of the last dropped record; RUN is 0 for that of the node, and counts the prunings of the copy |
//! | `t/LOG/EPOCH-RANDOM.N` | consecutive bytes of the log that begins with the record LOG |
//!
//! Numbers have leading zeros, so that names sort like them.

use std::fmt;
use std::str::FromStr;

use crate::keys::master_key::KeyId;

/// Name of the object that says what the copy is.
pub const ID: &str = "id";

/// A run of `backupfs ship`: its names are used by no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// One more than the highest epoch before it.
    pub epoch: u32,
    /// A random number, which tells two runs apart that claim the same epoch.
    pub random: u32,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{:08x}", self.epoch, self.random)
    }
}

/// A text is no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run has 10 digits, `-`, and 8 hexadecimal digits")]
pub struct NoRun;

impl FromStr for Run {
    type Err = NoRun;

    fn from_str(text: &str) -> Result<Self, NoRun> {
        let (epoch, random) = text.split_once('-').ok_or(NoRun)?;
        let run = Self {
            epoch: epoch.parse().map_err(|_| NoRun)?,
            random: u32::from_str_radix(random, 16).map_err(|_| NoRun)?,
        };
        if run.to_string() == text { Ok(run) } else { Err(NoRun) }
    }
}

/// A part of a file. The first one is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// The number of parts.
    pub of: u32,
}

/// The kinds of files that are copied in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// A snapshot.
    Snapshot {
        /// Seq of its record.
        seq: u64,
    },
    /// The file `pruned`.
    Pruned {
        /// Seq of the last dropped record.
        last: u64,
        /// 0 for the file of the node; one more for each pruning of the copy.
        run: u32,
    },
    /// A segment.
    Segment {
        /// Seq of its first record.
        first: u64,
        /// Seq of its last record.
        last: u64,
    },
}

impl File {
    /// Prefix of the names of all snapshots.
    pub const SNAPSHOTS: &str = "x/";
    /// Prefix of the names of all segments.
    pub const SEGMENTS: &str = "s/";
    /// Prefix of the names of all files `pruned`.
    pub const PRUNED: &str = "p/";

    /// Prefix of the names of its parts.
    pub fn prefix(self) -> String {
        match self {
            Self::Snapshot { seq } => format!("{}{seq:020}.", Self::SNAPSHOTS),
            Self::Segment { first, last } => format!("{}{first:020}-{last:020}.", Self::SEGMENTS),
            Self::Pruned { last, run } => format!("{}{last:020}-{run:010}.", Self::PRUNED),
        }
    }
}

/// An object of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// Which copy of which backup this is.
    Id,
    /// The wraps of a master key.
    Key(KeyId),
    /// The claim of a run.
    Claim(Run),
    /// The heartbeat of a run.
    Heartbeat(Run),
    /// The manifest.
    Manifest(u32),
    /// A part of a file.
    Part(File, Part),
    /// A catalog of consecutive segments.
    Catalog {
        /// Seq of the first record of the first one.
        first: u64,
        /// Seq of the last record of the last one.
        last: u64,
    },
    /// Bytes of a log.
    Tail(Tail),
}

/// The name of an object with bytes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tail {
    /// First seq of the log.
    pub log: u64,
    /// The run that shipped it.
    pub run: Run,
    /// Its number among the objects of this log and run, from 0 on.
    pub number: u32,
}

impl Object {
    /// Prefix of the names of all claims.
    pub const CLAIMS: &str = "w/";
    /// Prefix of the names of all heartbeats.
    pub const HEARTBEATS: &str = "h/";
    /// Prefix of the names of all key files.
    pub const KEYS: &str = "k/";
    /// Prefix of the names of all manifests.
    pub const MANIFESTS: &str = "m/";
    /// Prefix of the names of all catalogs.
    pub const CATALOGS: &str = "c/";
    /// Prefix of the names of all objects with bytes of logs.
    pub const TAILS: &str = "t/";

    /// Prefix of the names of the objects with bytes of a log.
    pub fn tails_of(log: u64) -> String {
        format!("{}{log:020}/", Self::TAILS)
    }

    /// The object with this name; `None` for a name that no object of a copy has.
    pub fn parse(name: &str) -> Option<Self> {
        let object = Self::parse_leniently(name)?;
        // One name per object.
        (object.to_string() == name).then_some(object)
    }

    fn parse_leniently(name: &str) -> Option<Self> {
        if name == ID {
            return Some(Self::Id);
        }
        let (kind, rest) = name.split_once('/')?;
        match kind {
            "k" => rest.parse().ok().map(Self::Key),
            "w" => rest.parse().ok().map(Self::Claim),
            "h" => rest.parse().ok().map(Self::Heartbeat),
            "m" => rest.parse().ok().map(Self::Manifest),
            "c" => {
                let (first, last) = rest.split_once('-')?;
                Some(Self::Catalog { first: first.parse().ok()?, last: last.parse().ok()? })
            }
            "t" => {
                let (log, rest) = rest.split_once('/')?;
                let (run, number) = rest.split_once('.')?;
                Some(Self::Tail(Tail { log: log.parse().ok()?, run: run.parse().ok()?, number: number.parse().ok()? }))
            }
            _ => {
                let (file, part) = rest.split_once('.')?;
                let (number, of) = part.split_once('-')?;
                let part = Part { number: number.parse().ok()?, of: of.parse().ok()? };
                let file = match kind {
                    "s" => {
                        let (first, last) = file.split_once('-')?;
                        File::Segment { first: first.parse().ok()?, last: last.parse().ok()? }
                    }
                    "x" => File::Snapshot { seq: file.parse().ok()? },
                    "p" => {
                        let (last, run) = file.split_once('-')?;
                        File::Pruned { last: last.parse().ok()?, run: run.parse().ok()? }
                    }
                    _ => return None,
                };
                (1..=part.of).contains(&part.number).then_some(Self::Part(file, part))
            }
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Id => f.write_str(ID),
            Self::Key(id) => write!(f, "{}{id}", Self::KEYS),
            Self::Claim(run) => write!(f, "{}{run}", Self::CLAIMS),
            Self::Heartbeat(run) => write!(f, "{}{run}", Self::HEARTBEATS),
            Self::Manifest(number) => write!(f, "{}{number:010}", Self::MANIFESTS),
            Self::Part(file, Part { number, of }) => write!(f, "{}{number:06}-{of:06}", file.prefix()),
            Self::Catalog { first, last } => write!(f, "{}{first:020}-{last:020}", Self::CATALOGS),
            Self::Tail(Tail { log, run, number }) => write!(f, "{}{run}.{number:010}", Self::tails_of(log)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Object> {
        let run = Run { epoch: 7, random: 0xab };
        let part = Part { number: 2, of: 3 };
        vec![
            Object::Id,
            Object::Key(KeyId::new([1; 8])),
            Object::Claim(run),
            Object::Heartbeat(run),
            Object::Manifest(1),
            Object::Part(File::Segment { first: 1, last: u64::MAX }, part),
            Object::Part(File::Snapshot { seq: 5 }, part),
            Object::Part(File::Pruned { last: 5, run: 1 }, part),
            Object::Catalog { first: 1, last: 900 },
            Object::Tail(Tail { log: 9, run, number: 4 }),
        ]
    }

    #[test]
    fn names_are_those_of_the_table_and_parse_back() {
        let names: Vec<String> = all().iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "id",
                "k/0101010101010101",
                "w/0000000007-000000ab",
                "h/0000000007-000000ab",
                "m/0000000001",
                "s/00000000000000000001-18446744073709551615.000002-000003",
                "x/00000000000000000005.000002-000003",
                "p/00000000000000000005-0000000001.000002-000003",
                "c/00000000000000000001-00000000000000000900",
                "t/00000000000000000009/0000000007-000000ab.0000000004",
            ]
        );
        for (object, name) in all().into_iter().zip(names) {
            assert_eq!(Object::parse(&name), Some(object));
        }
    }

    #[test]
    fn anything_else_is_no_object() {
        for name in [
            "",
            "id/",
            "k/01",
            "w/7-ab",
            "w/0000000007-000000AB",
            "m/1",
            "s/00000000000000000001-00000000000000000002.000000-000003",
            "s/00000000000000000001-00000000000000000002.000004-000003",
            "x/00000000000000000005.000002",
            "y/00000000000000000005.000002-000003",
            "t/00000000000000000009/0000000007-000000ab",
            "c/1-900",
            "t/9/0000000007-000000ab.0000000004",
        ] {
            assert_eq!(Object::parse(name), None, "{name}");
        }
    }
}
