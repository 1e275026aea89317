//! Decisions of the server: whether a push and an attach are applied, who sees the change, and
//! which positions a feed can serve.

pub mod attach;
pub mod feed_window;
pub mod push;
