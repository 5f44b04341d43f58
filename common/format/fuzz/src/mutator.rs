//! Inputs made of others, as fuzzers make them: without cargo-fuzz, and the same in every run.

use super::seeded::Seeded;

/// Maximum length of an input, unless one of the corpus is longer.
const LEN_MAX: usize = 256 << 10;

const INTERESTING: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Changes items of a corpus, a little at a time.
pub struct Mutator<'c> {
    corpus: &'c [Vec<u8>],
    luck: Seeded,
}

impl<'c> Mutator<'c> {
    /// A mutator of a corpus that is not empty.
    pub fn new(corpus: &'c [Vec<u8>], seed: u64) -> Self {
        assert!(!corpus.is_empty(), "a corpus has an item");
        Self { corpus, luck: Seeded::new(seed) }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.luck.below(limit.max(1) as u64)).unwrap_or(0)
    }

    fn item(&mut self) -> &'c [u8] {
        let number = self.below(self.corpus.len());
        &self.corpus[number]
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.item().to_vec();
        for _ in 0..[1, 1, 1, 2, 2, 3, 8][self.below(7)] {
            self.mutate(&mut input);
        }
        input.truncate(LEN_MAX.max(self.corpus.iter().map(Vec::len).max().unwrap_or(0)));
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        // Most fields are at the beginning and at the end.
        let at = match self.below(4) {
            0 => at.min(self.below(100)),
            1 => input.len() - input.len().min(self.below(160)),
            _ => at,
        };
        match self.below(9) {
            0 | 1 => {
                let bit = 1 << self.below(8);
                input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
            }
            2 => {
                let byte = self.luck.below(256).to_le_bytes()[0];
                input.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
            }
            3 => {
                let number = INTERESTING[self.below(INTERESTING.len())].to_le_bytes();
                let len = [1, 2, 4, 8][self.below(4)];
                input.iter_mut().skip(at).zip(&number[..len]).for_each(|(old, new)| *old = *new);
            }
            4 => input.truncate(at),
            5 => {
                let (other, end) = (self.item(), input.len());
                let from = self.below(other.len() + 1);
                input.truncate(at.min(end));
                input.extend_from_slice(&other[from..]);
            }
            6 => {
                let most = 1 << self.below(12);
                let len = self.below(most).min(input.len() - at);
                let copied = input[at..at + len].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copied);
            }
            7 => {
                let count = self.below(9);
                let bytes: Vec<u8> = (0..count).map(|_| self.luck.below(256).to_le_bytes()[0]).collect();
                input.splice(at..at, bytes);
            }
            _ => {
                let most = 1 << self.below(10);
                let end = (at + self.below(most)).min(input.len());
                input.drain(at..end);
            }
        }
    }
}
