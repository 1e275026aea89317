//! The server over real HTTP.
#![allow(clippy::unwrap_used, clippy::panic)]

mod auth;
mod blobs;
mod bodies;
mod hostile;
mod lifecycle;
mod malformed;
mod members;
mod reads;
mod scene;
mod sync;
mod tus;
