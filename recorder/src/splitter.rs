//! [`Splitter`]: cuts the bytes from `lightningd` into messages.
//!
//! Messages end with an empty line, and compact JSON never contains one, so it searches for `\n\n`. Pure: the caller reads
//! bytes into [`Splitter::space`], passes their number to [`Splitter::filled`], and takes the messages out.

use format::record::PAYLOAD_LEN_MAX;
use memchr::memmem;

/// A message longer than this is refused: 1 GiB of statements, and what JSON adds to them.
///
/// A migration of `lightningd` is one write: that of the bookkeeper's accounts takes 300 bytes for each event there ever was.
/// The limit is there so that a broken or hostile sender costs bounded memory.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_LEN_MAX + (64 << 20);

/// The number of bytes kept of a message over the limit: enough for the request's id and method, which come first.
const HEAD_BYTES: usize = 64 << 10;

/// The minimum space for a read: the capacity of a pipe.
const READ_BYTES_MIN: usize = 64 << 10;

/// An empty buffer larger than this is freed after an unusually large message.
const KEEP_BYTES: usize = 1 << 20;

const SEPARATOR: &[u8] = b"\n\n";

/// A message as it came, without the empty line that ended it.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The whole message, without white space around it; never empty.
    Whole(&'a [u8]),
    /// A message longer than the limit; the rest of it was read and discarded.
    Oversized {
        /// The first bytes of the message.
        head: &'a [u8],
        /// The length of the message, without separator.
        bytes: u64,
    },
}

/// Cuts a stream of bytes into messages; the result does not depend on how the stream was chunked.
///
/// Every byte is searched once and moved at most once beside the growing of the buffer.
#[derive(Debug)]
pub struct Splitter {
    /// The bytes `start..end` have been read and not been returned yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// No separator begins before this index.
    scanned: usize,
    limit_bytes: usize,
    /// Set while the rest of an oversized message is thrown away; its head is then at the front of the buffer.
    excess: Option<Excess>,
}

#[derive(Debug)]
struct Excess {
    head_bytes: usize,
    dropped_bytes: u64,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::with_limit(MESSAGE_BYTES_MAX)
    }
}

impl Splitter {
    /// A splitter that refuses messages longer than `limit_bytes`.
    pub fn with_limit(limit_bytes: usize) -> Self {
        Self { buffer: vec![0; 2 * READ_BYTES_MIN], start: 0, end: 0, scanned: 0, limit_bytes, excess: None }
    }

