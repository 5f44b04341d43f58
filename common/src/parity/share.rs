//! [`ParityShare`]: how much parity there is.

use std::fmt;
use std::str::FromStr;

use format::parity::STRIPE_BLOCKS_MAX;

/// Hundredths of a percent in a percent.
const PER_PERCENT: u16 = 100;

/// The most that can be asked for: a tenth of the files.
const MOST: u16 = 10 * PER_PERCENT;

/// Whatever the share is, each begun 64 data blocks have a parity block.
const BLOCKS_PER_PARITY_MAX: u64 = 64;

/// Whatever the share is, a run of 64 KiB can be mended, which may begin in the middle of a block.
const PARITY_BLOCKS_MIN: u64 = 17;

/// The share of parity in hundredths of a percent of the files that it protects; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityShare(u16);

impl Default for ParityShare {
    fn default() -> Self {
        Self(2 * PER_PERCENT)
    }
}

impl ParityShare {
    /// No parity.
    pub const NONE: Self = Self(0);

    /// Number of parity blocks of each stripe for so many data blocks, of which there is at least one; `None` for no parity.
    pub(crate) fn parity_per_stripe(self, data_blocks: u64) -> Option<u64> {
        if self == Self::NONE {
            return None;
        }
        let longest = data_blocks.div_ceil(data_blocks.div_ceil(STRIPE_BLOCKS_MAX).max(1));
        let share = (longest * u64::from(self.0)).div_ceil(u64::from(PER_PERCENT) * 100);
        let least = longest.div_ceil(BLOCKS_PER_PARITY_MAX).max(PARITY_BLOCKS_MIN);
        Some(share.max(least).min(longest))
    }
}

/// The text is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is a percentage from 0% to 10%, with at most two digits behind the point, such as \"2%\"")]
pub struct ParseShareError;

impl FromStr for ParityShare {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').ok_or(ParseShareError)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || whole.len() > 2 || fraction.len() > 2 {
            return Err(ParseShareError);
        }
        let (whole, hundredths): (u16, u16) = (
            whole.parse().map_err(|_| ParseShareError)?,
            format!("{fraction:0<2}").parse().map_err(|_| ParseShareError)?,
        );
        Some(Self(whole * PER_PERCENT + hundredths)).filter(|share| share.0 <= MOST).ok_or(ParseShareError)
    }
}

impl fmt::Display for ParityShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / PER_PERCENT, self.0 % PER_PERCENT) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, hundredths) => write!(f, "{whole}.{}%", format!("{hundredths:02}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_written() {
        for (text, hundredths) in [("0%", 0), ("2%", 200), ("10%", 1000), ("2.5%", 250), ("0.05%", 5), ("1.25%", 125)] {
            let share: ParityShare = text.parse().unwrap();
            assert_eq!((share.0, share.to_string()), (hundredths, text.to_owned()));
        }
        for text in ["", "%", "2", "-1%", "+1%", "11%", "10.01%", "1.234%", ".5%", "5.%", "2 %", "200%"] {
            assert_eq!(text.parse::<ParityShare>(), Err(ParseShareError), "{text}");
        }
    }

    #[test]
    fn there_is_at_least_enough_for_a_run_of_bad_sectors() {
        let blocks = |share: &str, data| share.parse::<ParityShare>().unwrap().parity_per_stripe(data);
        assert_eq!(blocks("0%", 1000), None);
        assert_eq!(
            [1, 5, 17, 300, 850, 1024, 2048].map(|data| blocks("2%", data)),
            [1, 5, 17, 17, 17, 21, 41].map(Some)
        );
        // Two stripes: each has half of the blocks.
        assert_eq!(blocks("2%", 2049), Some(21));
        assert_eq!(blocks("0.1%", 2048), Some(32), "one for each 64");
        assert_eq!(blocks("10%", 2048), Some(205));
    }
}
