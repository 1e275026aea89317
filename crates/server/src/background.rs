//! The work of a server beside its requests, at regular times.

pub(crate) mod deletion;
pub(crate) mod devices;
pub(crate) mod maintenance;
pub(crate) mod sampling;
