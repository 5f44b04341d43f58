//! Reed–Solomon over the blocks of one stripe, as `docs/format.md` describes it: the crate `reed-solomon-simd`, in its high-rate
//! form whatever the numbers are.

use format::parity::PARITY_BLOCK_LEN;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder as _, RateEncoder as _};

/// The bytes of a block.
pub(crate) type Block = [u8; PARITY_BLOCK_LEN];

/// A block of zeros.
pub(crate) const ZEROS: Block = [0; PARITY_BLOCK_LEN];

/// Makes the tables of the code, 9 MiB, which stay: then no later call takes memory for them.
pub(crate) fn make_tables() {
    let _engine = DefaultEngine::new();
}

/// Makes the parity blocks of a stripe.
pub(crate) struct StripeEncoder(HighRateEncoder<DefaultEngine>);

impl StripeEncoder {
    /// An encoder for so many data blocks and parity blocks, both within the bounds of a layout.
    pub(crate) fn new(data: usize, parity: usize) -> Self {
        let encoder = HighRateEncoder::new(data, parity, PARITY_BLOCK_LEN, DefaultEngine::new(), None);
        Self(encoder.expect("BUG: a layout has more blocks than the code allows"))
    }

    /// Adds the next data block.
    pub(crate) fn add(&mut self, block: &Block) {
        self.0.add_original_shard(block).expect("BUG: more data blocks than the layout has");
    }

    /// Passes the parity blocks on, in order, once all data blocks are there.
    pub(crate) fn finish(mut self, take: &mut dyn FnMut(&[u8])) {
        self.0.encode().expect("BUG: not all data blocks were added").recovery_iter().for_each(take);
    }
}

/// Makes the missing data blocks of a stripe from those that are there, with their positions. Returns all that were missing with their
/// positions; nothing when too many are missing.
pub(crate) fn reconstruct(
    (data_blocks, parity_blocks): (usize, usize),
    data: &[(usize, Box<Block>)],
    parity: &[(usize, Box<Block>)],
) -> Vec<(usize, Box<Block>)> {
    let attempt = || {
        let engine = DefaultEngine::new();
        let mut decoder = HighRateDecoder::new(data_blocks, parity_blocks, PARITY_BLOCK_LEN, engine, None)?;
        for (position, block) in data {
            decoder.add_original_shard(*position, &block[..])?;
        }
        for (position, block) in parity {
            decoder.add_recovery_shard(*position, &block[..])?;
        }
        let decoded = decoder.decode()?;
        let block = |bytes: &[u8]| bytes.try_into().ok().map(Box::new);
        Ok(decoded.restored_original_iter().filter_map(|(position, bytes)| Some((position, block(bytes)?))).collect())
    };
    // The only error that there can be: too few blocks are there.
    attempt().unwrap_or_else(|_: reed_solomon_simd::Error| Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLYNOMIAL: u32 = 0x1_002d;

    const BASIS: [u16; 16] = [
        0x0001, 0xacca, 0x3c0e, 0x163e, 0xc582, 0xed2e, 0x914c, 0x4012, 0x6c98, 0x10d8, 0x6a72, 0xb900, 0xfdb8, 0xfb34,
        0xff38, 0x991e,
    ];

    /// The element of the field that a number stands for.
    fn element(number: u16) -> u16 {
        (0..16).filter(|bit| number >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit])
    }

    fn product(a: u16, b: u16) -> u16 {
        let (mut a, mut product) = (u32::from(a), 0);
        for bit in 0..16 {
            product ^= if b >> bit & 1 == 1 { a } else { 0 };
            a = a << 1 ^ if a & 0x8000 == 0 { 0 } else { POLYNOMIAL };
        }
        u16::try_from(product).unwrap()
    }

    fn inverse(a: u16) -> u16 {
        // a to the power of 65534, that is 2 + 4 + … + 32768.
        let squares = std::iter::successors(Some(product(a, a)), |&power| Some(product(power, power)));
        squares.take(15).fold(1, product)
    }

    /// The number in place `at` of a block.
    fn number(block: &[u8], at: usize) -> u16 {
        let low = at / 32 * 64 + at % 32;
        u16::from_le_bytes([block[low], block[low + 32]])
    }

    /// The parity as the page on the format describes it: slowly, by interpolation.
    fn by_the_page(data: &[Box<Block>], parity_blocks: usize, position: usize, at: usize) -> u16 {
        let first = parity_blocks.next_power_of_two();
        let end = (first + data.len()).next_power_of_two();
        let point = |index: usize| element(u16::try_from(index).unwrap());
        let mut sum = 0;
        for (index, block) in (first..).zip(data) {
            let (mut above, mut below) = (element(number(&block[..], at)), 1);
            for other in (first..end).filter(|&other| other != index) {
                above = product(above, point(position) ^ point(other));
                below = product(below, point(index) ^ point(other));
            }
            sum ^= product(above, inverse(below));
        }
        sum
    }

    fn blocks(count: usize) -> Vec<Box<Block>> {
        // Knuth's multiplicative hash: bytes without a pattern are enough.
        let byte = |block: usize, at: usize| (block * 4096 + at + 1).wrapping_mul(2_654_435_761).to_le_bytes()[3];
        (0..count).map(|block| Box::new(std::array::from_fn(|at| byte(block, at)))).collect()
    }

    fn parity_of(data: &[Box<Block>], count: usize) -> Vec<Box<Block>> {
        let mut encoder = StripeEncoder::new(data.len(), count);
        data.iter().for_each(|block| encoder.add(block));
        let mut parity = Vec::new();
        encoder.finish(&mut |block| parity.push(Box::new(block.try_into().unwrap())));
        parity
    }

    #[test]
    fn parity_is_what_the_page_on_the_format_says() {
        for (data, parity) in [(1, 1), (2, 1), (5, 2), (7, 3), (9, 5), (20, 17)] {
            let data = blocks(data);
            let made = parity_of(&data, parity);
            assert_eq!(made.len(), parity);
            for (position, block) in made.iter().enumerate() {
                for at in [0, 1, 31, 32, 1000, 2047] {
                    let expected = by_the_page(&data, parity, position, at);
                    assert_eq!(
                        element(number(&block[..], at)),
                        expected,
                        "{} + {parity}: {position}, {at}",
                        data.len()
                    );
                }
            }
        }
    }

    #[test]
    fn as_many_blocks_as_there_are_parity_blocks_can_be_lost() {
        for (count, parity_count) in [(1, 1), (17, 17), (300, 17), (2048, 41)] {
            let data = blocks(count);
            let parity: Vec<_> = parity_of(&data, parity_count).into_iter().enumerate().collect();
            let lost = parity_count.min(count);
            let left: Vec<_> = data.iter().cloned().enumerate().skip(lost).collect();
            let made = reconstruct((count, parity_count), &left, &parity);
            assert_eq!(made.len(), lost);
            assert!(made.iter().all(|(position, block)| *block == data[*position]), "{count} + {parity_count}");
            if lost < count {
                assert_eq!(reconstruct((count, parity_count), &left[1..], &parity), []);
            }
        }
    }
}
