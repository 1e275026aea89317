//! The server over real HTTP.
#![allow(clippy::unwrap_used, clippy::panic)]

mod auth;
mod blobs;
mod bodies;
mod lifecycle;
mod malformed;
mod reads;
mod scene;
mod sync;
