//! Runs the client's library over scripted, faulty and real lines: every rule, refusal and recovery that an application relies on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod belongs;
mod changes;
mod contents;
mod converge;
mod deletions;
mod exports;
mod flush;
mod guardrails;
mod hydrate;
mod live;
mod local;
mod moves;
mod queries;
mod random;
mod random_sharing;
mod random_work;
mod reports;
mod restore;
mod shared_tree;
mod sharing;
mod stable;
mod support;
mod traps;
mod two_primaries;
mod waits;
