//! [`StaticBackup`]: the channels in a decrypted `emergency.recover`.
//!
//! The layout is that of the messages `static_chan_backup` (6135, until v24.11) and `static_chan_backup_with_tlvs` (6137) in
//! `common/scb_wire.csv` of Core Lightning:
//!
//! | field | bytes |
//! | --- | --- |
//! | type: 6135 or 6137 | 2 |
//! | version: the bits of `0x5555555555555555` must be those of 1 | 8 |
//! | timestamp: Unix seconds | 4 |
//! | number of channels | 2 |
//! | channels | |
//!
//! and of each channel:
//!
//! | field | bytes |
//! | --- | --- |
//! | id: that of the row in table `channels` | 8 |
//! | channel id | 32 |
//! | node id of the peer | 33 |
//! | unused; only in 6135 | 1 |
//! | address of the peer: type, bytes, port | 1 + n + 2 |
//! | funding transaction and output | 32 + 4 |
//! | funding, in satoshis | 8 |
//! | channel type: length, features | 2 + n |
//! | length of the TLVs; only in 6137 | 4 |
//! | TLVs; only in 6137 | |
//!
//! TLV 1 is the shachain of the peer's secrets: `min_index` (8), `num_valid` (4), and for each secret its index (8) and the secret
//! (32). The others (3 basepoints, 5 opener, 7 delay) are skipped, as are unknown ones of odd type.

use crate::shachain::{ImpossibleShachain, KNOWN_MAX, Revocations};
use crate::wire::{Reader, Short};

/// The type of the message of older releases.
const LEGACY: u16 = 6135;

/// The type of the message with TLVs.
const WITH_TLVS: u16 = 6137;

/// The version that `lightningd` writes, and the bits of it that a reader must know (`plugins/chanbackup.c`).
const VERSION: u64 = 1;
const VERSION_MASK: u64 = 0x5555_5555_5555_5555;

/// The type of the TLV with the shachain.
const TLV_SHACHAIN: u64 = 1;

/// The types of TLVs that `lightningd` writes. All are odd: an even one is of a release that must be understood.
const IS_EVEN: u64 = 2;

/// The id of a channel, as `listpeerchannels` shows it.
pub type ChannelId = [u8; 32];

/// The contents of `emergency.recover` that show whether a database is an old state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticBackup {
    /// Time at which the file was written, in Unix seconds, by the clock of the node.
    pub timestamp: u32,
    /// The channels that the node had, without those that were closed.
    pub channels: Vec<BackedUpChannel>,
}

/// A channel in `emergency.recover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackedUpChannel {
    /// The id of its row in the table `channels`.
    pub row: u64,
    /// Channel id.
    pub channel_id: ChannelId,
    /// The node id of the peer.
    pub peer: [u8; 33],
    /// Number of commitments that the peer has revoked; `None` in the file of a release that did not write it.
    pub revocations: Option<Revocations>,
}

/// The reason why decrypted bytes are no static backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StaticBackupError {
    /// The bytes end within a field.
    #[error("it ends within its {within}")]
    Short {
        /// The part that is not complete.
        within: &'static str,
    },
    /// The bytes are another message.
    #[error(
        "it has message type {found}, not {LEGACY} or {WITH_TLVS}: a release of lightningd that is not known here wrote it"
    )]
    OtherMessage {
        /// The type found.
        found: u16,
    },
    /// The static backup is of a newer release.
    #[error("its version is {found}, which is not known here: a newer lightningd wrote it")]
    OtherVersion {
        /// The version found.
        found: u64,
    },
    /// The length of an address follows from its type, which is unknown.
    #[error("channel {number} has an address of the unknown type {found}: a newer lightningd wrote it")]
    OtherAddress {
        /// The number of the channel, from 1.
        number: usize,
        /// The type found.
        found: u8,
    },
    /// A TLV that must be understood.
    #[error("channel {number} has the unknown field {found}, which must be understood: a newer lightningd wrote it")]
    OtherField {
        /// The number of the channel, from 1.
        number: usize,
        /// The type of the TLV.
        found: u64,
    },
    /// A shachain that cannot be.
    #[error("channel {number}: {source}")]
    Shachain {
        /// The number of the channel, from 1.
        number: usize,
        /// The error in its fields.
        source: ImpossibleShachain,
    },
}

