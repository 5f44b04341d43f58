//! The backup itself.

mod data_version;
mod page_no;
mod seq;
mod timestamp;

pub use data_version::DataVersion;
pub use page_no::{PageNo, PageSize};
pub use seq::Seq;
pub use timestamp::Timestamp;
