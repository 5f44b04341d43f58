//! [`Finding`]: one thing that was found, in a sentence, and what it means for the verdict.

use std::fmt;
use std::path::PathBuf;

use crate::preflight::backup_evidence::{BackupEvidence, Between, LastRun, Position};
use format::manifest::NodeId;
use format::units::{DataVersion, Hex, Timestamp, counted};
use secrets::static_backup::ChannelId;

/// What a finding means for the verdict. The gravest one of all decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bearing {
    /// It does not speak against a start.
    Note,
    /// It leaves open whether the database is current.
    Unknown,
    /// The database is an old state.
    Stale,
}

/// A thing that was found. Its text is a sentence, without the full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Channels have fewer revocations than the witness.
    Revoked {
        /// How many there are, and how many revocations the one that lacks most lacks.
        channels: usize,
        /// The most that one of them lacks.
        most: u64,
        /// When the witness was written.
        written_at: Timestamp,
    },
    /// No channel has fewer revocations than the witness.
    NotRevoked {
        /// How many were compared.
        compared: usize,
        /// How many of them are ahead.
        ahead: usize,
        /// When the witness was written.
        written_at: Timestamp,
    },
    /// There is nothing to compare: neither has a channel.
    NoChannels {
        /// When the witness was written.
        written_at: Timestamp,
    },
    /// There are channels, and none of them could be compared.
    NothingCompared,
    /// The witness has a channel that the database does not have.
    NotInDatabase(ChannelId),
    /// The database has channels that the witness does not have.
    NotInWitness {
        /// How many.
        channels: usize,
    },
    /// The witness has no revocations.
    NotCounted {
        /// Of how many channels.
        channels: usize,
    },
    /// The witness has a channel that is closed in the database.
    Closed(ChannelId),
    /// The witness has more revocations of a channel than the database, where it is closed.
    ClosedTooEarly(ChannelId),
    /// No file was named.
    NoWitness,
    /// A file says nothing.
    WitnessUnreadable {
        /// The error.
        reason: String,
    },
    /// There are no keys.
    NoKeys {
        /// The error.
        reason: String,
    },
    /// The keys are those of the node.
    KeysFit {
        /// The file.
        path: PathBuf,
    },
    /// The keys are of another node.
    KeysOfOtherNode {
        /// The file.
        path: PathBuf,
        /// The node that they are of.
        theirs: Option<NodeId>,
        /// The node of the database.
        ours: NodeId,
    },
    /// The database does not say which node it is of.
    NodeUnknown,
    /// Others than the owner can read the keys.
    KeysOpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The database cannot be read.
    DatabaseUnreadable {
        /// The error.
        reason: String,
    },
    /// The database is not one of a `lightningd` that is known here.
    DatabaseNotUnderstood {
        /// The error.
        reason: String,
    },
    /// A transaction was rolled back in a copy.
    RolledBack,
    /// A `lightningd` uses the database.
    NodeRuns {
        /// How it was found.
        node: String,
    },
    /// How the database relates to the backup.
    Backup(BackupEvidence),
    /// The backup cannot be read.
    BackupUnreadable {
        /// The backup.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// The backup is of another node.
    BackupOfOtherNode {
        /// The backup.
        path: PathBuf,
        /// The node of the backup.
        theirs: NodeId,
        /// The node of the database.
        ours: NodeId,
    },
    /// The contents differ from those of the backup.
    Differs {
        /// The version of both.
        version: DataVersion,
        /// What differs.
        tables: Vec<String>,
    },
    /// The contents could not be compared.
    NotCompared {
        /// The error.
        reason: String,
    },
    /// What was revoked between the version of the database and the newest one is not known.
    BetweenUnknown {
        /// The error.
        reason: String,
    },
    /// The spool has newer versions than the database.
    BehindSpool {
        /// The spool.
        path: PathBuf,
        /// Its newest version.
        newest: DataVersion,
    },
    /// The spool has one version more than the database, which `lightningd` may never have committed.
    SpoolUncommitted {
        /// The spool.
        path: PathBuf,
        /// Its newest version.
        newest: DataVersion,
        /// Whether `lightningd` ran on the database last.
        last_run: LastRun,
    },
    /// The spool may have newer versions.
    SpoolUnknown {
        /// The spool.
        path: PathBuf,
        /// Why that is not known.
        reason: String,
    },
    /// The spool is on another machine.
    SpoolOutOfSight {
        /// The spool.
        path: PathBuf,
        /// The machine.
        host: String,
    },
    /// Channels go to chain soon after the start.
    Deadlines {
        /// How many HTLCs have run out.
        htlcs: usize,
        /// How many channels they are in.
        channels: usize,
    },
}

