//! Rows of literals, one per statement of a template, encoded column by column.

use std::collections::HashMap;

use super::cell::{BlobStyle, Cell, Form, LetterCase, Span};
use super::{Encoded, varint};
use crate::Damage;
use crate::fields::{Reader, put_varint, unzigzag, zigzag};
use crate::sql::parameters::{bytes_of, literal_value};

/// Tag of a literal that equals the one in the reference row.
const SAME: u8 = 0;
/// A number as it is.
const INTEGER: u8 = 1;
/// A number as the difference to the reference row.
const SINCE_REFERENCE: u8 = 2;
/// A number as the difference to the previous row.
const SINCE_ROW_BEFORE: u8 = 3;
const TEXT: u8 = 4;
/// `x'` and lower-case digits; + 1 for upper-case digits, + 2 for `X'`.
const BLOB: u8 = 5;
const VERBATIM: u8 = 9;
/// A literal that was stored before in the same block.
const REPEATED: u8 = 10;
/// The column has no common encoding: each row has its own.
const MIXED: u8 = 0xff;

/// Minimum length of a literal that is stored as a repetition.
const REPEATED_BYTES_MIN: usize = 8;

/// The row that another row is encoded against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    None,
    /// A row this many rows before, from 1.
    Up(usize),
    /// An example of the template, by position.
    Example(usize),
}

/// The parts of a table or a block, separated by kind so that they compress well.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub(super) structure: Vec<u8>,
    pub(super) numbers: Vec<u8>,
    pub(super) texts: Vec<u8>,
    pub(super) blobs: Vec<u8>,
    /// Long literals by their text, with their position among all long literals stored so far.
    long: HashMap<&'a str, usize>,
    long_count: usize,
}

/// A literal to be encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writable<'a> {
    pub(super) text: &'a str,
    pub(super) form: Form<'a>,
}

/// The rows of one template.
pub(super) struct WritableRows<'w, 'a> {
    pub(super) rows: &'w [&'w [Writable<'a>]],
    pub(super) references: &'w [Reference],
    pub(super) examples: &'w [&'w [Writable<'w>]],
}

impl Reference {
    /// The encoded reference: 0, an odd number for `Up`, or an even one for `Example`.
    pub(super) fn code(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Up(rows) => 2 * rows as u64 - 1,
            Self::Example(index) => 2 * (index as u64 + 1),
        }
    }

    /// Decodes the reference of row `row` with `examples` examples.
    pub(super) fn from_code(code: u64, row: usize, examples: usize) -> Result<Self, Damage> {
        let impossible = Damage::Field { field: "reference", value: code };
        let half = usize::try_from(code / 2).map_err(|_| impossible.clone())?;
        match (code, code % 2) {
            (0, _) => Ok(Self::None),
            (_, 1) if half < row => Ok(Self::Up(half + 1)),
            (_, 0) if half <= examples => Ok(Self::Example(half - 1)),
            _ => Err(impossible),
        }
    }
}

impl<'a> Parts<'a> {
    /// Appends the references, then the columns.
    pub(super) fn write_rows(&mut self, rows: &WritableRows<'_, 'a>) {
        for reference in rows.references {
            put_varint(reference.code(), &mut self.structure);
        }
        let columns = rows.rows.first().map_or(0, |row| row.len());
        let mut ways = Vec::with_capacity(rows.rows.len());
        let mut lengths = Vec::new();
        for column in 0..columns {
            ways.clear();
            lengths.clear();
            for row in 0..rows.rows.len() {
                let way = self.write(rows, row, column, &mut lengths);
                ways.push(way);
            }
            match ways.first() {
                Some(first) if ways.iter().all(|way| way == first) => self.structure.push(*first),
                _ => {
                    self.structure.push(MIXED);
                    self.structure.extend_from_slice(&ways);
                }
            }
            self.structure.extend_from_slice(&lengths);
        }
    }

    /// Encodes one literal and returns its encoding.
    fn write(&mut self, rows: &WritableRows<'_, 'a>, row: usize, column: usize, lengths: &mut Vec<u8>) -> u8 {
        let literal = rows.rows[row][column];
        let reference = match rows.references[row] {
            Reference::None => None,
            Reference::Up(up) => Some(rows.rows[row - up][column]),
            Reference::Example(index) => Some(rows.examples[index][column]),
        };
        if reference.is_some_and(|reference| reference.text == literal.text) {
            return SAME;
        }
        let Form::Integer(number) = literal.form else {
            return self.write_bytes(literal, lengths);
        };
        // Another encoding than the usual one must save at least a byte, or the disorder costs more.
        let mut best = (INTEGER, zigzag(number));
        let before = row.checked_sub(1).map(|before| rows.rows[before][column]);
        for (way, other) in [(SINCE_ROW_BEFORE, before), (SINCE_REFERENCE, reference)] {
            if let Some(Form::Integer(other)) = other.map(|other| other.form) {
                let difference = zigzag(number.wrapping_sub(other));
                if varint::len(difference) <= varint::len(best.1) {
                    best = (way, difference);
                }
            }
        }
        put_varint(best.1, &mut self.numbers);
        best.0
    }

