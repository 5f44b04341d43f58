//! The template table of a segment.

use super::cell::{Cell, Span, Stored};
use super::rows::PartReaders;
use super::{Encoded, LITERALS_MAX, TEMPLATES_MAX, varint};
use crate::Damage;

/// Index of a template in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateId(pub(super) u32);

/// The templates of a segment, with a few examples of the literals of each.
#[derive(Debug, Default)]
pub struct Templates {
    pub(super) templates: Vec<Template>,
    pub(super) texts: String,
    pub(super) blobs: Vec<u8>,
}

/// The text of a statement without its literals.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) text: Box<str>,
    /// Positions of the `?` in the text that stand for literals, ascending.
    pub(super) positions: Box<[u32]>,
    /// Rows of literals, concatenated.
    pub(super) examples: Vec<Cell>,
}

impl TemplateId {
    /// The index, less than [`Templates::len`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Templates {
    /// Decodes a table.
    ///
    /// # Errors
    /// When the table is damaged.
    pub fn decode(encoded: &Encoded) -> Result<Self, Damage> {
        let mut parts = PartReaders::new(encoded, 0, 0)?;
        let count = varint::take_len(&mut parts.structure, TEMPLATES_MAX, "template count")?;
        let mut templates = Vec::with_capacity(count.min(encoded.head.len()));
        let mut literals = 0;
        for _ in 0..count {
            let text = parts.text()?.0;
            let positions = positions(&mut parts, text)?;
            let rows = varint::take_len(&mut parts.structure, LITERALS_MAX, "example count")?;
            literals += rows * positions.len().max(1);
            if literals > LITERALS_MAX {
                return Err(Damage::Field { field: "example count", value: rows as u64 });
            }
            let mut examples = Vec::new();
            parts.read_rows(rows, positions.len(), &[], &mut examples)?;
            templates.push(Template { text: text.into(), positions, examples });
        }
        parts.end()?;
        Ok(Self { templates, texts: parts.texts.to_owned(), blobs: parts.blobs.to_vec() })
    }

    /// Number of templates.
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// Approximate memory that the table takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let of = |template: &Template| {
            size_of::<Template>()
                + template.text.len()
                + size_of_val(&*template.positions)
                + template.examples.len() * size_of::<Cell>()
        };
        self.templates.iter().map(of).sum::<usize>() + self.texts.len() + self.blobs.len()
    }
}

fn positions(parts: &mut PartReaders<'_>, text: &str) -> Result<Box<[u32]>, Damage> {
    let count = varint::take_len(&mut parts.structure, text.len(), "position count")?;
    let mut positions = Vec::with_capacity(count);
    let mut after_last = 0;
    for _ in 0..count {
        let position = after_last + varint::take_len(&mut parts.structure, text.len(), "position")?;
        let short = u32::try_from(position).ok().filter(|_| text.as_bytes().get(position) == Some(&b'?'));
        positions.push(short.ok_or(Damage::Field { field: "position", value: position as u64 })?);
        after_last = position + 1;
    }
    Ok(positions.into())
}

/// Texts and blobs of a table and of one of its blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) table: &'a Templates,
    pub(super) texts: &'a str,
    pub(super) blobs: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(super) fn stored(self, cell: Cell) -> Stored<'a> {
        match cell {
            Cell::Integer(number) => Stored::Integer(number),
            Cell::Text(span) => Stored::Text(self.text(span)),
            Cell::Blob(style, span) => Stored::Blob(style, self.blob(span)),
            Cell::Verbatim(span) => Stored::Verbatim(self.text(span)),
        }
    }

    /// Every span was checked when it was decoded, so it is in range.
    pub(super) fn text(self, Span { start, len }: Span) -> &'a str {
        let (start, len, table) = (start as usize, len as usize, self.table.texts.len());
        let (from, start) = if start < table { (&*self.table.texts, start) } else { (self.texts, start - table) };
        from.get(start..start + len).unwrap_or_default()
    }

    fn blob(self, Span { start, len }: Span) -> &'a [u8] {
        let (start, len, table) = (start as usize, len as usize, self.table.blobs.len());
        let (from, start) = if start < table { (&*self.table.blobs, start) } else { (self.blobs, start - table) };
        from.get(start..start + len).unwrap_or_default()
    }
}
