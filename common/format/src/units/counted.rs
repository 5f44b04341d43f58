//! [`counted`]: a number with its noun.

use std::fmt;

/// A number with its noun: "1 change", "2 changes".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    number: u64,
    what: &'static str,
}

/// A number with a noun that takes an "s" in the plural.
pub fn counted(number: impl TryInto<u64>, what: &'static str) -> Counted {
    Counted { number: number.try_into().unwrap_or(u64::MAX), what }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.number, self.what, if self.number == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        let texts = [0, 1, 2].map(|number| counted(number, "change").to_string());
        assert_eq!(texts, ["0 changes", "1 change", "2 changes"]);
        assert_eq!(counted(1_usize, "old version").to_string(), "1 old version");
    }
}
