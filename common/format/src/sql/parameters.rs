//! Extracts the literals of a statement, so that statements of one kind share a template with parameters. Pure.
//!
//! The template with its values must do exactly what the text does, so a literal is extracted only where that is certain: when it
//! is a whole operand, in the VALUES of an INSERT, in an assignment or in a comparison. There SQLite treats a literal and a
//! parameter alike: neither has an affinity or a collation, and both are evaluated by the same instruction of its virtual
//! machine. All other literals stay in the text: arguments of functions and of LIKE, on which an index may depend; numbers that
//! are positions (`ORDER BY 1`) or truth values (`WHERE 1`); and in WHERE the numbers −1, 0 and 1, which SQLite's planner expects
//! to select more rows than others. A statement with a part that could give a column an affinity from its literals (a nested
//! SELECT, several rows of VALUES), or with any unsupported token, has no template and is executed as it is.

use std::borrow::Cow;

use crate::sql::lexer::{Keyword, Kind, Lexer, Token};

/// Maximum number of literals; templates with more would hardly be seen twice.
pub const VALUES_MAX: usize = 999;

/// Maximum length of a template: templates are kept in memory, with the prepared statements.
pub const TEMPLATE_BYTES_MAX: usize = 16 << 10;

/// A statement without its literals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameterised<'a> {
    /// The whole text, with `?` in place of each literal.
    pub template: String,
    /// The literals, in order of position.
    pub literals: Vec<Literal<'a>>,
}

/// A literal that was extracted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Literal<'a> {
    /// Byte offset of its `?` in the template.
    pub position: usize,
    /// The text as written.
    pub text: &'a str,
    /// Kind and value of the literal.
    pub meaning: Meaning<'a>,
}

/// The kind and value of a literal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning<'a> {
    /// A whole number.
    Integer(i64),
    /// A string: the text between single quotes, where a doubled quote stands for one.
    Text(&'a str),
    /// The digits of a blob, an even number of them.
    Blob(&'a str),
}

/// The value that is bound in place of a literal.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A whole number.
    Integer(i64),
    /// A string.
    Text(Cow<'a, str>),
    /// Bytes.
    Blob(Cow<'a, [u8]>),
}

impl<'a> Meaning<'a> {
    /// The value to bind.
    pub fn value(self) -> Value<'a> {
        match self {
            Self::Integer(number) => Value::Integer(number),
            Self::Text(inside) => Value::Text(if inside.as_bytes().contains(&b'\'') {
                Cow::Owned(inside.replace("''", "'"))
            } else {
                Cow::Borrowed(inside)
            }),
            Self::Blob(digits) => Value::Blob(Cow::Owned(bytes_of(digits))),
        }
    }
}

/// The clause that a token is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// The text before the first clause that has values.
    Head,
    /// The text between the parentheses of VALUES.
    Values,
    /// The text behind the VALUES.
    AfterValues,
    /// The assignments of an UPDATE.
    Set,
    /// The condition of an UPDATE or a DELETE.
    Where,
}

/// The purpose of a parenthesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parenthesis {
    /// VALUES or IN: a list of values.
    List,
    /// A group of conditions.
    Group,
    /// Anything else, such as a call.
    Other,
}

/// Extracts the literals of a statement; `None` when it is not certain that the template does the same.
pub fn split(sql: &str) -> Option<Parameterised<'_>> {
    let mut out = Parameterised { template: String::with_capacity(sql.len()), literals: Vec::with_capacity(16) };
    split_into(sql, &mut out).map(|()| out)
}

/// Like [`split`], reusing the buffers of `out`.
pub fn split_into<'a>(sql: &'a str, out: &mut Parameterised<'a>) -> Option<()> {
    out.template.clear();
    out.literals.clear();
    // SQLite stops reading at a NUL.
    if sql.as_bytes().contains(&0) {
        return None;
    }
    let mut lexer = Lexer::new(sql);
    let mut split = Split::begin(sql, lexer.next().ok()??, out)?;
    let mut next = lexer.next().ok()?;
    while let Some(token) = next {
        next = lexer.next().ok()?;
        if token.kind == Kind::Semicolon {
            // SQLite executes the first statement only, and does not parse what follows.
            return if next.is_none() { split.finish() } else { None };
        }
        split.push(token, next.as_ref())?;
    }
    split.finish()
}

