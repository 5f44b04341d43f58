//! What is wrong with the node's own database: the backup holds it as it was.

use format::units::DataVersion;

/// Something that an operator should know, and that is no damage of the backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Rows refer to rows that are not there, and did so already in what the node gave.
    #[error(
        "the node's own database violates foreign keys{}: {found} in version {data_version}, and so it was when version \
         {snapshot} was copied from it. The backup has what the node had", number(*rows)
    )]
    ForeignKeys {
        /// The version in which they were found.
        data_version: DataVersion,
        /// The version that was copied from the node.
        snapshot: DataVersion,
        /// How many rows, as far as it was counted.
        rows: Option<u64>,
        /// The first of them.
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
        /// What SQLite said.
        found: String,
    },
}

impl Warning {
    /// The word for its kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ForeignKeys { .. } => "foreign_keys",
            Self::NodeDatabase { .. } => "node_database",
        }
    }

    /// The version that it is about.
    pub fn data_version(&self) -> DataVersion {
        match self {
            Self::ForeignKeys { data_version, .. } | Self::NodeDatabase { data_version, .. } => *data_version,
        }
    }
}

fn number(rows: Option<u64>) -> String {
    rows.map_or_else(String::new, |rows| format!(" ({rows} times)"))
}
