//! Attacks on a server: each loads it from one user, or from nobody who is signed in, until it is
//! stopped.

mod body_memory;
mod co_user;
mod disk_quota;
mod grant_bomb;
mod idle_connections;
mod mesh;
mod metadata_quota;
mod metric_labels;
mod one_realm;
mod request_slots;
mod share_bomb;
mod starved_readers;
mod untaken_answers;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use crate::Failure;
use crate::process::Server;
use crate::writer::Writer;

/// The number of threads that all attacks share: they compete with the server for the processors.
const THREADS: usize = 1;
/// The users who see what attackers share with them.
const GUESTS: usize = 60;
/// The interval at which a held connection sends a byte.
const DRIP: Duration = Duration::from_secs(20);
/// The pause before a connection that ended is made again.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after a refusal; an attacker does not wait for `Retry-After`.
const REFUSED: Duration = Duration::from_millis(20);

/// A way to load a server: prepares, waits in [`Target::prepared`], then goes on until it is dropped.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    run: fn(Target) -> BoxFuture<'static, Result<Infallible, Failure>>,
}

/// All attacks, one for each kind.
pub(crate) const ALL: [Attack; 14] = [
    Attack { name: "grant bomb", run: |on| Box::pin(grant_bomb::run(on)) },
    Attack { name: "share bomb", run: |on| Box::pin(share_bomb::run(on, "share-bomb", 2_500)) },
    Attack { name: "mesh of folders", run: |on| Box::pin(mesh::run(on)) },
    // As many consequences as the server takes, in memory and in time.
    Attack { name: "one huge push", run: |on| Box::pin(share_bomb::run(on, "huge-push", 8_000)) },
    Attack { name: "starved readers", run: |on| Box::pin(starved_readers::run(on)) },
    Attack { name: "pushes to one realm", run: |on| Box::pin(one_realm::run(on)) },
    Attack { name: "untaken answers, HTTP/2", run: |on| Box::pin(untaken_answers::run(on)) },
    Attack { name: "request slots", run: |on| Box::pin(request_slots::run(on)) },
    Attack { name: "memory of bodies", run: |on| Box::pin(body_memory::run(on)) },
    Attack { name: "idle connections", run: |on| Box::pin(idle_connections::run(on)) },
    Attack { name: "quota of the disk", run: |on| Box::pin(disk_quota::run(on)) },
    Attack { name: "quota of metadata", run: |on| Box::pin(metadata_quota::run(on)) },
    Attack { name: "metric labels", run: |on| Box::pin(metric_labels::run(on)) },
    Attack { name: "malicious co-user", run: |on| Box::pin(co_user::run(on)) },
];

/// The answers that an attack got, counted by status.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    /// Counts an answer: its status, or `cut` for a connection that the server ended.
    pub(crate) fn count(&self, answer: &str, times: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(answer.to_owned()).or_default() += times;
    }

    /// Returns the counts so far.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The documented answers to an attacker: success, or a refusal that names a limit.
const DOCUMENTED: [&str; 10] =
    ["200", "201", "204", "404", "405", "408", "413", "429", "503", "cut"];

/// Returns how many of the counted answers no document describes.
pub(crate) fn undocumented(answers: &BTreeMap<String, u64>) -> u64 {
    let others = answers.iter().filter(|(answer, _)| !DOCUMENTED.contains(&answer.as_str()));
    others.map(|(_, count)| count).sum()
}

/// The server that an attack is on.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    /// The users whom an attacker may share with, who look at what they get.
    pub(crate) victims: Arc<[String]>,
    /// The percentage of the full size at which attacks are made.
    size: usize,
    tally: Arc<Tally>,
    guests: Arc<OnceCell<Vec<String>>>,
    prepared: Arc<watch::Sender<bool>>,
    go: watch::Receiver<bool>,
}

impl Target {
    /// Creates a user of the server who attacks.
    pub(crate) fn attacker(&self, name: &str) -> Result<Writer, Failure> {
        Writer::new(&self.url, name)
    }

    /// Reports that everything is prepared, and waits until the attack begins.
    pub(crate) async fn prepared(&self) {
        self.prepared.send_replace(true);
        let _ = self.go.clone().wait_for(|go| *go).await;
    }

    /// Returns `full`, scaled to the size of this run.
    pub(crate) fn scaled(&self, full: usize) -> usize {
        (full * self.size / 100).max(2)
    }

    /// Returns users whose feeds get what is shared with them: each has made a call.
    pub(crate) async fn guests(&self) -> Result<Vec<String>, Failure> {
        let made = async || {
            let names: Vec<_> = (0..self.scaled(GUESTS)).map(|n| format!("guest-{n}")).collect();
            for name in &names {
                let guest = Writer::new(&self.url, name)?;
                let pull = format!("{}/v1/vfs/crdt/vfs-sync?limit=1", self.url);
                guest.http.get(pull).bearer_auth(&guest.token).send().await?.error_for_status()?;
            }
            Ok::<_, Failure>(names)
        };
        Ok(self.guests.get_or_try_init(made).await?.clone())
    }

