//! The runbook's assertions: each signature with its message and details, the triage of a
//! divergence, and attaches that come before the client has reconciled.

use std::sync::Arc;

use vfs_sync_testkit::build::{self, cursor};
use vfs_sync_testkit::client::core::guardrail::Stage;
use vfs_sync_testkit::client::core::id::{BlobId, ChangeId, ReplicaId, StagingId, WriteId};
use vfs_sync_testkit::client::core::item::Name;
use vfs_sync_testkit::client::core::wire::{AttachRequest, PushStatus, StageRequest};
use vfs_sync_testkit::client::{
    ClientConfig, SyncClient, TransportError, TransportExt as _, Violation,
};
use vfs_sync_testkit::{
    ScriptedTransport, TestDevice, TestServer, ViolationCollector, all_results,
    expect_exact_guardrail_signatures, expect_guardrail_signature,
    expect_hydrate_guardrail_violation, expect_last_write_id_regression_violation,
    expect_pull_cursor_regression_violation, expect_pull_duplicate_op_replay_violation,
    expect_pull_page_invariant_violation, expect_pull_rematerialization_required_violation,
    expect_reconcile_cursor_regression_violation, expect_stale_write_recovery_exhausted_violation,
    run,
};

/// A device that has applied one entry, at (20, "b"), and knows write id 5 of `other`.
struct Scene {
    server: Arc<ScriptedTransport>,
    device: TestDevice,
}

impl Scene {
    async fn set() -> Self {
        let server = Arc::new(ScriptedTransport::new());
        let device = TestDevice::in_memory("alice", server.clone(), ClientConfig::default());
        server.on_pull(|_| Ok(build::page().item(20, "b").write_id("other", 5).build()));
        device.sync().await.unwrap();
        Self { server, device }
    }

    /// Retries once, as the runbook says; both attempts fail alike and leave the state alone.
    async fn fails_closed(
        &self,
        message: &str,
        script: impl Fn(&ScriptedTransport),
    ) -> Vec<Violation> {
        script(&self.server);
        let error = self.device.sync().await.unwrap_err();
        assert_eq!(error.to_string(), message);
        let before = self.device.exported();
        let first = self.device.violations().take();
        script(&self.server);
        self.device.sync().await.unwrap_err();
        assert_eq!(self.device.exported(), before, "a failed attempt changed the state");
        assert_eq!(self.device.violations().take(), first);
        assert_eq!(first.len(), 1, "emitted once");
        first
    }
}

#[test]
fn a_page_that_says_more_and_has_nothing() {
    run(async {
        let scene = Scene::set().await;
        let message = "transport returned hasMore=true with an empty pull page";
        let violations = scene
            .fails_closed(message, |server| server.on_pull(|_| Ok(build::page().more().build())))
            .await;
        expect_pull_page_invariant_violation(&violations, true, 0);
        expect_exact_guardrail_signatures(&violations, &["pull:pullPageInvariantViolation"]);
    });
}

#[test]
fn a_next_cursor_that_is_not_the_pages_tail() {
    run(async {
        let scene = Scene::set().await;
        let message = "transport returned nextCursor that does not match pull page tail";
        let violations = scene
            .fails_closed(message, |server| {
                let wrong = Some(cursor(30, "x"));
                server
                    .on_pull(|_| Ok(build::page().item(30, "c").more().next_cursor(wrong).build()));
            })
            .await;
        expect_guardrail_signature(&violations, "pull:pullPageInvariantViolation");
    });
}

#[test]
fn an_operation_that_is_replayed() {
    run(async {
        let scene = Scene::set().await;
        let message = "transport replayed opId c during pull pagination";
        let violations = scene
            .fails_closed(message, |server| {
                server.on_pull(|_| Ok(build::page().item(30, "c").item(40, "c").build()));
            })
            .await;
        expect_pull_duplicate_op_replay_violation(&violations, &ChangeId::new("c").unwrap());
    });
}

#[test]
fn a_pull_that_goes_back() {
    run(async {
        let scene = Scene::set().await;
        let message = "transport returned regressing sync cursor";
        let violations = scene
            .fails_closed(message, |server| {
                server.on_pull(|_| Ok(build::page().item(10, "a").build()));
            })
            .await;
        let (previous, incoming) = (cursor(20, "b"), cursor(10, "a"));
        expect_pull_cursor_regression_violation(&violations, &previous, &incoming);
    });
}

