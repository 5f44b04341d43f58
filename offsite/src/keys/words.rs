//! The 24 words of a master key: the key itself in the English words of BIP39, to be kept on paper.
//!
//! The words are no seed of a wallet: nothing is derived from them. They are the 32 bytes of the key and 8 bits of checksum.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use super::master_key::MasterKey;
use crate::crypto::{KEY_LEN, Key};

/// The number of words.
pub const WORD_COUNT: usize = 24;

/// The longest text that is read, in bytes: 24 of the longest words, numbered and in lines, take far less.
pub const WORDS_TEXT_MAX: usize = 4096;

/// Why a text is not the words of a key. No word is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WordsError {
    /// The text is too long.
    #[error("the text has more than {WORDS_TEXT_MAX} bytes, and 24 words have fewer: give the words alone")]
    TooLong,
    /// There are more or fewer words.
    #[error("there are {0} words, and a key has {WORD_COUNT}: see whether one was left out or written twice")]
    Count(usize),
    /// A word that BIP39 does not have.
    #[error("word {0} is not in the English list of BIP39: is there a typo in it?")]
    UnknownWord(usize),
    /// The words do not belong together.
    #[error(
        "each word is in the list, but their checksum is wrong: is one of them another word, or are two exchanged?"
    )]
    Checksum,
}

/// The words, with single spaces between them.
pub fn words(key: &MasterKey) -> Zeroizing<String> {
    let Ok(mnemonic) = Mnemonic::from_entropy_in(Language::English, key.bytes()) else {
        unreachable!("32 bytes have 24 words");
    };
    // With room for all of them: a string that grows leaves its old bytes behind.
    let mut text = Zeroizing::new(String::with_capacity(WORD_COUNT * 9));
    for word in mnemonic.words() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// The key of these words. They may be in upper case, in several lines, and numbered: `1.`, `2)`, `3`.
///
/// # Errors
/// When they are not 24 words of the list with the right checksum.
pub fn from_words(text: &str) -> Result<MasterKey, WordsError> {
    if text.len() > WORDS_TEXT_MAX {
        return Err(WordsError::TooLong);
    }
    let text = Zeroizing::new(text.to_ascii_lowercase());
    let is_word = |part: &&str| !part.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b')' | b':'));
    let count = text.split_whitespace().filter(is_word).count();
    if count != WORD_COUNT {
        return Err(WordsError::Count(count));
    }
    let mut words = Zeroizing::new(String::with_capacity(text.len() + 1));
    for word in text.split_whitespace().filter(is_word) {
        words.push_str(word);
        words.push(' ');
    }
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|error| match error {
        bip39::Error::UnknownWord(index) => WordsError::UnknownWord(index + 1),
        _ => WordsError::Checksum,
    })?;
    let (entropy, _len) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let mut key = Key::default();
    key.copy_from_slice(&entropy[..KEY_LEN]);
    Ok(MasterKey::from_key(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A vector of BIP39 (`vectors.json` of its reference implementation): 32 times 7f.
    const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth title";

    #[test]
    fn the_words_are_those_of_bip39() {
        let key = MasterKey::from_key(Key::new([0x7f; 32]));
        assert_eq!(*words(&key), WORDS);
        assert_eq!(from_words(WORDS).unwrap().bytes(), key.bytes());
    }

    #[test]
    fn words_are_read_as_people_write_them() {
        let id = from_words(WORDS).unwrap().id();
        let lines = WORDS.to_uppercase().replace(' ', "\r\n");
        let numbered: Vec<_> = WORDS.split(' ').enumerate().map(|(at, word)| format!("{}. {word}", at + 1)).collect();
        for text in [lines, numbered.join("\n"), format!("\t {WORDS} \n")] {
            assert_eq!(from_words(&text).unwrap().id(), id, "{text}");
        }
    }

    #[test]
    fn a_typo_is_named_by_its_place_and_never_by_its_word() {
        let refused = |text: &str| from_words(text).unwrap_err();
        assert_eq!(refused(&WORDS.replacen("year", "yeer", 1)), WordsError::UnknownWord(4));
        assert_eq!(refused(&WORDS.replace("title", "titel")), WordsError::UnknownWord(24));
        assert_eq!(refused(&WORDS.replace(" title", "")), WordsError::Count(23));
        assert_eq!(refused(&format!("{WORDS} {WORDS}")), WordsError::Count(48));
        assert_eq!(refused(""), WordsError::Count(0));
        assert_eq!(refused(&WORDS.replacen("winner thank", "thank winner", 1)), WordsError::Checksum);
        assert_eq!(refused(&WORDS.replace("title", "year")), WordsError::Checksum);
        assert_eq!(refused(&"year ".repeat(1000)), WordsError::TooLong);
        // The words of a node's wallet.
        assert_eq!(refused(&WORDS.split(' ').take(12).collect::<Vec<_>>().join(" ")), WordsError::Count(12));
        assert!(!refused(&WORDS.replacen("year", "yeer", 1)).to_string().contains("yeer"));
    }

    /// The list that decrypt.py reads.
    #[test]
    fn the_list_beside_the_decryptor_is_that_of_bip39() {
        let list: Vec<&str> = include_str!("../../bip39-english.txt").lines().collect();
        assert_eq!(list, Language::English.word_list());
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_words(key: [u8; 32]) {
            let key = MasterKey::from_key(Key::new(key));
            let read = from_words(&words(&key)).unwrap();
            prop_assert_eq!(read.bytes(), key.bytes());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,300}") {
            let _: Result<MasterKey, WordsError> = from_words(&text);
        }
    }
}
