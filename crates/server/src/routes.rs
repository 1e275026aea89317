//! Handlers of the routes, one module for each group.

pub(crate) mod batch;
pub(crate) mod blobs;
pub(crate) mod devices;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod lookup;
pub(crate) mod members;
pub(crate) mod reading;
pub(crate) mod sign_in;
pub(crate) mod sync;
pub(crate) mod telemetry;
pub(crate) mod trash;
pub(crate) mod tus;
pub(crate) mod users;