#[test]
fn a_pull_that_cannot_be_served() {
    run(async {
        let scene = Scene::set().await;
        let message = "pull requires re-materialization from canonical state";
        let violations = scene
            .fails_closed(message, |server| {
                server.on_pull(|query| {
                    Err(TransportError::RematerializationRequired {
                        requested: query.cursor.clone(),
                        oldest_available: Some(cursor(30, "c")),
                        history: None,
                        epoch: None,
                    })
                });
            })
            .await;
        let (requested, oldest) = (cursor(20, "b"), cursor(30, "c"));
        expect_pull_rematerialization_required_violation(
            &violations,
            Some(&requested),
            Some(&oldest),
        );
        scene.device.rematerialise().await.unwrap();
    });
}

#[test]
fn a_reconcile_that_goes_back() {
    run(async {
        let scene = Scene::set().await;
        let message = "transport reconcile regressed sync cursor";
        let violations = scene
            .fails_closed(message, |server| {
                // Only what is new is reconciled.
                server.on_pull(|query| {
                    let after = query.cursor.as_ref().unwrap().changed_at.as_millis();
                    let page = build::page();
                    Ok(if after == 20 { page.item(30, "c") } else { page }.build())
                });
                server.on_reconcile(|sent| {
                    let mut answer = sent.clone();
                    answer.cursor = cursor(10, "a");
                    Ok(answer)
                });
            })
            .await;
        let (sent, told) = (cursor(30, "c"), cursor(10, "a"));
        expect_reconcile_cursor_regression_violation(&violations, &sent, &told);
    });
}

#[test]
fn write_ids_that_go_back() {
    run(async {
        let message = "transport regressed lastReconciledWriteIds for replica other";
        let (other, id) = (ReplicaId::new("other").unwrap(), |id| WriteId::new(id).unwrap());

        let scene = Scene::set().await;
        let violations = scene
            .fails_closed(message, |server| {
                server.on_pull(|_| Ok(build::page().item(30, "c").write_id("other", 4).build()));
            })
            .await;
        expect_last_write_id_regression_violation(&violations, Stage::Pull, &other, id(5), id(4));

        let scene = Scene::set().await;
        let violations = scene
            .fails_closed(message, |server| {
                server.on_pull(|_| Ok(build::page().write_id("other", 6).build()));
                server.on_reconcile(|sent| {
                    let mut answer = sent.clone();
                    answer.last_reconciled_write_ids = build::write_ids(&[("other", 5)]);
                    Ok(answer)
                });
            })
            .await;
        let stage = Stage::Reconcile;
        expect_last_write_id_regression_violation(&violations, stage, &other, id(6), id(5));
    });
}

#[test]
fn write_ids_that_stay_stale() {
    run(async {
        let scene = Scene::set().await;
        scene.device.create_folder(None, Name::new("f").unwrap()).unwrap();
        let message =
            "stale write-id recovery exceeded max retry attempts without forward progress";
        let violations = scene
            .fails_closed(message, |server| {
                for _ in 0..3 {
                    server.on_push(|request| {
                        let mut answer = all_results(request, PushStatus::StaleWriteId);
                        let last = request.operations[0].write_id.get() + 10;
                        answer.results[0].last_write_id = WriteId::new(last);
                        Ok(answer)
                    });
                }
            })
            .await;
        expect_stale_write_recovery_exhausted_violation(&violations, 2, 2);
        assert_eq!(scene.device.status().unwrap().pending, 1, "it waits");
    });
}

fn pristine(id: &str) -> (SyncClient, Arc<ViolationCollector>) {
    let (user, id) = (vfs_sync_testkit::core::id::UserId::new("alice"), ReplicaId::new(id));
    let transport = Arc::new(ScriptedTransport::new());
    let config = ClientConfig::default();
    let client = SyncClient::builder(transport)
        .config(config)
        .client_id(id.unwrap())
        .in_memory(user.unwrap())
        .unwrap();
    let violations = Arc::new(ViolationCollector::default());
    client.observe(violations.clone());
    (client, violations)
}

#[test]
fn a_state_that_contradicts_itself() {
    let good = build::state("laptop", "alice").page(&build::page().item(20, "b").build());
    let ahead = good.clone().container_clock("item-b", cursor(30, "c"));
    let (client, violations) = pristine("laptop");
    client.hydrate_state(ahead.json().as_bytes()).unwrap_err();
    expect_hydrate_guardrail_violation(&violations.violations(), "is ahead of the replay cursor");
    expect_hydrate_guardrail_violation(&violations.violations(), None);

    let (client, violations) = pristine("phone");
    client.hydrate_state(good.json().as_bytes()).unwrap_err();
    expect_exact_guardrail_signatures(&violations.take(), &["hydrate:hydrateGuardrailViolation"]);

    let (client, violations) = pristine("laptop");
    client.hydrate_state(good.json().as_bytes()).unwrap();
    assert_eq!(client.status().unwrap().items, 1);
    assert_eq!(violations.violations(), []);
}

