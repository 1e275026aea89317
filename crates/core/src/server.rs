//! Decisions of the server: whether a push and an attach are applied, who sees the change, which
//! part of a feed a pull gets, how reconciled states merge, and the life of a stage and its bytes.

pub mod attach;
pub mod credential;
pub mod deletion;
pub mod device;
pub mod feed_window;
pub mod push;
pub mod reclaim;
pub mod reconcile;
pub mod session;
pub mod stage;
pub mod user;
