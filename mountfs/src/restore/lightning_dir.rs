//! [`LightningDir`]: the directory of a node, checked before anything is made for it.

use std::io;
use std::path::{Path, PathBuf};

use common::expect_openable;

use crate::restore::running_node::RunningNode;

/// The default name of a node's database in its directory.
pub const DATABASE_NAME: &str = "lightningd.sqlite3";

/// The file with the node's keys, beside its database.
pub const HSM_SECRET: &str = "hsm_secret";

/// The networks that have a directory in `~/.lightning`.
const NETWORKS: [&str; 6] = ["bitcoin", "testnet", "testnet4", "signet", "regtest", "liquid"];

/// The path of an existing directory, without links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LightningDir(PathBuf);

/// The reason why nothing is made for the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LightningDirError {
    /// The directory does not exist.
    #[error("{} is not a lightning-dir; name the node's directory, for example ~/.lightning/bitcoin", .path.display())]
    NotThere {
        /// The path as given.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The path is no directory.
    #[error("{} is not a directory; name the node's directory, for example ~/.lightning/bitcoin", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is the one above those of the networks.
    #[error(transparent)]
    AboveNetworks(#[from] AboveNetworks),
    /// The node runs; it would not use the new files before its next start.
    #[error("{0}: stop lightningd first (`lightning-cli stop`), and do it again")]
    NodeRuns(RunningNode),
    /// The directory cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The error for a directory that no node uses: it has one for each network, and a node uses one of these.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} has a directory for each network; name that: {}", .directory.display(), .network.display())]
pub struct AboveNetworks {
    directory: PathBuf,
    network: PathBuf,
}

impl LightningDir {
    /// The directory at this path.
    ///
    /// # Errors
    /// When it does not exist, or is no directory.
    pub fn find(named: &Path) -> Result<Self, LightningDirError> {
        let path =
            named.canonicalize().map_err(|source| LightningDirError::NotThere { path: named.to_owned(), source })?;
        if path.is_dir() { Ok(Self(path)) } else { Err(LightningDirError::NotADirectory(named.to_owned())) }
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The usual database, if there is one.
    pub fn usual_database(&self) -> Option<PathBuf> {
        let database = self.0.join(DATABASE_NAME);
        database.symlink_metadata().is_ok().then_some(database)
    }

    /// Whether the node has run with its database elsewhere: its keys are here, but no database.
    pub fn has_its_database_elsewhere(&self) -> bool {
        self.usual_database().is_none() && self.0.join(HSM_SECRET).exists()
    }

    /// Checks that no node runs in the directory or has this database open. For another process that has it open, and may only
    /// read it, it logs a warning.
    ///
    /// # Errors
    /// [`LightningDirError::NodeRuns`], or [`LightningDirError::Read`].
    pub fn expect_stopped(&self, database: Option<&Path>) -> Result<(), LightningDirError> {
        let found =
            RunningNode::find(&self.0).map_err(|source| LightningDirError::Read { path: self.0.clone(), source })?;
        match found.or_else(|| database.and_then(RunningNode::with_open)) {
            None => Ok(()),
            Some(other) if !other.is_lightningd() => {
                log::warn!("{other}: if that process writes to it, stop it first, and do this again");
                Ok(())
            }
            Some(node) => Err(LightningDirError::NodeRuns(node)),
        }
    }
}

/// Checks that it is not the directory above those of the networks, where the plugin would not find its `backup.lock`, nor
/// `lightningd` its database. Old nodes had their files there, but a node with its keys in the directory of a network has not.
///
/// # Errors
/// [`AboveNetworks`], with the directory that is probably meant.
pub fn expect_one_network(directory: &Path) -> Result<(), AboveNetworks> {
    let networks = NETWORKS.iter().map(|name| directory.join(name)).filter(|path| path.is_dir());
    let (with_keys, others): (Vec<_>, Vec<_>) = networks.partition(|path| path.join(HSM_SECRET).exists());
    let others = others.into_iter().filter(|_| expect_openable(&directory.join(DATABASE_NAME)).is_err());
    let network = with_keys.into_iter().chain(others).next();
    network.map_or(Ok(()), |network| Err(AboveNetworks { directory: directory.to_owned(), network }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_node_is_looked_for_in_the_directory_of_its_network() {
        let dir = tempfile::tempdir().unwrap();
        let (above, network) = (dir.path(), dir.path().join("bitcoin"));
        assert_eq!(expect_one_network(above), Ok(()));
        fs::create_dir_all(above.join("plugins")).unwrap();
        assert_eq!(expect_one_network(above), Ok(()));
        fs::create_dir_all(&network).unwrap();
        let refused = Err(AboveNetworks { directory: above.to_owned(), network: network.clone() });
        assert_eq!(expect_one_network(above), refused);
        assert_eq!(expect_one_network(&network), Ok(()));
        // A node of long ago, before there were networks.
        fs::write(above.join(DATABASE_NAME), "").unwrap();
        assert_eq!(expect_one_network(above), Ok(()));
        // Restored there by mistake.
        fs::write(network.join(HSM_SECRET), "").unwrap();
        assert_eq!(expect_one_network(above), refused);
    }
}
