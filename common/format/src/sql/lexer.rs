//! Tokens of a statement, exactly as SQLite's tokenizer produces them, or an error.

/// A token of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// Kind of the token.
    pub(super) kind: Kind<'a>,
    /// Byte offset of its first byte.
    pub(super) start: usize,
    /// Byte offset behind it.
    pub(super) end: usize,
}

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A keyword or a name.
    Word(Keyword),
    /// A name, or perhaps a string, in double quotes, backticks or brackets.
    Quoted,
    /// A whole number of at most 2^63, without its sign.
    Integer(u64),
    /// Another number: too large, hexadecimal, or not whole.
    Number,
    /// A string: the text between single quotes, where a doubled quote stands for one.
    Text(&'a str),
    /// The digits of a blob, an even number of them.
    Blob(&'a str),
    /// `,`
    Comma,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `;`
    Semicolon,
    /// `=`, which also assigns, and all comparison operators.
    Compare,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// Any other operator of SQLite, and `.`
    Other,
}

/// The keywords that decide what other tokens mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    And,
    Default,
    Delete,
    From,
    In,
    Indexed,
    Insert,
    Not,
    On,
    Or,
    Replace,
    Returning,
    Select,
    Set,
    Update,
    Values,
    Where,
    With,
    /// A name, or a keyword without influence here.
    Another,
}

/// The error for input that is left to SQLite: comments, parameters, non-ASCII letters, numbers that run into words, and
/// everything that SQLite refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// Tokenizes a statement from left to right.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }

    /// The next token; `None` at the end of the text.
    pub(super) fn next(&mut self) -> Result<Option<Token<'a>>, NotUnderstood> {
        let bytes = self.sql.as_bytes();
        // SQLite's white space: without the vertical tab, which SQLite refuses.
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\x0c' | b'\r')) {
            self.at += 1;
        }
        let start = self.at;
        if start == bytes.len() {
            return Ok(None);
        }
        let (kind, len) = self.kind_and_len(start).ok_or(NotUnderstood)?;
        self.at = start + len;
        Ok(Some(Token { kind, start, end: self.at }))
    }

    fn kind_and_len(&self, start: usize) -> Option<(Kind<'a>, usize)> {
        let bytes = self.sql.as_bytes();
        let first = *bytes.get(start)?;
        let second = bytes.get(start + 1).copied().unwrap_or_default();
        Some(match (first, second) {
            (b'x' | b'X', b'\'') => {
                let len = self.sql[start + 2..].find('\'')?;
                let digits = &self.sql[start + 2..start + 2 + len];
                // No early exit: so the compiler can check many bytes at once.
                let is_hex = digits.bytes().fold(true, |is_hex, byte| is_hex & byte.is_ascii_hexdigit());
                if !is_hex || len % 2 != 0 {
                    return None;
                }
                (Kind::Blob(digits), len + 3)
            }
            (b'a'..=b'z' | b'A'..=b'Z' | b'_', _) => {
                let len = count(&bytes[start..], is_word);
                // SQLite continues a word with non-ASCII letters.
                if bytes.get(start + len).is_some_and(|byte| !byte.is_ascii()) {
                    return None;
                }
                (Kind::Word(Keyword::of(&bytes[start..start + len])), len)
            }
            (b'0'..=b'9', _) | (b'.', b'0'..=b'9') => number(&self.sql[start..])?,
            (b'\'', _) => text(&self.sql[start..])?,
            (b'"' | b'`', _) => (Kind::Quoted, quoted_len(&bytes[start..])?),
            (b'[', _) => (Kind::Quoted, bytes[start..].iter().position(|&byte| byte == b']')? + 1),
            // Comments and JSON operators.
            (b'-', b'-' | b'>') | (b'/', b'*') => return None,
            (b'=' | b'!' | b'<' | b'>', b'=') | (b'<', b'>') => (Kind::Compare, 2),
            (b'<', b'<') | (b'>', b'>') | (b'|', b'|') => (Kind::Other, 2),
            (b'=' | b'<' | b'>', _) => (Kind::Compare, 1),
            (b',', _) => (Kind::Comma, 1),
            (b'(', _) => (Kind::Open, 1),
            (b')', _) => (Kind::Close, 1),
            (b';', _) => (Kind::Semicolon, 1),
            (b'+', _) => (Kind::Plus, 1),
            (b'-', _) => (Kind::Minus, 1),
            (b'*' | b'/' | b'%' | b'&' | b'|' | b'~' | b'.', _) => (Kind::Other, 1),
            _ => return None,
        })
    }
}

