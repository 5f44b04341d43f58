//! [`Shapes`]: a cache of the sizes of versions, for those whose size the backup does not record yet.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use common::Seq;

use crate::tree::content::Shape;

/// The number of cached sizes above which those of sealed versions are removed.
const SHAPES_FEW: usize = 8 << 10;

/// The sizes of versions that are not sealed yet. A size that was reported to the kernel stays until the backup records it: a
/// process that has the file mapped would be killed if the size changed.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    shapes: BTreeMap<Seq, Shape>,
    /// The number of sizes up to which none is removed.
    enough: usize,
}

impl Shapes {
    /// The size of a version, if it is cached.
    pub fn get(&self, seq: Seq) -> Option<Shape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shapes.get(&seq).copied()
    }

    /// Caches the size of a version. Now and then it removes those of sealed versions.
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
    fn the_cached_size_of_a_version_stays_until_it_is_sealed() {
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