impl Finding {
    /// What it means for the verdict.
    pub fn bearing(&self) -> Bearing {
        match self {
            Self::Revoked { .. } | Self::BehindSpool { .. } => Bearing::Stale,
            Self::Backup(evidence) if evidence.behind() > 0 => Bearing::Stale,
            Self::Backup(evidence) if evidence.is_in_doubt() => Bearing::Unknown,
            Self::SpoolUncommitted { last_run: LastRun::Unknown, .. } => Bearing::Unknown,
            Self::NothingCompared
            | Self::NotInDatabase(_)
            | Self::NotCounted { .. }
            | Self::ClosedTooEarly(_)
            | Self::NoWitness
            | Self::WitnessUnreadable { .. }
            | Self::NoKeys { .. }
            | Self::KeysOfOtherNode { .. }
            | Self::DatabaseUnreadable { .. }
            | Self::DatabaseNotUnderstood { .. }
            | Self::NodeRuns { .. }
            | Self::BackupUnreadable { .. }
            | Self::BackupOfOtherNode { .. }
            | Self::Differs { .. }
            | Self::NotCompared { .. }
            | Self::SpoolUnknown { .. } => Bearing::Unknown,
            Self::NotRevoked { .. }
            | Self::NoChannels { .. }
            | Self::NotInWitness { .. }
            | Self::Closed(_)
            | Self::KeysFit { .. }
            | Self::NodeUnknown
            | Self::KeysOpenToOthers { .. }
            | Self::RolledBack
            | Self::Backup(_)
            | Self::SpoolUncommitted { last_run: LastRun::On, .. }
            | Self::BetweenUnknown { .. }
            | Self::SpoolOutOfSight { .. }
            | Self::Deadlines { .. } => Bearing::Note,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked { channels, most, written_at } => write!(
                f,
                "REVOKED STATE: {} fewer revocations than emergency.recover of {written_at}, by up to {most}. A node that is started on \
                 this database can publish a revoked commitment, and the peer then takes ALL funds of that channel",
                has(*channels, "channel", "has", "have")
            ),
            Self::NotRevoked { compared, ahead, written_at } => {
                let all = counted(*compared, "channel");
                write!(f, "no revocation is missing: {all} compared with emergency.recover of {written_at}")?;
                match ahead {
                    0 => f.write_str(", all equal"),
                    ahead => write!(f, ", of which the database is ahead in {ahead}: that file is older than the database"),
                }
            }
            Self::NoChannels { written_at } => {
                write!(f, "neither the database nor emergency.recover of {written_at} has a channel")
            }
            Self::NothingCompared => f.write_str("no channel could be compared with emergency.recover"),
            Self::NotInDatabase(channel) => write!(
                f,
                "emergency.recover has channel {}, which the database does not have: the database is from before that channel, or the \
                 channel was forgotten and the file is older than that",
                Hex(channel)
            ),
            Self::NotInWitness { channels } => write!(
                f,
                "{} not in emergency.recover, which is older than that; it says nothing about them",
                has(*channels, "open channel", "is", "are")
            ),
            Self::NotCounted { channels } => write!(
                f,
                "emergency.recover has no revocations for {}: an older lightningd wrote it",
                counted(*channels, "channel")
            ),
            Self::Closed(channel) => write!(
                f,
                "channel {} is closed in the database, so emergency.recover is older than that, and its revocations prove nothing",
                Hex(channel)
            ),
            Self::ClosedTooEarly(channel) => write!(
                f,
                "channel {} is closed in the database, but emergency.recover has more revocations of it: the two contradict each other",
                Hex(channel)
            ),
            Self::NoWitness => f.write_str("no emergency.recover was named"),
            Self::WitnessUnreadable { reason } | Self::NoKeys { reason } | Self::DatabaseUnreadable { reason } => {
                f.write_str(reason)
            }
            Self::KeysFit { path } => write!(f, "{} is that of this node", path.display()),
            Self::KeysOfOtherNode { path, theirs, ours } => {
                let theirs = theirs.map_or_else(|| "no node".to_owned(), |id| format!("node {}", Hex(&id)));
                write!(f, "{} is that of {theirs}, but the database is of node {}", path.display(), Hex(ours))
            }
            Self::NodeUnknown => {
                f.write_str("the database does not say which node it is of, so whether hsm_secret fits is not known")
            }
            Self::KeysOpenToOthers { path, mode } => write!(
                f,
                "{} can be read by others than its owner (mode {mode:04o}): `chmod 400` it",
                path.display()
            ),
            Self::DatabaseNotUnderstood { reason } => write!(f, "nothing follows from the channels in the database: {reason}"),
            Self::RolledBack => f.write_str(
                "a crash left the database in the middle of a transaction; this is about the state before that, to which lightningd rolls \
                 it back when it starts",
            ),
            Self::NodeRuns { node } => write!(
                f,
                "{node}: what was read is of that moment, and there is nothing to start; stop it first to have an answer that stays true"
            ),
            Self::Backup(evidence) => backup(f, evidence),
            Self::BackupUnreadable { path, reason } => {
                write!(f, "the backup {} cannot be read to its end: {reason}", path.display())
            }
            Self::BackupOfOtherNode { path, theirs, ours } => write!(
                f,
                "{} is the backup of node {}, but the database is of node {}",
                path.display(),
                Hex(theirs),
                Hex(ours)
            ),
            Self::Differs { version, tables } => write!(
                f,
                "the database is not what the backup has as version {version} (it differs in {}): another program has changed it, or the \
                 node once ran on from an old state",
                some(tables)
            ),
            Self::NotCompared { reason } => write!(f, "the contents could not be compared with the backup: {reason}"),
            Self::BetweenUnknown { reason } => {
                write!(f, "what was revoked between this version and the newest is not known: {reason}")
            }
            Self::BehindSpool { path, newest } => write!(
                f,
                "the spool {} has version {newest}, which is newer than the database: it is an old state",
                path.display()
            ),
            Self::SpoolUncommitted { path, newest, last_run } => {
                write!(f, "the spool {} has one version more, {newest}, {}", path.display(), uncommitted(*last_run))
            }
            Self::SpoolUnknown { path, reason } => {
                write!(f, "whether the spool {} has newer versions is not known: {reason}", path.display())
            }
            Self::SpoolOutOfSight { path, host } => write!(
                f,
                "the node of this backup may have newer changes in {} on {host}, which cannot be seen from here",
                path.display()
            ),
            Self::Deadlines { htlcs, channels } => write!(
                f,
                "{} run out by now, by an estimate of 10 minutes a block: {} to chain within minutes of the start",
                has(*htlcs, "HTLC", "has", "have"),
                has(*channels, "channel", "goes", "go")
            ),
        }
    }
}