    fn write_bytes(&mut self, literal: Writable<'a>, lengths: &mut Vec<u8>) -> u8 {
        if literal.text.len() >= REPEATED_BYTES_MIN
            && let Some(position) = self.long.get(literal.text)
        {
            varint::put_len(&mut self.numbers, self.long_count - position);
            return REPEATED;
        }
        let (way, len) = match literal.form {
            // Integers are handled above.
            Form::Integer(_) | Form::Verbatim(_) => {
                self.texts.extend_from_slice(literal.text.as_bytes());
                (VERBATIM, literal.text.len())
            }
            Form::Text(inside) => {
                let before = self.texts.len();
                for (index, part) in inside.split("''").enumerate() {
                    if index > 0 {
                        self.texts.push(b'\'');
                    }
                    self.texts.extend_from_slice(part.as_bytes());
                }
                (TEXT, self.texts.len() - before)
            }
            Form::Blob(style, digits) => {
                self.blobs.extend_from_slice(&bytes_of(digits));
                (way_of_blob(style), digits.len() / 2)
            }
        };
        varint::put_len(lengths, len);
        if len >= REPEATED_BYTES_MIN {
            self.long.insert(literal.text, self.long_count);
            self.long_count += 1;
        }
        way
    }

    /// Joins the parts.
    pub(super) fn finish(self) -> Encoded {
        let Self { structure, numbers, texts, blobs, .. } = self;
        let mut head = Vec::with_capacity(structure.len() + numbers.len() + texts.len() + 16);
        varint::put_len(&mut head, structure.len());
        varint::put_len(&mut head, numbers.len());
        for part in [structure, numbers, texts] {
            head.extend_from_slice(&part);
        }
        Encoded { head, blobs }
    }
}

fn way_of_blob(style: BlobStyle) -> u8 {
    let bit = |case, bit| if case == LetterCase::Upper { bit } else { 0 };
    BLOB + bit(style.digits, 1) + bit(style.prefix, 2)
}

fn style_of(way: u8) -> BlobStyle {
    let case = |bit| if (way - BLOB) & bit == 0 { LetterCase::Lower } else { LetterCase::Upper };
    BlobStyle { digits: case(1), prefix: case(2) }
}

/// The parts of a table or a block while they are decoded.
#[derive(Debug)]
pub(super) struct PartReaders<'a> {
    pub(super) structure: Reader<'a>,
    numbers: Reader<'a>,
    pub(super) texts: &'a str,
    pub(super) blobs: &'a [u8],
    /// Positions of the next text and the next blob, counted behind those of the table.
    next_text: usize,
    next_blob: usize,
    ends: (usize, usize),
    long: Vec<Cell>,
}

impl<'a> PartReaders<'a> {
    /// `texts_before` and `blobs_before`: lengths of the table's texts and blobs, when this is a block.
    pub(super) fn new(encoded: &'a Encoded, texts_before: usize, blobs_before: usize) -> Result<Self, Damage> {
        let Encoded { head, blobs } = encoded;
        encoded.check_len()?;
        let mut from = Reader::new(head);
        let structure = varint::take_len(&mut from, head.len(), "structure length")?;
        let numbers = varint::take_len(&mut from, head.len(), "numbers length")?;
        let structure = Reader::new(from.bytes(structure)?);
        let numbers = Reader::new(from.bytes(numbers)?);
        let texts = std::str::from_utf8(from.rest())
            .map_err(|error| Damage::Field { field: "text (not UTF-8)", value: error.valid_up_to() as u64 })?;
        let ends = (texts_before + texts.len(), blobs_before + blobs.len());
        Ok(Self {
            structure,
            numbers,
            texts,
            blobs,
            next_text: texts_before,
            next_blob: blobs_before,
            ends,
            long: Vec::new(),
        })
    }

