//! The topics ([`crate::topics`]) in memory, one module for each.

mod credentials;
mod deletions;
mod devices;
mod examination;
mod feeds;
mod locks;
mod maintenance;
mod members;
mod registers;
mod replicas;
mod stages;
mod trash;
mod uploads;
mod users;
mod versions;
