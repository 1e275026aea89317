//! The durable replica: whole transactions over the rows of one of two back ends.

pub(crate) mod directory;
mod edits;
mod engine;
pub(crate) mod exports;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod inspection;
mod memory;
mod offering;
mod page;
mod rows;
#[cfg(not(target_family = "wasm"))]
mod sqlite;
mod store;
mod view;

pub(crate) use engine::ReplicaStore;
pub(crate) use engine::report::Reports;
pub(crate) use memory::memory_store;
#[cfg(not(target_family = "wasm"))]
pub(crate) use sqlite::inspect::inspect_store;
#[cfg(not(target_family = "wasm"))]
pub(crate) use sqlite::open::{create_store, open_store, remove_store};
pub(crate) use store::*;