struct Split<'a, 'o> {
    sql: &'a str,
    clause: Clause,
    parentheses: Vec<Parenthesis>,
    /// Number of open parentheses that are `Other`.
    others: usize,
    last: Token<'a>,
    before_last: Token<'a>,
    /// Length of the text that is already in the template.
    copied: usize,
    out: &'o mut Parameterised<'a>,
}

impl<'a, 'o> Split<'a, 'o> {
    fn begin(sql: &'a str, verb: Token<'a>, out: &'o mut Parameterised<'a>) -> Option<Self> {
        use Keyword::{Delete, Insert, Replace, Update};
        matches!(verb.kind, Kind::Word(Insert | Replace | Update | Delete)).then(|| Self {
            sql,
            clause: Clause::Head,
            parentheses: Vec::new(),
            others: 0,
            last: verb,
            before_last: verb,
            copied: 0,
            out,
        })
    }

    fn push(&mut self, token: Token<'a>, next: Option<&Token<'a>>) -> Option<()> {
        match token.kind {
            Kind::Word(keyword) => self.word(keyword, next)?,
            Kind::Open => {
                let parenthesis = self.opened_after_last();
                self.others += usize::from(parenthesis == Parenthesis::Other);
                self.parentheses.push(parenthesis);
            }
            Kind::Close => self.close(next)?,
            Kind::Integer(magnitude) if is_whole_operand(next) => self.integer(magnitude, &token),
            Kind::Text(inside) if is_whole_operand(next) && self.is_value_position(&self.last) => {
                self.take_out(token.start, token.end, Meaning::Text(inside));
            }
            // An empty blob stays: as a parameter it would be a zeroblob, which is equal only in its final value.
            Kind::Blob(digits)
                if !digits.is_empty() && is_whole_operand(next) && self.is_value_position(&self.last) =>
            {
                self.take_out(token.start, token.end, Meaning::Blob(digits));
            }
            _ => (),
        }
        self.before_last = std::mem::replace(&mut self.last, token);
        Some(())
    }

    /// Updates the clause after a keyword.
    fn word(&mut self, keyword: Keyword, next: Option<&Token<'a>>) -> Option<()> {
        let at_top = self.parentheses.is_empty();
        match keyword {
            Keyword::Select | Keyword::With | Keyword::Indexed => return None,
            Keyword::Values => {
                // `DEFAULT VALUES` has no parenthesis.
                let is_list = next.is_some_and(|next| next.kind == Kind::Open);
                if self.clause != Clause::Head || !at_top || (!is_list && !self.last.is(Keyword::Default)) {
                    return None;
                }
                self.clause = if is_list { Clause::Values } else { Clause::AfterValues };
            }
            // UPDATE … FROM is a join.
            Keyword::From if self.clause != Clause::Head || !self.last.is(Keyword::Delete) => return None,
            Keyword::Set if self.clause == Clause::Head => self.clause = Clause::Set,
            Keyword::Where if at_top && matches!(self.clause, Clause::Head | Clause::Set) => {
                self.clause = Clause::Where;
            }
            _ => (),
        }
        Some(())
    }

    fn close(&mut self, next: Option<&Token<'a>>) -> Option<()> {
        let parenthesis = self.parentheses.pop()?;
        self.others -= usize::from(parenthesis == Parenthesis::Other);
        if self.clause == Clause::Values && self.parentheses.is_empty() {
            self.clause = Clause::AfterValues;
            // Otherwise there are several rows, or a compound SELECT that begins with VALUES.
            let is_all = next
                .is_none_or(|next| matches!(next.kind, Kind::Semicolon | Kind::Word(Keyword::On | Keyword::Returning)));
            return is_all.then_some(());
        }
        Some(())
    }

    /// The purpose of a parenthesis that opens behind the last token.
    fn opened_after_last(&self) -> Parenthesis {
        use Keyword::{And, In, Not, Or, Values, Where};
        match (self.clause, self.last.kind) {
            (Clause::Values, Kind::Word(Values)) => Parenthesis::List,
            (Clause::Set | Clause::Where, Kind::Word(In)) => Parenthesis::List,
            (Clause::Set | Clause::Where, Kind::Word(And | Or | Not | Where) | Kind::Compare | Kind::Open) => {
                Parenthesis::Group
            }
            _ => Parenthesis::Other,
        }
    }

