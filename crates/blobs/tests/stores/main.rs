//! Tests the object stores: one contract for all of them, and the errors of an S3 that fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod contract;
mod faults;
