//! What is logged, and what never is. A process of its own: the log is the process's.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;
use vfs_sync_testkit::TestServer;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn requests_are_logged_and_what_people_have_is_not() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log.clone())
        .init();
    let server = TestServer::start().await;
    let token = server.token("user-marker");
    let http = reqwest::Client::new();
    let post = |path: &str| http.post(format!("{}{path}", server.url())).bearer_auth(&token);
    let get = |path: &str| http.get(format!("{}{path}", server.url())).bearer_auth(&token);

    let push = json!({"clientId": "laptop", "operations": [{
        "opId": "o", "opType": "item_upsert", "itemId": "i", "replicaId": "laptop", "writeId": 1,
        "occurredAt": "2026-01-01T00:00:00Z", "objectType": "file", "name": "name-marker",
        "metadata": {"k": "metadata-marker"},
    }]});
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let push = post("/v1/vfs/crdt/push").header("x-request-id", "request-7").json(&push);
    assert_eq!(push.header("traceparent", trace).send().await.unwrap().status(), 200);
    get("/v1/vfs/crdt/vfs-sync?cursor=query-marker").send().await.unwrap();
    let malformed = json!({"clientId": "a", "operations": "content-marker"});
    post("/v1/vfs/crdt/push").json(&malformed).send().await.unwrap();
    let stage = json!({"blobId": "blob-marker", "dataBase64": "Y29udGVudC1tYXJrZXI="});
    post("/v1/vfs/blobs/stage").json(&stage).send().await.unwrap();
    http.get(server.url()).bearer_auth("token-marker").send().await.unwrap();
    get("/v1/vfs/limits?token-marker").bearer_auth("token-marker").send().await.unwrap();

    let grant = json!({"clientId": "laptop", "operations": [{
        "opId": "g", "opType": "acl_add", "itemId": "i", "replicaId": "laptop", "writeId": 2,
        "occurredAt": "2026-01-01T00:00:00Z", "principalType": "user",
        "principalId": "friend-marker", "accessLevel": "read",
    }]});
    let device = post("/v1/vfs/crdt/push").header("vfs-sync-client", "laptop").json(&grant);
    assert_eq!(device.header("x-request-id", "request-8").send().await.unwrap().status(), 200);
    get("/v1/vfs/crdt/vfs-sync").header("x-request-id", "request-9").send().await.unwrap();

    let text = log.text();
    let of = |part: &str| -> Vec<serde_json::Value> {
        let lines = text.lines().filter(|line| line.contains(part));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let pushed = of("request-8").into_iter().find(|line| line["fields"]["status"] == 200).unwrap();
    assert_eq!(pushed["fields"]["device"], "laptop");
    let user = pushed["fields"]["user"].as_str().unwrap();
    assert_eq!(user.len(), 16);
    assert!(pushed["fields"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(pushed["level"], "INFO");
    let polled = of("request-9").into_iter().find(|line| line["fields"]["status"] == 200).unwrap();
    assert_eq!(polled["level"], "DEBUG");
    assert_eq!(polled["fields"]["user"], user, "stable");
    let audited = of(r#""target":"audit""#).remove(0);
    assert_eq!(audited["fields"]["event"], "granted");
    assert_eq!((&audited["fields"]["by"], &audited["fields"]["what"]), (&json!(user), &json!("i")));
    assert_ne!(audited["fields"]["of"], user);
    let line = text.lines().find(|line| line.contains("request-7")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["fields"]["status"], 200);
    assert_eq!(line["span"]["route"], "/v1/vfs/crdt/push");
    assert_eq!(line["span"]["method"], "POST");
    assert_eq!(line["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(text.contains("invalid_cursor") && text.contains("unauthorized"), "{text}");
    assert!(text.contains(r#""reason":"malformed""#), "{text}");
    let ours: String = text
        .lines()
        .filter(|line| line.contains("vfs_sync") || line.contains(r#""target":"audit""#))
        .collect::<Vec<_>>()
        .join("\n");
    assert!(!ours.contains("marker"), "{ours}");
    assert!(!text.contains(&token));
}
