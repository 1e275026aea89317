//! An object store that stops where a test wants it to: what is refused late takes nothing along
//! that another call registers meanwhile.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use vfs_sync_blobs::{BlobError, BlobStore, Listing, ObjectBlobs, Outgoing, PutError, Upload};
use vfs_sync_core::id::BlobId;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::TestServer;

use crate::blobs::{abandon, stage, upload};
use crate::scene::{Caller, Scene, s3, send};

/// Something that is done to the object `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Put,
    Delete,
    Begin,
}

/// Stops the first call that is about to do a step.
struct Gate {
    step: Step,
    /// Whether it is closed, and whether somebody stands before it.
    state: watch::Sender<(bool, bool)>,
}

impl Gate {
    fn before(step: Step) -> Self {
        Self { step, state: watch::Sender::new((true, false)) }
    }

    async fn pass(&self, step: Step, id: &BlobId) {
        if step != self.step || id.as_str() != "b" {
            return;
        }
        let first = self.state.send_if_modified(|(closed, waits)| {
            let first = *closed && !*waits;
            *waits |= first;
            first
        });
        if first {
            let mut state = self.state.subscribe();
            state.wait_for(|(closed, _)| !closed).await.unwrap();
        }
    }

    /// Waits until somebody stands before it.
    async fn reached(&self) {
        let mut state = self.state.subscribe();
        let waiting = state.wait_for(|(_, waits)| *waits);
        drop(tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time"));
    }

    fn open(&self) {
        self.state.send_modify(|(closed, _)| *closed = false);
    }
}

struct Gated {
    inner: Arc<dyn BlobStore>,
    gates: Arc<[Gate; 3]>,
}

impl Gated {
    async fn pass(&self, step: Step, id: &BlobId) {
        for gate in &*self.gates {
            gate.pass(step, id).await;
        }
    }
}

#[async_trait]
impl BlobStore for Gated {
    async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), PutError> {
        self.pass(Step::Put, id).await;
        self.inner.put(id, bytes).await
    }
    async fn begin(&self, id: &BlobId) -> Result<String, BlobError> {
        self.pass(Step::Begin, id).await;
        self.inner.begin(id).await
    }
    async fn take_up(&self, id: &BlobId, upload: &str) -> Result<Box<dyn Upload>, BlobError> {
        self.inner.take_up(id, upload).await
    }
    async fn abort(&self, id: &BlobId, upload: &str) -> Result<(), BlobError> {
        self.inner.abort(id, upload).await
    }
    fn part_size(&self, part: u32) -> usize {
        self.inner.part_size(part)
    }
    fn max_size(&self) -> u64 {
        self.inner.max_size()
    }
    async fn get(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Outgoing, BlobError> {
        self.inner.get(id, range).await
    }
    async fn delete(&self, id: &BlobId) -> Result<(), BlobError> {
        self.pass(Step::Delete, id).await;
        self.inner.delete(id).await
    }
    fn list(&self) -> Listing {
        self.inner.list()
    }
    fn list_temporary(&self) -> Listing {
        self.inner.list_temporary()
    }
    async fn remove(&self, name: &str) -> Result<(), BlobError> {
        self.inner.remove(name).await
    }
    async fn probe(&self) -> Result<(), BlobError> {
        self.inner.probe().await
    }
}

/// Who is about to write and who is about to delete are stopped, the first of each.
struct Gates {
    scene: Scene,
    gates: Arc<[Gate; 3]>,
    _directory: tempfile::TempDir,
}

impl Gates {
    async fn of(on_s3: bool, config: ServerConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inner: Arc<dyn BlobStore> =
            if on_s3 { s3().await } else { Arc::new(ObjectBlobs::directory(&directory).unwrap()) };
        let gates = Arc::new([Step::Put, Step::Delete, Step::Begin].map(Gate::before));
        let blobs = Gated { inner, gates: Arc::clone(&gates) };
        let scene = Scene::of(TestServer::builder().blobs(Arc::new(blobs)).config(config)).await;
        Self { scene, gates, _directory: directory }
    }

    fn put(&self) -> &Gate {
        &self.gates[0]
    }

    fn delete(&self) -> &Gate {
        &self.gates[1]
    }

