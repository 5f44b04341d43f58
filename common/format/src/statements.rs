//! Statement blocks: the statements of sealed changes, with their shapes in one table per segment, and their literals by column.
//!
//! [`Templates`] is the table, [`StatementBlock`] holds the statements of some changes; [`TemplatesWriter`] and
//! [`encode_statements`] create them. Decoding returns byte for byte what was encoded. Both are encoded as [`Encoded`], which
//! compresses them.

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

pub use decode::StatementBlock;
pub use encode::encode_lexed;
pub use encode::{TemplatesWriter, encode_statements};
pub use encoded::Encoded;
pub use stored::{Statements, StoredStatement, Templated};
pub use templates::{TemplateId, Templates};

/// Maximum length of a table or a block before compression. The statements of one change are at most four fifths as long.
pub const STATEMENT_BYTES_MAX: usize = 1280 << 20;

/// Maximum number of templates of a table. Statements of other shapes are stored as plain text.
pub const TEMPLATES_MAX: usize = 4096;

pub use crate::sql::lexed::LITERALS_MAX;

/// Maximum length of templates and examples that a writer puts into a table.
const TABLE_BYTES_MAX: usize = 1 << 20;

/// Maximum number of examples per template: a busy node's statements concern a few channels. With six, the table, which every
/// reader needs whole, would grow by what the blocks would shrink.
const EXAMPLES_MAX: usize = 2;
