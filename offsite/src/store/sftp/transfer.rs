//! The bytes of objects: sent and fetched in pieces, many of which are on their way at once.

use std::collections::VecDeque;
use std::ops::Range;

use super::connection::Ticket;
use super::faults::Fault;
use super::packets::{FSYNC, OpenFor, Reply, Request, status};
use super::{Attributes, Session};
use crate::store::OBJECT_BYTES_MAX;
use crate::store::names::clip;

/// Bytes of a piece: what every server takes and gives.
const PIECE: usize = 32 << 10;

/// How many pieces are on their way at once: 2 MiB, which fill a link of 100 Mbit/s and 160 ms.
const PIECES_MAX: usize = 64;

/// How many bytes are asked for before the length of the file is known.
const EARLY: u64 = 8 * PIECE as u64;

/// Type of a file in its mode.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// A piece that was asked for.
struct Piece {
    start: u64,
    len: u64,
    ticket: Ticket,
}

impl Session<'_> {
    /// Writes all bytes to a new file, makes them durable where the server can, and closes it in any case.
    pub(super) fn upload(&self, handle: &[u8], bytes: &[u8]) -> Result<(), Fault> {
        let written = self.write(handle, bytes);
        let closed = self.send(&Request::Close { handle })?;
        written?;
        self.wait_done(&closed)
    }

    fn write(&self, handle: &[u8], bytes: &[u8]) -> Result<(), Fault> {
        let mut on_the_way = VecDeque::new();
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            if on_the_way.len() >= PIECES_MAX
                && let Some(ticket) = on_the_way.pop_front()
            {
                self.wait_done(&ticket)?;
            }
            let offset = (index * PIECE) as u64;
            on_the_way.push_back(self.send(&Request::Write { handle, offset, bytes: piece })?);
        }
        if self.connection.has(FSYNC) {
            on_the_way.push_back(self.send(&Request::Sync { handle })?);
        }
        on_the_way.iter().try_for_each(|ticket| self.wait_done(ticket))
    }

    /// Reads bytes of a file.
    pub(super) fn download(&self, path: &str, range: Option<&Range<u64>>) -> Result<Vec<u8>, Fault> {
        let opened = self.send(&Request::Open { path, open_for: OpenFor::Reading })?;
        let handle = self.wait_handle(&opened)?;
        let bytes = self.read(&handle, range);
        // Nobody waits for the answer.
        self.send(&Request::Close { handle: &handle })?;
        bytes
    }

    fn ask(&self, handle: &[u8], start: u64, end: u64) -> Result<Piece, Fault> {
        let len = end.saturating_sub(start).min(PIECE as u64);
        let request = Request::Read { handle, offset: start, len: u32::try_from(len).unwrap_or(u32::MAX) };
        Ok(Piece { start, len, ticket: self.send(&request)? })
    }

    fn read(&self, handle: &[u8], range: Option<&Range<u64>>) -> Result<Vec<u8>, Fault> {
        let stat = self.send(&Request::Fstat { handle })?;
        let asked = range.map_or(0..EARLY, |range| range.start..range.end);
        let mut next = asked.start;
        let early_end = asked.end.min(next.saturating_add(EARLY));
        let mut on_the_way = VecDeque::new();
        while next < early_end {
            let piece = self.ask(handle, next, early_end)?;
            next += piece.len;
            on_the_way.push_back(piece);
        }
        let Some(Attributes { size: Some(size), mode, .. }) = self.wait_attributes(&stat)? else {
            return Err(Fault::Odd);
        };
        if mode.is_some_and(|mode| mode & TYPE_MASK != REGULAR) {
            return Err(Fault::Status(status::NO_SUCH_FILE));
        }
        let range = clip(range, size);
        let len = match usize::try_from(range.end - range.start) {
            Ok(len) if len <= OBJECT_BYTES_MAX => len,
            _ => return Err(Fault::TooLarge),
        };
        let mut bytes = vec![0; len];
        next = next.min(range.end).max(range.start);
        loop {
            while on_the_way.len() < PIECES_MAX && next < range.end {
                let piece = self.ask(handle, next, range.end)?;
                next += piece.len;
                on_the_way.push_back(piece);
            }
            let Some(piece) = on_the_way.pop_front() else { return Ok(bytes) };
            let wanted = piece.len.min(range.end.saturating_sub(piece.start));
            if wanted == 0 {
                continue;
            }
            let got = match self.wait(&piece.ticket)? {
                Reply::Data(got) if !got.is_empty() && got.len() as u64 <= piece.len => got,
                Reply::Status { code: status::EOF } => return Err(Fault::Shrunk),
                Reply::Status { code } => return Err(Fault::Status(code)),
                _ => return Err(Fault::Odd),
            };
            let got = &got[..got.len().min(usize::try_from(wanted).unwrap_or(usize::MAX))];
            let place = usize::try_from(piece.start - range.start).map_err(|_| Fault::Odd)?;
            bytes.get_mut(place..place + got.len()).ok_or(Fault::Odd)?.copy_from_slice(got);
            let missing = piece.start + got.len() as u64..piece.start + wanted;
            if !missing.is_empty() {
                on_the_way.push_front(self.ask(handle, missing.start, missing.end)?);
            }
        }
    }
}
