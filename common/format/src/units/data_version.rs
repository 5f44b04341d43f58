//! [`DataVersion`]: CLN's counter of committed transactions.

use std::fmt;
use std::str::FromStr;

/// CLN's `vars.data_version`: +1 per committed transaction, a `u32` that wraps at 2^32.
///
/// Two versions are compared by [`distance_from`](Self::distance_from), never by `<`: after a wrap the newer version is
/// the smaller number. `Ord` is the plain numeric order, for listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DataVersion(u32);

impl DataVersion {
    /// The version with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, as CLN sends it.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The version one transaction later.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The version one transaction earlier.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// Transactions from `earlier` to `self`: positive when `self` is newer, negative when it is older.
    ///
    /// The shorter way round the 2^32 circle is taken, so the answer is right for versions less than 2^31 apart.
    pub const fn distance_from(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// The version a database holds: `vars.intval` is a 64-bit SQL integer, of which CLN reads the low 32 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "CLN keeps the low 32 bits")]
    pub const fn from_database(intval: i64) -> Self {
        Self(intval as u32)
    }
}

impl fmt::Display for DataVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DataVersion {
    type Err = std::num::ParseIntError;

    /// Reads decimal digits only: no sign, no leading zeros (`007` is not a name of version 7).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('+') || (text.len() > 1 && text.starts_with('0')) {
            return "x".parse().map(Self);
        }
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_wraps_at_two_to_the_32() {
        let max = DataVersion::new(u32::MAX);
        assert_eq!(max.next(), DataVersion::new(0));
        assert_eq!(DataVersion::new(0).previous(), max);
        assert_eq!(DataVersion::new(2).distance_from(max), 3);
        assert_eq!(max.distance_from(DataVersion::new(2)), -3);
    }

    #[test]
    fn only_canonical_decimal_is_a_version() {
        assert_eq!("0".parse(), Ok(DataVersion::new(0)));
        assert_eq!("4294967295".parse(), Ok(DataVersion::new(u32::MAX)));
        for bad in ["", "+1", "-1", "01", "4294967296", " 1", "1 "] {
            assert!(bad.parse::<DataVersion>().is_err(), "{bad:?}");
        }
    }
}