    /// Appends `count` rows of `columns` literals to `cells`.
    pub(super) fn read_rows(
        &mut self,
        count: usize,
        columns: usize,
        examples: &[Cell],
        cells: &mut Vec<Cell>,
    ) -> Result<(), Damage> {
        if count == 0 {
            return Ok(());
        }
        // Every row takes at least one byte.
        if count > self.structure.rest().len() {
            return Err(Damage::Field { field: "row count", value: count as u64 });
        }
        let first = cells.len();
        let example_count = examples.len().checked_div(columns).unwrap_or(0);
        let mut references = Vec::with_capacity(count);
        for row in 0..count {
            references.push(Reference::from_code(self.structure.varint()?, row, example_count)?);
        }
        cells.resize(first + count * columns, Cell::Integer(0));
        let all = cells.get_mut(first..).unwrap_or_default();
        for column in 0..columns {
            let way = self.structure.u8()?;
            let ways = if way == MIXED { Some(self.structure.bytes(count)?) } else { None };
            for (row, reference) in references.iter().enumerate() {
                let reference = match *reference {
                    Reference::None => None,
                    Reference::Up(up) => Some(all[(row - up) * columns + column]),
                    Reference::Example(index) => Some(examples[index * columns + column]),
                };
                let before = row.checked_sub(1).map(|before| all[before * columns + column]);
                let way = ways.map_or(way, |ways| ways[row]);
                all[row * columns + column] = self.read(way, reference, before)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, way: u8, reference: Option<Cell>, before: Option<Cell>) -> Result<Cell, Damage> {
        let impossible = || Damage::Field { field: "way", value: way.into() };
        let since = |other: Option<Cell>| match other {
            Some(Cell::Integer(number)) => Ok(number),
            _ => Err(impossible()),
        };
        Ok(match way {
            SAME => reference.ok_or_else(impossible)?,
            INTEGER => Cell::Integer(self.number()?),
            SINCE_REFERENCE => Cell::Integer(since(reference)?.wrapping_add(self.number()?)),
            SINCE_ROW_BEFORE => Cell::Integer(since(before)?.wrapping_add(self.number()?)),
            TEXT => {
                let span = self.text()?.1;
                self.remember(Cell::Text(span), span)
            }
            BLOB..VERBATIM => {
                let left = self.ends.1 - self.next_blob;
                let len = varint::take_len(&mut self.structure, left, "blob length")?;
                let span = span(self.next_blob, len);
                self.next_blob += len;
                self.remember(Cell::Blob(style_of(way), span), span)
            }
            VERBATIM => {
                let (text, span) = self.text()?;
                if literal_value(text).is_none() {
                    return Err(Damage::Field { field: "literal", value: span.len.into() });
                }
                self.remember(Cell::Verbatim(span), span)
            }
            REPEATED => {
                let back = varint::take_len(&mut self.numbers, self.long.len(), "repeated")?;
                *self.long.get(self.long.len() - back).ok_or(Damage::Field { field: "repeated", value: 0 })?
            }
            _ => return Err(impossible()),
        })
    }

    fn number(&mut self) -> Result<i64, Damage> {
        self.numbers.varint().map(unzigzag)
    }

    /// The next text; its length comes from the structure.
    pub(super) fn text(&mut self) -> Result<(&'a str, Span), Damage> {
        let left = self.ends.0 - self.next_text;
        let len = varint::take_len(&mut self.structure, left, "text length")?;
        let start = self.texts.len() - left;
        let text = self
            .texts
            .get(start..start + len)
            .ok_or(Damage::Field { field: "text length (inside of a letter)", value: len as u64 })?;
        let span = span(self.next_text, len);
        self.next_text += len;
        Ok((text, span))
    }

    fn remember(&mut self, cell: Cell, span: Span) -> Cell {
        if span.len as usize >= REPEATED_BYTES_MIN {
            self.long.push(cell);
        }
        cell
    }

    /// Checks that all parts were read to their ends.
    pub(super) fn end(&self) -> Result<(), Damage> {
        let rests = [
            self.structure.rest().len(),
            self.numbers.rest().len(),
            self.ends.0 - self.next_text,
            self.ends.1 - self.next_blob,
        ];
        match rests.iter().find(|&&rest| rest > 0) {
            Some(&rest) => Err(Damage::Field { field: "bytes left over", value: rest as u64 }),
            None => Ok(()),
        }
    }
}

fn span(start: usize, len: usize) -> Span {
    // A table and a block have at most STATEMENT_BYTES_MAX bytes each.
    let short = |number: usize| u32::try_from(number).expect("BUG: statements have at most STATEMENT_BYTES_MAX bytes");
    Span { start: short(start), len: short(len) }
}
