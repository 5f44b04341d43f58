//! The check that the database belongs to the node of the backup.

use super::{BackupWriter, Goes};
use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::parity::replacing::replace_protected;
use crate::recording::record_error::RecordError;
use format::manifest::Manifest;
use format::parity::Protected;
use format::units::DataVersion;
use format::units::Hex;
use format::version_rules::Commit;

/// The schedule of checks of the database for its node id.
///
/// A new node has its id some transactions after its first; a check costs a millisecond, so it is made at the 1st, 2nd, 4th, 8th,
/// … write until the id has been read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity {
    Unchecked { writes: u32, next_look: u32 },
    Checked,
}

impl Default for Identity {
    fn default() -> Self {
        Self::Unchecked { writes: 0, next_look: 1 }
    }
}

impl BackupWriter {
    /// Checks at intervals that the database belongs to the node of the backup.
    pub(super) fn check_identity(&mut self, committed: DataVersion) -> Result<(), RecordError> {
        let Identity::Unchecked { writes, next_look } = &mut self.known.identity else {
            return Ok(());
        };
        *writes = writes.saturating_add(1);
        if writes < next_look {
            return Ok(());
        }
        let is_first = *writes == 1;
        *next_look = next_look.saturating_mul(2);
        match LiveDatabase::open(&self.known.database) {
            Ok(database) => {
                // A pending comparison reports this itself.
                if is_first && self.known.commit != Commit::Unknown {
                    self.warn_of_another_database(&database, committed);
                }
                self.compare_node_id(&database)
            }
            // This check is additional to the version rules, which suffice when the file cannot be read now.
            Err(LiveDatabaseError::Busy { .. }) => Ok(()),
            Err(LiveDatabaseError::Missing { path }) => {
                if is_first {
                    log::warn!(
                        "there is no {}, so lightningd has its database elsewhere: `wallet=` in its config, or `--wallet`, says \
                         where. Name it as \"database\" in backup.lock: when lightningd has once run without this plugin, writes \
                         are refused without it",
                        path.display()
                    );
                }
                Ok(())
            }
            Err(error) => {
                log::warn!("cannot check whose database this is: {error}");
                Ok(())
            }
        }
    }

    /// Warns at the beginning of a run, not only when a snapshot is needed, that `lightningd` uses another file.
    fn warn_of_another_database(&self, database: &LiveDatabase, committed: DataVersion) {
        match database.data_version() {
            Ok(found) if found != committed => {
                log::warn!("{}", RecordError::WrongDatabase { path: self.known.database.clone(), found, committed });
            }
            Ok(_) => {}
            Err(error) => log::warn!("cannot check whether lightningd uses this database: {error}"),
        }
    }

    pub(super) fn compare_node_id(&mut self, database: &LiveDatabase) -> Result<(), RecordError> {
        let found = match database.node_id() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) => {
                log::warn!("cannot check whose database this is: {error}");
                return Ok(());
            }
        };
        match self.known.manifest.node_id {
            Some(expected) if expected != found => {
                // Until the database is the right one, every write is checked.
                self.known.identity = Identity::default();
                Err(RecordError::OtherNode {
                    path: self.known.database.clone(),
                    found,
                    expected,
                    url: self.known.url.clone(),
                })
            }
            Some(_) => {
                self.known.identity = Identity::Checked;
                Ok(())
            }
            // The id is recorded when the backup is reachable again.
            None if matches!(self.goes, Goes::ToSpool(_)) => Ok(()),
            None => {
                let learned = Manifest { node_id: Some(found), ..self.known.manifest.clone() };
                match replace_protected(&*self.directory, Protected::Manifest, &learned.encode()) {
                    Ok(()) => {
                        log::info!("{} is the backup of node {}", self.known.url, Hex(&found));
                        self.known.manifest = learned;
                        self.known.identity = Identity::Checked;
                    }
                    Err(error) => log::warn!(
                        "cannot note which node this backup is of ({error}: {}); nothing is lost by that, it is tried again",
                        error.source
                    ),
                }
                Ok(())
            }
        }
    }
}
