//! The simulated machines: network, clocks, disks, processes, and the stores of the servers.

pub(crate) mod database;
pub mod disk;
pub(crate) mod environment;
pub(crate) mod network;
pub(crate) mod objects;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod sabotage;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod transport;
