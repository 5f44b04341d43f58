//! [`ChannelEvidence`]: the revocations of a channel, by the database and by `emergency.recover`.

use std::collections::BTreeMap;

use crate::preflight::channel_state::ChannelState;
use crate::preflight::node_state::{DatabaseChannel, NodeState};
use crate::preflight::witness::Witness;
use secrets::shachain::Revocations;
use secrets::static_backup::ChannelId;

/// What is known of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelEvidence {
    /// The channel.
    pub channel_id: ChannelId,
    /// Its state in the database; `None` if it is not there.
    pub state: Option<ChannelState>,
    /// The revocations that the database has received.
    pub database: Option<Revocations>,
    /// The revocations by the witness; the most, if there are several.
    pub witness: Option<Revocations>,
    /// What follows.
    pub standing: Standing,
}

/// What the two numbers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Both have received the same.
    Equal,
    /// The database has received more.
    Ahead {
        /// How many more.
        by: u64,
    },
    /// The database has received fewer: it is an old state of this channel.
    Behind {
        /// How many fewer.
        by: u64,
    },
    /// The database says that the channel is closed: it cannot be punished any more, and proves nothing.
    Closed,
    /// The database says that the channel is closed, with fewer revocations than the witness has: they contradict each other.
    ClosedTooEarly,
    /// The witness does not have the channel: it is older, or the peer is connected in a way that keeps it out of the file.
    NotInWitness,
    /// The witness has the channel, but the release that wrote it did not write the revocations.
    NotCounted,
    /// The database does not have the channel.
    NotInDatabase,
}

/// Compares all channels. The most revocations count, whichever file they are in: they never go down. Channels that the database does
/// not have are taken from the newest file only: an older one may have channels that were forgotten since.
pub(super) fn compare_revocations(state: &NodeState, witnesses: &[Witness]) -> Vec<ChannelEvidence> {
    let mut by_witness = BTreeMap::<ChannelId, Option<Revocations>>::new();
    for channel in witnesses.iter().flat_map(|witness| &witness.backup.channels) {
        let most = by_witness.entry(channel.channel_id).or_default();
        *most = (*most).max(channel.revocations);
    }
    let mut evidence = Vec::new();
    for channel in &state.channels {
        let witness = by_witness.remove(&channel.channel_id);
        let Some(standing) = standing(channel, witness) else { continue };
        evidence.push(ChannelEvidence {
            channel_id: channel.channel_id,
            state: Some(channel.state),
            database: channel.theirs,
            witness: witness.flatten(),
            standing,
        });
    }
    let newest = witnesses.iter().max_by_key(|witness| witness.written_at());
    for channel in newest.map(|witness| witness.backup.channels.as_slice()).unwrap_or_default() {
        if let Some(witness) = by_witness.remove(&channel.channel_id) {
            evidence.push(ChannelEvidence {
                channel_id: channel.channel_id,
                state: None,
                database: None,
                witness,
                standing: Standing::NotInDatabase,
            });
        }
    }
    evidence
}

/// What the numbers of a channel of the database say; `None` for one that is closed in both.
fn standing(channel: &DatabaseChannel, witness: Option<Option<Revocations>>) -> Option<Standing> {
    let is_closed = channel.state.is_closed();
    Some(match (channel.theirs, witness) {
        (_, None) if is_closed => return None,
        (Some(database), Some(Some(witness))) if is_closed && witness > database => Standing::ClosedTooEarly,
        (_, Some(_)) if is_closed => Standing::Closed,
        (_, None) => Standing::NotInWitness,
        (None, Some(_)) | (_, Some(None)) => Standing::NotCounted,
        (Some(database), Some(Some(witness))) if witness > database => {
            Standing::Behind { by: witness.get() - database.get() }
        }
        (Some(database), Some(Some(witness))) if witness < database => {
            Standing::Ahead { by: database.get() - witness.get() }
        }
        (Some(_), Some(Some(_))) => Standing::Equal,
    })
}
