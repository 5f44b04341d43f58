//! [`Shapes`]: how big versions are that were looked at, for as long as the backup itself does not say.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use common::Seq;

use crate::content::Shape;

/// Shapes kept: more than there are versions that are not sealed.
const SHAPES_MAX: usize = 8 << 10;

/// The shapes of versions that are not sealed yet, so that `ls` builds a view once and not again after the cache has
/// dropped it. Those of the oldest versions, which are sealed meanwhile, go.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<BTreeMap<Seq, Shape>>);

impl Shapes {
    /// The shape of a version, if it was looked at.
    pub fn get(&self, seq: Seq) -> Option<Shape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&seq).copied()
    }

    /// Keeps the shape of a version.
    pub fn insert(&self, seq: Seq, shape: Shape) {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.insert(seq, shape);
        if shapes.len() > SHAPES_MAX {
            shapes.pop_first();
        }
    }

    /// Forgets all: the seqs stand for other versions now.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_versions_go_when_there_are_too_many() {
        let shapes = Shapes::default();
        let shape = Shape { pages: 1, page_size: 512, size_bytes: 512 };
        let seq = |number: usize| Seq::new(number as u64).unwrap();
        for number in 1..=SHAPES_MAX + 10 {
            shapes.insert(seq(number), shape);
        }
        assert_eq!((shapes.get(seq(10)), shapes.get(seq(11))), (None, Some(shape)));
        shapes.forget();
        assert_eq!(shapes.get(seq(11)), None);
    }
}
