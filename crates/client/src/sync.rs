//! Synchronises: pushes, pulls, and reports the applied state. The core's machines have the rules;
//! these modules run them in order and make their results durable.

pub(crate) mod background;
pub(crate) mod backoff;
pub(crate) mod connection;
pub(crate) mod live;
mod outcome;
mod pull;
mod push;
mod rebuild;
mod reconcile;
mod report;
mod session;
pub(crate) mod task;
mod upload;

pub(crate) use session::{Session, Work};
pub(crate) use upload::renew;
