#![doc = include_str!("../../../docs/python-file.md")]

pub mod bytes;
mod copy;
mod export;
mod import;
mod import_error;
mod log_cutter;
mod order;
mod reader;
mod replay;
mod spaces;
mod to_replay;

pub use copy::{BytesDone, Imported, LeftOut, Repairs, Rescue};
pub use export::{ExportError, Exported, export_backup};
pub use import::{OnDamage, import_backup};
pub use import_error::{ImportError, OutOfOrder, RecordDamage};
pub use reader::{Next, NextRecord, Payload, PythonFile, SnapshotBytes, TornBy};
