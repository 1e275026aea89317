//! Faults between and in the processes, and their repair.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use vfs_sync_store::testing::PostgresServer;
use vfs_sync_testkit::{Direction, Proxy, Random};

use super::cluster::Cluster;

/// The lines: from each device to each server, from each server to the database.
pub(crate) struct Network {
    pub(crate) to_servers: Vec<Vec<Proxy>>,
    to_database: Vec<Proxy>,
}

impl Network {
    /// Ways to the database, for `servers` of them.
    pub(crate) async fn before(database: SocketAddr, servers: usize) -> Self {
        let mut to_database = Vec::new();
        for _ in 0..servers {
            to_database.push(Proxy::to(database).await);
        }
        Self { to_servers: Vec::new(), to_database }
    }

    /// As many URLs as servers.
    pub(crate) fn databases(&self, postgres: &PostgresServer, name: &str) -> Vec<String> {
        self.to_database.iter().map(|proxy| postgres.url(proxy.address(), name)).collect()
    }

    /// Ways from one more device to all servers; gives where they begin.
    pub(crate) async fn add_device(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut proxies = Vec::new();
        for server in 0..cluster.len() {
            proxies.push(Proxy::to(cluster.address(server)).await);
        }
        let urls = proxies.iter().map(Proxy::url).collect();
        self.to_servers.push(proxies);
        urls
    }

    fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.to_servers.iter().flatten().chain(&self.to_database)
    }
}

/// The number of faults of each kind.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// The components that can fail, and those that have.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) network: Network,
    pub(crate) postgres: PostgresServer,
    killed: Vec<usize>,
    paused: Vec<usize>,
}

impl World {
    pub(crate) fn new(cluster: Arc<Cluster>, network: Network, postgres: PostgresServer) -> Self {
        Self { cluster, network, postgres, killed: Vec::new(), paused: Vec::new() }
    }

    /// The database server alone, when all else ends.
    pub(crate) fn into_postgres(self) -> PostgresServer {
        self.postgres
    }

    /// Injects a random fault.
    pub(crate) fn fail(&mut self, random: &mut Random, counts: &mut Counts) {
        let server = random.below(self.cluster.len());
        let is_up = !self.killed.contains(&server) && !self.paused.contains(&server);
        let device = random.one(&self.network.to_servers);
        let (one, database) = (random.one(device), &self.network.to_database[server]);
        let direction = *random.one(&[Direction::Forth, Direction::Back]);
        let bytes = random.below(20_000) as u64;
        let kind = match random.below(14) {
            0 | 1 if is_up && self.killed.len() + 1 < self.cluster.len() => {
                self.cluster.kill(server);
                self.killed.push(server);
                "kill -9 of a server"
            }
            2 | 3 if is_up => {
                self.cluster.signal(server, "STOP");
                self.paused.push(server);
                "pause of a server"
            }
            4 => {
                device.iter().for_each(Proxy::cut);
                "a device cut off"
            }
            5 => {
                one.hold(Direction::Forth);
                one.hold(Direction::Back);
                "a device without a route to a server"
            }
            6 => {
                one.hold(direction);
                "one way between a device and a server only"
            }
            7 => {
                one.cut_next_after(direction, bytes);
                "a device's connection cut at a byte"
            }
            8 => {
                one.delay(Duration::from_millis(bytes % 200));
                "a slow line to a server"
            }
            9 => {
                database.cut();
                "a server cut off from the database"
            }
            10 => {
                database.hold(direction);
                "one way between a server and the database only"
            }
            11 => {
                database.hold(Direction::Forth);
                database.hold(Direction::Back);
                "a server without a route to the database"
            }
            12 => {
                database.cut_next_after(direction, bytes);
                "a connection to the database cut at a byte"
            }
            13 => {
                let at_once = random.below(2) == 0;
                self.postgres.restart(at_once).unwrap();
                if at_once { "a crash of PostgreSQL" } else { "a restart of PostgreSQL" }
            }
            _ => return,
        };
        *counts.entry(kind).or_default() += 1;
    }

    /// Everything works again; what was held arrives, or its connections end.
    pub(crate) fn heal(&mut self, random: &mut Random) {
        for proxy in self.network.all() {
            if random.below(2) == 0 {
                proxy.cut();
            }
            proxy.heal();
        }
        for server in self.paused.drain(..) {
            self.cluster.signal(server, "CONT");
        }
        for server in self.killed.drain(..) {
            self.cluster.start_again(server);
        }
        self.cluster.check();
    }
}