    /// Whether a literal behind `last` is a value, provided that it is a whole operand.
    fn is_value_position(&self, last: &Token<'_>) -> bool {
        let is_open_to_values = match self.clause {
            Clause::Values | Clause::Set | Clause::Where => self.others == 0,
            Clause::Head | Clause::AfterValues => false,
        };
        is_open_to_values
            && match last.kind {
                Kind::Compare => matches!(self.clause, Clause::Set | Clause::Where),
                Kind::Comma | Kind::Open => self.parentheses.last() == Some(&Parenthesis::List),
                _ => false,
            }
    }

    fn integer(&mut self, magnitude: u64, token: &Token<'_>) {
        let is_signed = self.last.kind == Kind::Minus && self.is_value_position(&self.before_last);
        let (value, start) = if is_signed {
            (0i64.checked_sub_unsigned(magnitude), self.last.start)
        } else if self.is_value_position(&self.last) || self.is_summand() {
            (i64::try_from(magnitude).ok(), token.start)
        } else {
            return;
        };
        let Some(value) = value else { return };
        if self.clause == Clause::Where && (-1..=1).contains(&value) {
            return;
        }
        self.take_out(start, token.end, Meaning::Integer(value));
    }

    /// Whether the next literal is a summand in an assignment, as in counters.
    fn is_summand(&self) -> bool {
        self.clause == Clause::Set
            && self.others == 0
            && matches!(self.last.kind, Kind::Plus | Kind::Minus)
            && matches!(self.before_last.kind, Kind::Word(_) | Kind::Close)
    }

    fn take_out(&mut self, start: usize, end: usize, meaning: Meaning<'a>) {
        let Parameterised { template, literals } = &mut *self.out;
        template.push_str(&self.sql[self.copied..start]);
        literals.push(Literal { position: template.len(), text: &self.sql[start..end], meaning });
        // The `?` merges with no neighbour: a parameter continues only with digits, and no digit follows a literal.
        template.push('?');
        self.copied = end;
    }

    fn finish(self) -> Option<()> {
        let Parameterised { template, literals } = self.out;
        template.push_str(&self.sql[self.copied..]);
        let is_small = literals.len() <= VALUES_MAX && template.len() <= TEMPLATE_BYTES_MAX;
        (is_small && self.parentheses.is_empty()).then_some(())
    }
}

impl Token<'_> {
    fn is(&self, keyword: Keyword) -> bool {
        self.kind == Kind::Word(keyword)
    }
}

/// Whether no operator binds to a literal from the right.
fn is_whole_operand(next: Option<&Token<'_>>) -> bool {
    use Keyword::{And, Or, Returning, Where};
    next.is_none_or(|next| {
        matches!(next.kind, Kind::Comma | Kind::Close | Kind::Semicolon | Kind::Word(Where | And | Or | Returning))
    })
}

/// The value of a text that consists of a single literal; `None` for any other text.
pub fn literal_value(text: &str) -> Option<Value<'_>> {
    let mut lexer = Lexer::new(text);
    let first = lexer.next().ok()??;
    let value = match (first.kind, lexer.next().ok()?) {
        (Kind::Minus, Some(Token { kind: Kind::Integer(magnitude), .. })) => {
            Value::Integer(0i64.checked_sub_unsigned(magnitude)?)
        }
        (Kind::Integer(magnitude), None) => Value::Integer(i64::try_from(magnitude).ok()?),
        (Kind::Text(inside), None) => Meaning::Text(inside).value(),
        (Kind::Blob(digits), None) => Meaning::Blob(digits).value(),
        _ => return None,
    };
    lexer.next().ok()?.is_none().then_some(value)
}

/// Decodes hexadecimal digits.
pub fn bytes_of(digits: &str) -> Vec<u8> {
    // The lowest four bits of a letter count from 1 in both cases, and only letters have bit 6 set.
    let nibble = |digit: u8| (digit & 0xf) + 9 * (digit >> 6);
    let (pairs, _) = digits.as_bytes().as_chunks::<2>();
    pairs.iter().map(|&[high, low]| nibble(high) << 4 | nibble(low)).collect()
}

#[cfg(test)]
mod tests;
