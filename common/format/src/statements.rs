//! Statement blocks: the statements of sealed changes, their shapes in one table per segment, their literals by column.
//!
//! [`Templates`] is the table, [`Block`] some changes; [`TemplatesWriter`] and [`encode_block`] make them. What is
//! decoded is byte for byte what was encoded. Both come as [`Encoded`], which compresses them.

mod cell;
#[cfg(feature = "compression")]
mod compressed;
mod decode;
mod encode;
mod encoded;
mod rows;
mod stored;
mod templates;
#[cfg(test)]
mod tests;
mod varint;

pub use decode::Block;
pub use encode::encode_lexed;
pub use encode::{TemplatesWriter, encode_block};
pub use encoded::Encoded;
pub use stored::{Statements, StoredStatement, Templated};
pub use templates::{TemplateId, Templates};

/// Most bytes that a table or a block may have, not compressed. The statements of one change are at most four fifths as
/// long.
pub const STATEMENT_BYTES_MAX: usize = 1280 << 20;

/// Most templates that a table has. Statements of other shapes are stored as they are.
pub const TEMPLATES_MAX: usize = 4096;

pub use crate::sql::lexed::LITERALS_MAX;

/// Most bytes of templates and of their examples that a writer puts into a table.
const TABLE_BYTES_MAX: usize = 1 << 20;

/// Most examples that a writer keeps of a template: a busy node's statements are about a few channels. Of six the blocks
/// would be shorter by what the table, of which every reader needs all, would be longer.
const EXAMPLES_MAX: usize = 2;
