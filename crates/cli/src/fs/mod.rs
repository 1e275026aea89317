//! Real directories: their names, reading them, writing them.

mod ahead;
pub(crate) mod digest;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod merge;
pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod record;
pub(crate) mod root;
pub(crate) mod scan;
pub(crate) mod stable;
mod target;