/// What a newest version means that `lightningd` may never have committed.
fn uncommitted(last_run: LastRun) -> &'static str {
    match last_run {
        LastRun::On => {
            "which lightningd may have died before it committed. The database is current: lightningd last ran on this very file, as the \
             journal beside it shows"
        }
        LastRun::Unknown => {
            "which lightningd may have died before it committed. The database is current if lightningd last ran on this very file; if it \
             is a copy, or was restored, restore the newest version instead"
        }
    }
}

/// The sentence about a backup.
fn backup(f: &mut fmt::Formatter<'_>, evidence: &BackupEvidence) -> fmt::Result {
    let BackupEvidence { path, newest, recorded_at, position, same, between } = evidence;
    let path = path.display();
    match position {
        Position::Newest => {
            write!(f, "this is the newest version of the backup {path}, of {recorded_at}")?;
            f.write_str(if *same == Some(true) { ", and the contents agree" } else { "" })
        }
        Position::BeforeUncommitted(last_run) => {
            let uncommitted = uncommitted(*last_run);
            write!(f, "the backup {path} has one version more, {newest}, of {recorded_at}, {uncommitted}")?;
            let is_nothing = between.as_ref().is_some_and(Between::is_nothing);
            f.write_str(if is_nothing {
                ". No commitment was revoked in it, and no channel opened or spliced"
            } else {
                ""
            })
        }
        Position::Ahead(versions) => write!(
            f,
            "the database is {} ahead of the backup {path}, whose newest is {newest}, of {recorded_at}: lightningd ran without it",
            counted(*versions, "version")
        ),
        Position::Behind(versions) => {
            write!(
                f,
                "the backup {path} has {} newer than this, up to {newest}, of {recorded_at}: restore that",
                counted(*versions, "version")
            )?;
            let Some(between) = between else { return Ok(()) };
            if between.is_nothing() {
                return f.write_str(
                    ". In between 0 commitments were revoked, and no channel was opened or spliced: going back to this version on purpose is safe, as \
                     far as this can be known",
                );
            }
            let own = between.revoked.iter().filter(|channel| channel.own > 0).count();
            let revoked: u64 = between.revoked.iter().map(|channel| channel.own + channel.theirs).sum();
            write!(
                f,
                ". In between {} revoked in {}, in {own} of them by this node itself, {} opened, and {} spliced or funded anew: going \
                 back to this version costs the funds of those channels",
                has(usize::try_from(revoked).unwrap_or(usize::MAX), "commitment", "was", "were"),
                counted(between.revoked.len(), "channel"),
                has(between.opened, "channel", "was", "were"),
                has(between.funded, "channel", "was", "were"),
            )
        }
    }
}

/// "1 channel has", "2 channels have".
fn has(count: usize, noun: &'static str, one: &str, many: &str) -> String {
    format!("{} {}", counted(count, noun), if count == 1 { one } else { many })
}

/// The first names, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}
