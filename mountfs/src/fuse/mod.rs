//! The tree as the kernel asks for it: [`adapter`] translates, [`errno`] turns errors into numbers, [`workers`] answer what takes
//! long.

pub mod adapter;
pub mod errno;
pub mod workers;
