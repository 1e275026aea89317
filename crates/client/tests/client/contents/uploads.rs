//! The blob queue: what is cut goes on, what fails comes again, what is refused is kept.

use std::time::Duration;

use serde_json::{Map, Value};
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::wire::code;
use vfs_sync_client::transport::CallKind;
use vfs_sync_client::{ChangeEvent, ClientConfig, SyncClient, TransportError};
use vfs_sync_testkit::{Fault, TestServer};

use super::scene::{MIB, Replica, config, noise, read};
use crate::support::put;

/// Above the size from which uploads are resumable.
const LARGE: usize = 40 * MIB;

fn down() -> TransportError {
    TransportError::network("the line is down")
}

fn refused(status: u16, code: &str) -> TransportError {
    let (code, message) = (code.to_owned(), "no".to_owned());
    TransportError::Refused { status, code, message, details: Map::<String, Value>::new() }
}

fn blob(client: &SyncClient, item: &ItemId) -> String {
    client.node(item).unwrap().unwrap().content.unwrap().blob_id.to_string()
}

async fn as_others_see_it(server: &TestServer, item: &ItemId) -> Vec<u8> {
    let other = Replica::new(server, config());
    other.client().sync().await.unwrap();
    read(other.client(), item).await
}

fn files(client: &SyncClient) -> usize {
    client.children(None).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_goes_on_from_the_servers_offset() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(LARGE, 1));
    one.line.next(CallKind::Append, Fault::CutRequest(18 * MIB as u64));
    one.line.next(CallKind::Append, Fault::CutRequest(0));
    one.line.next(CallKind::Append, Fault::CutRequest(9 * MIB as u64));
    let report = one.client().sync().await.unwrap();
    assert_eq!((report.uploaded, report.uploaded_bytes), (1, LARGE as u64));
    let offsets: Vec<u64> = one.line.record().appended().into_iter().map(|(_, at)| at).collect();
    assert_eq!(offsets[0], 0);
    assert!(offsets.len() >= 4 && offsets.is_sorted(), "{offsets:?}");
    assert!(*offsets.last().unwrap() > 18 * MIB as u64, "{offsets:?}");
    assert_eq!(as_others_see_it(&server, &item).await, noise(LARGE, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_in_the_next_process_and_after_a_restart_of_the_server() {
    let mut server = TestServer::start().await;
    let mut one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(LARGE, 2));
    one.line.next(CallKind::Append, Fault::CutRequest(20 * MIB as u64));
    (0..4).for_each(|_| one.line.next(CallKind::Append, Fault::CutRequest(0)));
    let error = one.client().sync().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    one.reopen(config());
    server.restart().await;
    one.client().sync().await.unwrap();
    let (_, last) = one.line.record().appended().pop().unwrap();
    assert!(last > 8 * MIB as u64, "it went on from {last}");
    assert_eq!(as_others_see_it(&server, &item).await, noise(LARGE, 2));
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_in_the_same_sync() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let small = put(one.client(), "small", b"small");
    let large = put(one.client(), "large", &noise(2 * MIB, 3));
    for call in [CallKind::BlobBatch, CallKind::Attach] {
        one.line.next(call, Fault::Refuse(down()));
        let retry_after = Some(Duration::from_millis(1));
        let busy = TransportError::Network { reason: "busy".into(), retry_after };
        one.line.next(call, Fault::Refuse(busy));
    }
    assert_eq!(one.client().sync().await.unwrap().uploaded, 2);
    for call in [CallKind::BlobBatch, CallKind::Attach] {
        assert_eq!(one.line.record().count(call), 3);
    }
    assert_eq!(as_others_see_it(&server, &small).await, b"small");
    assert_eq!(as_others_see_it(&server, &large).await, noise(2 * MIB, 3));
}

#[tokio::test]
async fn what_an_earlier_request_of_ours_took_over_is_sent_again() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let small = put(one.client(), "small", &noise(2 * MIB, 1));
    let large = put(one.client(), "large", &noise(LARGE, 2));
    for call in [CallKind::Upload, CallKind::OpenUpload, CallKind::Append, CallKind::StageState] {
        one.line.next(call, Fault::Refuse(refused(409, code::UPLOAD_SUPERSEDED)));
    }
    assert_eq!(one.client().sync().await.unwrap().uploaded, 2);
    assert_eq!(one.client().status().unwrap().rejected_uploads, 0);
    assert_eq!(as_others_see_it(&server, &small).await, noise(2 * MIB, 1));
    assert_eq!(as_others_see_it(&server, &large).await, noise(LARGE, 2));
}

