//! A statement of a block: its text, or its template with the values to bind.

use std::borrow::Cow;
use std::slice;

use super::cell::Cell;
use super::decode::Statement;
use super::templates::{Bytes, Template, TemplateId};
use crate::sql::parameters::Value;

/// A stored statement.
#[derive(Debug, Clone, Copy)]
pub enum StoredStatement<'a> {
    /// The text as received.
    Plain(&'a str),
    /// A template and its literals.
    Templated(Templated<'a>),
}

/// A template with literals.
#[derive(Debug, Clone, Copy)]
pub struct Templated<'a> {
    id: TemplateId,
    template: &'a Template,
    cells: &'a [Cell],
    bytes: Bytes<'a>,
}

impl<'a> StoredStatement<'a> {
    /// Minimum length of its text in bytes.
    pub fn len_min(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Templated(Templated { template, cells, .. }) => {
                template.text.len() + cells.iter().map(|cell| cell.len_min()).sum::<usize>()
            }
        }
    }

    /// The text, byte for byte as received.
    pub fn text(&self) -> Cow<'a, str> {
        match self {
            Self::Plain(text) => Cow::Borrowed(text),
            Self::Templated(templated) => Cow::Owned(templated.text()),
        }
    }
}

impl<'a> Templated<'a> {
    /// Number of the template.
    pub const fn id(&self) -> TemplateId {
        self.id
    }

    /// The text of the template, with `?` in place of the literals.
    pub fn template(&self) -> &'a str {
        &self.template.text
    }

    /// The text up to the first literal.
    pub fn beginning(&self) -> &'a str {
        let position = self.template.positions.first().map_or(self.template.text.len(), |&position| position as usize);
        &self.template.text[..position]
    }

    /// Number of literals.
    pub fn literal_count(&self) -> usize {
        self.cells.len()
    }

    /// The text with its literals.
    pub fn text(&self) -> String {
        let literals = || self.cells.iter().map(|&cell| self.bytes.stored(cell));
        let template = &self.template.text;
        let len = template.len() + literals().map(|literal| literal.len_hint()).sum::<usize>();
        let mut text = String::with_capacity(len);
        let mut copied = 0;
        for (literal, &position) in literals().zip(&*self.template.positions) {
            // A position is that of a `?`, so both of its sides are character boundaries.
            text.push_str(&template[copied..position as usize]);
            literal.write(&mut text);
            copied = position as usize + 1;
        }
        text.push_str(&template[copied..]);
        text
    }

    /// The values to bind, in order of position.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let bytes = self.bytes;
        self.cells.iter().map(move |&cell| bytes.stored(cell).value())
    }
}

/// The statements of a change, in order.
#[derive(Debug, Clone)]
pub struct Statements<'a> {
    pub(super) statements: slice::Iter<'a, Statement>,
    pub(super) cells: &'a [Cell],
    pub(super) bytes: Bytes<'a>,
}

impl<'a> Iterator for Statements<'a> {
    type Item = StoredStatement<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match *self.statements.next()? {
            Statement::Plain(span) => StoredStatement::Plain(self.bytes.text(span)),
            Statement::Templated { id, first_cell } => {
                let template = &self.bytes.table.templates[id.index()];
                let first = first_cell as usize;
                let cells = &self.cells[first..first + template.positions.len()];
                StoredStatement::Templated(Templated { id, template, cells, bytes: self.bytes })
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.statements.size_hint()
    }
}

impl ExactSizeIterator for Statements<'_> {}
