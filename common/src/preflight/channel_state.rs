//! [`ChannelState`]: the column `state` of table `channels`.

use std::fmt;

/// The state of a channel, as a number of `lightningd` (`enum channel_state` in `lightningd/channel_state.h`), where numbers are never
/// given away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelState(i64);

/// The names of the numbers, from 1.
const NAMES: [&str; 14] = [
    "DUALOPEND_OPEN_INIT",
    "CHANNELD_AWAITING_LOCKIN",
    "CHANNELD_NORMAL",
    "CHANNELD_SHUTTING_DOWN",
    "CLOSINGD_SIGEXCHANGE",
    "CLOSINGD_COMPLETE",
    "AWAITING_UNILATERAL",
    "FUNDING_SPEND_SEEN",
    "ONCHAIN",
    "CLOSED",
    "DUALOPEND_OPEN_COMMITTED",
    "DUALOPEND_AWAITING_LOCKIN",
    "CHANNELD_AWAITING_SPLICE",
    "DUALOPEND_OPEN_COMMIT_READY",
];

impl ChannelState {
    /// The state with this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Whether all of the channel is settled on chain: nothing in it can be punished any more.
    pub const fn is_closed(self) -> bool {
        self.0 == 10
    }

    /// Whether the channel has no commitment yet (`channel_state_uncommitted`): it is in no `emergency.recover`.
    pub const fn is_uncommitted(self) -> bool {
        matches!(self.0, 1 | 14)
    }

    /// Whether the channel is on chain, or on its way there, which cannot be undone.
    pub const fn is_on_chain(self) -> bool {
        matches!(self.0, 7..=10)
    }
}

impl fmt::Display for ChannelState {
    /// The name that `listpeerchannels` shows, or the number of a state that is not known here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| NAMES.get(index)) {
            Some(name) => f.write_str(name),
            None => write!(f, "state {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_lightningd() {
        let name = |number| ChannelState::new(number).to_string();
        assert_eq!((name(3), name(10)), ("CHANNELD_NORMAL".to_owned(), "CLOSED".to_owned()));
        assert_eq!((name(14), name(15)), ("DUALOPEND_OPEN_COMMIT_READY".to_owned(), "state 15".to_owned()));
        assert_eq!((name(0), name(i64::MIN)), ("state 0".to_owned(), format!("state {}", i64::MIN)));
        assert!(ChannelState::new(10).is_closed() && !ChannelState::new(9).is_closed());
        assert!(ChannelState::new(7).is_on_chain() && !ChannelState::new(3).is_on_chain());
    }
}
