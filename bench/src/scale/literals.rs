//! The literals of a recorded statement, and the column that each is stored in or compared with.
//!
//! Only what the statements of a node look like is understood; of anything else nothing is said, and it stays as it is.

use std::ops::Range;

/// A statement that changes rows, and the literals in it that belong to a column.
#[derive(Debug, PartialEq)]
pub struct Statement<'a> {
    /// The verb of the statement.
    pub verb: Verb,
    /// The table whose rows it changes.
    pub table: &'a str,
    /// The literals, from left to right.
    pub literals: Vec<Literal<'a>>,
}

/// The effect of a statement on rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Insert,
    Update,
    Delete,
}

/// One literal.
#[derive(Debug, PartialEq)]
pub struct Literal<'a> {
    /// The column that it is stored in or compared with.
    pub column: Column<'a>,
    /// Range in the text, without the quotes.
    pub range: Range<usize>,
    /// The value.
    pub value: Value<'a>,
}

/// A column of the statement's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// The name of the column.
    Named(&'a str),
    /// The position of the column in the table, from 0.
    Place(usize),
}

/// The value of a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A whole number.
    Integer(i64),
    /// The text between the quotes.
    Text(&'a str),
    /// The hexadecimal digits.
    Blob(&'a str),
}

impl<'a> Statement<'a> {
    /// `None` when it is none that changes rows.
    pub fn read(sql: &'a str) -> Option<Self> {
        let tokens = tokens(sql);
        let first = tokens.first()?;
        if first.is("insert") {
            insert(&tokens)
        } else if first.is("update") {
            let table = tokens.get(1)?.word()?;
            Some(Self { verb: Verb::Update, table, literals: compared(&tokens, table) })
        } else if first.is("delete") {
            let table = tokens.get(2)?.word()?;
            Some(Self { verb: Verb::Delete, table, literals: compared(&tokens, table) })
        } else {
            None
        }
    }
}

/// `INSERT [OR …] INTO table [(columns)] VALUES (…)`, or without values.
fn insert<'a>(tokens: &[Token<'a>]) -> Option<Statement<'a>> {
    let into = tokens.iter().position(|token| token.is("into"))?;
    let table = tokens.get(into + 1)?.word()?;
    let values = tokens.iter().position(|token| token.is("values")).unwrap_or(tokens.len());
    let columns: Vec<&str> = tokens.get(into + 2..values).unwrap_or_default().iter().filter_map(Token::word).collect();
    let mut literals = Vec::new();
    let (mut depth, mut place) = (0, 0);
    for window in tokens.get(values..).unwrap_or_default().windows(3) {
        let [before, token, after] = window else { continue };
        match before.kind {
            Kind::Mark(b'(') => depth += 1,
            Kind::Mark(b')') => depth -= 1,
            Kind::Mark(b',') if depth == 1 => place += 1,
            _ => {}
        }
        let is_whole = matches!(before.kind, Kind::Mark(b'(' | b',')) && matches!(after.kind, Kind::Mark(b')' | b','));
        if let Some(value) = token.value().filter(|_| depth == 1 && is_whole) {
            let column = columns.get(place).map_or(Column::Place(place), |&name| Column::Named(name));
            literals.push(Literal { column, range: token.inside.clone(), value });
        }
    }
    Some(Statement { verb: Verb::Insert, table, literals })
}

/// Literals right of a comparison or assignment whose left side is a column of `table`.
fn compared<'a>(tokens: &[Token<'a>], table: &str) -> Vec<Literal<'a>> {
    let mut literals = Vec::new();
    // In a nested query an unqualified column may be one of another table.
    let nested = tokens.iter().position(|token| token.is("select")).unwrap_or(tokens.len());
    for (at, token) in tokens.iter().enumerate().take(nested).skip(2) {
        let Some(value) = token.value() else { continue };
        let [name, operator] = [&tokens[at - 2], &tokens[at - 1]];
        let (Some(name), Kind::Compare) = (name.word(), operator.kind) else { continue };
        let qualifier = (at >= 4 && tokens[at - 3].kind == Kind::Mark(b'.')).then(|| tokens[at - 4].word());
        // Nothing else may follow that makes it a part of an expression.
        let is_whole =
            tokens.get(at + 1).is_none_or(|next| matches!(next.kind, Kind::Word | Kind::Mark(b',' | b';' | b')')));
        if is_whole && qualifier.is_none_or(|qualifier| qualifier == Some(table)) {
            literals.push(Literal { column: Column::Named(name), range: token.inside.clone(), value });
        }
    }
    literals
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Integer,
    Text,
    Blob,
    Compare,
    Mark(u8),
    Other,
}

#[derive(Debug, Clone)]
struct Token<'a> {
    kind: Kind,
    /// Range in the text, without the quotes.
    inside: Range<usize>,
    text: &'a str,
}

