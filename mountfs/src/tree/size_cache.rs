//! [`Shapes`]: how big versions are that were looked at, for as long as the backup itself does not say.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use common::Seq;

use crate::tree::content::Shape;

/// Shapes above which those are looked for that are not needed any more.
const SHAPES_FEW: usize = 8 << 10;

/// The shapes of versions that are not sealed yet. One that was told stays known until the backup says it: whoever has the
/// file mapped, and so whoever made the kernel ask, would die if it became another one.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    shapes: BTreeMap<Seq, Shape>,
    /// How many there may be until some are looked for again.
    enough: usize,
}

impl Shapes {
    /// The shape of a version, if it was looked at.
    pub fn get(&self, seq: Seq) -> Option<Shape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shapes.get(&seq).copied()
    }

    /// Keeps the shape of a version. Now and then those of versions go that are sealed.
    pub fn insert(&self, seq: Seq, shape: Shape, is_sealed: impl Fn(Seq) -> bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.shapes.insert(seq, shape);
        if known.shapes.len() > known.enough.max(SHAPES_FEW) {
            known.shapes.retain(|&seq, _| !is_sealed(seq));
            known.enough = 2 * known.shapes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_of_a_version_stays_known_until_it_is_sealed() {
        let shapes = Shapes::default();
        let shape = Shape { pages: 1, page_size: 512, size_bytes: 512 };
        let seq = |number: usize| Seq::new(number as u64).unwrap();
        let unsealed = 3 * SHAPES_FEW;
        for number in 1..=unsealed {
            shapes.insert(seq(number), shape, |_| false);
        }
        assert!((1..=unsealed).all(|number| shapes.get(seq(number)) == Some(shape)));
        for number in unsealed + 1..=4 * unsealed {
            shapes.insert(seq(number), shape, |seq| seq.get() <= unsealed as u64);
        }
        assert_eq!((shapes.get(seq(unsealed)), shapes.get(seq(unsealed + 1))), (None, Some(shape)));
    }
}
