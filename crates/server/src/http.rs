//! HTTP apart from the routes: bodies, conditional requests, query strings, connections, and what
//! surrounds every request.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod conditional;
pub(crate) mod connection;
pub(crate) mod cors;
pub(crate) mod lingering;
pub(crate) mod observe;
pub(crate) mod query;
