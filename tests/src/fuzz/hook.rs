//! What `lightningd`, or whatever else is at the other end of the pipe, sends to the recorder.

use recorder::hook::IncomingWrite;
use recorder::message::{Head, Incoming};
use recorder::splitter::{Message, Splitter};

/// Shorter than real messages may be, so that too long ones occur.
const LIMIT: usize = 20_000;

/// A message as the splitter tells of it.
#[derive(Debug, PartialEq)]
enum Told {
    Whole(Vec<u8>),
    Oversized(Vec<u8>, u64),
}

impl Told {
    fn of(message: Message<'_>) -> Self {
        match message {
            Message::Whole(bytes) => Self::Whole(bytes.to_vec()),
            Message::Oversized { head, bytes } => Self::Oversized(head.to_vec(), bytes),
        }
    }
}

/// A stream of messages. However it is chunked, the messages are the same; each is read as far as it goes.
pub(super) fn hook(input: &[u8]) -> bool {
    let mut understood = false;
    let whole = split(input, usize::MAX);
    let chunk = usize::from(input.first().copied().unwrap_or(0)) + 1;
    assert_eq!(split(input, chunk), whole, "in chunks of {chunk}");
    for message in &whole {
        match message {
            Told::Whole(bytes) => {
                assert!(!bytes.is_empty() && bytes.len() <= LIMIT, "a message of {} bytes", bytes.len());
                understood |= read(bytes);
            }
            Told::Oversized(head, bytes) => {
                assert!(*bytes > LIMIT as u64 && head.len() as u64 <= *bytes, "{bytes} are no more than {LIMIT}");
                let _ = Head::of(head);
            }
        }
    }
    understood | read(input)
}

fn split(input: &[u8], chunk: usize) -> Vec<Told> {
    let mut splitter = Splitter::with_limit(LIMIT);
    let mut told = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let space = splitter.space();
        let len = rest.len().min(chunk).min(space.len());
        space[..len].copy_from_slice(&rest[..len]);
        splitter.filled(len);
        rest = &rest[len..];
        while let Some(message) = splitter.next_message() {
            told.push(Told::of(message));
        }
    }
    told.extend(splitter.finish().map(Told::of));
    told
}

fn read(message: &[u8]) -> bool {
    if let Incoming::DbWrite { params, .. } = Incoming::parse(message)
        && let Ok(write) = IncomingWrite::parse(params)
    {
        assert!(!write.statements.is_empty(), "a write without statements");
        let bytes: usize = write.statements.iter().map(|statement| statement.len()).sum();
        assert!(bytes <= message.len(), "{bytes} bytes of statements in {}", message.len());
        // What is sent again is read as the same.
        let params = serde_json::json!({ "data_version": write.data_version.get(), "writes": write.statements });
        let params = serde_json::value::to_raw_value(&params).expect("JSON");
        assert_eq!(IncomingWrite::parse(Some(&params)), Ok(write));
        return true;
    }
    false
}
