//! How the same rows look in another lap.
//!
//! Blobs and invoices are not made anew but spelt with other digits and letters: a digit becomes the same other digit
//! everywhere in the lap. So what was equal, or a part of another, or repeated, still is, and compresses as well or as badly
//! as what a node recorded; and nothing of it occurs in another lap.

use format_fuzz::seeded::Seeded;

/// What is other in one lap. In lap 0 nothing is.
pub struct Disguise {
    lap: u64,
    /// What stands for each character of digits and letters.
    characters: [u8; 128],
    /// What stands for each byte of a blob whose digits are spelt so.
    bytes: [u8; 256],
}

impl Disguise {
    /// That of a lap.
    pub fn of(lap: u64) -> Self {
        let mut luck = Seeded::new(lap);
        let [mut digits, mut letters] = [(0..16).collect::<Vec<u8>>(), (0..36).collect()];
        if lap > 0 {
            shuffle(&mut digits, &mut luck);
            shuffle(&mut letters, &mut luck);
        }
        let mut bytes = [0; 256];
        for (byte, other) in (0u8..=255).zip(&mut bytes) {
            *other = digits[usize::from(byte >> 4)] << 4 | digits[usize::from(byte & 15)];
        }
        let mut characters = [0; 128];
        for (character, other) in (0u8..128).zip(&mut characters) {
            *other = character;
        }
        const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        for (character, &other) in ALPHABET.iter().zip(&letters) {
            characters[usize::from(*character)] = ALPHABET[usize::from(other)];
        }
        Self { lap, characters, bytes }
    }

    /// The lap.
    pub fn lap(&self) -> u64 {
        self.lap
    }

    /// A key that counts on by `span` every lap.
    pub fn key(&self, number: i64, span: i64) -> i64 {
        let laps = i64::try_from(self.lap).unwrap_or(i64::MAX);
        number.saturating_add(span.saturating_mul(laps))
    }

    /// A blob.
    pub fn bytes(&self, blob: &[u8]) -> Vec<u8> {
        blob.iter().map(|&byte| self.bytes[usize::from(byte)]).collect()
    }

    /// The digits of a blob.
    pub fn digits(&self, digits: &str, to: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        to.extend(digits.bytes().map(|digit| match char::from(digit).to_digit(16) {
            Some(value) => char::from(DIGITS[usize::from(self.bytes[value as usize] & 15)]),
            None => char::from(digit),
        }));
    }

    /// A long text.
    pub fn letters(&self, text: &str, to: &mut String) {
        to.extend(text.chars().map(|character| match u8::try_from(character) {
            Ok(byte) if byte < 128 => char::from(self.characters[usize::from(byte)]),
            _ => character,
        }));
    }

    /// A name that nothing else may have.
    pub fn name(&self, name: &str, to: &mut String) {
        *to += name;
        if self.lap > 0 {
            *to += &format!("/{}", self.lap);
        }
    }
}

fn shuffle(values: &mut [u8], luck: &mut Seeded) {
    for last in (1..values.len()).rev() {
        // Below `last + 1`, which is a length.
        #[expect(clippy::cast_possible_truncation, reason = "below a length")]
        values.swap(last, luck.below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(put: impl FnOnce(&mut String)) -> String {
        let mut text = String::new();
        put(&mut text);
        text
    }

    #[test]
    fn lap_0_is_what_was_recorded() {
        let plain = Disguise::of(0);
        assert_eq!(plain.bytes(&[0, 0x9f, 255]), [0, 0x9f, 255]);
        assert_eq!(put(|to| plain.digits("00ff9a", to)), "00ff9a");
        assert_eq!(put(|to| plain.letters("lnbcrt1p ☃'", to)), "lnbcrt1p ☃'");
        assert_eq!((put(|to| plain.name("n", to)), plain.key(7, 100)), ("n".to_owned(), 7));
    }

    #[test]
    fn a_blob_and_its_digits_become_the_same_and_differ_in_every_lap() {
        let blob: Vec<u8> = (0..=255).collect();
        let digits: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut seen = std::collections::HashSet::new();
        for lap in 0..50 {
            let disguise = Disguise::of(lap);
            let other = disguise.bytes(&blob);
            let other_digits: String = other.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(put(|to| disguise.digits(&digits, to)), other_digits);
            let mut sorted = other.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, blob, "no two bytes become one");
            assert!(seen.insert(other));
        }
    }

    #[test]
    fn keys_and_names_count_the_laps() {
        let third = Disguise::of(3);
        assert_eq!(third.key(7, 100), 307);
        assert_eq!(put(|to| third.name("it''s", to)), "it''s/3");
    }
}
