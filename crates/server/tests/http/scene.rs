//! A server and people who call it.

use std::sync::Arc;

use futures::TryStreamExt as _;
use http::HeaderMap;
use serde_json::{Value, json};
use vfs_sync_blobs::testing::new_s3_place;
use vfs_sync_blobs::{BlobStore, ObjectBlobs};
use vfs_sync_testkit::{TestServer, TestServerBuilder};

use crate::described::{Seen, undocumented};

pub(crate) struct Scene {
    pub(crate) server: TestServer,
    http: reqwest::Client,
}

/// A place in S3 that is empty.
pub(crate) async fn s3() -> Arc<dyn BlobStore> {
    let blobs = ObjectBlobs::s3(&new_s3_place().await.unwrap()).unwrap();
    blobs.probe().await.unwrap();
    Arc::new(blobs)
}

/// Each behaviour on a server whose blobs are in a directory, and on one whose blobs are in S3.
macro_rules! on_every_store {
    (with $config:expr; $($behaviour:ident)*) => {
        mod directory { $(
            #[tokio::test]
            async fn $behaviour() {
                let builder = vfs_sync_testkit::TestServer::builder().config($config);
                super::$behaviour(crate::scene::Scene::of(builder).await).await;
            }
        )* }
        mod s3 { $(
            #[tokio::test]
            #[ignore = "needs an S3 server"]
            async fn $behaviour() {
                let builder = vfs_sync_testkit::TestServer::builder().config($config);
                let builder = builder.blobs(crate::scene::s3().await);
                super::$behaviour(crate::scene::Scene::of(builder).await).await;
            }
        )* }
    };
    ($($behaviour:ident)*) => {
        mod directory { $(
            #[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::scene::Scene::new().await).await;
            }
        )* }
        mod s3 { $(
            #[tokio::test]
            #[ignore = "needs an S3 server"]
            async fn $behaviour() {
                super::$behaviour(crate::scene::Scene::on_s3().await).await;
            }
        )* }
    };
}
pub(crate) use on_every_store;

/// Somebody with a token.
#[derive(Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::of(TestServer::builder()).await
    }

    pub(crate) async fn of(builder: TestServerBuilder) -> Self {
        let http = reqwest::Client::builder().no_gzip().no_zstd().build().unwrap();
        Self { server: builder.start().await, http }
    }

    /// A server whose blobs are in S3.
    pub(crate) async fn on_s3() -> Self {
        Self::of(TestServer::builder().blobs(s3().await)).await
    }

    /// The names of what is in the object store.
    pub(crate) async fn objects(&self) -> Vec<String> {
        let objects: Vec<_> = self.server.blobs().list().try_collect().await.unwrap();
        let mut names: Vec<String> = objects.into_iter().map(|object| object.name).collect();
        names.sort();
        names
    }

    pub(crate) fn user(&self, name: &str) -> Caller {
        self.bearer(&self.server.token(name))
    }

    pub(crate) fn administrator(&self, name: &str) -> Caller {
        self.bearer(&self.server.token_with_scope(name, "openid vfs:admin"))
    }

    pub(crate) fn bearer(&self, token: &str) -> Caller {
        Caller { token: Some(token.to_owned()), ..self.nobody() }
    }

    /// Somebody at the operator's listener, with a token or none.
    pub(crate) fn operator(&self, token: Option<&str>) -> Caller {
        let url = self.server.admin_url().unwrap();
        Caller { token: token.map(str::to_owned), url, ..self.nobody() }
    }

    pub(crate) fn nobody(&self) -> Caller {
        Caller { http: self.http.clone(), url: self.server.url(), token: None }
    }
}

impl Caller {
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request("GET", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request("DELETE", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request("POST", path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, bytes: impl Into<reqwest::Body>) -> Answer {
        send(self.request("PUT", path).body(bytes)).await
    }

    pub(crate) async fn push(&self, client: &str, operations: Vec<Value>) -> Answer {
        self.post("/v1/vfs/crdt/push", json!({"clientId": client, "operations": operations})).await
    }

    /// Creates a file item and gives its id.
    pub(crate) async fn file(&self, write_id: u64) -> String {
        let id = format!("item-{write_id}");
        let answer = self.push("laptop", vec![create(&id, write_id)]).await.ok();
        assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
        id
    }

    pub(crate) async fn pull_all(&self) -> Value {
        self.get("/v1/vfs/crdt/vfs-sync?limit=500").await.ok()
    }
}

/// An operation of the replica `laptop` that creates a file.
pub(crate) fn create(item: &str, write_id: u64) -> Value {
    json!({
        "opId": format!("op-{item}"), "opType": "item_upsert", "itemId": item,
        "replicaId": "laptop", "writeId": write_id, "occurredAt": "2026-01-01T00:00:00Z",
        "objectType": "file", "name": format!("{item}.txt"),
    })
}

/// Sends a request, and fails unless the OpenAPI document describes the answer.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, url) = (request.method().to_string(), request.url().clone());
    let answer = client.execute(request).await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let answer = Answer { status, headers, bytes: answer.bytes().await.unwrap().to_vec() };
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let seen = Seen {
        method: &method,
        target: &target,
        status,
        content_type: answer.header("content-type"),
        body: if answer.header("content-encoding").is_empty() { &answer.bytes } else { b"" },
    };
    assert_eq!(undocumented(&seen), None);
    answer
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("not JSON: {:?}", String::from_utf8_lossy(&self.bytes)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.json());
        self.json()
    }

    /// The body of an error of this status and code, in the form that every error has.
    pub(crate) fn refused(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{body}");
        assert!(body["error"].as_str().is_some_and(|sentence| !sentence.is_empty()));
        assert_eq!(body["requestId"], self.header("x-request-id"));
        assert_eq!(self.header("content-type"), "application/json");
        body
    }

    /// The same for `400 invalid_request`, of a field.
    pub(crate) fn refused_field(&self, field: &str) -> Value {
        let body = self.refused(400, "invalid_request");
        assert_eq!(body["field"], field, "{body}");
        body
    }
}

/// Waits until something holds that will soon hold.
pub(crate) async fn soon(holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.expect("in time");
}
