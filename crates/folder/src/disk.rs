//! Access to a disk: entries, names, attributes and digests, without regard to a replica.

pub mod digest;
pub mod dir;
pub mod durable;
pub mod link;
pub mod metadata;
pub mod names;
pub mod open_files;
pub mod stable_reader;
