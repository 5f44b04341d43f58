//! The tree as the kernel asks for it: [`adapter`] translates, [`errno`] maps errors to numbers, [`kernel_attr`]
//! attributes; [`workers`] run what takes long.

pub mod adapter;
pub mod errno;
pub mod kernel_attr;
pub mod workers;
