//! The servers: several processes over one database and one object store, which crash, restart, and
//! are restored from a backup.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use tokio::task::{AbortHandle, JoinHandle};
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::auth::{AuthConfig, Authenticator, Secret, mint_token};
use vfs_sync_server::{Body, Server, ServerConfig, Service};
use vfs_sync_store::MetadataStore;
use vfs_sync_testkit::Random;

use crate::infra::database::Database;
use crate::infra::environment::{Machine, time_of_world};
use crate::infra::objects::Objects;
use crate::infra::power::ServerDisk;
use crate::infra::process::Process;
use crate::infra::store::WatchedStore;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// The complete answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// All servers of a world.
pub(crate) struct Cluster {
    ledger: Ledger,
    objects: Objects,
    auth: AuthConfig,
    secret: Secret,
    config: ServerConfig,
    pub(crate) database_faults: Arc<AtomicU32>,
    /// The disk of the database, unless it is in memory.
    disk: Option<ServerDisk>,
    state: Mutex<State>,
}

struct State {
    store: Arc<dyn MetadataStore>,
    random: Random,
    hosts: Vec<Host>,
}

/// A host for a server process.
struct Host {
    machine: Arc<Machine>,
    running: Option<Running>,
}

struct Running {
    process: Arc<Process>,
    service: Service,
    tasks: Vec<AbortHandle>,
}

/// The time that the servers are down after a power failure.
const AWAY: Duration = Duration::from_secs(3);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

impl Cluster {
    pub(crate) async fn start(
        ledger: Ledger,
        objects: Objects,
        database: &Database,
        config: ServerConfig,
        machines: Vec<Arc<Machine>>,
        random: Random,
    ) -> Arc<Self> {
        let secret = Secret::new([7; 32]);
        let auth = AuthConfig::with_secret(secret.clone()).expect("the secret is long");
        let hosts = machines.into_iter().map(|machine| Host { machine, running: None }).collect();
        let state = Mutex::new(State { store: database.open(), random, hosts });
        let (database_faults, disk) = (Arc::default(), database.disk().cloned());
        let cluster = Self { ledger, objects, auth, secret, config, database_faults, disk, state };
        let cluster = Arc::new(cluster);
        cluster.start_all().await;
        if let Some(disk) = &cluster.disk {
            let this = Arc::downgrade(&cluster);
            disk.when_gone(move |store| {
                if let Some(cluster) = this.upgrade() {
                    cluster.lost_power(store);
                }
            });
        }
        cluster
    }

