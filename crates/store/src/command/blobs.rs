//! Operations on contents: staged, uploaded, attached, listed and reclaimed.

mod attach;
pub(super) mod reclaim;
mod stage;
mod upload;
mod versions;
