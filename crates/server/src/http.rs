//! The HTTP layer without the routes: bodies, conditional requests, query strings, connections, and
//! the layers around every request.

pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod conditional;
pub(crate) mod connection;
pub(crate) mod cors;
pub(crate) mod extract;
pub(crate) mod lingering;
pub(crate) mod observe;
pub(crate) mod query;
