//! [`ReadAhead`]: how many chunks are fetched at once, for readers that go on in order.
//!
//! Several readers may go through one object at the same time, as the threads of a restore do: each takes what comes next of the
//! whole. So a reader that begins shortly behind where another fetch has ended counts as going on.

use std::collections::HashMap;
use std::ops::Range;

/// The most chunks that are fetched at once: 2 MiB.
const AT_ONCE_MAX: u64 = 128;

/// The number of places in an object that are remembered.
const PLACES_MAX: usize = 8;

/// The number of objects whose places are remembered.
const OBJECTS_MAX: usize = 1024;

/// Where fetches have ended.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    objects: HashMap<String, Vec<Place>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// The chunk behind the fetch.
    next: u64,
    /// How many chunks it had.
    count: u64,
}

impl ReadAhead {
    /// How many chunks are fetched for a reader of these: twice as many as before, if it goes on.
    pub(super) fn count(&mut self, object: &str, wanted: &Range<u64>) -> u64 {
        if self.objects.len() > OBJECTS_MAX {
            self.objects.clear();
        }
        let places = self.objects.entry(object.to_owned()).or_default();
        let needed = (wanted.end - wanted.start).clamp(1, AT_ONCE_MAX);
        // What lies between was read by another reader.
        let goes_on = |place: &Place| (place.next..=place.next + 2 * place.count).contains(&wanted.start);
        let before = places.iter().position(goes_on).map(|at| places.remove(at));
        let count = before.map_or(needed, |place| (place.count * 2).clamp(needed, AT_ONCE_MAX));
        if places.len() >= PLACES_MAX {
            places.remove(0);
        }
        places.push(Place { next: wanted.start + count, count });
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_go_on_get_more_and_others_what_they_ask_for() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.count("s/1", &(10..14)), 4);
        assert_eq!(ahead.count("s/1", &(14..18)), 8);
        assert_eq!(ahead.count("s/1", &(22..23)), 16);
        // Another reader, and another object.
        assert_eq!(ahead.count("s/1", &(500..501)), 1);
        assert_eq!(ahead.count("s/2", &(38..39)), 1);
        // Both go on, one of them behind what the other has read.
        assert_eq!(ahead.count("s/1", &(40..41)), 32);
        assert_eq!(ahead.count("s/1", &(501..502)), 2);
        // Backwards is not on.
        assert_eq!(ahead.count("s/1", &(9..10)), 1);
        for _ in 0..10 {
            let wanted = ahead.objects["s/1"].iter().map(|place| place.next).max().unwrap_or(0);
            assert!(ahead.count("s/1", &(wanted..wanted + 1)) <= AT_ONCE_MAX);
        }
        assert_eq!(ahead.count("s/3", &(0..1000)), AT_ONCE_MAX);
    }
}