    /// The buffer space for the next bytes of the stream; never empty. Take all messages out first.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end, self.scanned) = (0, 0, 0);
            if self.buffer.len() > KEEP_BYTES {
                self.buffer.truncate(2 * READ_BYTES_MIN);
                self.buffer.shrink_to_fit();
            }
        }
        if self.buffer.len() - self.end < READ_BYTES_MIN {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.scanned -= self.start;
                self.end -= self.start;
                self.start = 0;
            }
            if self.buffer.len() - self.end < READ_BYTES_MIN {
                // So a message takes little more memory than its bytes, and each of them is moved a few times at most.
                let more = (self.buffer.len() / 4).max(READ_BYTES_MIN);
                self.buffer.reserve_exact(more);
                self.buffer.resize(self.buffer.len() + more, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// The first `count` bytes of [`Splitter::space`] have been filled.
    ///
    /// # Panics
    /// When that is more than the space there was.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "BUG: {count} bytes read into a smaller space");
        self.end += count;
    }

    /// The next complete message, or `None` when more bytes are needed.
    pub fn next_message(&mut self) -> Option<Message<'_>> {
        loop {
            let found = memmem::find(&self.buffer[self.scanned..self.end], SEPARATOR).map(|at| self.scanned + at);
            let Some(at) = found else {
                self.wait_for_more();
                return None;
            };
            let first = self.start;
            self.start = at + SEPARATOR.len();
            self.scanned = self.start;
            if let Some(excess) = self.excess.take() {
                let bytes = excess.dropped_bytes + at as u64;
                return Some(Message::Oversized { head: &self.buffer[..excess.head_bytes], bytes });
            }
            if self.is_message(first, at) {
                return Some(self.message(first, at));
            }
        }
    }

    /// Returns the bytes behind the last separator at the end of the stream, if there are any.
    pub fn finish(&mut self) -> Option<Message<'_>> {
        let (first, end) = (self.start, self.end);
        (self.start, self.scanned) = (end, end);
        if let Some(excess) = self.excess.take() {
            let bytes = excess.dropped_bytes + end as u64;
            return Some(Message::Oversized { head: &self.buffer[..excess.head_bytes], bytes });
        }
        self.is_message(first, end).then(|| self.message(first, end))
    }

    /// White space between separators is no message.
    fn is_message(&self, first: usize, end: usize) -> bool {
        end - first > self.limit_bytes || !self.buffer[first..end].trim_ascii().is_empty()
    }

    fn message(&self, first: usize, end: usize) -> Message<'_> {
        let bytes = &self.buffer[first..end];
        if bytes.len() > self.limit_bytes {
            Message::Oversized { head: &bytes[..self.head_bytes()], bytes: bytes.len() as u64 }
        } else {
            Message::Whole(bytes.trim_ascii())
        }
    }

    fn head_bytes(&self) -> usize {
        HEAD_BYTES.min(self.limit_bytes)
    }

    /// No separator so far: remembers how far was searched, and stops storing what is over the limit.
    fn wait_for_more(&mut self) {
        // The last byte may be the first half of a separator, so it does not count as searched yet.
        let searched = self.end.saturating_sub(1).max(self.scanned);
        if self.excess.is_none() && searched - self.start > self.limit_bytes {
            let head_bytes = self.head_bytes();
            self.buffer.copy_within(self.start..self.start + head_bytes, 0);
            let dropped_bytes = (searched - self.start - head_bytes) as u64;
            self.excess = Some(Excess { head_bytes, dropped_bytes });
            self.keep_head_and_last_byte(head_bytes, searched);
        } else if let Some(excess) = &mut self.excess {
            let head_bytes = excess.head_bytes;
            excess.dropped_bytes += (searched - head_bytes) as u64;
            self.keep_head_and_last_byte(head_bytes, searched);
        } else {
            self.scanned = searched;
        }
    }

    fn keep_head_and_last_byte(&mut self, head_bytes: usize, last: usize) {
        self.buffer.copy_within(last..self.end, head_bytes);
        self.start = 0;
        self.end = head_bytes + (self.end - last);
        self.scanned = head_bytes;
        if self.buffer.len() > KEEP_BYTES {
            self.buffer.truncate(KEEP_BYTES);
            self.buffer.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq, Clone)]
    enum Owned {
        Whole(Vec<u8>),
        Oversized(Vec<u8>, u64),
    }

    impl From<Message<'_>> for Owned {
        fn from(message: Message<'_>) -> Self {
            match message {
                Message::Whole(bytes) => Self::Whole(bytes.to_vec()),
                Message::Oversized { head, bytes } => Self::Oversized(head.to_vec(), bytes),
            }
        }
    }

    fn split(limit: usize, chunks: &[&[u8]]) -> Vec<Owned> {
        let mut splitter = Splitter::with_limit(limit);
        let mut messages = Vec::new();
        for chunk in chunks {
            let mut chunk = *chunk;
            while !chunk.is_empty() {
                let space = splitter.space();
                let count = space.len().min(chunk.len());
                space[..count].copy_from_slice(&chunk[..count]);
                splitter.filled(count);
                chunk = &chunk[count..];
                while let Some(message) = splitter.next_message() {
                    messages.push(message.into());
                }
            }
        }
        messages.extend(splitter.finish().map(Owned::from));
        messages
    }

    /// The plain definition: cut at every separator from the left, in the whole stream at once.
    fn model(limit: usize, stream: &[u8]) -> Vec<Owned> {
        let mut parts = Vec::new();
        let mut rest = stream;
        while let Some(at) = rest.windows(2).position(|pair| pair == SEPARATOR) {
            parts.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        parts.push(rest);
        parts
            .into_iter()
            .filter_map(|part| {
                if part.len() > limit {
                    let head = &part[..limit.min(HEAD_BYTES)];
                    Some(Owned::Oversized(head.to_vec(), part.len() as u64))
                } else {
                    let text = part.trim_ascii();
                    (!text.is_empty()).then(|| Owned::Whole(text.to_vec()))
                }
            })
            .collect()
    }

    #[test]
    fn messages_end_at_an_empty_line_and_the_last_one_at_the_end_of_input() {
        let whole = |text: &str| Owned::Whole(text.as_bytes().to_vec());
        assert_eq!(split(99, &[b"{\"a\":1}\n\n{\"b\":2}\n\n"]), [whole("{\"a\":1}"), whole("{\"b\":2}")]);
        assert_eq!(split(99, &[b"{\"a\":1}\n\n{\"b\":2}"]), [whole("{\"a\":1}"), whole("{\"b\":2}")]);
        assert_eq!(split(99, &[b"\n\n \n\n\n{}\n\n\n\n\n{}\n"]), [whole("{}"), whole("{}")]);
        assert_eq!(split(99, &[]), []);
    }

    #[test]
    fn an_oversized_message_is_not_stored_and_the_next_one_is_whole() {
        let mut stream = br#"{"id":"x","method":"db_write","#.to_vec();
        stream.resize(50 << 20, b'a');
        stream.extend_from_slice(b"\n\n{}\n\n");
        let mut splitter = Splitter::with_limit(4 << 20);
        let mut seen = Vec::new();
        for chunk in stream.chunks(READ_BYTES_MIN) {
            splitter.space()[..chunk.len()].copy_from_slice(chunk);
            splitter.filled(chunk.len());
            while let Some(message) = splitter.next_message() {
                seen.push(Owned::from(message));
            }
            assert!(splitter.buffer.len() <= 16 << 20, "{} bytes stored", splitter.buffer.len());
        }
        assert_eq!(seen, [Owned::Oversized(stream[..HEAD_BYTES].to_vec(), 50 << 20), Owned::Whole(b"{}".to_vec())]);
    }

    #[test]
    fn a_large_buffer_is_given_back() {
        let mut splitter = Splitter::default();
        let large = [vec![b'x'; 3 << 20], SEPARATOR.to_vec()].concat();
        for chunk in large.chunks(READ_BYTES_MIN) {
            splitter.space()[..chunk.len()].copy_from_slice(chunk);
            splitter.filled(chunk.len());
        }
        assert_eq!(splitter.next_message(), Some(Message::Whole(&large[..3 << 20])));
        assert_eq!(splitter.next_message(), None);
        splitter.space();
        assert!(splitter.buffer.capacity() <= KEEP_BYTES);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_messages(
            stream in prop::collection::vec(prop::sample::select(vec![b'\n', b'\n', b' ', b'a', b'b']), 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            limit in 1usize..20,
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            at.extend([0, stream.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(limit, &chunks), model(limit, &stream));
            let single: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(split(limit, &single), model(limit, &stream));
        }
    }
}
