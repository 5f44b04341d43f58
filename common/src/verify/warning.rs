//! Damage of the node's own database, which the backup has as it was.

use format::units::DataVersion;

/// Something for the operator that is no damage of the backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Foreign keys are violated, as they already were in the snapshot from the node.
    #[error(
        "the node's own database violates foreign keys{}: {found} in version {data_version}, and so it was when version \
         {snapshot} was copied from it. The backup has what the node had", number(*rows)
    )]
    ForeignKeys {
        /// The version that was checked.
        data_version: DataVersion,
        /// The version that was copied from the node.
        snapshot: DataVersion,
        /// Number of violating rows, if known.
        rows: Option<u64>,
        /// The first violation.
        found: String,
    },
    /// A snapshot is of a damaged database.
    #[error(
        "the node's own database was damaged when version {data_version} was copied from it ({found}). The backup has what the \
         node had; `backupfs restore` needs --accept-damaged for versions from there on, up to the next snapshot"
    )]
    NodeDatabase {
        /// The version that was copied.
        data_version: DataVersion,
        /// SQLite's message.
        found: String,
    },
}

impl Warning {
    /// Name of the kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ForeignKeys { .. } => "foreign_keys",
            Self::NodeDatabase { .. } => "node_database",
        }
    }

    /// The version concerned.
    pub fn data_version(&self) -> DataVersion {
        match self {
            Self::ForeignKeys { data_version, .. } | Self::NodeDatabase { data_version, .. } => *data_version,
        }
    }
}

fn number(rows: Option<u64>) -> String {
    rows.map_or_else(String::new, |rows| format!(" ({rows} times)"))
}
