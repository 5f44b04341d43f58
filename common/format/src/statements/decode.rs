//! Decoding of blocks.

use std::sync::Arc;

use super::cell::{Cell, Span};
use super::rows::PartReaders;
use super::stored::Statements;
use super::templates::{Bytes, TemplateId, Templates};
use super::{Encoded, LITERALS_MAX, varint};
use crate::Damage;
use crate::record::PAYLOAD_LEN_MAX;

/// The statements of some changes, in order.
#[derive(Debug)]
pub struct StatementBlock {
    templates: Arc<Templates>,
    /// Number of statements up to the end of each change.
    ends: Vec<u32>,
    statements: Vec<Statement>,
    cells: Vec<Cell>,
    texts: String,
    blobs: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Statement {
    Plain(Span),
    Templated { id: TemplateId, first_cell: u32 },
}

impl StatementBlock {
    /// Decodes a block that was encoded with this table.
    ///
    /// # Errors
    /// When the block is damaged, or belongs to another table.
    pub fn decode(encoded: &Encoded, templates: &Arc<Templates>) -> Result<Self, Damage> {
        Self::decode_within(PAYLOAD_LEN_MAX as u64, encoded, templates)
    }

    /// Like [`decode`](Self::decode), with at most `most` bytes of statements per change.
    pub(super) fn decode_within(most: u64, encoded: &Encoded, templates: &Arc<Templates>) -> Result<Self, Damage> {
        let mut parts = PartReaders::new(encoded, templates.texts.len(), templates.blobs.len())?;
        let ends = read_ends(&mut parts)?;
        let count = ends.last().map_or(0, |&end| end as usize);
        let mut statements = Vec::with_capacity(count);
        let mut row_counts = vec![0; templates.len()];
        for _ in 0..count {
            let code = varint::take_len(&mut parts.structure, templates.len(), "template")?;
            statements.push(match (code.checked_sub(1), u32::try_from(code)) {
                (Some(index), Ok(code)) => {
                    row_counts[index] += 1;
                    Statement::Templated { id: TemplateId(code - 1), first_cell: 0 }
                }
                _ => Statement::Plain(Span { start: 0, len: 0 }),
            });
        }
        let literals = row_counts.iter().zip(&templates.templates);
        let literals = literals.map(|(rows, template)| rows * template.positions.len()).sum::<usize>();
        if literals > LITERALS_MAX {
            return Err(Damage::Field { field: "literals", value: literals as u64 });
        }
        let mut cells = Vec::with_capacity(literals);
        let mut next_cells = vec![0; templates.len()];
        for (index, template) in templates.templates.iter().enumerate().filter(|(index, _)| row_counts[*index] > 0) {
            next_cells[index] = cells.len();
            parts.read_rows(row_counts[index], template.positions.len(), &template.examples, &mut cells)?;
        }
        for statement in &mut statements {
            match statement {
                Statement::Plain(span) => *span = parts.text()?.1,
                Statement::Templated { id, first_cell } => {
                    let next = &mut next_cells[id.index()];
                    *first_cell = u32::try_from(*next).expect("BUG: a block has at most LITERALS_MAX literals");
                    *next += templates.templates[id.index()].positions.len();
                }
            }
        }
        parts.end()?;
        let (texts, blobs) = (parts.texts.to_owned(), parts.blobs.to_vec());
        let block = Self { templates: Arc::clone(templates), ends, statements, cells, texts, blobs };
        block.check_lengths(most)?;
        Ok(block)
    }

    /// Checks that each change fits into a record, as it once did: otherwise a literal stored once and referenced often could
    /// expand without bound.
    fn check_lengths(&self, most: u64) -> Result<(), Damage> {
        for index in 0..self.change_count() {
            let lengths = self.change(index).into_iter().flatten().map(|statement| statement.len_min() as u64);
            let len = lengths.sum::<u64>();
            if len > most {
                return Err(Damage::Field { field: "bytes of statements", value: len });
            }
        }
        Ok(())
    }

    /// Number of changes.
    pub fn change_count(&self) -> usize {
        self.ends.len()
    }

    /// The statements of the change at this position; `None` when there is no such change.
    pub fn change(&self, index: usize) -> Option<Statements<'_>> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let bytes = Bytes { table: &self.templates, texts: &self.texts, blobs: &self.blobs };
        Some(Statements { statements: self.statements[start..end].iter(), cells: &self.cells, bytes })
    }

    /// The table that the block was decoded with.
    pub fn templates(&self) -> &Arc<Templates> {
        &self.templates
    }

    /// Memory that the block takes, without the table, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.ends)
            + size_of_val(&*self.statements)
            + size_of_val(&*self.cells)
            + self.texts.len()
            + self.blobs.len()
    }
}

/// Every change and every statement takes at least one byte, so neither count can cause a larger allocation.
fn read_ends(parts: &mut PartReaders<'_>) -> Result<Vec<u32>, Damage> {
    let most = parts.structure.rest().len();
    let changes = varint::take_len(&mut parts.structure, most, "change count")?;
    let mut ends = Vec::with_capacity(changes);
    let mut end = 0;
    for _ in 0..changes {
        end += varint::take_len(&mut parts.structure, most - end, "statement count")?;
        ends.push(u32::try_from(end).map_err(|_| Damage::Field { field: "statement count", value: end as u64 })?);
    }
    Ok(ends)
}
