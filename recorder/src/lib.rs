#![doc = "x"]
pub mod hook;
pub mod message;
pub mod reply;
pub mod splitter;