    /// Adds one answer, or several, to the tally.
    pub(crate) fn count(&self, answer: &str, times: u64) {
        self.tally.count(answer, times);
    }

    /// Pushes as `attacker`, and counts the answer; waits a moment after a refusal.
    pub(crate) async fn push(&self, attacker: &mut Writer, operations: Vec<Value>) {
        let status = attacker.send(operations).await.map(|(status, _)| status);
        self.count(status.as_ref().map_or("cut", StatusCode::as_str), 1);
        if !status.is_ok_and(|status| status.is_success()) {
            tokio::time::sleep(REFUSED).await;
        }
    }

    /// Opens a connection to the server.
    pub(crate) async fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.url.trim_start_matches("http://")).await
    }

    /// Holds `count` connections that each send `start` and then a byte at times; those that the
    /// server answers or ends are made again.
    pub(crate) async fn hold(&self, count: usize, start: Bytes) -> Infallible {
        let one = async || loop {
            let answer = self.held(&start).await.unwrap_or_else(|_| "cut".into());
            self.count(&answer, 1);
            tokio::time::sleep(PAUSE).await;
        };
        first((0..count).map(|_| one())).await
    }

    async fn held(&self, start: &[u8]) -> std::io::Result<String> {
        let mut stream = self.connect().await?;
        let (mut read, mut write) = stream.split();
        let sent = async {
            write.write_all(start).await?;
            loop {
                tokio::time::sleep(DRIP).await;
                write.write_all(if start.is_empty() { b"" } else { b" " }).await?;
            }
        };
        let mut head = [0; 12];
        tokio::select! {
            answered = read.read_exact(&mut head) => {
                answered?;
                Ok(String::from_utf8_lossy(&head[9..]).into_owned())
            }
            failed = sent => failed,
        }
    }
}

/// Runs all futures at once; returns the output of the first that ends.
pub(crate) async fn first<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> T {
    let mut all: FuturesUnordered<_> = all.collect();
    match all.next().await {
        Some(output) => output,
        None => std::future::pending().await,
    }
}

/// The attackers of a server, on threads of their own; all end when this is dropped.
pub(crate) struct Attackers {
    runtime: Option<Runtime>,
    go: watch::Sender<bool>,
    running: Vec<Running>,
    target: Target,
}

struct Running {
    name: &'static str,
    tally: Arc<Tally>,
    task: JoinHandle<Result<Infallible, Failure>>,
}

impl Attackers {
    /// Creates attackers of `server` who may share with `victims`, at a percentage of the full size.
    pub(crate) fn new(server: &Server, victims: &[String], size: usize) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()?;
        let (go, began) = watch::channel(false);
        let target = Target {
            url: server.url.clone(),
            victims: victims.into(),
            size,
            tally: Arc::default(),
            guests: Arc::default(),
            prepared: Arc::new(watch::channel(false).0),
            go: began,
        };
        Ok(Self { runtime: Some(runtime), go, running: Vec::new(), target })
    }

    /// Prepares an attack, and returns when it could begin.
    pub(crate) async fn prepare(&mut self, attack: &Attack) -> Result<(), Failure> {
        let (prepared, tally) = (Arc::new(watch::channel(false).0), Arc::<Tally>::default());
        let target = Target {
            tally: Arc::clone(&tally),
            prepared: Arc::clone(&prepared),
            ..self.target.clone()
        };
        let runtime = self.runtime.as_ref().ok_or("the attackers have stopped")?;
        let mut task = runtime.spawn((attack.run)(target));
        let mut prepared = prepared.subscribe();
        tokio::select! {
            ended = &mut task => {
                let Err(error) = ended?;
                return Err(format!("{}: {error}", attack.name).into());
            }
            _ = prepared.wait_for(|prepared| *prepared) => {}
        }
        self.running.push(Running { name: attack.name, tally, task });
        Ok(())
    }

    /// Begins all attacks that were prepared.
    pub(crate) fn begin(&self) {
        self.go.send_replace(true);
    }

    /// Ends all attacks; returns what each was answered. An attack that ended before is an error.
    pub(crate) async fn stop(mut self) -> Result<Vec<(&'static str, Arc<Tally>)>, Failure> {
        let mut tallies = Vec::new();
        for attack in std::mem::take(&mut self.running) {
            if attack.task.is_finished() {
                let Err(error) = attack.task.await?;
                return Err(format!("{} ended by itself: {error}", attack.name).into());
            }
            tallies.push((attack.name, attack.tally));
        }
        Ok(tallies)
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
