//! Synchronising: pushing, pulling, and reporting what was applied. The rules are the core's machines;
//! these modules are the order in which they are asked, and what is made durable when.

pub(crate) mod background;
pub(crate) mod backoff;
mod outcome;
mod pull;
mod push;
mod rebuild;
mod reconcile;
mod session;
pub(crate) mod task;
mod upload;

pub(crate) use session::{Session, Work};
pub(crate) use upload::renew;