impl StaticBackup {
    /// Reads the decrypted bytes. What follows the channels is of a newer release, and ignored, as `lightningd` does.
    ///
    /// # Errors
    /// When the bytes do not have this layout.
    pub fn decode(bytes: &[u8]) -> Result<Self, StaticBackupError> {
        let mut reader = Reader::new(bytes);
        let within = |within| move |Short| StaticBackupError::Short { within };
        let found = reader.u16().map_err(within("type"))?;
        let layout = match found {
            LEGACY => Layout::Legacy,
            WITH_TLVS => Layout::WithTlvs,
            _ => return Err(StaticBackupError::OtherMessage { found }),
        };
        let version = reader.u64().map_err(within("version"))?;
        if version & VERSION_MASK != VERSION & VERSION_MASK {
            return Err(StaticBackupError::OtherVersion { found: version });
        }
        let timestamp = reader.u32().map_err(within("timestamp"))?;
        let count = reader.u16().map_err(within("number of channels"))?;
        // Nothing is reserved for the number: each channel is paid for by its bytes.
        let channels =
            (1..=usize::from(count)).map(|number| channel(&mut reader, layout, number)).collect::<Result<_, _>>()?;
        Ok(Self { timestamp, channels })
    }
}

/// The two layouts of a channel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Legacy,
    WithTlvs,
}

fn channel(reader: &mut Reader<'_>, layout: Layout, number: usize) -> Result<BackedUpChannel, StaticBackupError> {
    let short = |Short| StaticBackupError::Short { within: "channels" };
    let row = reader.u64().map_err(short)?;
    let channel_id = reader.array().map_err(short)?;
    let peer = reader.array().map_err(short)?;
    if layout == Layout::Legacy {
        reader.u8().map_err(short)?;
    }
    skip_address(reader, number)?;
    let funding = 32 + 4 + 8;
    reader.bytes(funding).map_err(short)?;
    let features = reader.u16().map_err(short)?;
    reader.bytes(features.into()).map_err(short)?;
    let revocations = match layout {
        Layout::Legacy => None,
        Layout::WithTlvs => {
            let len = reader.u32().map_err(short)?;
            // A length that does not fit into memory is longer than the bytes, too.
            let tlvs = reader.bytes(usize::try_from(len).unwrap_or(usize::MAX)).map_err(short)?;
            revocations_in(Reader::new(tlvs), number)?
        }
    };
    Ok(BackedUpChannel { row, channel_id, peer, revocations })
}

/// Skips the address of a peer (`fromwire_wireaddr` in `common/wireaddr.c`).
fn skip_address(reader: &mut Reader<'_>, number: usize) -> Result<(), StaticBackupError> {
    let short = |Short| StaticBackupError::Short { within: "channels" };
    let len = match reader.u8().map_err(short)? {
        // IPv4, IPv6, Tor version 2 and 3, DNS name.
        1 => 4,
        2 => 16,
        3 => 10,
        4 => 35,
        5 => reader.u8().map_err(short)?.into(),
        found => return Err(StaticBackupError::OtherAddress { number, found }),
    };
    let port = 2;
    reader.bytes(len + port).map(drop).map_err(short)
}

/// The revocations in the TLVs of a channel.
fn revocations_in(mut tlvs: Reader<'_>, number: usize) -> Result<Option<Revocations>, StaticBackupError> {
    let short = |Short| StaticBackupError::Short { within: "fields" };
    let mut revocations = None;
    while !tlvs.is_at_end() {
        let kind = tlvs.big_size().map_err(short)?;
        let len = tlvs.big_size().map_err(short)?;
        let value = tlvs.bytes(usize::try_from(len).unwrap_or(usize::MAX)).map_err(short)?;
        match kind {
            TLV_SHACHAIN => revocations = Some(shachain(Reader::new(value), number)?),
            _ if kind.is_multiple_of(IS_EVEN) => return Err(StaticBackupError::OtherField { number, found: kind }),
            _ => {}
        }
    }
    Ok(revocations)
}

/// The revocations of a shachain. Its secrets are not looked at, but must be there.
fn shachain(mut value: Reader<'_>, number: usize) -> Result<Revocations, StaticBackupError> {
    let short = |Short| StaticBackupError::Short { within: "shachain" };
    let min_index = value.u64().map_err(short)?;
    let num_valid = value.u32().map_err(short)?;
    let revocations = Revocations::of_shachain(min_index, num_valid.into())
        .map_err(|source| StaticBackupError::Shachain { number, source })?;
    for _ in 0..num_valid.min(KNOWN_MAX) {
        let index_and_secret = 8 + 32;
        value.bytes(index_and_secret).map_err(short)?;
    }
    Ok(revocations)
}

#[cfg(test)]
mod tests;
