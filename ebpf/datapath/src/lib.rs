//! The arithmetic of translation, shared by the BPF programs and by tests on the host: no packets, no maps, no state.
#![no_std]
#![forbid(unsafe_code)]

pub mod bucket;
pub mod checksum;
pub mod choice;
pub mod crc32c;
pub mod net;