    fn begin(&self) -> &Gate {
        &self.gates[2]
    }
}

fn quota() -> ServerConfig {
    ServerConfig { max_staged_bytes: 3_000_000, ..ServerConfig::default() }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Put,
    Inline,
    Batch,
}

const WAYS: [(Way, bool); 6] = [
    (Way::Put, false),
    (Way::Inline, false),
    (Way::Batch, false),
    (Way::Put, true),
    (Way::Inline, true),
    (Way::Batch, true),
];

/// Brings one byte as `b`; gives status and code.
async fn bring(caller: &Caller, way: Way) -> (u16, Value) {
    let inline = json!({"stagingId": "s", "blobId": "b", "dataBase64": "eA=="});
    let answer = match way {
        Way::Put => upload(caller, "s", b"x").await,
        Way::Inline => caller.post("/v1/vfs/blobs/stage", inline).await,
        Way::Batch => {
            let mut file = inline;
            file["attach"] = json!({"itemId": "nowhere"});
            let answer = caller.post("/v1/vfs/blobs/batch", json!({"files": [file]})).await.ok();
            let error = &answer["results"][0]["error"];
            let status = u16::try_from(error["httpStatus"].as_u64().unwrap()).unwrap();
            return (status, error["code"].clone());
        }
    };
    (answer.status, answer.json()["code"].clone())
}

/// Has its bytes; of a batch that attaches to nothing, as far as that goes.
fn is_there((status, code): &(u16, Value)) -> bool {
    *status < 300 || *code == json!("unknown_item")
}

fn over_quota((status, code): &(u16, Value)) -> bool {
    (*status, code) == (413, &json!("quota_exceeded"))
}

async fn assert_registered_with_bytes(caller: &Caller) {
    assert_eq!(caller.get("/v1/vfs/blobs/stage/s").await.ok()["size"], 1);
    let read = caller.get("/v1/vfs/blobs/b").await;
    assert_eq!((read.status, &*read.bytes), (200, &b"x"[..]), "{read:?}");
}

/// Runs `first` until it is over or about to delete; then `second`, and the rest of `first`.
async fn while_it_deletes<A, B>(
    gates: &Gates,
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let mut first = std::pin::pin!(first);
    let early = tokio::select! {
        biased;
        () = gates.delete().reached() => None,
        outcome = &mut first => Some(outcome),
    };
    let second = second.await;
    gates.delete().open();
    let first = match early {
        Some(outcome) => outcome,
        None => first.await,
    };
    (first, second)
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn what_is_over_quota_takes_nothing_along_that_fits_meanwhile() {
    for (way, on_s3) in WAYS {
        let gates = Gates::of(on_s3, quota()).await;
        gates.put().open();
        let alice = gates.scene.user("alice");
        stage(&alice, "full", "full").await.ok();
        upload(&alice, "full", &vec![0; 3_000_000]).await.ok();
        if matches!(way, Way::Put) {
            stage(&alice, "s", "b").await.ok();
        }
        let meanwhile = async {
            abandon(&alice, "full").await.ok();
            bring(&alice, way).await
        };
        let (first, second) = while_it_deletes(&gates, bring(&alice, way), meanwhile).await;
        assert!(over_quota(&first), "{way:?}: {first:?}");
        assert!(is_there(&second), "{way:?}: {second:?}");
        assert_registered_with_bytes(&alice).await;
    }
}

/// A large upload beside it gives back what was counted for both.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn what_is_over_quota_after_its_bytes_came_takes_nothing_along_either() {
    for on_s3 in [false, true] {
        let gates = Gates::of(on_s3, quota()).await;
        gates.begin().open();
        let alice = gates.scene.user("alice");
        for name in ["full", "s"] {
            let blob = if name == "s" { "b" } else { name };
            stage(&alice, name, blob).await.ok();
        }
        let held = bring(&alice, Way::Put);
        let fill = async {
            gates.put().reached().await;
            let large = alice.request("PUT", "/v1/vfs/blobs/stage/s/data").body(vec![7; 3_500_000]);
            send(large).await.refused(413, "quota_exceeded");
            upload(&alice, "full", &vec![0; 3_000_000]).await.ok();
            gates.put().open();
            std::future::pending::<()>().await;
        };
        let first = async {
            tokio::select! {
                outcome = held => outcome,
                () = fill => unreachable!(),
            }
        };
        let meanwhile = async {
            abandon(&alice, "full").await.ok();
            bring(&alice, Way::Put).await
        };
        let (first, second) = while_it_deletes(&gates, first, meanwhile).await;
        assert!(over_quota(&first), "{first:?}");
        assert!(is_there(&second), "{second:?}");
        assert_registered_with_bytes(&alice).await;
        abandon(&alice, "s").await.ok();
        assert_eq!(gates.scene.objects().await, [""; 0]);
    }
}

/// By the clock of another server the stage goes on for a moment.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn what_expired_for_one_takes_nothing_along_that_came_in_time_for_another() {
    for on_s3 in [false, true] {
        let seldom = Duration::from_secs(3_600);
        let config = ServerConfig { sweep_interval: seldom, ..ServerConfig::default() };
        let gates = Gates::of(on_s3, config).await;
        let alice = gates.scene.user("alice");
        stage(&alice, "s", "b").await.ok();
        let (clock, day) = (gates.scene.server.clock(), Duration::from_secs(25 * 3_600));
        let late = async {
            gates.put().reached().await;
            clock.advance(day);
            gates.put().open();
            std::future::pending::<()>().await;
        };
        let first = async {
            tokio::select! {
                outcome = bring(&alice, Way::Put) => outcome,
                () = late => unreachable!(),
            }
        };
        let meanwhile = async {
            clock.step_back(day);
            bring(&alice, Way::Put).await
        };
        let (first, second) = while_it_deletes(&gates, first, meanwhile).await;
        assert_eq!(first, (409, json!("stage_expired")));
        assert!(is_there(&second), "{second:?}");
        assert_registered_with_bytes(&alice).await;
    }
}

