//! Operations on users, their devices, groups and blocks.

mod arrival;
mod credential;
mod deletion;
mod device;
pub(crate) mod members;
mod session;
pub(super) mod user;
