//! The server over real HTTP.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attaching;
mod audience;
mod auth;
mod batch;
mod blobs;
mod bodies;
#[cfg(unix)]
mod browser;
mod console;
mod described;
mod devices;
mod dots;
mod events;
mod gate;
mod grammar;
mod hostile;
mod lifecycle;
mod lookup;
mod malformed;
mod members;
mod names;
mod probing;
mod quota;
mod races;
mod rates;
mod reads;
mod reclaim;
mod runbook;
mod scene;
mod service;
mod shares;
mod sign_in;
mod storage;
mod sync;
mod telemetry;
mod trash;
mod turns;
mod tus;
#[cfg(unix)]
mod tus_browser;
#[cfg(unix)]
mod tus_clients;