impl<'a> Token<'a> {
    fn word(&self) -> Option<&'a str> {
        (self.kind == Kind::Word).then_some(self.text)
    }

    fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    fn value(&self) -> Option<Value<'a>> {
        match self.kind {
            Kind::Integer => self.text.parse().ok().map(Value::Integer),
            Kind::Text => Some(Value::Text(self.text)),
            Kind::Blob => Some(Value::Blob(self.text)),
            _ => None,
        }
    }
}

fn tokens(sql: &str) -> Vec<Token<'_>> {
    let bytes = sql.as_bytes();
    let while_from = |from: usize, test: fn(u8) -> bool| {
        from + bytes[from..].iter().position(|&byte| !test(byte)).unwrap_or(bytes.len() - from)
    };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied().unwrap_or_default();
        let (kind, inside, end) = match (byte, next) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {
                at += 1;
                continue;
            }
            (b'x' | b'X', b'\'') => {
                let end = while_from(at + 2, |byte| byte != b'\'');
                (Kind::Blob, at + 2..end, end + 1)
            }
            (b'\'', _) => {
                let mut end = while_from(at + 1, |byte| byte != b'\'');
                while bytes.get(end + 1) == Some(&b'\'') {
                    end = while_from(end + 2, |byte| byte != b'\'');
                }
                (Kind::Text, at + 1..end, end + 1)
            }
            (b'"', _) => {
                let end = while_from(at + 1, |byte| byte != b'"');
                (Kind::Word, at + 1..end, end + 1)
            }
            (b'0'..=b'9', _) => {
                let end = while_from(at, |byte| byte.is_ascii_digit());
                let is_whole = bytes.get(end) != Some(&b'.');
                (if is_whole { Kind::Integer } else { Kind::Other }, at..end, end)
            }
            (b'<' | b'>' | b'=' | b'!', _) => {
                let end = while_from(at, |byte| matches!(byte, b'<' | b'>' | b'=' | b'!'));
                (Kind::Compare, at..end, end)
            }
            (byte, _) if is_word(byte) => {
                let end = while_from(at, is_word);
                (Kind::Word, at..end, end)
            }
            (mark, _) => (Kind::Mark(mark), at..at + 1, at + 1),
        };
        let Some(text) = sql.get(inside.clone()) else { break };
        tokens.push(Token { kind, inside, text });
        at = end;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, table: &str, expected: &[(Column<'_>, Value<'_>)]) {
        let statement = Statement::read(sql).expect("a statement that changes rows");
        let found: Vec<_> = statement.literals.iter().map(|literal| (literal.column, literal.value)).collect();
        assert_eq!((statement.table, found.as_slice()), (table, expected), "{sql}");
        for literal in &statement.literals {
            let text = &sql[literal.range.clone()];
            match literal.value {
                Value::Integer(number) => assert_eq!(text, number.to_string()),
                Value::Text(inside) | Value::Blob(inside) => assert_eq!(text, inside),
            }
        }
    }

    use Column::{Named, Place};
    use Value::{Blob, Integer, Text};

    #[test]
    fn inserts_are_read_with_and_without_columns() {
        check(
            "INSERT OR IGNORE INTO t ( a, b,c, d) VALUES (7 , x'0aF9', NULL, 'it''s (5, 6)');",
            "t",
            &[(Named("a"), Integer(7)), (Named("b"), Blob("0aF9")), (Named("d"), Text("it''s (5, 6)"))],
        );
        check("INSERT INTO t  VALUES(1,-2, abs(3), 4)", "t", &[(Place(0), Integer(1)), (Place(3), Integer(4))]);
        check("INSERT INTO t DEFAULT VALUES;", "t", &[]);
    }

    #[test]
    fn assignments_and_comparisons_are_read() {
        check(
            "UPDATE vars SET intval = intval + 1, val=5 WHERE name = 'data_version' AND intval = 18",
            "vars",
            &[(Named("val"), Integer(5)), (Named("name"), Text("data_version")), (Named("intval"), Integer(18))],
        );
        check("UPDATE t SET a=5WHERE t.id=7", "t", &[(Named("a"), Integer(5)), (Named("id"), Integer(7))]);
        check("DELETE FROM t WHERE a >= 5 AND b = 6 + c AND d = 1.5;", "t", &[(Named("a"), Integer(5))]);
    }

    #[test]
    fn columns_of_other_tables_are_left_out() {
        check("DELETE FROM t WHERE u.id = 5 AND id IN (SELECT id FROM u WHERE state = 10);", "t", &[]);
        assert_eq!(Statement::read("PRAGMA foreign_keys = ON"), None);
        assert_eq!(Statement::read(""), None);
    }
}
