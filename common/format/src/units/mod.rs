//! Number types of the format, and formatting of values in messages.

mod counted;
mod data_version;
mod keyframe;
mod page_no;
mod seq;
mod shown;
mod timestamp;

pub use counted::{Counted, counted};
pub use data_version::DataVersion;
pub use keyframe::Keyframe;
pub use page_no::{PageNo, PageSize};
pub use seq::Seq;
pub use shown::{Hex, Shown};
pub use timestamp::Timestamp;
