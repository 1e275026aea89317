//! Tests every rule by itself: random histories against models, and each rule at its edge.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod attach;
mod deletion_model;
mod flush_cycle;
mod guardrails;
mod offer;
mod push_form;
mod push_model;
mod push_results;
mod sharing_model;
mod world;
