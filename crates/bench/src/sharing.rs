//! The cost of granting and revoking over HTTP, and the waiting time of other requests.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;
use crate::process::Server;
use crate::push::BATCH;
use crate::report::Report;

/// The number of items in the folder that is shared as a whole.
const ITEMS: usize = 100_000;
/// The number of files in each of its folders.
const FOLDER: usize = 100;
/// The number of items in the small tree.
const FEW: usize = 100;
const MANY: usize = 1_000_000;
/// The number of files that are shared one by one.
const TIMES: usize = 50;

/// A user with one replica.
pub(crate) struct Writer {
    http: reqwest::Client,
    url: String,
    token: String,
    next: u64,
}

impl Writer {
    pub(crate) fn new(server: &Server, user: &str) -> Result<Self, Failure> {
        Ok(Self {
            http: reqwest::Client::builder().tcp_nodelay(true).build()?,
            url: server.url.clone(),
            token: Server::token_of(user)?,
            next: 1,
        })
    }

    /// Pushes operations, all of which must be applied; returns the duration.
    pub(crate) async fn push(&mut self, mut operations: Vec<Value>) -> Result<Duration, Failure> {
        for operation in &mut operations {
            operation["opId"] = json!(uuid::Uuid::now_v7().to_string());
            operation["replicaId"] = json!("r");
            operation["writeId"] = json!(self.next);
            operation["occurredAt"] = json!("2026-03-01T09:00:00.000Z");
            self.next += 1;
        }
        let count = operations.len();
        let body = serde_json::to_vec(&json!({"clientId": "r", "operations": operations}))?;
        let begun = Instant::now();
        let answer = self
            .http
            .post(format!("{}/v1/vfs/crdt/push", self.url))
            .bearer_auth(&self.token)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await?;
        let taken = begun.elapsed();
        let text = answer.text().await?;
        if text.matches("\"applied\"").count() == count {
            Ok(taken)
        } else {
            Err(format!("a push was refused: {text:.300}").into())
        }
    }

    /// Pulls the first page of the feed.
    pub(crate) async fn pull(&self) -> Result<(), Failure> {
        let url = format!("{}/v1/vfs/crdt/vfs-sync", self.url);
        let answer = self.http.get(url).bearer_auth(&self.token).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Creates folders of [`FOLDER`] files in a folder `root`, `items` in total.
    pub(crate) async fn make_tree(&mut self, root: &str, items: usize) -> Result<(), Failure> {
        let mut operations = vec![made(root, "folder", None)];
        let mut folder = String::new();
        for n in 1..items {
            let id = uuid::Uuid::now_v7().to_string();
            if n % FOLDER == 1 {
                operations.push(made(&id, "folder", Some(root)));
                folder = id;
            } else {
                operations.push(made(&id, "file", Some(&folder)));
            }
            if operations.len() == BATCH {
                self.push(std::mem::take(&mut operations)).await?;
            }
        }
        if !operations.is_empty() {
            self.push(operations).await?;
        }
        Ok(())
    }

    /// Measures the median time of sharing a file, in milliseconds; each is a new file in `parent`.
    async fn share_files(&mut self, parent: &str, name: &str) -> Result<f64, Failure> {
        let files: Vec<String> = (0..TIMES).map(|n| format!("{name}-{n}")).collect();
        let all = files.iter().map(|id| made(id, "file", Some(parent))).collect();
        self.push(all).await?;
        let mut times = Vec::new();
        for id in &files {
            times.push(self.push(vec![granted(id, "guest")]).await?.as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[TIMES / 2])
    }
}

pub(crate) fn made(id: &str, kind: &str, parent: Option<&str>) -> Value {
    json!({"opType": "item_upsert", "itemId": id, "objectType": kind, "name": id,
        "parentId": parent, "metadata": {"mtime": "2026-03-01T09:00:00.000Z", "mode": 420}})
}

pub(crate) fn granted(id: &str, to: &str) -> Value {
    json!({"opType": "acl_add", "itemId": id, "principalType": "user", "principalId": to,
        "accessLevel": "read"})
}

/// Pushes a change of another realm repeatedly until stopped; returns the longest wait.
async fn push_meanwhile(
    mut other: Writer,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> Result<Duration, Failure> {
    let mut longest = Duration::ZERO;
    while stop.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
        let id = uuid::Uuid::now_v7().to_string();
        longest = longest.max(other.push(vec![made(&id, "file", None)]).await?);
    }
    Ok(longest)
}

/// Runs the measurements on `server`; other requests may wait for `wait` seconds at most.
pub(crate) async fn run(
    report: &mut Report,
    server: &Server,
    engine: &str,
    wait: f64,
) -> Result<(), Failure> {
    let mut owner = Writer::new(server, "owner")?;
    owner.make_tree("large", ITEMS).await?;
    let mut small = Writer::new(server, "small")?;
    small.make_tree("small", FEW).await?;
    let revoked = json!({"opType": "acl_remove", "itemId": "large", "principalType": "user",
        "principalId": "guest"});
    for (what, operation) in [("granting", granted("large", "guest")), ("revoking", revoked)] {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let name = format!("other-{what}");
        let others = tokio::spawn(push_meanwhile(Writer::new(server, &name)?, stopped));
        let taken = owner.push(vec![operation]).await?;
        let _ = stop.send(());
        let longest = others.await??.as_secs_f64();
        let what = format!("{what} a folder of 100,000 items, {engine}");
        report.at_most(&what, taken.as_secs_f64(), 5.0, "s");
        report.at_most("  the longest that others waited", longest, wait, "s");
    }
    let few = small.share_files("small", "few").await?;
    let mut huge = Writer::new(server, "huge")?;
    huge.make_tree("huge", MANY).await?;
    let many = huge.share_files("huge", "many").await?;
    report.note(&format!("sharing one file of 100, {engine}"), few, "ms");
    report.note(&format!("sharing one file of 1,000,000, {engine}"), many, "ms");
    report.at_most("  against a tree of 100", many / few, 1.5, "x");
    Ok(())
}