#[tokio::test]
async fn what_loses_its_stage_on_the_way_is_staged_again() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let tiny = put(one.client(), "tiny", b"tiny");
    let small = put(one.client(), "small", &noise(2 * MIB, 1));
    let large = put(one.client(), "large", &noise(LARGE, 2));
    for call in [CallKind::BlobBatch, CallKind::Upload, CallKind::Append, CallKind::Attach] {
        one.line.next(call, Fault::Refuse(refused(404, code::UNKNOWN_STAGE)));
    }
    assert_eq!(one.client().sync().await.unwrap().uploaded, 3);
    assert_eq!(one.client().status().unwrap().rejected_uploads, 0);
    assert_eq!(as_others_see_it(&server, &tiny).await, b"tiny");
    assert_eq!(as_others_see_it(&server, &small).await, noise(2 * MIB, 1));
    assert_eq!(as_others_see_it(&server, &large).await, noise(LARGE, 2));
}

#[tokio::test]
async fn a_content_waits_while_the_server_does_not_know_an_item_that_the_replica_shows() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", b"one");
    let unknown = || Fault::Refuse(refused(404, code::UNKNOWN_ITEM));
    one.line.next(CallKind::BlobBatch, unknown());
    assert_eq!(one.client().sync().await.unwrap().uploaded, 1, "after another pull");
    one.client().contents().put(&item, &b"two"[..]).unwrap();
    (0..2).for_each(|_| one.line.next(CallKind::BlobBatch, unknown()));
    let report = one.client().sync().await.unwrap();
    assert_eq!((report.uploaded, report.waiting), (0, 1));
    assert_eq!(one.client().status().unwrap().rejected_uploads, 0);
    assert_eq!(one.client().sync().await.unwrap().uploaded, 1);
    assert_eq!(as_others_see_it(&server, &item).await, b"two");
}

#[tokio::test]
async fn one_content_that_fails_does_not_hold_up_the_others() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    put(one.client(), "large", &noise(2 * MIB, 4));
    let small = put(one.client(), "small", b"small");
    (0..4).for_each(|_| one.line.next(CallKind::Attach, Fault::Refuse(down())));
    assert!(one.client().sync().await.unwrap_err().is_transient());
    assert_eq!(as_others_see_it(&server, &small).await, b"small");
    assert_eq!(one.client().status().unwrap().uploads, 1);
    one.client().sync().await.unwrap();
    assert_eq!(one.client().status().unwrap().uploads, 0);
}

#[tokio::test]
async fn what_expired_is_staged_anew_and_what_was_written_on_top_of_it_follows() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(2 * MIB, 5));
    (0..4).for_each(|_| one.line.next(CallKind::Attach, Fault::Refuse(down())));
    one.client().sync().await.unwrap_err();
    let before = blob(one.client(), &item);
    one.client().contents().put(&item, &noise(2 * MIB, 6)[..]).unwrap();
    server.clock().advance(Duration::from_secs(25 * 3_600));
    one.client().sync().await.unwrap();
    assert_ne!(blob(one.client(), &item), before);
    let status = one.client().status().unwrap();
    assert_eq!((status.uploads, status.rejected_uploads), (0, 0));
    assert_eq!(files(one.client()), 1, "one's own edits are no conflict");
    assert_eq!(as_others_see_it(&server, &item).await, noise(2 * MIB, 6));
}

