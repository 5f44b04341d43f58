//! [`NodeState`]: what a database says about its channels and HTLCs.
//!
//! Tables and columns are those of `wallet/migrations.c` of Core Lightning. A database of an old release lacks some of them, and then
//! nothing is concluded from it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use crate::preflight::channel_state::ChannelState;
use crate::replay::reason;
use secrets::shachain::{ImpossibleShachain, Revocations};
use secrets::static_backup::ChannelId;

/// The most rows that are read of a table. The largest nodes have some thousand channels and HTLCs.
const ROWS_MAX: usize = 1 << 20;

/// The tables and columns that are read.
const NEEDED: [(&str, &[&str]); 4] = [
    ("channels", &["id", "full_channel_id", "state", "next_index_local", "shachain_remote_id"]),
    ("shachains", &["id", "min_index", "num_valid"]),
    ("channel_htlcs", &["channel_id", "cltv_expiry", "msatoshi", "hstate"]),
    ("blocks", &["height"]),
];

/// The channels, the HTLCs that are not resolved, and the height of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeState {
    /// The newest block that the node has seen; `None` before the first.
    pub(super) last_block: Option<u32>,
    /// All channels that have an id, those that are closed included.
    pub(super) channels: Vec<DatabaseChannel>,
    /// HTLCs of channels that are not on chain.
    pub(super) htlcs: Vec<DatabaseHtlc>,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatabaseChannel {
    /// Its id.
    pub(super) channel_id: ChannelId,
    /// Its state.
    pub(super) state: ChannelState,
    /// How many commitments the peer has revoked; `None` of a channel that a release before v25.05 closed, which deleted that.
    pub(super) theirs: Option<Revocations>,
    /// The number of the next commitment of the node itself: all before the one in front of it are revoked.
    pub(super) next_own: u64,
    /// The outputs that hold its funds, or will: also those of splices, and of replaced funding transactions. Empty in the tables of
    /// an old release.
    pub(super) fundings: BTreeSet<Outpoint>,
}

/// Id of a transaction, and number of its output.
pub(super) type Outpoint = ([u8; 32], i64);

/// An HTLC that is not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatabaseHtlc {
    /// The channel.
    pub(super) channel_id: ChannelId,
    /// The height of the block at which it runs out.
    pub(super) cltv_expiry: u32,
    /// Its amount, in millisatoshis.
    pub(super) amount_msat: u64,
}

