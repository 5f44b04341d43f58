//! [`BackupEvidence`]: how a database relates to the newest version of a backup.

use std::path::PathBuf;

use format::units::{DataVersion, Timestamp};
use secrets::static_backup::ChannelId;

/// How a database relates to a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEvidence {
    /// The backup.
    pub path: PathBuf,
    /// Its newest version, and when that was recorded.
    pub newest: DataVersion,
    /// When the newest version was recorded.
    pub recorded_at: Timestamp,
    /// Where the database is.
    pub position: Position,
    /// Whether the contents of both are the same at the version of the database; `None` where they were not compared.
    pub same: Option<bool>,
    /// What was revoked between the version of the database and the newest; `None` where that is not known, or nothing is newer.
    pub between: Option<Between>,
}

/// Whether the file is the one that `lightningd` ran on last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastRun {
    /// It is: a crash left the journal of a transaction beside it.
    On,
    /// It may be another one: a copy, or restored.
    Unknown,
}

/// Where a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At the newest version.
    Newest,
    /// One version before the newest, which `lightningd` may never have committed. It does not count if `lightningd` ran on this file
    /// last.
    BeforeUncommitted(LastRun),
    /// So many versions behind it.
    Behind(u32),
    /// So many versions ahead of it: `lightningd` ran without the backup.
    Ahead(u32),
}

impl BackupEvidence {
    /// How many versions the database is behind.
    pub fn behind(&self) -> u32 {
        match self.position {
            Position::Behind(versions) => versions,
            Position::Newest | Position::BeforeUncommitted(_) | Position::Ahead(_) => 0,
        }
    }

    /// Whether the newest version counts or not decides about money, and that is not known.
    pub fn is_in_doubt(&self) -> bool {
        let is_nothing = self.between.as_ref().is_some_and(Between::is_nothing);
        self.position == Position::BeforeUncommitted(LastRun::Unknown) && !is_nothing
    }
}

/// What happened to channels between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Between {
    /// Channels of which a commitment was revoked.
    pub revoked: Vec<RevokedBetween>,
    /// How many channels were opened.
    pub opened: usize,
    /// How many channels got another funding transaction: they were spliced, or its fee was raised.
    pub funded: usize,
}

impl Between {
    /// Whether no commitment was revoked, no channel opened, and none funded anew.
    pub fn is_nothing(&self) -> bool {
        self.revoked.is_empty() && self.opened == 0 && self.funded == 0
    }
}

/// A channel with revoked commitments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedBetween {
    /// The channel.
    pub channel_id: ChannelId,
    /// How many commitments the node itself revoked: those are what a peer may punish.
    pub own: u64,
    /// How many commitments the peer revoked.
    pub theirs: u64,
}