#[tokio::test]
async fn what_is_written_over_a_content_that_the_server_may_have_follows_it_after_a_restart() {
    for (sends, size) in [(CallKind::Attach, 2 * MIB), (CallKind::BlobBatch, 6)] {
        let server = TestServer::start().await;
        let one = Replica::new(&server, config());
        let item = put(one.client(), "f", b"first");
        one.client().sync().await.unwrap();
        one.client().contents().put(&item, &noise(size, 2)[..]).unwrap();
        (0..4).for_each(|_| one.line.next(sends, Fault::DropAnswer));
        one.client().sync().await.unwrap_err();
        server.store().new_epoch(server.clock().now(), 0).await.unwrap();
        // The answer to a push says that the epoch is another one; the feed cannot be read yet.
        put(one.client(), "other", &noise(size, 4));
        for call in [CallKind::Pull, CallKind::Attach, CallKind::BlobBatch] {
            (0..4).for_each(|_| one.line.next(call, Fault::Refuse(down())));
        }
        one.client().sync().await.unwrap_err();
        one.client().contents().put(&item, &noise(size, 3)[..]).unwrap();
        for _ in 0..20 {
            if one.client().sync().await.is_ok() {
                break;
            }
        }
        one.client().sync().await.unwrap();
        assert_eq!(files(one.client()), 2, "one's own edits are no conflict");
        assert_eq!(as_others_see_it(&server, &item).await, noise(size, 3));
    }
}

#[tokio::test]
async fn a_final_refusal_keeps_the_bytes_until_the_user_decides() {
    let server = TestServer::start().await;
    let mut one = Replica::new(&server, config());
    let kept = put(one.client(), "kept", &noise(2 * MIB, 7));
    let dropped = put(one.client(), "dropped", &noise(2 * MIB, 8));
    for _ in 0..2 {
        one.line.next(CallKind::Attach, Fault::Refuse(refused(403, code::NOT_PERMITTED)));
    }
    let mut changes = one.client().subscribe();
    one.client().sync().await.unwrap();
    let mut told = 0;
    while let Ok(change) = changes.try_recv() {
        told += usize::from(matches!(change, ChangeEvent::UploadRejected { .. }));
    }
    assert_eq!(told, 2);
    one.reopen(config());
    let rejected = one.client().queue().rejected_uploads().unwrap();
    assert_eq!(rejected.len(), 2);
    for upload in rejected {
        if upload.item_id == kept {
            one.client().queue().retry_upload(&upload.blob_id).unwrap();
        } else {
            assert_eq!(upload.item_id, dropped);
            one.client().queue().discard_upload(&upload.blob_id).unwrap();
        }
    }
    assert_eq!(one.contents().len(), 1, "what is discarded is gone");
    one.client().sync().await.unwrap();
    assert!(one.client().queue().rejected_uploads().unwrap().is_empty());
    assert_eq!(as_others_see_it(&server, &kept).await, noise(2 * MIB, 7));
}

#[tokio::test]
async fn an_attach_that_is_behind_comes_again_once_the_reconcile_state_has_advanced() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(2 * MIB, 9));
    one.line.next(CallKind::Attach, Fault::Refuse(refused(409, code::RECONCILE_BEHIND)));
    one.client().sync().await.unwrap();
    assert_eq!(one.line.record().count(CallKind::Attach), 2);
    assert!(
        one.line.record().count(CallKind::Reconcile) >= 2,
        "not before it has told what it applied"
    );
    assert_eq!(as_others_see_it(&server, &item).await, noise(2 * MIB, 9));
}

