//! [`Report`]: everything that was found about a database, and the [`Verdict`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::preflight::backup_evidence::{BackupEvidence, Between, LastRun};
use crate::preflight::deadlines::{AsOf, Deadline};
use crate::preflight::finding::{Bearing, Finding};
use crate::preflight::key_file::NodeKeys;
use crate::preflight::revocations::{ChannelEvidence, Standing};
use crate::preflight::witness::{Witness, WitnessSeen};
use crate::spool::{BehindSpool, SpoolStatus};
use format::manifest::NodeId;
use format::units::{DataVersion, Timestamp};
use format::version_rules::Commit;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against a start.
    Current,
    /// The database is an old state: do not start.
    Stale,
    /// It could not be found out.
    Unknown,
}

/// Whether keys are those of the node of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// They are, or the database does not say which node it is of.
    NotExcluded,
    /// They are of another node.
    OtherNode,
}

/// Everything that was found about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The database.
    pub database: PathBuf,
    /// Its version; `None` if it cannot be read.
    pub data_version: Option<DataVersion>,
    /// The id of its node, if it has one.
    pub node_id: Option<NodeId>,
    /// The newest block that the node had seen.
    pub last_block: Option<u32>,
    /// The time that the database is of.
    pub as_of: Option<AsOf>,
    /// The files `emergency.recover` that were read.
    pub witnesses: Vec<WitnessSeen>,
    /// The channels: those of the database that are not closed, and those of the witnesses.
    pub channels: Vec<ChannelEvidence>,
    /// HTLCs that have run out, by their deadlines.
    pub deadlines: Vec<Deadline>,
    /// The backup, if it was compared.
    pub backup: Option<BackupEvidence>,
    /// Everything that was found, in the order in which it was.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            data_version: None,
            node_id: None,
            last_block: None,
            as_of: None,
            witnesses: Vec::new(),
            channels: Vec::new(),
            deadlines: Vec::new(),
            backup: None,
            findings: Vec::new(),
        }
    }

    /// The verdict: that of the gravest finding.
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(Finding::bearing).max() {
            Some(Bearing::Stale) => Verdict::Stale,
            Some(Bearing::Unknown) => Verdict::Unknown,
            // Without a finding nothing was found out, but there is always one.
            Some(Bearing::Note) => Verdict::Current,
            None => Verdict::Unknown,
        }
    }

    /// Whether a channel has fewer revocations than a witness. Unlike an old version, that is a fact about money.
    pub fn is_revoked(&self) -> bool {
        self.channels.iter().any(|channel| matches!(channel.standing, Standing::Behind { .. }))
    }

    /// Whether the only thing against the database is that the backup has newer versions, between which nothing was revoked.
    pub fn is_free_to_go_back(&self) -> bool {
        let against: Vec<_> = self.findings.iter().filter(|finding| finding.bearing() > Bearing::Note).collect();
        let is_free = |evidence: &BackupEvidence| evidence.between.as_ref().is_some_and(Between::is_nothing);
        matches!(against.as_slice(), [Finding::Backup(evidence)] if is_free(evidence))
    }

    /// The channels with fewer revocations than a witness.
    pub fn revoked(&self) -> impl Iterator<Item = &ChannelEvidence> {
        self.channels.iter().filter(|channel| matches!(channel.standing, Standing::Behind { .. }))
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds whether the keys are those of the node of the database.
    pub(super) fn add_keys(&mut self, keys: &NodeKeys) -> Fit {
        let path = || keys.path().to_owned();
        let (finding, fit) = match (self.node_id, keys.node_id()) {
            (None, _) => (Finding::NodeUnknown, Fit::NotExcluded),
            (Some(ours), Some(theirs)) if ours == theirs => (Finding::KeysFit { path: path() }, Fit::NotExcluded),
            (Some(ours), theirs) => (Finding::KeysOfOtherNode { path: path(), theirs, ours }, Fit::OtherNode),
        };
        self.add(finding);
        if let Some(mode) = keys.open_to_others() {
            self.add(Finding::KeysOpenToOthers { path: path(), mode });
        }
        fit
    }

    /// Adds the channels, and what follows from them. There is at least one witness.
    pub(super) fn add_revocations(&mut self, channels: Vec<ChannelEvidence>, witnesses: &[Witness]) {
        let written_at = witnesses.iter().map(Witness::written_at).max().unwrap_or_else(Timestamp::now);
        let count = |is: fn(Standing) -> bool| channels.iter().filter(|channel| is(channel.standing)).count();
        let behind = |standing| match standing {
            Standing::Behind { by } => Some(by),
            _ => None,
        };
        let most = channels.iter().filter_map(|channel| behind(channel.standing)).max();
        let ahead = count(|it| matches!(it, Standing::Ahead { .. }));
        let compared = ahead + count(|it| it == Standing::Equal);
        match most {
            Some(most) => {
                let channels = count(|it| matches!(it, Standing::Behind { .. }));
                self.findings.push(Finding::Revoked { channels, most, written_at });
            }
            None if compared > 0 => self.findings.push(Finding::NotRevoked { compared, ahead, written_at }),
            None if channels.is_empty() => self.findings.push(Finding::NoChannels { written_at }),
            None => self.findings.push(Finding::NothingCompared),
        }
        match count(|it| it == Standing::NotInWitness) {
            0 => {}
            channels => self.findings.push(Finding::NotInWitness { channels }),
        }
        match count(|it| it == Standing::NotCounted) {
            0 => {}
            channels => self.findings.push(Finding::NotCounted { channels }),
        }
        for channel in &channels {
            match channel.standing {
                Standing::NotInDatabase => self.findings.push(Finding::NotInDatabase(channel.channel_id)),
                Standing::Closed => self.findings.push(Finding::Closed(channel.channel_id)),
                Standing::ClosedTooEarly => self.findings.push(Finding::ClosedTooEarly(channel.channel_id)),
                Standing::Equal
                | Standing::Ahead { .. }
                | Standing::Behind { .. }
                | Standing::NotInWitness
                | Standing::NotCounted => {}
            }
        }
        self.channels = channels;
    }

    /// Adds how the database relates to the backup.
    pub(super) fn add_backup(&mut self, evidence: BackupEvidence) {
        self.add(Finding::Backup(evidence.clone()));
        self.backup = Some(evidence);
    }

    /// Adds whether the spool of the backup has newer versions than the database.
    pub(super) fn add_spool(&mut self, sight: &SpoolStatus, version: DataVersion, last_run: LastRun) {
        match sight {
            SpoolStatus::Complete => {}
            SpoolStatus::Behind(BehindSpool { path, to_version: Some(newest), commit: Commit::Unknown, .. })
                if newest.distance_from(version) == 1 =>
            {
                self.add(Finding::SpoolUncommitted { path: path.clone(), newest: *newest, last_run });
            }
            SpoolStatus::Behind(BehindSpool { path, to_version: Some(newest), .. })
                if newest.distance_from(version) > 0 =>
            {
                self.add(Finding::BehindSpool { path: path.clone(), newest: *newest });
            }
            SpoolStatus::Behind(BehindSpool { to_version: Some(_), .. }) => {}
            SpoolStatus::Behind(BehindSpool { path, to_version: None, .. }) => {
                self.add(Finding::SpoolUnknown {
                    path: path.clone(),
                    reason: "none of its changes is a version".to_owned(),
                });
            }
            SpoolStatus::OutOfSight { host, path } => {
                self.add(Finding::SpoolOutOfSight { path: path.clone(), host: host.clone() });
            }
            SpoolStatus::Unreadable { path, reason } => {
                self.add(Finding::SpoolUnknown { path: path.clone(), reason: reason.clone() });
            }
        }
    }

    /// Adds the HTLCs that have run out.
    pub(super) fn add_deadlines(&mut self, deadlines: Vec<Deadline>, as_of: Option<AsOf>, last_block: Option<u32>) {
        if !deadlines.is_empty() {
            let channels: BTreeSet<_> = deadlines.iter().map(|deadline| deadline.channel_id).collect();
            self.add(Finding::Deadlines { htlcs: deadlines.len(), channels: channels.len() });
        }
        self.deadlines = deadlines;
        self.as_of = as_of;
        self.last_block = last_block;
    }
}
