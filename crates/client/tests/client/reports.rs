//! Reports to the server: each violation and each stop once, also those that happen offline.

use std::sync::{Arc, Mutex};

use vfs_sync_client::core::id::UserId;
use vfs_sync_client::core::wire::PullPage;
use vfs_sync_client::core::wire::telemetry::{MAX_REPORTS, Report};
use vfs_sync_client::transport::{Answer, Call, CallKind};
use vfs_sync_client::{ClientConfig, SyncClient, TransportError};
use vfs_sync_testkit::{ScriptedTransport, build};

struct Scene {
    server: Arc<ScriptedTransport>,
    dir: tempfile::TempDir,
    /// The reports that the server took.
    taken: Arc<Mutex<Vec<Report>>>,
}

impl Scene {
    fn new() -> Self {
        let (server, dir) = (Arc::new(ScriptedTransport::new()), tempfile::tempdir().unwrap());
        Self { server, dir, taken: Arc::default() }
    }

    fn client(&self, change: impl FnOnce(&mut ClientConfig)) -> SyncClient {
        let mut config = ClientConfig::default();
        change(&mut config);
        let builder = SyncClient::builder(self.server.clone()).config(config);
        match self.dir.path().join("replica.db").exists() {
            true => builder.open(self.dir.path()).unwrap(),
            false => builder.create(self.dir.path(), UserId::new("alice").unwrap()).unwrap(),
        }
    }

    /// The next pull breaks a rule.
    fn breaks(&self) {
        let broken: PullPage = build::page().more().build();
        self.server.on_pull(move |_| Ok(broken));
    }

    /// The next report is answered so.
    fn answers(&self, answer: Result<(), TransportError>) {
        let taken = Arc::clone(&self.taken);
        self.server.on_call(CallKind::Telemetry, move |call| {
            let Call::Telemetry(request) = call else { unreachable!("it is a report") };
            answer?;
            taken.lock().unwrap().extend(request.reports.clone());
            Ok(Answer::Telemetry(()))
        });
    }

    fn signatures(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        taken.iter().map(|report| report.signature.clone()).collect()
    }
}

const EMPTY_PAGE: &str = "pull:pullPageInvariantViolation";

#[tokio::test]
async fn a_violation_is_reported_once_until_a_sync_succeeds() {
    let scene = Scene::new();
    let client = scene.client(|_| {});
    scene.answers(Ok(()));
    for _ in 0..3 {
        scene.breaks();
        client.sync().await.unwrap_err();
    }
    assert_eq!(scene.signatures(), [EMPTY_PAGE]);
    client.sync().await.unwrap();
    scene.answers(Ok(()));
    scene.breaks();
    client.sync().await.unwrap_err();
    assert_eq!(scene.signatures(), [EMPTY_PAGE; 2]);
    let taken = scene.taken.lock().unwrap();
    assert_eq!(taken[0].stage.as_deref(), Some("pull"));
    assert_ne!(taken[0].report_id, taken[1].report_id);
}

#[tokio::test]
async fn a_stop_without_a_violation_is_reported_too() {
    let scene = Scene::new();
    let client = scene.client(|_| {});
    scene.answers(Ok(()));
    for _ in 0..2 {
        scene.server.on_pull(|_| {
            Err(TransportError::Refused {
                status: 400,
                code: "invalid_request".into(),
                message: "Holiday.jpg".into(),
                details: Default::default(),
            })
        });
        client.sync().await.unwrap_err();
    }
    assert_eq!(scene.signatures(), ["invalid_request"]);
    let text = serde_json::to_string(&*scene.taken.lock().unwrap()).unwrap();
    assert!(!text.contains("Holiday"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_sent_is_kept_and_sent_at_the_next_contact() {
    let scene = Scene::new();
    let client = scene.client(|_| {});
    scene.breaks();
    scene.answers(Err(TransportError::network("away")));
    let error = client.sync().await.unwrap_err();
    assert!(error.violation().is_some(), "a report never changes the outcome: {error}");
    drop(client);
    let client = scene.client(|_| {});
    // While the server is away nothing is tried.
    scene.server.on_pull(|_| Err(TransportError::network("away")));
    client.sync().await.unwrap_err();
    assert!(scene.signatures().is_empty());
    scene.answers(Ok(()));
    client.sync().await.unwrap();
    assert_eq!(scene.signatures(), [EMPTY_PAGE]);
    client.sync().await.unwrap();
    assert_eq!(scene.signatures(), [EMPTY_PAGE]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_to_take_reports_delays_a_call_by_seconds_at_most() {
    let scene = Scene::new();
    let client = scene.client(|_| {});
    scene.breaks();
    // A scripted transport answers at once; one that has no such call refuses it.
    let begun = tokio::time::Instant::now();
    client.sync().await.unwrap_err();
    client.sync().await.unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    scene.answers(Ok(()));
    client.sync().await.unwrap();
    assert!(scene.signatures().is_empty(), "an attempt that failed is repeated after a while");
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    client.sync().await.unwrap();
    assert_eq!(scene.signatures(), [EMPTY_PAGE]);
}

#[tokio::test]
async fn the_list_is_bounded_and_can_be_turned_off() {
    let scene = Scene::new();
    let client = scene.client(|_| {});
    for _ in 0..MAX_REPORTS + 3 {
        scene.breaks();
        client.sync().await.unwrap_err();
        scene.server.on_pull(|_| Ok(build::page().build()));
        client.sync().await.unwrap();
    }
    drop(client);
    let client = scene.client(|config| config.report = false);
    scene.breaks();
    client.sync().await.unwrap_err();
    drop(client);
    let client = scene.client(|_| {});
    scene.answers(Ok(()));
    client.sync().await.unwrap();
    assert_eq!(scene.signatures(), [EMPTY_PAGE; MAX_REPORTS]);
}
