//! The operator's view of a server: metrics, the audit log, pseudonyms, and the listener for them.

pub(crate) mod admin;
pub(crate) mod audit;
pub(crate) mod console;
mod families;
pub(crate) mod pseudonym;
pub(crate) mod traces;
