//! What varies between statements of one kind: their literals, taken out and put into parameters. Pure.
//!
//! The template and its values do exactly what the text does, so only what is sure to is taken out: a literal that is a
//! whole operand of its own, in the VALUES of an INSERT, in an assignment or in a comparison. There SQLite treats a
//! literal and a parameter alike: neither has an affinity or a collation, and both are evaluated by the same
//! instruction of its machine. Everything else stays in the text: arguments of functions and of LIKE, of which an
//! index may depend; numbers that are positions (`ORDER BY 1`) or truths (`WHERE 1`); and in WHERE the numbers −1, 0
//! and 1, which SQLite's planner expects to select more rows than others. A statement with a part that could give a
//! column an affinity from its literals (a nested SELECT, several rows of VALUES), or with anything not understood, has
//! no template and is executed as it is.

use std::borrow::Cow;

use crate::sql::lexer::{Keyword, Kind, Lexer, Token};

/// More would make templates that are hardly seen twice.
pub const VALUES_MAX: usize = 999;

/// Templates are kept in memory, with the statements made of them.
pub const TEMPLATE_BYTES_MAX: usize = 16 << 10;

/// A statement without its literals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameterised<'a> {
    /// The whole text, with `?` in the places of the literals.
    pub template: String,
    /// The literals, from the first place to the last.
    pub literals: Vec<Literal<'a>>,
}

/// A literal that was taken out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Literal<'a> {
    /// Where in the template its `?` is.
    pub place: usize,
    /// As it was written.
    pub text: &'a str,
    /// What it says.
    pub meaning: Meaning<'a>,
}

/// What a literal says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning<'a> {
    /// A whole number.
    Integer(i64),
    /// What is between single quotes, where a doubled one stands for one.
    Text(&'a str),
    /// The digits of a blob, an even number of them.
    Blob(&'a str),
}

/// What is bound in the place of a literal.
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
    /// What is bound for it.
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

/// Where in a statement a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Before anything can be taken out.
    Head,
    /// Between the parentheses of VALUES.
    Values,
    /// After them.
    AfterValues,
    /// In the assignments of an UPDATE.
    Set,
    /// In its condition, or that of a DELETE.
    Where,
}

/// What a parenthesis was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parenthesis {
    /// VALUES or IN: what is between its commas are values.
    List,
    /// To bind together what is in it.
    Group,
    /// Anything else, such as a call.
    Other,
}

/// Takes the literals out of a statement; `None` when it is not sure that the outcome does the same.
pub fn split(sql: &str) -> Option<Parameterised<'_>> {
    let mut out = Parameterised { template: String::with_capacity(sql.len()), literals: Vec::with_capacity(16) };
    split_into(sql, &mut out).map(|()| out)
}

/// As [`split`], into what an earlier statement was split into.
pub fn split_into<'a>(sql: &'a str, out: &mut Parameterised<'a>) -> Option<()> {
    out.template.clear();
    out.literals.clear();
    // SQLite reads no further than a NUL.
    if sql.as_bytes().contains(&0) {
        return None;
    }
    let mut lexer = Lexer::new(sql);
    let mut split = Split::begin(sql, lexer.next().ok()??, out)?;
    let mut next = lexer.next().ok()?;
    while let Some(token) = next {
        next = lexer.next().ok()?;
        if token.kind == Kind::Semicolon {
            // What comes after the first statement is not executed, and not looked at either.
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
    /// How many of them are `Other`.
    others: usize,
    last: Token<'a>,
    before_last: Token<'a>,
    /// How much of the text is in the template.
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
            Kind::Text(inside) if is_whole_operand(next) && self.is_place_of_value(&self.last) => {
                self.take_out(token.start, token.end, Meaning::Text(inside));
            }
            // An empty blob stays: bound, it would be a zeroblob, which is the same only in the end.
            Kind::Blob(digits)
                if !digits.is_empty() && is_whole_operand(next) && self.is_place_of_value(&self.last) =>
            {
                self.take_out(token.start, token.end, Meaning::Blob(digits));
            }
            _ => (),
        }
        self.before_last = std::mem::replace(&mut self.last, token);
        Some(())
    }

    /// Follows the words that say what the next ones are.
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
            // UPDATE … FROM joins.
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
            // If not, there are several rows, or a compound of which VALUES is the first part.
            let is_all = next
                .is_none_or(|next| matches!(next.kind, Kind::Semicolon | Kind::Word(Keyword::On | Keyword::Returning)));
            return is_all.then_some(());
        }
        Some(())
    }

    /// What a parenthesis after the last word is for.
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

    /// Whether a literal after `last` is a value, if it is a whole operand.
    fn is_place_of_value(&self, last: &Token<'_>) -> bool {
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
        let is_signed = self.last.kind == Kind::Minus && self.is_place_of_value(&self.before_last);
        let (value, start) = if is_signed {
            (0i64.checked_sub_unsigned(magnitude), self.last.start)
        } else if self.is_place_of_value(&self.last) || self.is_summand() {
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

    /// Whether the next literal is added to something in an assignment, as counters are.
    fn is_summand(&self) -> bool {
        self.clause == Clause::Set
            && self.others == 0
            && matches!(self.last.kind, Kind::Plus | Kind::Minus)
            && matches!(self.before_last.kind, Kind::Word(_) | Kind::Close)
    }

    fn take_out(&mut self, start: usize, end: usize, meaning: Meaning<'a>) {
        let Parameterised { template, literals } = &mut *self.out;
        template.push_str(&self.sql[self.copied..start]);
        literals.push(Literal { place: template.len(), text: &self.sql[start..end], meaning });
        // Nothing grows together with it: a question mark goes on in digits only, and no literal is followed by one.
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

/// Whether nothing after a literal binds to it.
fn is_whole_operand(next: Option<&Token<'_>>) -> bool {
    use Keyword::{And, Or, Returning, Where};
    next.is_none_or(|next| {
        matches!(next.kind, Kind::Comma | Kind::Close | Kind::Semicolon | Kind::Word(Where | And | Or | Returning))
    })
}

/// What is bound for a text that is nothing but one literal; `None` when it is not.
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

/// The bytes that the digits of a blob stand for.
pub fn bytes_of(digits: &str) -> Vec<u8> {
    // Of a letter the lowest four bits count from 1, in both cases; and it has a bit that no decimal digit has.
    let nibble = |digit: u8| (digit & 0xf) + 9 * (digit >> 6);
    let (pairs, _) = digits.as_bytes().as_chunks::<2>();
    pairs.iter().map(|&[high, low]| nibble(high) << 4 | nibble(low)).collect()
}

#[cfg(test)]
mod tests;
