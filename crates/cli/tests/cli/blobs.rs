//! Contents and `kill -9` of their server: no registered blob without bytes, no attached content
//! lost, nothing that is not reclaimed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::world::{World, kills, seeded};
use serde_json::{Value, json};
use vfs_sync_blobs::testing::new_s3_place;
use vfs_sync_core::time::Timestamp;
use vfs_sync_testkit::Random;

/// Uploads at one time.
const CLIENTS: u64 = 3;

/// Somebody who repeats every call until it is answered.
struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    random: Random,
    name: String,
    write_id: u64,
}

impl Client {
    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        request.bearer_auth(&self.token).header("tus-resumable", "1.0.0")
    }

    /// The answer, once there is one that is none of a server that is going down.
    async fn answered(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> (u16, reqwest::header::HeaderMap, Value) {
        loop {
            if let Ok(answer) = request().send().await {
                let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
                if let Ok(bytes) = answer.bytes().await
                    && status < 500
                {
                    return (status, headers, serde_json::from_slice(&bytes).unwrap_or_default());
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, _, answer) = self.answered(|| self.request("POST", path).json(&body)).await;
        (status, answer)
    }

    async fn item(&mut self) -> String {
        self.write_id += 1;
        let (item, write_id) = (format!("{}-{}", self.name, self.write_id), self.write_id);
        let operation = json!({
            "opId": format!("op-{item}"), "opType": "item_upsert", "itemId": item,
            "replicaId": self.name, "writeId": write_id, "objectType": "file", "name": item,
            "occurredAt": "2026-01-01T00:00:00Z",
        });
        let body = json!({"clientId": self.name, "operations": [operation]});
        let (status, answer) = self.post("/v1/vfs/crdt/push", body).await;
        assert_eq!(status, 200, "{answer}");
        item
    }

    async fn put(&self, name: &str, bytes: &[u8]) {
        let path = format!("/v1/vfs/blobs/stage/{name}/data");
        loop {
            let put = || self.request("PUT", &path).body(bytes.to_vec());
            let (status, _, answer) = self.answered(put).await;
            match status {
                200 => return,
                409 => assert_eq!(answer["code"], "upload_superseded", "{answer}"),
                _ => panic!("{status} {answer}"),
            }
        }
    }

    async fn resume(&self, name: &str, bytes: &[u8], piece: usize) {
        let path = format!("/v1/vfs/blobs/uploads/{name}");
        loop {
            let (status, headers, answer) = self.answered(|| self.request("HEAD", &path)).await;
            assert_eq!(status, 200, "{answer}");
            let number = |name: &str| headers.get(name)?.to_str().unwrap().parse::<usize>().ok();
            let offset = number("upload-offset").unwrap();
            // Of an empty content nothing is missing, but the server does not know that yet.
            if offset == bytes.len() && number("upload-length") == Some(offset) {
                return;
            }
            let end = (offset + piece).min(bytes.len());
            let append = self
                .request("PATCH", &path)
                .header("upload-offset", offset)
                .header("upload-length", bytes.len())
                .header("content-type", "application/offset+octet-stream")
                .body(bytes[offset..end].to_vec());
            if let Ok(answer) = append.send().await {
                let status = answer.status().as_u16();
                assert!(matches!(status, 204 | 409 | 500..), "{status}");
            }
        }
    }

    /// Uploads contents until stopped; returns those that were attached.
    async fn work(mut self, end: &AtomicBool, done: &AtomicU64) -> BTreeMap<String, Vec<u8>> {
        let mut attached = BTreeMap::new();
        while !end.load(Ordering::SeqCst) {
            let item = self.item().await;
            let size = match self.random.below(20) {
                0 => 9_000_000 + self.random.below(1_000_000),
                1..=2 => 1_100_000 + self.random.below(1_000_000),
                3 => 0,
                _ => self.random.below(5_000),
            };
            let seed = self.random.below(251);
            let bytes: Vec<u8> =
                (0..size).map(|at| u8::try_from((at + seed) % 251).unwrap()).collect();
            let stage = json!({"stagingId": item, "blobId": item});
            let (status, answer) = self.post("/v1/vfs/blobs/stage", stage).await;
            assert_eq!(status, 201, "{answer}");
            if self.random.below(2) == 0 {
                self.put(&item, &bytes).await;
            } else {
                let piece = 1 + self.random.below(4_000_000);
                self.resume(&item, &bytes, piece.max(bytes.len() / 8)).await;
            }
            let stage = format!("/v1/vfs/blobs/stage/{item}");
            match self.random.below(10) {
                0..=5 => {
                    let body = json!({"itemId": item});
                    let (status, answer) = self.post(&format!("{stage}/attach"), body).await;
                    assert_eq!(status, 200, "{answer}");
                    attached.insert(item, bytes);
                    done.fetch_add(1, Ordering::SeqCst);
                }
                6 | 7 => {
                    let (status, answer) = self.post(&format!("{stage}/abandon"), json!({})).await;
                    assert_eq!(status, 200, "{answer}");
                }
                8 => {
                    let path = format!("/v1/vfs/blobs/{item}");
                    let (status, _, answer) = self.answered(|| self.request("DELETE", &path)).await;
                    // Done, and its answer lost: then it is not there any more.
                    assert!(matches!(status, 200 | 404), "{status} {answer}");
                }
                _ => {}
            }
        }
        attached
    }
}

fn check(world: &World, more: &[&str]) -> Value {
    let data = world.path("server");
    let mut args = vec!["--json", "blobs", "check", "--older-than", "0s", "--data"];
    args.push(data.to_str().unwrap());
    args.extend(more);
    let output = world.command(&args).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn kinds(report: &Value) -> Vec<String> {
    let orphans = report["orphans"].as_array().unwrap();
    orphans.iter().map(|orphan| orphan["kind"].as_str().unwrap().to_owned()).collect()
}

/// The blobs that the sweeper has removed and looks at once more later. Their objects are named as
/// they are.
async fn to_be_looked_at_again(world: &World) -> BTreeSet<String> {
    let database = world.path("server").join("metadata.sqlite3");
    let store = vfs_sync_store::open(database.to_str().unwrap(), moment(0)).await.unwrap();
    let until = async |moment| {
        let found = store.to_reclaim(moment, 1_000_000).await.unwrap();
        found.into_iter().map(|reclaim| reclaim.blob_id.to_string()).collect::<BTreeSet<_>>()
    };
    let due = until(moment(60)).await;
    until(moment(86_400)).await.difference(&due).cloned().collect()
}

/// Returns the time in so many seconds.
fn moment(seconds: u64) -> Timestamp {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(seconds);
    Timestamp::from_millis(i64::try_from(at.as_millis()).unwrap()).unwrap()
}

fn kill_while_contents_come(mut world: World, kills: u64) {
    let mut random = seeded("server kills");
    let (end, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (url, token) = (world.url(), world.token.clone());
    let attached: BTreeMap<String, Vec<u8>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| {
                // A request whose server was killed in an unlucky moment may never be answered.
                let http = reqwest::Client::builder().timeout(Duration::from_secs(30));
                let client = Client {
                    http: http.build().unwrap(),
                    url: url.clone(),
                    token: token.clone(),
                    random: seeded("client"),
                    name: format!("client{at}"),
                    write_id: 0,
                };
                scope.spawn(|| runtime.block_on(client.work(&end, &done)))
            })
            .collect();
        for kill in 0..kills {
            // Now and then something comes through, however slow the machine is.
            let before = done.load(Ordering::SeqCst);
            while kill % 10 == 9 && done.load(Ordering::SeqCst) == before {
                assert!(!clients.iter().any(|client| client.is_finished()), "a client failed");
                std::thread::yield_now();
            }
            // The moment at which to kill is the one thing here that time decides.
            std::thread::sleep(Duration::from_micros(random.below(160_000) as u64));
            world.kill_server();
            world.start_server();
        }
        end.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    println!("{} contents were attached", attached.len());
    assert!(attached.len() as u64 >= kills / 20, "nothing came through");
    let reader = Client {
        http: reqwest::Client::new(),
        url,
        token,
        random: seeded("reader"),
        name: "reader".into(),
        write_id: 0,
    };
    runtime.block_on(async {
        for (blob, expected) in &attached {
            let answer = reader.request("GET", &format!("/v1/vfs/blobs/{blob}")).send().await;
            let bytes = answer.unwrap().error_for_status().unwrap().bytes().await.unwrap();
            assert!(bytes == *expected, "{blob} came back changed");
        }
    });
    // What was said to go and did not go yet is the sweeper's, at once; what only a killed write
    // left behind, or a write that came after its blob went, waits for its time.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let report = check(&world, &[]);
        let found = kinds(&report);
        assert!(
            found.iter().all(|kind| kind != "missingBytes" && kind != "otherBytes"),
            "{found:?}"
        );
        let later = runtime.block_on(to_be_looked_at_again(&world));
        let waits = |orphan: &Value| {
            orphan["kind"] == "temporary" || later.contains(orphan["object"].as_str().unwrap())
        };
        if report["orphans"].as_array().unwrap().iter().all(waits) {
            break;
        }
        assert!(Instant::now() < deadline, "{report}");
    }
    world.kill_server();
    check(&world, &["--repair"]);
    assert_eq!(kinds(&check(&world, &[])), [""; 0]);
}

#[test]
fn a_server_that_is_killed_keeps_contents_in_a_directory() {
    kill_while_contents_come(World::new(), kills());
}

#[test]
#[ignore = "needs an S3 server"]
fn a_server_that_is_killed_keeps_contents_in_s3() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = runtime.block_on(new_s3_place()).unwrap();
    let (id, secret) = place.key.clone().unwrap();
    let world = World::with(vec![
        ("VFS_BLOB_S3_BUCKET", place.bucket),
        ("VFS_BLOB_S3_KEY_PREFIX", place.key_prefix),
        ("VFS_BLOB_S3_ENDPOINT", place.endpoint.unwrap()),
        ("VFS_BLOB_S3_ACCESS_KEY_ID", id),
        ("VFS_BLOB_S3_SECRET_ACCESS_KEY", secret),
        ("VFS_BLOB_S3_FORCE_PATH_STYLE", "true".into()),
    ]);
    kill_while_contents_come(world, kills().div_ceil(2));
}

#[test]
fn check_lists_orphans_of_both_kinds_and_mends_them() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut client = Client {
        http: reqwest::Client::new(),
        url: world.url(),
        token: world.token.clone(),
        random: seeded("client"),
        name: "client".into(),
        write_id: 0,
    };
    runtime.block_on(async {
        let item = client.item().await;
        for name in ["old", "staged", "current"] {
            let stage = json!({"stagingId": name, "blobId": name, "dataBase64": "aGVsbG8="});
            assert_eq!(client.post("/v1/vfs/blobs/stage", stage).await.0, 201);
            if name != "staged" {
                let path = format!("/v1/vfs/blobs/stage/{name}/attach");
                assert_eq!(client.post(&path, json!({"itemId": item})).await.0, 200);
            }
        }
    });
    let blobs = world.path("server").join("blobs");
    assert_eq!(kinds(&check(&world, &[])), [""; 0]);
    for name in ["old", "staged", "current"] {
        std::fs::remove_file(blobs.join(name)).unwrap();
    }
    std::fs::write(blobs.join("stranger"), "who").unwrap();
    std::fs::write(blobs.join("half#1"), "ha").unwrap();
    let mut found = kinds(&check(&world, &[]));
    found.sort();
    assert_eq!(
        found,
        ["missingBytes", "missingBytes", "missingBytes", "temporary", "unknownObject"]
    );
    check(&world, &["--repair"]);
    let report = check(&world, &["--repair"]);
    assert_eq!(kinds(&report), ["missingBytes"], "a current content is for people to decide");
    assert_eq!(report["orphans"][0]["blobId"], "current");
}