impl Keyword {
    fn of(word: &[u8]) -> Self {
        // Grouped by length: this runs for every column of every statement of a history.
        let of_this_len: &[(&str, Self)] = match word.len() {
            2 => &[("IN", Self::In), ("ON", Self::On), ("OR", Self::Or)],
            3 => &[("AND", Self::And), ("NOT", Self::Not), ("SET", Self::Set)],
            4 => &[("FROM", Self::From), ("WITH", Self::With)],
            5 => &[("WHERE", Self::Where)],
            6 => &[
                ("DELETE", Self::Delete),
                ("INSERT", Self::Insert),
                ("SELECT", Self::Select),
                ("UPDATE", Self::Update),
                ("VALUES", Self::Values),
            ],
            7 => &[("DEFAULT", Self::Default), ("INDEXED", Self::Indexed), ("REPLACE", Self::Replace)],
            9 => &[("RETURNING", Self::Returning)],
            _ => &[],
        };
        let known = of_this_len.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(word));
        known.map_or(Self::Another, |(_, keyword)| *keyword)
    }
}

/// The bytes that names and keywords consist of.
static WORD_BYTES: [bool; 256] = {
    let mut is_word = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        let ascii = byte as u8;
        is_word[byte] = ascii.is_ascii_alphanumeric() || ascii == b'_' || ascii == b'$';
        byte += 1;
    }
    is_word
};

fn is_word(byte: u8) -> bool {
    WORD_BYTES[usize::from(byte)]
}

fn count(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !belongs(byte)).unwrap_or(bytes.len())
}

/// A number at the start of `rest`, and its length.
fn number(rest: &str) -> Option<(Kind<'_>, usize)> {
    let bytes = rest.as_bytes();
    let digit = |byte: u8| byte.is_ascii_digit();
    let mut len = count(bytes, digit);
    let mut is_whole = true;
    if bytes.get(len) == Some(&b'.') {
        is_whole = false;
        len += 1 + count(&bytes[len + 1..], digit);
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        let digits = bytes.get(len + 1 + sign..).map_or(0, |exponent| count(exponent, digit));
        if digits > 0 {
            is_whole = false;
            len += 1 + sign + digits;
        }
    }
    if rest.starts_with("0x") || rest.starts_with("0X") {
        let digits = count(&bytes[2..], |byte| byte.is_ascii_hexdigit());
        (is_whole, len) = (false, if digits > 0 { digits + 2 } else { len });
    }
    // `1_000` may be a number; `1WHERE` never is. Neither is worth supporting.
    if bytes.get(len).is_some_and(|&byte| is_word(byte) || !byte.is_ascii()) {
        return None;
    }
    // SQLite treats a larger whole number as REAL, and also 2^63 without a sign.
    let value = rest[..len].parse().ok().filter(|&value: &u64| is_whole && value <= 1 << 63);
    Some((value.map_or(Kind::Number, Kind::Integer), len))
}

/// A string at the start of `rest`, and its length.
fn text(rest: &str) -> Option<(Kind<'_>, usize)> {
    let len = quoted_len(rest.as_bytes())?;
    Some((Kind::Text(&rest[1..len - 1]), len))
}

/// Length of a quoted token with both quotes; a doubled quote does not end it.
fn quoted_len(bytes: &[u8]) -> Option<usize> {
    let quote = *bytes.first()?;
    let mut at = 1;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == quote)? + 1;
        if bytes.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}
