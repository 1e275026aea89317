//! The parties of a world: devices with their users, and a client and a server that break the
//! rules.

pub(crate) mod byzantine_server;
pub(crate) mod device;
pub(crate) mod edit;
pub(crate) mod malicious_client;
pub(crate) mod replica_disk;
