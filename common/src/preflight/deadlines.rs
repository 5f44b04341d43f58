//! [`Deadline`]: an HTLC that has run out by now, as far as that can be estimated.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::preflight::node_state::NodeState;
use format::units::Timestamp;
use secrets::static_backup::ChannelId;

/// The time between two blocks, on average, in microseconds: 10 minutes.
const BLOCK_MICROS: i64 = 600 * 1_000_000;

/// An HTLC that has run out: its channel goes to chain soon after the node starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    /// The channel.
    pub channel_id: ChannelId,
    /// The height of the block at which it runs out.
    pub cltv_expiry: u32,
    /// Its amount, in millisatoshis.
    pub amount_msat: u64,
}

/// The time that the database is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// The backup recorded that version then.
    Recorded(Timestamp),
    /// The file was written then. A copy may be newer than what is in it.
    File(Timestamp),
}

impl AsOf {
    /// The time of a file; `None` when that cannot be read.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        let modified = fs::metadata(path).ok()?.modified().ok()?;
        let micros = modified.duration_since(UNIX_EPOCH).ok()?.as_micros();
        Timestamp::from_micros(i64::try_from(micros).ok()?).map(Self::File)
    }

    /// The time.
    pub fn time(self) -> Timestamp {
        match self {
            Self::Recorded(time) | Self::File(time) => time,
        }
    }
}

/// The HTLCs that have run out, by their deadlines.
pub(super) fn deadlines(state: &NodeState, as_of: Option<AsOf>, now: Timestamp) -> Vec<Deadline> {
    let Some(last_block) = state.last_block else { return Vec::new() };
    let height = height_now(last_block, as_of.map(AsOf::time), now);
    let past = state.htlcs.iter().filter(|htlc| u64::from(htlc.cltv_expiry) < height);
    let mut deadlines: Vec<_> = past
        .map(|htlc| Deadline {
            channel_id: htlc.channel_id,
            cltv_expiry: htlc.cltv_expiry,
            amount_msat: htlc.amount_msat,
        })
        .collect();
    deadlines.sort_by_key(|deadline| (deadline.cltv_expiry, deadline.channel_id));
    deadlines
}

/// The height of the chain by now: one block for every 10 minutes since then. A clock that was set back adds none.
fn height_now(last_block: u32, then: Option<Timestamp>, now: Timestamp) -> u64 {
    let passed = then.map_or(0, |then| now.as_micros().saturating_sub(then.as_micros()).max(0));
    u64::from(last_block) + (passed / BLOCK_MICROS).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::node_state::DatabaseHtlc;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_micros(minutes * 60 * 1_000_000).unwrap()
    }

    #[test]
    fn a_block_comes_every_ten_minutes() {
        assert_eq!(height_now(100, Some(at(0)), at(9)), 100);
        assert_eq!(height_now(100, Some(at(0)), at(10)), 101);
        assert_eq!(height_now(100, Some(at(0)), at(60 * 24)), 244);
        assert_eq!(height_now(100, Some(at(60)), at(0)), 100, "the clock was set back");
        assert_eq!(height_now(u32::MAX, None, at(60)), u64::from(u32::MAX));
    }

    #[test]
    fn what_has_run_out_is_sorted_by_its_deadline() {
        let htlc = |cltv_expiry| DatabaseHtlc { channel_id: [7; 32], cltv_expiry, amount_msat: 5 };
        let state = |last_block| NodeState {
            last_block,
            channels: Vec::new(),
            htlcs: vec![htlc(105), htlc(101), htlc(102), htlc(104)],
        };
        let past = |last_block, minutes| {
            let as_of = Some(AsOf::Recorded(at(0)));
            let past = deadlines(&state(last_block), as_of, at(minutes));
            past.iter().map(|it| it.cltv_expiry).collect::<Vec<_>>()
        };
        assert_eq!(past(Some(100), 45), [101, 102]);
        assert_eq!(past(Some(100), 50), [101, 102, 104]);
        assert_eq!(past(Some(103), 0), [101, 102]);
        assert_eq!(past(None, 50), [0; 0]);
    }
}
