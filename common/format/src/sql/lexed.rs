//! [`LexedChange`]: the statements of a change with their literals extracted once, for replay, which binds them, and for the
//! blocks of a segment, which store them by column.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sql::parameters::{Literal, Meaning, Parameterised, split_into};

/// Maximum number of literals of a table or a block, counted over all rows; each takes 16 bytes of memory when decoded.
/// Statements beyond the limit are stored as plain text.
pub const LITERALS_MAX: usize = 1 << 20;

/// A template and the positions of its literals: the common part of statements of one kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The whole text, with `?` in place of each literal.
    pub template: Box<str>,
    /// Byte offset of each `?` in the template.
    pub positions: Box<[usize]>,
}

/// The shapes seen so far, each stored once.
#[derive(Debug, Default)]
pub struct Shapes {
    known: HashMap<Box<str>, Arc<Shape>>,
    bytes: usize,
}

/// Maximum bytes of cached templates; a busy node needs a hundredth of that. Beyond the limit the cache is cleared.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// The statements of a change, byte for byte as received.
#[derive(Debug, Default)]
pub struct LexedChange {
    /// The concatenated text of all statements.
    text: String,
    statements: Vec<Lexed>,
    literals: Vec<LexedLiteral>,
}

#[derive(Debug)]
struct Lexed {
    /// End of the statement in the text.
    end: usize,
    /// End of its literals in the list of literals.
    literals_end: usize,
    /// `None` for a statement that is executed and stored as plain text.
    shape: Option<Arc<Shape>>,
}

#[derive(Debug, Clone, Copy)]
struct LexedLiteral {
    start: u32,
    len: u32,
    kind: LiteralKind,
}

/// The kind of a literal, without its text.
#[derive(Debug, Clone, Copy)]
pub enum LiteralKind {
    /// An integer, with its value.
    Integer(i64),
    /// A text.
    Text,
    /// A blob.
    Blob,
}

impl LiteralKind {
    /// The kind of a literal with this meaning.
    pub fn of(meaning: Meaning<'_>) -> Self {
        match meaning {
            Meaning::Integer(number) => Self::Integer(number),
            Meaning::Text(_) => Self::Text,
            Meaning::Blob(_) => Self::Blob,
        }
    }

    /// The meaning of a literal of this kind with this text.
    pub fn meaning(self, text: &str) -> Meaning<'_> {
        match self {
            Self::Integer(number) => Meaning::Integer(number),
            Self::Text => Meaning::Text(&text[1..text.len() - 1]),
            Self::Blob => Meaning::Blob(&text[2..text.len() - 1]),
        }
    }
}

/// A statement of a [`LexedChange`].
#[derive(Debug, Clone, Copy)]
pub struct LexedStatement<'a> {
    /// The text as received.
    pub text: &'a str,
    /// The template, if the statement has one.
    pub shape: Option<&'a Arc<Shape>>,
    /// Start of the statement in the text of the change.
    start: usize,
    literals: &'a [LexedLiteral],
}

impl<'a> LexedStatement<'a> {
    /// The literals, in order of position.
    pub fn literals(&self) -> impl ExactSizeIterator<Item = Literal<'a>> + Clone + use<'a> {
        let Self { text, start, literals, .. } = *self;
        let positions: &[usize] = self.shape.map_or(&[], |shape| &shape.positions);
        literals.iter().zip(positions).map(move |(literal, &position)| {
            let from = literal.start as usize - start;
            let text = &text[from..from + literal.len as usize];
            Literal { position, text, meaning: literal.kind.meaning(text) }
        })
    }
}

