//! Parts of objects: what is asked for, and what is given.

use std::ops::Range;

use super::OBJECT_BYTES_MAX;

/// The part that is asked for, within what an object can have. HTTP cannot ask for no bytes: then it is one that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    start: u64,
    end: u64,
}

impl Asked {
    pub(super) fn of(range: &Range<u64>) -> Self {
        // One byte more than the largest object has, so that the end of a larger one is not taken for the end.
        let most = range.start.saturating_add(OBJECT_BYTES_MAX as u64 + 1);
        Self { start: range.start, end: range.end.clamp(range.start, most) }
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The value of the header `Range`.
    pub(super) fn header(self) -> String {
        let last = if self.is_empty() { self.start } else { self.end - 1 };
        format!("bytes={}-{last}", self.start)
    }

    /// Whether a part is the one that was asked for: up to its end, or the end of the object.
    pub(super) fn fits(self, given: &Given) -> bool {
        let end = if self.is_empty() { self.start.saturating_add(1) } else { self.end };
        given.first == self.start && given.last == end.min(given.total) - 1
    }

    /// The part of a whole object.
    pub(super) fn slice(self, mut bytes: Vec<u8>) -> Vec<u8> {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let (start, end) = (place(self.start), place(self.end));
        bytes.truncate(end);
        bytes.drain(..start);
        bytes
    }

    /// What was asked for, of the body of an answer that fits.
    pub(super) fn of_answer(self, bytes: Vec<u8>) -> Vec<u8> {
        if self.is_empty() { Vec::new() } else { bytes }
    }
}

/// The part that an answer holds: the header `Content-Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    first: u64,
    last: u64,
    total: u64,
}

impl Given {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
        let given = Self { first: number(first)?, last: number(last)?, total: number(total)? };
        (given.first <= given.last && given.last < given.total).then_some(given)
    }

    pub(super) fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_part_must_be_the_one_that_was_asked_for() {
        let asked = Asked::of(&(10..20));
        assert_eq!(asked.header(), "bytes=10-19");
        for (text, fits) in [
            ("bytes 10-19/100", true),
            ("bytes 10-14/15", true),
            ("bytes 10-18/100", false),
            ("bytes 10-20/100", false),
            ("bytes 9-19/100", false),
            ("bytes 11-19/100", false),
        ] {
            assert_eq!(asked.fits(&Given::parse(text).unwrap()), fits, "{text}");
        }
        for text in
            ["", "bytes", "bytes 1-2/*", "bytes */5", "bytes 2-1/5", "bytes 1-5/5", "bytes +1-2/5", "octets 1-2/5"]
        {
            assert_eq!(Given::parse(text), None, "{text}");
        }
        assert_eq!(Asked::of(&(5..5)).header(), "bytes=5-5");
        assert!(Asked::of(&(5..5)).of_answer(vec![1]).is_empty());
    }

    proptest! {
        #[test]
        fn any_range_is_a_slice(start in 0u64..40, end in 0u64..40, len in 0usize..30, far in any::<bool>()) {
            let end = if far { u64::MAX } else { end };
            let bytes: Vec<u8> = (0..30).take(len).collect();
            let expected = bytes.iter().copied().filter(|byte| (start..end).contains(&u64::from(*byte))).collect::<Vec<_>>();
            prop_assert_eq!(Asked::of(&(start..end)).slice(bytes), expected);
        }

        #[test]
        fn no_header_panics(text in "bytes [0-9*/-]{0,50}", start in any::<u64>(), end in any::<u64>()) {
            let asked = Asked::of(&(start..end));
            prop_assert!(asked.header().len() < 60);
            if let Some(given) = Given::parse(&text) {
                let _ = asked.fits(&given);
            }
        }
    }
}
