//! Recorded traces: every `db_write` of a real `lightningd`, in order of arrival, with the runs of the plugin marked.
//!
//! The file is JSON lines under zstd. A line is either a write,
//! `{"t": unix seconds, "phase": "pre-init", "data_version": 7, "writes": ["SQL", …]}`, or the beginning or end of
//! something, `{"t": unix seconds, "event": "getmanifest", …}`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use common::{DataVersion, Timestamp};
use serde::Deserialize;

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceEvent {
    /// `lightningd` called the hook `db_write`.
    Write(TraceWrite),
    /// A new run of the plugin: `lightningd` asked for its manifest. Writes come before and after [`Init`](Self::Init).
    Start,
    /// `lightningd` has finished its start and sent `init`.
    Init,
    /// `lightningd` has announced its stop; it may still write.
    Shutdown,
    /// `lightningd` was killed with SIGKILL.
    Kill {
        /// The time of the kill: `before` or `after` the hook's answer.
        mode: String,
    },
    /// The plugin's standard input ended: the run is over.
    End,
    /// The plugin ended the run by itself after a while without a message.
    QuietExit,
}

/// One `db_write`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceWrite {
    /// The time of its arrival.
    pub at: Timestamp,
    /// The version the database has once this is committed.
    pub data_version: DataVersion,
    /// The statements, as received.
    pub statements: Vec<String>,
}

/// The reason why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be opened, read or decompressed.
    #[error("cannot read the trace {}", .path.display())]
    Io {
        /// The trace; `<memory>` when it was given as bytes.
        path: PathBuf,
        /// The error of the system or the decompressor.
        #[source]
        source: io::Error,
    },
    /// A line is neither a write nor a known event.
    #[error("{}: line {line} is not a line of a trace", .path.display())]
    Line {
        /// The trace; `<memory>` when it was given as bytes.
        path: PathBuf,
        /// The number of the line, from 1.
        line: u64,
        /// The error of the JSON parser.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads a trace event by event; the file is never in memory as a whole.
pub struct Trace<'a> {
    path: PathBuf,
    lines: Box<dyn BufRead + 'a>,
    line: Vec<u8>,
    number: u64,
}

impl Trace<'static> {
    /// Opens the trace at `path`, a `db_write.jsonl.zst`.
    ///
    /// # Errors
    /// [`TraceError::Io`] when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let opened = File::open(path).and_then(|file| decoder(BufReader::new(file)));
        Self::over(path.to_owned(), opened)
    }
}

impl<'a> Trace<'a> {
    /// Reads a trace that is in memory, compressed.
    ///
    /// # Errors
    /// [`TraceError::Io`] when the decompressor cannot be made.
    pub fn from_bytes(compressed: &'a [u8]) -> Result<Self, TraceError> {
        Self::over(PathBuf::from("<memory>"), decoder(compressed))
    }

    fn over(path: PathBuf, opened: io::Result<impl BufRead + 'a>) -> Result<Self, TraceError> {
        match opened {
            Ok(lines) => Ok(Self { path, lines: Box::new(lines), line: Vec::new(), number: 0 }),
            Err(source) => Err(TraceError::Io { path, source }),
        }
    }
}

/// The decompressing reader.
fn decoder<'a>(compressed: impl BufRead + 'a) -> io::Result<BufReader<impl Read + 'a>> {
    Ok(BufReader::with_capacity(1 << 17, zstd::Decoder::with_buffer(compressed)?))
}

impl Iterator for Trace<'_> {
    type Item = Result<TraceEvent, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line.clear();
            match self.lines.read_until(b'\n', &mut self.line) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(source) => return Some(Err(TraceError::Io { path: self.path.clone(), source })),
            }
            if !self.line.trim_ascii().is_empty() {
                return Some(
                    serde_json::from_slice::<Line>(&self.line)
                        .map(TraceEvent::from)
                        .map_err(|source| TraceError::Line { path: self.path.clone(), line: self.number, source }),
                );
            }
        }
    }
}

/// The format of a line in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Write { t: f64, data_version: u32, writes: Vec<String> },
    Event(Event),
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Getmanifest,
    Init,
    Shutdown,
    Kill { mode: String },
    Eof,
    QuietExit,
}

impl From<Line> for TraceEvent {
    fn from(line: Line) -> Self {
        match line {
            Line::Write { t, data_version, writes } => Self::Write(TraceWrite {
                at: timestamp(t),
                data_version: DataVersion::new(data_version),
                statements: writes,
            }),
            Line::Event(Event::Getmanifest) => Self::Start,
            Line::Event(Event::Init) => Self::Init,
            Line::Event(Event::Shutdown) => Self::Shutdown,
            Line::Event(Event::Kill { mode }) => Self::Kill { mode },
            Line::Event(Event::Eof) => Self::End,
            Line::Event(Event::QuietExit) => Self::QuietExit,
        }
    }
}

/// Seconds since 1970 as the trace has them; a moment that no [`Timestamp`] can hold becomes the earliest.
#[expect(clippy::cast_possible_truncation, reason = "a float cast saturates, and the range is checked next")]
fn timestamp(seconds: f64) -> Timestamp {
    Timestamp::from_micros((seconds * 1e6).round() as i64)
        .unwrap_or_else(|| Timestamp::from_micros(0).expect("BUG: 1970 is a moment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<TraceEvent, TraceError>> {
        let compressed = zstd::encode_all(text.as_bytes(), 3).expect("compresses");
        Trace::from_bytes(&compressed).expect("opens").collect()
    }

    #[test]
    fn reads_every_kind_of_line_in_order() {
        let text = r#"{"t": 1.5, "event": "getmanifest", "pid": 1}
{"t": 1795326225.3955915, "phase": "pre-init", "data_version": 7, "writes": ["A 'é\n'", "B"]}
{"t": 2, "event": "init", "pid": 1, "n_before_init": 1}
{"t": 2, "event": "kill", "pid": 1, "mode": "before", "n": 1, "data_version": 7}
{"t": 2, "event": "shutdown", "pid": 1, "n": 1}

{"t": 2, "event": "quiet-exit", "pid": 1}
{"t": 2, "event": "eof", "pid": 1, "n": 1, "leftover": 0}
"#;
        let events: Vec<_> = read(text).into_iter().map(|event| event.expect("a line of a trace")).collect();
        let write = TraceWrite {
            at: Timestamp::from_micros(1_795_326_225_395_592).expect("in range"),
            data_version: DataVersion::new(7),
            statements: vec!["A 'é\n'".into(), "B".into()],
        };
        let expected = [
            TraceEvent::Start,
            TraceEvent::Write(write),
            TraceEvent::Init,
            TraceEvent::Kill { mode: "before".into() },
            TraceEvent::Shutdown,
            TraceEvent::QuietExit,
            TraceEvent::End,
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn an_unknown_event_is_an_error_with_its_line() {
        let events = read("{\"t\": 1, \"event\": \"init\"}\n{\"t\": 1, \"event\": \"sneeze\"}\n");
        assert!(matches!(events[..], [Ok(TraceEvent::Init), Err(TraceError::Line { line: 2, .. })]), "{events:?}");
    }
}