#[tokio::test]
async fn of_two_contents_written_at_once_the_second_with_all_that_follows_becomes_a_copy() {
    let server = TestServer::start().await;
    let (one, other) = (Replica::new(&server, config()), Replica::new(&server, config()));
    let item = put(one.client(), "f.txt", b"first");
    one.client().sync().await.unwrap();
    other.client().sync().await.unwrap();
    one.client().contents().put(&item, &b"of one"[..]).unwrap();
    one.client().sync().await.unwrap();
    other.client().contents().put(&item, &b"of the other"[..]).unwrap();
    other.line.next(CallKind::BlobBatch, Fault::Refuse(down()));
    (0..3).for_each(|_| other.line.next(CallKind::BlobBatch, Fault::Refuse(down())));
    other.client().sync().await.unwrap_err();
    other.client().contents().put(&item, &b"of the other, later"[..]).unwrap();
    other.client().sync().await.unwrap();
    one.client().sync().await.unwrap();
    let seen = |client: &SyncClient| {
        let children = client.children(None).unwrap().into_iter();
        children.map(|child| (child.name, child.node.id)).collect::<Vec<_>>()
    };
    assert_eq!(seen(one.client()), seen(other.client()), "the same names everywhere");
    let [(name, copy), (plain, original)] = seen(one.client()).try_into().unwrap();
    assert_eq!((plain.as_str(), &original), ("f.txt", &item));
    assert!(name.starts_with("f (conflict ") && name.ends_with(").txt"), "{name}");
    assert_eq!(read(one.client(), &item).await, b"of one");
    assert_eq!(read(one.client(), &copy).await, b"of the other, later");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_and_is_wanted_no_more_leaves_the_disk() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let kept = put(one.client(), "kept", b"first");
    one.client().contents().put(&kept, &b"second"[..]).unwrap();
    let gone = put(one.client(), "gone", b"third");
    one.client().delete(&gone, vfs_sync_client::Delete::Item).unwrap();
    one.client().sync().await.unwrap();
    assert_eq!(one.contents().len(), 1);
    assert_eq!(read(one.client(), &kept).await, b"second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_whose_item_went_before_the_feed_told_of_it_leaves_the_disk() {
    let server = TestServer::start().await;
    let (one, other) = (Replica::new(&server, config()), Replica::new(&server, config()));
    let item = put(one.client(), "f", b"bytes");
    // Attached; the pull that would bring it back fails.
    one.line.next(CallKind::Pull, Fault::Delay(Duration::from_millis(1)));
    one.line.next(CallKind::Pull, Fault::Refuse(down()));
    one.client().sync().await.unwrap_err();
    other.client().sync().await.unwrap();
    other.client().delete(&item, vfs_sync_client::Delete::Item).unwrap();
    other.client().sync().await.unwrap();
    one.client().sync().await.unwrap();
    assert_eq!(one.contents(), Vec::<std::path::PathBuf>::new());
}

/// Sizes that are small to a test.
fn bounds(batch_max_bytes: u64, resumable_from: u64) -> ClientConfig {
    ClientConfig { batch_max_bytes, resumable_from, ..config() }
}

/// How often each way of sending was taken: many in a request, one by itself, resumably.
fn ways(replica: &Replica) -> [usize; 3] {
    [CallKind::BlobBatch, CallKind::Upload, CallKind::Append]
        .map(|call| replica.line.record().count(call))
}

#[tokio::test]
async fn a_content_goes_the_way_that_its_size_is_configured_for() {
    for (size, expected) in [
        (0, [1, 0, 0]),
        (10, [1, 0, 0]),
        (11, [0, 1, 0]),
        (99, [0, 1, 0]),
        (100, [0, 0, 1]),
        (5_000, [0, 0, 1]),
    ] {
        let server = TestServer::start().await;
        let one = Replica::new(&server, bounds(10, 100));
        let item = put(one.client(), "f", &noise(size, 1));
        assert_eq!(one.client().sync().await.unwrap().uploaded, 1);
        assert_eq!(ways(&one), expected, "{size} bytes");
        assert_eq!(as_others_see_it(&server, &item).await, noise(size, 1));
    }
}

#[tokio::test]
async fn what_may_go_together_does_whatever_else_is_said_of_its_size() {
    let server = TestServer::start().await;
    // Resumable from the first byte on: but only what does not go together.
    let one = Replica::new(&server, bounds(100, 0));
    for (name, size) in [("a", 99), ("b", 100), ("c", 101)] {
        put(one.client(), name, &noise(size, 2));
    }
    assert_eq!(one.client().sync().await.unwrap().uploaded, 3);
    assert_eq!(ways(&one), [1, 0, 1]);

    // Nothing goes together but what has no bytes.
    let one = Replica::new(&server, bounds(0, u64::MAX));
    for (name, size) in [("d", 0), ("e", 1), ("f", 2 * MIB)] {
        put(one.client(), name, &noise(size, 3));
    }
    assert_eq!(one.client().sync().await.unwrap().uploaded, 3);
    assert_eq!(ways(&one), [1, 2, 0]);
}

#[tokio::test]
async fn an_upload_that_is_cut_goes_on_from_the_size_on_that_is_configured() {
    let server = TestServer::start().await;
    for (size, resumed) in [(3_000_000, true), (2_999_999, false)] {
        let one = Replica::new(&server, bounds(0, 3_000_000));
        let item = put(one.client(), "f", &noise(size, 4));
        for call in [CallKind::Upload, CallKind::Append] {
            one.line.next(call, Fault::CutRequest(2_000_000));
        }
        assert_eq!(one.client().sync().await.unwrap().uploaded, 1);
        let offsets: Vec<u64> = one.line.record().appended().iter().map(|(_, at)| *at).collect();
        assert_eq!(ways(&one), if resumed { [0, 0, 2] } else { [0, 2, 0] });
        assert_eq!(offsets.last().is_some_and(|at| *at > 0), resumed, "{offsets:?}");
        assert_eq!(as_others_see_it(&server, &item).await, noise(size, 4));
    }
}

#[tokio::test]
async fn more_together_than_a_request_may_bring_is_no_configuration() {
    let server = TestServer::start().await;
    let open = |batch_max_bytes: u64| {
        let dir = tempfile::tempdir().unwrap();
        let config = bounds(batch_max_bytes, 0);
        let user = "alice".parse().unwrap();
        let transport = server.transport("alice");
        SyncClient::builder(transport).server("s").config(config).create(dir.path(), user).map(drop)
    };
    open(MIB as u64).unwrap();
    let refused = open(MIB as u64 + 1).unwrap_err().to_string();
    assert!(refused.contains("batch_max_bytes") && refused.contains("1 MiB"), "{refused}");
}

#[tokio::test]
async fn bytes_that_changed_on_their_way_are_refused_and_sent_again() {
    let server = TestServer::start().await;
    for (call, size) in [(CallKind::BlobBatch, 10_000), (CallKind::Upload, 2 * MIB)] {
        let one = Replica::new(&server, config());
        let item = put(one.client(), call.as_str(), &noise(size, 9));
        for at in [0, 9_999] {
            one.line.next(call, Fault::DamageRequest(at));
        }
        let report = one.client().sync().await.unwrap();
        assert_eq!((report.uploaded, one.line.record().count(call)), (1, 3), "{call}");
        assert_eq!(as_others_see_it(&server, &item).await, noise(size, 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_that_came_out_otherwise_is_attached_to_nothing() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(LARGE, 9));
    one.line.next(CallKind::Append, Fault::DamageRequest(20 * MIB as u64));
    one.client().sync().await.unwrap();
    let rejected = one.client().queue().rejected_uploads().unwrap();
    assert!(rejected[0].reason.contains("other bytes"), "{rejected:?}");
    let other = Replica::new(&server, config());
    other.client().sync().await.unwrap();
    assert_eq!(other.client().node(&item).unwrap().unwrap().content, None);
    one.client().queue().retry_upload(&rejected[0].blob_id).unwrap();
    one.client().sync().await.unwrap();
    assert!(as_others_see_it(&server, &item).await == noise(LARGE, 9));
}
