//! What the tests of applications need as well as ours.

mod server;

pub use server::{TestClock, TestServer, TestServerBuilder};