    /// Handles a power failure, in which every process dies: they start again after a while.
    fn lost_power(self: Arc<Self>, store: Arc<dyn MetadataStore>) {
        for host in 0..self.hosts() {
            self.crash(host);
        }
        self.replace_store(store);
        tokio::spawn(async move {
            tokio::time::sleep(AWAY).await;
            self.start_all().await;
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a token that stays valid however clocks are moved.
    pub(crate) fn token(&self, user: &UserId, scope: Option<&str>) -> String {
        let long_ago = Timestamp::from_millis(0).expect("1970");
        mint_token(&self.secret, user, scope, CENTURY, long_ago).expect("the secret is long")
    }

    pub(crate) fn hosts(&self) -> usize {
        self.state().hosts.len()
    }

    pub(crate) fn machine(&self, host: usize) -> Arc<Machine> {
        Arc::clone(&self.state().hosts[host].machine)
    }

    /// Starts the hosts that are not running.
    pub(crate) async fn start_all(&self) {
        for host in 0..self.hosts() {
            self.start_host(host).await;
        }
    }

    /// Starts a process on a host. The start begins an epoch, as the product's does when it opens
    /// its database, but at the world's time: clocks that step back behind an epoch are the
    /// operator's task.
    pub(crate) async fn start_host(&self, host: usize) {
        if self.state().hosts[host].running.is_some() {
            return;
        }
        let (store, chance) = {
            let mut state = self.state();
            (Arc::clone(&state.store), state.random.below(1 << 16))
        };
        let now = time_of_world(self.ledger.elapsed());
        let begun = store.new_epoch(now, u16::try_from(chance).unwrap_or(0)).await;
        if begun.is_err() {
            return self.ledger.note(|| format!("server {host} cannot start"));
        }
        let (store, machine, process) = {
            let mut state = self.state();
            if state.hosts[host].running.is_some() {
                return;
            }
            let random = state.random.fork();
            let process = Arc::new(Process::new(random, Arc::clone(&self.database_faults)));
            (Arc::clone(&state.store), Arc::clone(&state.hosts[host].machine), process)
        };
        let auth = Authenticator::load(&self.auth).await.expect("a secret is a key");
        let (disk, ledger) = (self.disk.clone(), self.ledger.clone());
        let store = WatchedStore::new(store, disk, ledger, Arc::clone(&process));
        let blobs = self.objects.of_process(self.ledger.clone(), Arc::clone(&process));
        let server = Server::builder(Arc::new(store), Arc::new(blobs), auth)
            .environment(machine)
            .config(self.config.clone())
            .build();
        let running = Running { process, service: server.into_service(), tasks: Vec::new() };
        self.state().hosts[host].running = Some(running);
        self.ledger.note(|| format!("server {host} starts"));
    }

    /// Kills a process at its present point, and returns whether there was one.
    pub(crate) fn crash(&self, host: usize) -> bool {
        let Some(running) = self.state().hosts[host].running.take() else { return false };
        running.process.kill();
        running.tasks.iter().for_each(AbortHandle::abort);
        true
    }

    /// Returns the database, as it is without faults.
    pub(crate) fn store(&self) -> Arc<dyn MetadataStore> {
        Arc::clone(&self.state().store)
    }

    /// Replaces the database by another one. No process may be running.
    pub(crate) fn replace_store(&self, store: Arc<dyn MetadataStore>) {
        self.state().store = store;
    }

    /// Returns a running server at random; `None` if there is none.
    pub(crate) fn any(&self) -> Option<usize> {
        let mut state = self.state();
        let running: Vec<usize> =
            (0..state.hosts.len()).filter(|host| state.hosts[*host].running.is_some()).collect();
        (!running.is_empty()).then(|| running[state.random.below(running.len())])
    }

    fn service(&self, host: usize) -> Option<Service> {
        Some(self.state().hosts[host].running.as_ref()?.service.clone())
    }

    /// Runs a future in a process: it ends with the process.
    fn run<T: Send + 'static>(
        &self,
        host: usize,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let task = tokio::spawn(work);
        if let Some(running) = &mut self.state().hosts[host].running {
            running.tasks.retain(|task| !task.is_finished());
            running.tasks.push(task.abort_handle());
        }
        task
    }

    /// Passes a request to a server process; `None` if it is not running.
    pub(crate) fn call(
        &self,
        host: usize,
        request: Request<Bytes>,
    ) -> Option<JoinHandle<Option<Answer>>> {
        let service = self.service(host)?;
        let ledger = self.ledger.clone();
        Some(self.run(host, async move {
            let what = format!("{} {}", request.method(), request.uri().path());
            let answer = service.call(request.map(Body::from)).await;
            let (head, body) = answer.into_parts();
            let status = head.status.as_u16();
            // A body that breaks off is a connection that does.
            let body = body.collect().await.ok()?.to_bytes();
            if status == 500 && contains(&body, br#""code":"internal_error""#) {
                ledger
                    .fail(FailureKind::Panic, format!("{what}: a server failed by its own fault"));
            }
            Some(Answer { status, headers: head.headers, body })
        }))
    }

    /// Runs one round of retention on a server.
    pub(crate) fn prune(&self, host: usize) {
        if let Some(service) = self.service(host) {
            drop(self.run(host, async move { service.prune().await }));
        }
    }

    /// Runs one round of the sweeper on a server.
    pub(crate) fn sweep(&self, host: usize) -> Option<JoinHandle<()>> {
        let service = self.service(host)?;
        Some(self.run(host, async move { service.sweep().await }))
    }

    /// Returns the time of a server's clock.
    pub(crate) fn now(&self, host: usize) -> Timestamp {
        vfs_sync_server::Environment::now(&*self.machine(host))
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
