//! Directories of this machine: names, reading, writing, and the record of what was synchronised.

pub(crate) mod aside;
mod decision;
mod destination;
pub(crate) mod disk;
pub(crate) mod export;
pub(crate) mod ignore;
pub(crate) mod import;
pub(crate) mod intents;
pub(crate) mod marker;
pub(crate) mod merge;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod scope;
pub(crate) mod watcher;