#[test]
fn a_client_that_diverged_is_hydrated_from_its_last_good_state_and_goes_on() {
    run(async {
        let server = TestServer::start().await;
        let device = server.device("alice");
        device.create_folder(None, Name::new("kept").unwrap()).unwrap();
        device.sync().await.unwrap();
        device.create_folder(None, Name::new("queued").unwrap()).unwrap();
        let good = device.exported();

        // What the server says of the client is what the client says of itself.
        let status = device.status().unwrap();
        let told = server.transport("alice").state(&status.client_id).await.unwrap();
        assert_eq!(told.feed_head, status.cursor);
        let reconciled = told.reconcile_state.unwrap();
        assert_eq!(Some(reconciled.cursor), status.cursor);
        assert_eq!(reconciled.last_reconciled_write_ids, status.last_reconciled_write_ids);

        let (transport, config) = (server.transport("alice"), ClientConfig::default());
        let again = SyncClient::builder(transport)
            .config(config)
            .client_id(device.client_id())
            .in_memory(device.user());
        let again = again.unwrap();
        again.hydrate_state(good.as_bytes()).unwrap();
        again.sync().await.unwrap();
        let other = server.device("alice");
        other.sync().await.unwrap();
        assert_eq!(other.children(None).unwrap().len(), 2);
    });
}

#[test]
fn an_attach_ahead_of_the_clients_reconcile_state_goes_through_once_that_has_advanced() {
    run(async {
        let server = TestServer::start().await;
        let device = server.device("alice");
        let file = device.create_file(None, Name::new("f").unwrap()).unwrap();
        device.flush().await.unwrap();
        let transport = server.transport("alice");
        let client_id = device.client_id();
        let head = transport.state(&client_id).await.unwrap().feed_head.unwrap();

        let staging_id = StagingId::new("stage").unwrap();
        let stage = StageRequest {
            staging_id: Some(staging_id.clone()),
            blob_id: BlobId::new("blob").unwrap(),
            expires_at: None,
            content_type: None,
            data_base64: Some("aGVsbG8=".into()),
        };
        transport.stage(&stage).await.unwrap();
        let attach = AttachRequest {
            client_id: Some(client_id.clone()),
            required_cursor: Some(head),
            required_last_reconciled_write_ids: Some(build::write_ids(&[(client_id.as_str(), 1)])),
            ..AttachRequest::to(file.clone())
        };
        let refused = transport.attach(&staging_id, &attach).await.unwrap_err();
        let TransportError::Refused { status, message, .. } = refused else { panic!("{refused}") };
        assert_eq!(status, 409);
        assert_eq!(message, "Client reconcile state is behind required visibility");

        device.sync().await.unwrap();
        assert!(transport.attach(&staging_id, &attach).await.unwrap().attached, "identical");
        device.sync().await.unwrap();
        assert!(device.node(&file).unwrap().unwrap().content.is_some());
    });
}

#[test]
fn a_blob_that_is_not_registered_is_not_one_whose_object_is_missing() {
    run(async {
        let server = TestServer::start().await;
        let device = server.device("alice");
        let file = device.create_file(None, Name::new("f").unwrap()).unwrap();
        device.contents().put(&file, &b"hello"[..]).unwrap();
        device.sync().await.unwrap();
        let blob = device.node(&file).unwrap().unwrap().content.unwrap().blob_id;
        let transport = server.transport("alice");

        let unknown = BlobId::new("unknown").unwrap();
        let Err(TransportError::Refused { status, .. }) = transport.download(&unknown, 0).await
        else {
            panic!("it is not there")
        };
        assert_eq!(status, 404);

        std::fs::remove_dir_all(server.blobs_directory()).unwrap();
        let answer = transport.download(&blob, 0).await;
        let Err(TransportError::Refused { status, message, details, .. }) = answer else {
            panic!("its object is gone")
        };
        assert_eq!((status, message.as_str()), (500, "Failed to read blob data"));
        assert_eq!(details["storageCode"].as_str(), Some("NoSuchKey"));
    });
}
