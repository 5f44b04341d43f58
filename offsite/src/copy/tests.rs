//! Reading a copy chunk by chunk.
