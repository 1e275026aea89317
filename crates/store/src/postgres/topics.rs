//! The topics ([`crate::topics`]) in PostgreSQL, one module for each.

mod credentials;
mod deletions;
mod devices;
mod examination;
pub(super) mod feeds;
mod locks;
mod maintenance;
mod members;
mod registers;
mod replicas;
mod stages;
pub(super) mod trash;
mod uploads;
mod users;
mod versions;
