//! The server over real HTTP.
#![allow(clippy::unwrap_used, clippy::panic)]

mod auth;
mod blobs;
mod bodies;
mod hostile;
mod lifecycle;
mod lookup;
mod malformed;
mod members;
mod quota;
mod reads;
mod reclaim;
mod scene;
mod service;
mod storage;
mod sync;
mod tus;
