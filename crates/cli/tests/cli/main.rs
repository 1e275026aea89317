//! Runs the built binary: alone, against servers, killed at random instants, and on several servers at once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod backup;
mod belongs;
mod blobs;
mod crash;
mod demo;
mod devices;
mod doctor;
mod encrypted;
mod escapes;
mod explain;
mod failover;
#[cfg(target_os = "linux")]
mod little_room;
mod live;
mod login;
mod migration;
mod object_store;
mod packages;
mod processes;
mod readme;
mod records;
mod sharing;

mod support;
mod sync;
mod traces;
mod trash;
mod tree;
mod up;
mod upgrade;
mod usage;
mod users;
mod world;
