//! [`LightningDir`]: the directory of a node, looked at before anything is made for that.

use std::io;
use std::path::{Path, PathBuf};

use common::expect_openable;

use crate::restore::running_node::RunningNode;

/// The database of a node in its directory, unless it was told otherwise.
pub const DATABASE_NAME: &str = "lightningd.sqlite3";

/// The file with the node's keys, beside its database.
pub const HSM_SECRET: &str = "hsm_secret";

/// Networks that have a directory of their own in `~/.lightning`.
const NETWORKS: [&str; 6] = ["bitcoin", "testnet", "testnet4", "signet", "regtest", "liquid"];

/// A directory that is there, without links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LightningDir(PathBuf);

/// Why nothing is made for the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LightningDirError {
    /// It is not there.
    #[error("{} is not a lightning-dir; name the node's directory, for example ~/.lightning/bitcoin", .path.display())]
    NotThere {
        /// What was named.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a directory; name the node's directory, for example ~/.lightning/bitcoin", .0.display())]
    NotADirectory(PathBuf),
    /// It is the directory above those of the networks.
    #[error(transparent)]
    AboveNetworks(#[from] AboveNetworks),
    /// The node would go on without what is made for it.
    #[error("{0}: stop lightningd first (`lightning-cli stop`), and do it again")]
    NodeRuns(RunningNode),
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// A directory in which no node looks: it has one for each network, and a node runs in one of these.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} has a directory for each network; name that: {}", .directory.display(), .network.display())]
pub struct AboveNetworks {
    directory: PathBuf,
    network: PathBuf,
}

impl LightningDir {
    /// The directory that was named.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(named: &Path) -> Result<Self, LightningDirError> {
        let path =
            named.canonicalize().map_err(|source| LightningDirError::NotThere { path: named.to_owned(), source })?;
        if path.is_dir() { Ok(Self(path)) } else { Err(LightningDirError::NotADirectory(named.to_owned())) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The usual database, if there is one.
    pub fn usual_database(&self) -> Option<PathBuf> {
        let database = self.0.join(DATABASE_NAME);
        database.symlink_metadata().is_ok().then_some(database)
    }

    /// Whether the node has run, and has its database elsewhere: its keys are here, and no database.
    pub fn has_its_database_elsewhere(&self) -> bool {
        self.usual_database().is_none() && self.0.join(HSM_SECRET).exists()
    }

    /// That no node runs on it, nor has this database open. Of another process that has it open, which may only look, a warning
    /// tells.
    ///
    /// # Errors
    /// [`LightningDirError::NodeRuns`], or when that cannot be found out.
    pub fn expect_stopped(&self, database: Option<&Path>) -> Result<(), LightningDirError> {
        let found =
            RunningNode::find(&self.0).map_err(|source| LightningDirError::Read { path: self.0.clone(), source })?;
        match found.or_else(|| database.and_then(RunningNode::with_open)) {
            None => Ok(()),
            Some(other) if !other.is_lightningd() => {
                log::warn!("{other}: if it changes it, stop it first, and do this again");
                Ok(())
            }
            Some(node) => Err(LightningDirError::NodeRuns(node)),
        }
    }
}

/// That it is not the directory above those of the networks, where the plugin would not find its `backup.lock`, nor `lightningd`
/// its database. Nodes of long ago had theirs there: one that has its keys in the directory of a network is none of these.
///
/// # Errors
/// [`AboveNetworks`] names the directory that is meant.
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