/// Why nothing is concluded from a database.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeStateError {
    /// A table or column is missing.
    #[error(
        "it has no {0}: it is of an old release of lightningd, or not of lightningd at all. Only what lightningd makes of it when it \
         starts could be compared"
    )]
    Missing(String),
    /// A value is not of the kind that `lightningd` writes.
    #[error("column {column} of table {table} has a value that lightningd does not write")]
    Value {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A shachain that cannot be.
    #[error("table shachains has an impossible row")]
    Shachain(#[from] ImpossibleShachain),
    /// There are more rows than any node has.
    #[error("table {0} has more than {ROWS_MAX} rows that are not settled, more than any node")]
    TooMany(&'static str),
    /// SQLite cannot read it.
    #[error("SQLite cannot read it: {}", reason(.0))]
    Sqlite(#[from] rusqlite::Error),
}

impl NodeState {
    /// Reads it, within the transaction of the connection.
    pub(super) fn read(connection: &Connection) -> Result<Self, NodeStateError> {
        for (table, columns) in NEEDED {
            expect_columns(connection, table, columns)?;
        }
        let channels = channels(connection)?;
        let htlcs = htlcs(connection)?;
        let last_block = connection.query_row("SELECT max(height) FROM blocks", [], |row| Ok(height(row)))?;
        let last_block = last_block.map_err(|()| NodeStateError::Value { table: "blocks", column: "height" })?;
        Ok(Self { last_block: last_block.max(last_processed(connection)?), channels, htlcs })
    }
}

/// Checks that a table is there, is no view, and has these columns.
fn expect_columns(connection: &Connection, table: &str, columns: &[&str]) -> Result<(), NodeStateError> {
    let is_table = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND rootpage > 0";
    if connection.query_row(is_table, [table], |row| row.get::<_, i64>(0))? == 0 {
        return Err(NodeStateError::Missing(format!("table {table}")));
    }
    for column in columns {
        let has = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
        if connection.query_row(has, [table, column], |row| row.get::<_, i64>(0))? == 0 {
            return Err(NodeStateError::Missing(format!("column {column} in table {table}")));
        }
    }
    Ok(())
}

fn channels(connection: &Connection) -> Result<Vec<DatabaseChannel>, NodeStateError> {
    const TABLE: &str = "channels";
    let value = |column| move || NodeStateError::Value { table: TABLE, column };
    let mut fundings = fundings(connection)?;
    let mut statement = connection.prepare(
        "SELECT c.full_channel_id, c.state, c.next_index_local, s.id, s.min_index, s.num_valid, c.id \
         FROM channels AS c LEFT JOIN shachains AS s ON s.id = c.shachain_remote_id ORDER BY c.id",
    )?;
    let mut rows = statement.query([])?;
    let mut channels = Vec::new();
    while let Some(row) = rows.next()? {
        let state = ChannelState::new(integer(row, 1)?.ok_or_else(value("state"))?);
        if state.is_uncommitted() {
            continue;
        }
        let channel_id = hash(row)?.ok_or_else(value("full_channel_id"))?;
        let next_own = integer(row, 2)?.and_then(|it| u64::try_from(it).ok()).ok_or_else(value("next_index_local"))?;
        let shachain = |index, column| {
            let number = integer(row, index)?.and_then(|it| u64::try_from(it).ok());
            number.ok_or(NodeStateError::Value { table: "shachains", column })
        };
        let theirs = match integer(row, 3)? {
            Some(_) => Some(Revocations::of_shachain(shachain(4, "min_index")?, shachain(5, "num_valid")?)?),
            // `wallet_stmt2closed_channel` takes it, too.
            None if state.is_closed() => None,
            None => return Err(NodeStateError::Value { table: TABLE, column: "shachain_remote_id" }),
        };
        if channels.len() == ROWS_MAX {
            return Err(NodeStateError::TooMany(TABLE));
        }
        let fundings = integer(row, 6)?.and_then(|id| fundings.remove(&id)).unwrap_or_default();
        channels.push(DatabaseChannel { channel_id, state, theirs, next_own, fundings });
    }
    Ok(channels)
}

/// The fundings of the channels, by their rows: of the channel itself, and of those that are not locked in.
fn fundings(connection: &Connection) -> Result<BTreeMap<i64, BTreeSet<Outpoint>>, NodeStateError> {
    let mut fundings = BTreeMap::<i64, BTreeSet<Outpoint>>::new();
    for (table, id) in [("channels", "id"), ("channel_funding_inflights", "channel_id")] {
        if expect_columns(connection, table, &[id, "funding_tx_id", "funding_tx_outnum"]).is_err() {
            continue;
        }
        let mut statement =
            connection.prepare(&format!("SELECT funding_tx_id, funding_tx_outnum, {id} FROM {table}"))?;
        let mut rows = statement.query([])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            if count == ROWS_MAX {
                return Err(NodeStateError::TooMany(table));
            }
            count += 1;
            if let (Some(transaction), Some(output), Some(id)) = (hash(row)?, integer(row, 1)?, integer(row, 2)?) {
                fundings.entry(id).or_default().insert((transaction, output));
            }
        }
    }
    Ok(fundings)
}

fn htlcs(connection: &Connection) -> Result<Vec<DatabaseHtlc>, NodeStateError> {
    const TABLE: &str = "channel_htlcs";
    let value = |column| move || NodeStateError::Value { table: TABLE, column };
    // The two states in which an HTLC is resolved (`common/htlc_state.h`), written as in lightningd's index of those that are not.
    let mut statement = connection.prepare(
        "SELECT c.full_channel_id, c.state, h.cltv_expiry, h.msatoshi \
         FROM channel_htlcs AS h JOIN channels AS c ON c.id = h.channel_id WHERE h.hstate NOT IN (9, 19)",
    )?;
    let mut rows = statement.query([])?;
    let mut htlcs = Vec::new();
    while let Some(row) = rows.next()? {
        let state = integer(row, 1)?.map(ChannelState::new);
        if state.is_none_or(|state| state.is_on_chain() || state.is_uncommitted()) {
            continue;
        }
        let channel_id = hash(row)?.ok_or(NodeStateError::Value { table: "channels", column: "full_channel_id" })?;
        let cltv_expiry = integer(row, 2)?.and_then(|it| u32::try_from(it).ok()).ok_or_else(value("cltv_expiry"))?;
        let amount_msat = integer(row, 3)?.and_then(|it| u64::try_from(it).ok()).ok_or_else(value("msatoshi"))?;
        if htlcs.len() == ROWS_MAX {
            return Err(NodeStateError::TooMany(TABLE));
        }
        htlcs.push(DatabaseHtlc { channel_id, cltv_expiry, amount_msat });
    }
    Ok(htlcs)
}

/// The newest block by the table `vars`, which newer releases go by; `None` where it is not there.
fn last_processed(connection: &Connection) -> Result<Option<u32>, NodeStateError> {
    if expect_columns(connection, "vars", &["name", "intval"]).is_err() {
        return Ok(None);
    }
    let mut statement = connection.prepare("SELECT intval FROM vars WHERE name = 'last_processed_block'")?;
    let mut rows = statement.query([])?;
    let row = rows.next()?;
    Ok(row.and_then(|row| height(row).ok()).flatten())
}

/// The height of a block in the first column; `None` for NULL.
fn height(row: &Row<'_>) -> Result<Option<u32>, ()> {
    match row.get_ref(0) {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Integer(height)) => u32::try_from(height).map(Some).map_err(drop),
        _ => Err(()),
    }
}

/// An integer; `None` for a value of another type.
fn integer(row: &Row<'_>, index: usize) -> Result<Option<i64>, rusqlite::Error> {
    Ok(row.get_ref(index)?.as_i64().ok())
}

/// The id of a channel or transaction in the first column; `None` for a value that is none.
fn hash(row: &Row<'_>) -> Result<Option<[u8; 32]>, rusqlite::Error> {
    Ok(row.get_ref(0)?.as_blob().ok().and_then(|bytes| bytes.try_into().ok()))
}
