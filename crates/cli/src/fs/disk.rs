//! Access to a disk: entries, names, attributes and digests, without regard to a replica.

pub(crate) mod digest;
pub(crate) mod dir;
pub(crate) mod durable;
pub(crate) mod link;
pub(crate) mod metadata;
pub(crate) mod names;
pub(super) mod open_files;
pub(crate) mod stable_reader;