/// Nobody else would take it away before the sweeper's second look.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn what_is_written_after_its_stage_was_abandoned_is_removed_at_once() {
    for on_s3 in [false, true] {
        let gates = Gates::of(on_s3, ServerConfig::default()).await;
        gates.delete().open();
        let alice = gates.scene.user("alice");
        stage(&alice, "s", "b").await.ok();
        let meanwhile = async {
            gates.put().reached().await;
            abandon(&alice, "s").await.ok();
            gates.put().open();
        };
        let (late, ()) = tokio::join!(bring(&alice, Way::Put), meanwhile);
        assert_eq!(late, (409, json!("stage_not_attachable")));
        assert_eq!(gates.scene.objects().await, [""; 0]);
    }
}

/// Whoever counted its bytes, finds them there when its turn comes, and compares.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn of_two_small_uploads_of_one_stage_the_later_hears_whether_its_bytes_are_there() {
    for (other, expected) in [(&b"x"[..], 200), (b"y", 409)] {
        let gates = Gates::of(false, ServerConfig::default()).await;
        let alice = gates.scene.user("alice");
        stage(&alice, "s", "b").await.ok();
        let meanwhile = async {
            gates.put().reached().await;
            let first = upload(&alice, "s", other).await.status;
            gates.put().open();
            first
        };
        let (late, first) = tokio::join!(bring(&alice, Way::Put), meanwhile);
        assert_eq!((first, late.0), (200, expected), "{late:?}");
        assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, other);
    }
}

/// Between the look at how far the upload is and the lease, another call wrote.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn of_two_calls_that_go_on_at_the_same_byte_one_adds_its_bytes() {
    for on_s3 in [false, true] {
        let gates = Gates::of(on_s3, ServerConfig::default()).await;
        let alice = gates.scene.user("alice");
        stage(&alice, "s", "b").await.ok();
        let tus = |method: &str, path: &str| {
            let request = alice.request(method, &format!("/v1/vfs/blobs/uploads{path}"));
            request.header("tus-resumable", "1.0.0")
        };
        let create = tus("POST", "").header("upload-metadata", "stagingId cw==,blobId Yg==");
        assert_eq!(send(create.header("upload-length", 10)).await.status, 201);
        let append = |offset: u64, bytes: &'static str| {
            let request = tus("PATCH", "/s").header("upload-offset", offset);
            let request = request.header("content-type", "application/offset+octet-stream");
            send(request.body(bytes))
        };
        let meanwhile = async {
            gates.begin().reached().await;
            assert_eq!(append(0, "hello").await.status, 204);
            gates.begin().open();
        };
        let (late, ()) = tokio::join!(append(0, "HELLO"), meanwhile);
        assert_eq!(late.refused(409, "offset_mismatch")["offset"], 5);
        assert_eq!(append(5, "world").await.status, 204);
        assert_eq!(alice.get("/v1/vfs/blobs/b").await.bytes, b"helloworld");
    }
}
