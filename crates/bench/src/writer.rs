//! A user with one replica that pushes operations over HTTP.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::Failure;
use crate::measure::push::BATCH;
use crate::process::Server;

/// A user's replica: it numbers the operations that it pushes.
pub(crate) struct Writer {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) token: String,
    replica: String,
    next: u64,
}

impl Writer {
    /// Creates a user of the server at `url` with the replica `r`.
    pub(crate) fn new(url: &str, user: &str) -> Result<Self, Failure> {
        Ok(Self {
            http: reqwest::Client::builder()
                .tcp_nodelay(true)
                .timeout(Duration::from_secs(60))
                .build()?,
            url: url.into(),
            token: Server::token_of(user)?,
            replica: "r".into(),
            next: 1,
        })
    }

    /// Returns another replica of the same user, over the same connections.
    pub(crate) fn replica(&self, name: &str) -> Self {
        Self {
            http: self.http.clone(),
            url: self.url.clone(),
            token: self.token.clone(),
            replica: name.into(),
            next: 1,
        }
    }

    /// Sends one push; returns the answer's status and body.
    pub(crate) async fn send(
        &mut self,
        mut operations: Vec<Value>,
    ) -> Result<(StatusCode, String), Failure> {
        for operation in &mut operations {
            operation["opId"] = json!(uuid::Uuid::now_v7().to_string());
            operation["replicaId"] = json!(self.replica);
            operation["writeId"] = json!(self.next);
            operation["occurredAt"] = json!("2026-03-01T09:00:00.000Z");
            self.next += 1;
        }
        let body = json!({"clientId": self.replica, "operations": operations});
        let answer = self.post("/v1/vfs/crdt/push").json(&body).send().await?;
        Ok((answer.status(), answer.text().await?))
    }

    /// Starts an authenticated request to `path`.
    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// Pulls the first page of the feed.
    pub(crate) async fn pull(&self) -> Result<(), Failure> {
        let url = format!("{}/v1/vfs/crdt/vfs-sync", self.url);
        let answer = self.http.get(url).bearer_auth(&self.token).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Pushes operations, all of which must be applied; returns the duration.
    pub(crate) async fn push(&mut self, operations: Vec<Value>) -> Result<Duration, Failure> {
        let count = operations.len();
        let begun = Instant::now();
        let (status, text) = self.send(operations).await?;
        if text.matches("\"applied\"").count() == count {
            Ok(begun.elapsed())
        } else {
            Err(format!("a push was refused: {status} {text:.300}").into())
        }
    }

    /// Pushes any number of operations, [`BATCH`] at a time.
    pub(crate) async fn push_all(
        &mut self,
        operations: impl IntoIterator<Item = Value>,
    ) -> Result<(), Failure> {
        let mut operations = operations.into_iter().peekable();
        while operations.peek().is_some() {
            self.push(operations.by_ref().take(BATCH).collect()).await?;
        }
        Ok(())
    }
}

/// Returns the creation of an item, or a change of its name to `name`.
pub(crate) fn named(id: &str, kind: &str, parent: Option<&str>, name: &str) -> Value {
    json!({"opType": "item_upsert", "itemId": id, "objectType": kind, "name": name,
        "parentId": parent, "metadata": {"mtime": "2026-03-01T09:00:00.000Z", "mode": 420}})
}

/// Returns the creation of an item that is named like its id.
pub(crate) fn made(id: &str, kind: &str, parent: Option<&str>) -> Value {
    named(id, kind, parent, id)
}

/// Returns a grant to read the item `id`, to the user `to`.
pub(crate) fn granted(id: &str, to: &str) -> Value {
    json!({"opType": "acl_add", "itemId": id, "principalType": "user", "principalId": to,
        "accessLevel": "read"})
}

/// Returns the end of the grant to the user `to`.
pub(crate) fn revoked(id: &str, to: &str) -> Value {
    json!({"opType": "acl_remove", "itemId": id, "principalType": "user", "principalId": to})
}
