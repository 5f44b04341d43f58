//! A literal as it is stored: in the shortest form from which its exact text can be restored.

use std::borrow::Cow;

use crate::sql::parameters::{Literal, Meaning, Value, literal_value};

/// The spelling of a blob: `x'…'` or `X'…'`, with lower-case or upper-case digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobStyle {
    pub(super) prefix: LetterCase,
    pub(super) digits: LetterCase,
}

/// The case of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetterCase {
    Lower,
    Upper,
}

/// The stored form of a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// The value; the text is the shortest decimal one.
    Integer(i64),
    /// The text between the quotes; a doubled quote is stored as one.
    Text(&'a str),
    /// The bytes, given here by their digits.
    Blob(BlobStyle, &'a str),
    /// The text itself: a number or blob with another spelling.
    Verbatim(&'a str),
}

impl<'a> Form<'a> {
    pub(super) fn of(literal: &Literal<'a>) -> Self {
        match literal.meaning {
            Meaning::Integer(number) if is_shortest(literal.text) => Self::Integer(number),
            Meaning::Integer(_) => Self::Verbatim(literal.text),
            Meaning::Text(inside) => Self::Text(inside),
            Meaning::Blob(digits) => {
                let prefix = if literal.text.starts_with('x') { LetterCase::Lower } else { LetterCase::Upper };
                // No early exit: so the compiler can check many bytes at once.
                let has = |case: std::ops::RangeInclusive<u8>| {
                    digits.bytes().fold(false, |found, byte| found | case.contains(&byte))
                };
                let digits_case = match (has(b'a'..=b'f'), has(b'A'..=b'F')) {
                    (_, false) => LetterCase::Lower,
                    (false, true) => LetterCase::Upper,
                    (true, true) => return Self::Verbatim(literal.text),
                };
                Self::Blob(BlobStyle { prefix, digits: digits_case }, digits)
            }
        }
    }
}

/// Whether an integer is written without leading zeros, spaces, or a redundant sign.
fn is_shortest(text: &str) -> bool {
    match text.as_bytes() {
        [b'0'] => true,
        [b'-', first, ..] | [first, ..] => matches!(first, b'1'..=b'9'),
        [] => false,
    }
}

/// A range in the texts or blobs of a block, which follow those of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// A decoded literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Integer(i64),
    Text(Span),
    Blob(BlobStyle, Span),
    Verbatim(Span),
}

impl Cell {
    /// Minimum length of its text, beside the `?` in its place.
    pub(super) fn len_min(self) -> usize {
        match self {
            Self::Integer(_) => 0,
            Self::Text(span) => span.len as usize + 1,
            Self::Blob(_, span) => span.len as usize * 2 + 2,
            Self::Verbatim(span) => (span.len as usize).saturating_sub(1),
        }
    }
}

/// A decoded literal with the bytes of its spans.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored<'a> {
    Integer(i64),
    Text(&'a str),
    Blob(BlobStyle, &'a [u8]),
    Verbatim(&'a str),
}

impl<'a> Stored<'a> {
    /// The value to bind.
    pub(super) fn value(self) -> Value<'a> {
        match self {
            Self::Integer(number) => Value::Integer(number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Blob(_, bytes) => Value::Blob(Cow::Borrowed(bytes)),
            // The text was checked when it was decoded.
            Self::Verbatim(text) => literal_value(text).unwrap_or(Value::Integer(0)),
        }
    }

    /// Appends the text.
    pub(super) fn write(self, out: &mut String) {
        match self {
            Self::Integer(number) => {
                use std::fmt::Write as _;
                // Writing to a String cannot fail.
                let _ = write!(out, "{number}");
            }
            Self::Text(text) => {
                out.push('\'');
                for (index, part) in text.split('\'').enumerate() {
                    if index > 0 {
                        out.push_str("''");
                    }
                    out.push_str(part);
                }
                out.push('\'');
            }
            Self::Blob(style, bytes) => {
                out.push_str(match style.prefix {
                    LetterCase::Lower => "x'",
                    LetterCase::Upper => "X'",
                });
                let digits = match style.digits {
                    LetterCase::Lower => b"0123456789abcdef",
                    LetterCase::Upper => b"0123456789ABCDEF",
                };
                out.extend(
                    bytes
                        .iter()
                        .flat_map(|byte| [byte >> 4, byte & 0xf])
                        .map(|digit| char::from(digits[usize::from(digit)])),
                );
                out.push('\'');
            }
            Self::Verbatim(text) => out.push_str(text),
        }
    }

    /// Approximate length of the text.
    pub(super) fn len_hint(self) -> usize {
        match self {
            Self::Integer(_) => 20,
            Self::Text(text) => text.len() + 4,
            Self::Blob(_, bytes) => bytes.len() * 2 + 3,
            Self::Verbatim(text) => text.len(),
        }
    }
}
