//! Directories of this machine: names, reading, writing, and the record of what was synchronised.

pub(crate) mod aside;
mod decision;
mod destination;
pub(crate) mod digest;
pub(crate) mod dir;
pub(crate) mod export;
pub(crate) mod ignore;
pub(crate) mod import;
pub(crate) mod link;
pub(crate) mod marker;
pub(crate) mod merge;
pub(crate) mod metadata;
pub(crate) mod names;
mod open_files;
mod prefetch;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod scope;
pub(crate) mod stable_reader;
pub(crate) mod watcher;
