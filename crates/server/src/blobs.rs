//! The life of a blob on the server: staged, uploaded, attached, and reclaimed.

pub(crate) mod reclaim;
pub(crate) mod stage;
pub(crate) mod upload;
