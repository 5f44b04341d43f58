//! Encoding of blocks, and of the table that grows meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use super::cell::Form;
use super::rows::{Parts, Reference, Writable, WritableRows};
use super::{EXAMPLES_MAX, Encoded, LITERALS_MAX, TABLE_BYTES_MAX, TEMPLATES_MAX, varint};
use crate::fields::put_varint;
use crate::sql::lexed::{LexedChange, LiteralKind, Shape, Shapes};
use crate::sql::parameters::Literal;

/// Number of previous rows that are searched for one with the same last literal, in most statements the key of a row.
const SEARCHED_ROWS: usize = 16;

/// Collects the templates of a segment while its blocks are encoded.
#[derive(Debug, Default)]
pub struct TemplatesWriter {
    by_text: HashMap<Box<str>, usize>,
    /// Index of the template by the address of its shape, which is nearly always the shape that it was created from.
    by_shape: HashMap<usize, usize>,
    templates: Vec<Draft>,
    /// Length of texts and examples.
    bytes: usize,
    /// Number of literals of examples.
    literals: usize,
}

/// A template in progress.
#[derive(Debug)]
struct Draft {
    shape: Arc<Shape>,
    examples: Vec<Vec<OwnedLiteral>>,
}

#[derive(Debug)]
struct OwnedLiteral {
    text: String,
    kind: LiteralKind,
}

impl OwnedLiteral {
    fn new(literal: &Literal<'_>) -> Self {
        Self { text: literal.text.to_owned(), kind: LiteralKind::of(literal.meaning) }
    }

    fn writable(&self) -> Writable<'_> {
        writable(&Literal { position: 0, text: &self.text, meaning: self.kind.meaning(&self.text) })
    }
}

fn writable<'a>(literal: &Literal<'a>) -> Writable<'a> {
    Writable { text: literal.text, form: Form::of(literal) }
}

impl TemplatesWriter {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Encodes the table for [`Templates::decode`](super::Templates::decode), not compressed.
    pub fn encode(&self) -> Encoded {
        let mut parts = Parts::default();
        varint::put_len(&mut parts.structure, self.templates.len());
        for template in &self.templates {
            let Shape { template: text, positions } = &*template.shape;
            varint::put_len(&mut parts.structure, text.len());
            parts.texts.extend_from_slice(text.as_bytes());
            varint::put_len(&mut parts.structure, positions.len());
            let mut after_last = 0;
            for position in positions {
                varint::put_len(&mut parts.structure, position - after_last);
                after_last = position + 1;
            }
            varint::put_len(&mut parts.structure, template.examples.len());
            let rows: Vec<Vec<_>> =
                template.examples.iter().map(|row| row.iter().map(OwnedLiteral::writable).collect()).collect();
            let rows: Vec<_> = rows.iter().map(|row| &**row).collect();
            let references: Vec<_> =
                (0..rows.len()).map(|row| if row == 0 { Reference::None } else { Reference::Up(1) }).collect();
            parts.write_rows(&WritableRows { rows: &rows, references: &references, examples: &[] });
        }
        parts.finish()
    }

    /// The index of a statement's template, added if it is new; `None` when the table is full.
    fn intern(&mut self, shape: &Arc<Shape>) -> Option<usize> {
        if let Some(&index) = self.by_shape.get(&Arc::as_ptr(shape).addr()) {
            return Some(index);
        }
        if let Some(&index) = self.by_text.get(&shape.template) {
            return (self.templates[index].shape == *shape).then_some(index);
        }
        if self.templates.len() == TEMPLATES_MAX || self.bytes + shape.template.len() > TABLE_BYTES_MAX {
            return None;
        }
        self.bytes += shape.template.len();
        let index = self.templates.len();
        self.by_text.insert(shape.template.clone(), index);
        // The draft keeps the shape alive, so the address cannot be reused.
        self.by_shape.insert(Arc::as_ptr(shape).addr(), index);
        self.templates.push(Draft { shape: Arc::clone(shape), examples: Vec::new() });
        Some(index)
    }

    /// An example with the same last literal, or else any example.
    fn find_example(&self, template: usize, key: &str) -> Option<(usize, bool)> {
        let examples = &self.templates[template].examples;
        let has_key = |row: &Vec<OwnedLiteral>| row.last().is_some_and(|last| last.text == key);
        match examples.iter().position(has_key) {
            Some(index) => Some((index, true)),
            None => Some((examples.len().checked_sub(1)?, false)),
        }
    }