impl Shapes {
    /// Extracts the literals of the statements of a change.
    pub fn lex<S: AsRef<str>>(&mut self, statements: &[S]) -> LexedChange {
        let mut text = String::with_capacity(statements.iter().map(|statement| statement.as_ref().len()).sum());
        let mut lexed: Vec<Lexed> = Vec::with_capacity(statements.len());
        for statement in statements {
            text.push_str(statement.as_ref());
            lexed.push(Lexed { end: text.len(), literals_end: 0, shape: None });
        }
        let mut literals = Vec::with_capacity(statements.len() * 8);
        let mut split = Parameterised::default();
        let mut start = 0;
        for statement in &mut lexed {
            let sql = &text[start..statement.end];
            // Literals that do not fit into a block cannot be stored by column.
            if split_into(sql, &mut split).is_some() && literals.len() + split.literals.len() <= LITERALS_MAX {
                let of_text = |literal: &Literal<'_>| {
                    let from = literal.text.as_ptr().addr() - text.as_ptr().addr();
                    LexedLiteral {
                        start: short(from),
                        len: short(literal.text.len()),
                        kind: LiteralKind::of(literal.meaning),
                    }
                };
                literals.extend(split.literals.iter().map(of_text));
                statement.shape = Some(self.shape(&split));
            }
            statement.literals_end = literals.len();
            start = statement.end;
        }
        LexedChange { text, statements: lexed, literals }
    }

    fn shape(&mut self, split: &Parameterised<'_>) -> Arc<Shape> {
        let positions = || split.literals.iter().map(|literal| literal.position);
        let known = self.known.get(split.template.as_str());
        if let Some(known) = known.filter(|known| positions().eq(known.positions.iter().copied())) {
            return Arc::clone(known);
        }
        let template: Box<str> = split.template.as_str().into();
        let shape = Arc::new(Shape { template: template.clone(), positions: positions().collect() });
        if self.bytes + template.len() > KEPT_BYTES_MAX {
            self.known.clear();
            self.bytes = 0;
        }
        self.bytes += template.len();
        self.known.insert(template, Arc::clone(&shape));
        shape
    }
}

impl LexedChange {
    /// Number of statements.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether the change has no statements.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Bytes of the statements.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The statements, in order.
    pub fn statements(&self) -> impl ExactSizeIterator<Item = LexedStatement<'_>> + Clone {
        (0..self.statements.len()).map(|index| {
            let before = index.checked_sub(1).map(|before| &self.statements[before]);
            let (start, literals_start) = before.map_or((0, 0), |before| (before.end, before.literals_end));
            let Lexed { end, literals_end, shape } = &self.statements[index];
            let literals = &self.literals[literals_start..*literals_end];
            LexedStatement { text: &self.text[start..*end], shape: shape.as_ref(), start, literals }
        })
    }
}

/// Converts an offset within a change, which is at most as long as a record.
fn short(number: usize) -> u32 {
    u32::try_from(number).expect("BUG: a change is longer than a record can be")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::generated::statement;
    use crate::sql::parameters::split;

    proptest! {
        #[test]
        fn each_statement_is_split_as_it_is_alone(
            changes in prop::collection::vec(prop::collection::vec(prop_oneof![4 => statement(), 1 => ".{0,20}"], 0..6), 0..4),
        ) {
            let mut shapes = Shapes::default();
            for statements in &changes {
                let change = shapes.lex(statements);
                prop_assert_eq!((change.len(), change.bytes()), (statements.len(), statements.concat().len()));
                for (lexed, text) in change.statements().zip(statements) {
                    prop_assert_eq!(lexed.text, text);
                    let alone = split(text).map(|split| (split.template, split.literals));
                    let lexed = lexed.shape.map(|shape| (shape.template.to_string(), lexed.literals().collect()));
                    prop_assert_eq!(lexed, alone);
                }
            }
        }
    }

    #[test]
    fn statements_of_one_kind_share_a_shape() {
        let mut shapes = Shapes::default();
        let first = shapes.lex(&["DELETE FROM t WHERE a = 5", "DELETE FROM t WHERE a = 'x?'", "VACUUM"]);
        let second = shapes.lex(&["DELETE FROM t WHERE a = x'00ff'"]);
        let of: Vec<_> = first.statements().chain(second.statements()).map(|it| it.shape).collect();
        let [Some(one), Some(other), None, Some(later)] = of[..] else { panic!("{of:?}") };
        assert!(Arc::ptr_eq(one, other) && Arc::ptr_eq(one, later));
        assert_eq!((&*one.template, &*one.positions), ("DELETE FROM t WHERE a = ?", &[24][..]));
    }
}