    /// Keeps a row as an example, if there is space.
    fn add_example<'l>(
        &mut self,
        template: usize,
        row: impl ExactSizeIterator<Item = Literal<'l>> + Clone,
    ) -> Option<usize> {
        let bytes: usize = row.clone().map(|literal| literal.text.len()).sum();
        let examples = &mut self.templates[template].examples;
        if examples.len() == EXAMPLES_MAX
            || self.bytes + bytes > TABLE_BYTES_MAX
            || self.literals + row.len() > LITERALS_MAX
        {
            return None;
        }
        self.bytes += bytes;
        self.literals += row.len();
        examples.push(row.map(|literal| OwnedLiteral::new(&literal)).collect());
        Some(examples.len() - 1)
    }
}

/// The rows of one template in a block.
#[derive(Debug, Default)]
struct Rows {
    /// Start of each row in the literals of the block.
    starts: Vec<usize>,
    references: Vec<Reference>,
}

/// Encodes the statements of some changes, not compressed.
pub fn encode_statements<C: AsRef<[S]>, S: AsRef<str>>(templates: &mut TemplatesWriter, changes: &[C]) -> Encoded {
    let mut shapes = Shapes::default();
    let changes: Vec<_> = changes.iter().map(|change| shapes.lex(change.as_ref())).collect();
    encode_lexed(templates, &changes)
}

/// Like [`encode_statements`], for statements whose literals were already extracted.
pub fn encode_lexed(templates: &mut TemplatesWriter, changes: &[LexedChange]) -> Encoded {
    let mut parts = Parts::default();
    let mut rows: Vec<Rows> = Vec::new();
    let mut literals: Vec<Writable<'_>> = Vec::new();
    let mut plain = Vec::new();
    varint::put_len(&mut parts.structure, changes.len());
    for change in changes {
        varint::put_len(&mut parts.structure, change.len());
    }
    for statement in changes.iter().flat_map(LexedChange::statements) {
        let of_statement = statement.literals();
        let shape = statement.shape.filter(|_| literals.len() + of_statement.len() <= LITERALS_MAX);
        let Some(template) = shape.and_then(|shape| templates.intern(shape)) else {
            put_varint(0, &mut parts.structure);
            plain.push(statement.text);
            continue;
        };
        varint::put_len(&mut parts.structure, template + 1);
        if rows.len() <= template {
            rows.resize_with(template + 1, Rows::default);
        }
        let start = literals.len();
        literals.extend(of_statement.clone().map(|literal| writable(&literal)));
        let reference = refer(templates, template, &rows[template], &literals[..], of_statement);
        rows[template].starts.push(start);
        rows[template].references.push(reference);
    }
    for (template, rows) in rows.iter().enumerate().filter(|(_, rows)| !rows.starts.is_empty()) {
        let draft = &templates.templates[template];
        let columns = draft.shape.positions.len();
        let of_block: Vec<_> = rows.starts.iter().map(|&start| &literals[start..start + columns]).collect();
        let examples: Vec<Vec<_>> =
            draft.examples.iter().map(|row| row.iter().map(OwnedLiteral::writable).collect()).collect();
        let examples: Vec<_> = examples.iter().map(|row| &**row).collect();
        parts.write_rows(&WritableRows { rows: &of_block, references: &rows.references, examples: &examples });
    }
    for sql in plain {
        varint::put_len(&mut parts.structure, sql.len());
        parts.texts.extend_from_slice(sql.as_bytes());
    }
    parts.finish()
}

/// Chooses the reference of a row: the newest row or example with the same key, or else the previous row.
fn refer<'l>(
    templates: &mut TemplatesWriter,
    template: usize,
    rows: &Rows,
    literals: &[Writable<'_>],
    row: impl ExactSizeIterator<Item = Literal<'l>> + Clone,
) -> Reference {
    // The row's own literals are the newest.
    let Some(key) = literals.last().filter(|_| row.len() > 0).map(|last| last.text) else { return Reference::None };
    let last_of = |start: &usize| literals[start + row.len() - 1].text;
    let newest_first = rows.starts.iter().rev().take(SEARCHED_ROWS);
    if let Some(up) = newest_first.map(last_of).position(|last| last == key) {
        return Reference::Up(up + 1);
    }
    let found = templates.find_example(template, key);
    if let Some((index, true)) = found {
        return Reference::Example(index);
    }
    match templates.add_example(template, row) {
        Some(index) => Reference::Example(index),
        None if !rows.starts.is_empty() => Reference::Up(1),
        None => found.map_or(Reference::None, |(index, _)| Reference::Example(index)),
    }
}
