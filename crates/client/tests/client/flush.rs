//! Pushing the queue: in several pushes, through lost answers, stale write ids and refusals, and
//! across a crash at any of these points.

use std::path::Path;
use std::sync::Arc;

use vfs_sync_client::core::cursor::Epoch;
use vfs_sync_client::core::entry::{Change, Origin};
use vfs_sync_client::core::id::{ItemId, ReplicaId, UserId, WriteId};
use vfs_sync_client::core::item::ObjectType;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::core::wire::{PullPage, PushReason, PushRequest, PushResponse, PushStatus};
use vfs_sync_client::{
    ChangeEvent, ClientConfig, ClientError, QueuedState, SyncClient, TransportError,
};
use vfs_sync_testkit::{ScriptedTransport, TestEnvironment, all_results, build};

use crate::support::{export, name};

fn config() -> ClientConfig {
    ClientConfig::default()
}

struct Scene {
    server: Arc<ScriptedTransport>,
    dir: tempfile::TempDir,
    client: SyncClient,
}

impl Scene {
    fn set() -> Self {
        let (server, dir) = (Arc::new(ScriptedTransport::new()), tempfile::tempdir().unwrap());
        let user = UserId::new("alice").unwrap();
        let client = SyncClient::builder(server.clone())
            .server("s")
            .config(config())
            .create(dir.path(), user)
            .unwrap();
        Self { server, dir, client }
    }

    fn queue(&self, count: usize) {
        let mut batch = self.client.batch();
        for n in 0..count {
            batch.create(ObjectType::Folder, None, name(&format!("f{n}")), Vec::new());
        }
        batch.commit().unwrap();
    }

    /// The process ends and another begins.
    fn reopened(self) -> Self {
        let Self { server, dir, client } = self;
        drop(client);
        let client = open(dir.path(), &server);
        Self { server, dir, client }
    }

    fn write_ids(&self) -> Vec<u64> {
        let queue = self.client.queue().operations(usize::MAX).unwrap();
        queue.iter().map(|one| one.operation.write_id.get()).collect()
    }

    fn names(&self) -> Vec<String> {
        self.client.children(None).unwrap().into_iter().map(|child| child.name).collect()
    }
}

fn open(dir: &Path, server: &Arc<ScriptedTransport>) -> SyncClient {
    SyncClient::builder(server.clone()).config(config()).open(dir).unwrap()
}

fn stale(request: &PushRequest, last: u64) -> PushResponse {
    let mut answer = all_results(request, PushStatus::StaleWriteId);
    for result in &mut answer.results {
        result.last_write_id = WriteId::new(last);
    }
    answer
}

/// The end of the feed, with a map of one replica.
fn settled(client: &ReplicaId, write_id: u64) -> PullPage {
    build::page().write_id(client.as_str(), write_id).build()
}

fn sent(server: &ScriptedTransport) -> Vec<Vec<u64>> {
    let ids = |push: &PushRequest| push.operations.iter().map(|op| op.write_id.get()).collect();
    server.record().pushed().iter().map(ids).collect()
}

#[tokio::test]
async fn a_long_queue_goes_in_several_pushes() {
    let scene = Scene::set();
    scene.queue(501);
    scene.client.flush().await.unwrap();
    let sizes: Vec<usize> = sent(&scene.server).iter().map(Vec::len).collect();
    assert_eq!(sizes, [500, 1]);
    assert_eq!(scene.client.status().unwrap().pending, 0);
}

#[tokio::test]
async fn an_acknowledged_operation_stays_overlaid_until_a_settled_pull_covers_it() {
    let scene = Scene::set();
    scene.queue(2);
    scene.client.sync().await.unwrap();
    assert_eq!(scene.client.status().unwrap().acknowledged, 2);
    let scene = scene.reopened();
    assert_eq!(scene.names(), ["f0", "f1"]);
    let me = scene.client.client_id();
    scene.server.on_pull(move |_| Ok(settled(&me, 1)));
    scene.client.sync().await.unwrap();
    assert_eq!(scene.write_ids(), [2]);
    assert_eq!(scene.names(), ["f1"], "this feed never brought the first back");
    assert_eq!(scene.server.record().pushed().len(), 1, "nothing is pushed twice");
}

#[tokio::test]
async fn a_push_whose_answer_is_lost_is_repeated_as_it_was() {
    let scene = Scene::set();
    scene.queue(3);
    let before = export(&scene.client);
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    assert!(scene.client.sync().await.unwrap_err().is_transient());
    assert_eq!(export(&scene.client), before);
    assert_eq!(scene.client.status().unwrap().stopped, None, "a network is no reason to stop");
    let scene = scene.reopened();
    scene.server.on_push(|request| Ok(all_results(request, PushStatus::AlreadyApplied)));
    let report = scene.client.sync().await.unwrap();
    assert_eq!(report.applied, 3);
    let pushed = scene.server.record().pushed();
    assert_eq!(pushed[0], pushed[1]);
}

#[tokio::test]
async fn stale_write_ids_are_rebased_above_the_replicas_last_and_nothing_else_changes() {
    let scene = Scene::set();
    scene.queue(3);
    let me = scene.client.client_id();
    scene.server.on_push(|request| Ok(stale(request, 40)));
    scene.server.on_pull(move |_| Ok(settled(&me, 41)));
    let report = scene.client.sync().await.unwrap();
    assert_eq!(report.applied, 3);
    assert_eq!(sent(&scene.server), [vec![1, 2, 3], vec![42, 43, 44]]);
    let (first, again) =
        (scene.server.record().pushed()[0].clone(), scene.server.record().pushed()[1].clone());
    for (before, after) in first.operations.iter().zip(&again.operations) {
        let mut rebased = before.clone();
        rebased.write_id = after.write_id;
        assert_eq!(&rebased, after);
    }
    scene.queue(1);
    assert_eq!(scene.write_ids(), [42, 43, 44, 45]);
}

#[tokio::test]
async fn a_rebase_is_kept_only_with_a_push_that_got_somewhere() {
    let scene = Scene::set();
    scene.queue(2);
    scene.server.on_push(|request| Ok(stale(request, 10)));
    scene.server.on_push(|_| Err(TransportError::network("the machine crashed")));
    scene.client.sync().await.unwrap_err();
    assert_eq!(sent(&scene.server), [vec![1, 2], vec![11, 12]]);
    let scene = scene.reopened();
    assert_eq!(scene.write_ids(), [1, 2]);
    scene.server.on_push(|request| Ok(stale(request, 12)));
    scene.client.sync().await.unwrap();
    assert_eq!(sent(&scene.server)[2..], [vec![1, 2], vec![13, 14]]);
    assert_eq!(scene.reopened().write_ids(), [13, 14]);
}

#[tokio::test]
async fn what_was_decided_before_a_stale_operation_counts_as_progress() {
    let scene = Scene::set();
    scene.queue(4);
    for n in 1..4u64 {
        // Each push applies one operation and finds the rest stale: that is progress every time.
        scene.server.on_push(move |request| {
            let mut answer = stale(request, 100 * n);
            answer.results[0].status = PushStatus::Applied;
            answer.results[0].last_write_id = None;
            Ok(answer)
        });
    }
    let report = scene.client.sync().await.unwrap();
    assert_eq!(report.applied, 4);
    let pushed = sent(&scene.server);
    assert_eq!(pushed, [vec![1, 2, 3, 4], vec![101, 102, 103], vec![201, 202], vec![301]]);
}

#[tokio::test]
async fn a_refused_operation_holds_back_nothing_and_can_be_retried_or_discarded() {
    let scene = Scene::set();
    scene.queue(3);
    let mut changes = scene.client.subscribe();
    scene.server.on_push(|request| {
        let mut answer = all_results(request, PushStatus::Applied);
        for (index, reason) in [(0, PushReason::NotPermitted), (1, PushReason::UnknownItem)] {
            answer.results[index].status = PushStatus::InvalidOp;
            answer.results[index].reason = Some(reason);
        }
        Ok(answer)
    });
    let report = scene.client.sync().await.unwrap();
    assert_eq!((report.applied, report.rejected), (1, 2));
    assert!(matches!(changes.try_recv().unwrap(), ChangeEvent::Rejected { .. }));
    let scene = scene.reopened();
    assert_eq!(scene.names(), ["f2"]);
    let rejected = scene.client.queue().rejected(10).unwrap();
    assert_eq!(rejected[0].reason, Some(PushReason::NotPermitted));
    let again = scene.client.queue().retry(&rejected[0].operation.op_id).unwrap();
    assert_ne!(again, rejected[0].operation.op_id);
    scene.client.queue().discard(&rejected[1].operation.op_id).unwrap();
    assert!(scene.client.queue().discard(&rejected[1].operation.op_id).is_err());
    assert_eq!(scene.names(), ["f0", "f2"]);
    assert_eq!(scene.client.queue().operations(10).unwrap()[1].state, QueuedState::Pending);
    scene.client.sync().await.unwrap();
    assert_eq!(sent(&scene.server)[1], [4], "a new operation with a new write id");
}

#[tokio::test]
async fn an_outdated_operation_leaves_the_queue_and_the_application_is_told() {
    let scene = Scene::set();
    scene.queue(1);
    let me = scene.client.client_id();
    scene.server.on_pull(move |_| Ok(settled(&me, 1)));
    let mut changes = scene.client.subscribe();
    scene.server.on_push(|request| {
        let mut answer = all_results(request, PushStatus::OutdatedOp);
        answer.results[0].reason = Some(PushReason::Superseded);
        Ok(answer)
    });
    scene.client.sync().await.unwrap();
    let reason = Some(PushReason::Superseded);
    assert!(
        matches!(changes.try_recv().unwrap(), ChangeEvent::Outdated { reason: r, .. } if r == reason)
    );
    assert_eq!(scene.names(), [""; 0]);
    assert_eq!(scene.client.queue().operations(1).unwrap(), []);
}

#[tokio::test]
async fn what_was_beaten_uncovers_nothing_older() {
    let scene = Scene::set();
    let item = scene.client.create_folder(None, name("first")).unwrap();
    scene.client.rename(&item, name("second")).unwrap();
    // The server lost its answers to both. The creation still tells it of a type; both names are
    // beaten by what somebody else wrote meanwhile.
    scene.server.on_push(|request| {
        let mut answer = all_results(request, PushStatus::OutdatedOp);
        answer.results[0].status = PushStatus::Applied;
        answer.results[1].reason = Some(PushReason::Superseded);
        Ok(answer)
    });
    scene.client.flush().await.unwrap();
    assert_eq!(scene.client.status().unwrap().pending, 0);
    assert_eq!(scene.names(), ["second"]);
    let scene = scene.reopened();
    assert_eq!(
        scene.names(),
        ["second"],
        "not an older one, for as long as nothing newer has come"
    );
    let me = scene.client.client_id();
    let mut theirs = build::item(item.as_str(), ObjectType::Folder);
    theirs.name = Some(name("theirs"));
    let page = build::page().entry(1, "1", Change::ItemUpsert(Box::new(theirs)));
    scene.server.on_pull(move |_| Ok(page.write_id(me.as_str(), 2).build()));
    scene.client.sync().await.unwrap();
    assert_eq!(scene.names(), ["theirs"]);
    assert_eq!(scene.server.record().pushed().len(), 1, "what was beaten is not pushed again");
}

#[tokio::test]
async fn a_push_that_is_too_large_is_split_and_one_operation_that_is_goes_to_the_rejected_list() {
    let scene = Scene::set();
    scene.queue(4);
    for _ in 0..3 {
        scene.server.on_push(|_| Err(TransportError::TooLarge("4 MiB".into())));
    }
    let report = scene.client.sync().await.unwrap();
    let sizes: Vec<usize> = sent(&scene.server).iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 2, 1, 1, 2]);
    assert_eq!((report.applied, report.rejected), (3, 1));
    assert_eq!(scene.names(), ["f1", "f2", "f3"]);
}

#[tokio::test]
async fn a_clock_that_ran_ahead_is_told_and_comes_back() {
    let scene = Scene::set();
    scene.queue(1);
    let believed = Timestamp::from_millis(1_000).unwrap();
    scene.server.on_push(move |request| {
        let mut answer = all_results(request, PushStatus::Applied);
        answer.results[0].authored_at = Some(believed);
        Ok(answer)
    });
    scene.client.sync().await.unwrap();
    assert!(export(&scene.client).contains(r#""clock":{"last":"1970-01-01T00:00:01.000Z""#));
}

/// The server's answer to a push of another life of its database.
fn applied_in(request: &PushRequest, epoch: u64) -> PushResponse {
    PushResponse { epoch: Epoch::from_u64(epoch), ..all_results(request, PushStatus::Applied) }
}

#[tokio::test]
async fn what_another_epoch_acknowledged_is_pushed_again() {
    let scene = Scene::set();
    scene.queue(2);
    scene.server.on_push(|request| Ok(applied_in(request, 1)));
    scene.client.flush().await.unwrap();
    let scene = scene.reopened();
    // No map of the restored server says what became of the two.
    scene.server.on_pull(|_| Ok(build::page().epoch(2).build()));
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.client.sync().await.unwrap();
    assert_eq!(sent(&scene.server), [[1, 2], [1, 2]]);
    let me = scene.client.client_id();
    scene.server.on_pull(move |_| Ok(build::page().epoch(2).write_id(me.as_str(), 2).build()));
    scene.client.sync().await.unwrap();
    assert_eq!(scene.write_ids(), [0; 0], "covered by a map of the epoch that acknowledged them");
    assert_eq!(sent(&scene.server).len(), 2);
}

#[tokio::test]
async fn what_a_map_of_a_later_epoch_covers_is_not_pushed_again() {
    let scene = Scene::set();
    scene.queue(2);
    scene.server.on_push(|request| Ok(applied_in(request, 1)));
    scene.client.flush().await.unwrap();
    let me = scene.client.client_id();
    scene.server.on_pull(move |_| Ok(build::page().epoch(2).write_id(me.as_str(), 2).build()));
    scene.client.sync().await.unwrap();
    assert_eq!(sent(&scene.server), [[1, 2]]);
    let status = scene.client.status().unwrap();
    assert_eq!((status.pending, status.acknowledged), (0, 0));
}

#[tokio::test]
async fn a_number_that_was_used_again_covers_nothing_before_it() {
    let scene = Scene::set();
    scene.queue(1);
    scene.server.on_push(|request| Ok(applied_in(request, 1)));
    scene.client.flush().await.unwrap();
    scene.queue(1);
    // The restored server has lost the first, and takes the second; its answer is lost.
    let lost = || TransportError::Network { reason: "cut".into(), retry_after: None };
    scene.server.on_push(move |_| Err(lost()));
    scene.client.flush().await.unwrap_err();
    let me = scene.client.client_id();
    scene.server.on_pull(move |_| Ok(build::page().epoch(2).write_id(me.as_str(), 2).build()));
    scene.client.pull().await.unwrap();
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.client.flush().await.unwrap();
    assert_eq!(sent(&scene.server), [vec![1], vec![2], vec![1, 2]]);
}

#[tokio::test]
async fn an_answer_of_an_earlier_epoch_is_none() {
    let scene = Scene::set();
    scene.server.on_pull(|_| Ok(build::page().epoch(2).build()));
    scene.client.sync().await.unwrap();
    scene.queue(1);
    let exported = export(&scene.client);
    for pulls in [true, false] {
        scene.server.on_pull(|_| Ok(build::page().epoch(1).write_id("other", 1).build()));
        scene.server.on_push(|request| Ok(applied_in(request, 1)));
        let done = if pulls { scene.client.pull().await } else { scene.client.flush().await };
        match done.unwrap_err() {
            ClientError::Transport(TransportError::MalformedResponse { field, reason, .. }) => {
                assert_eq!(field, "epoch");
                assert!(reason.contains("is 1 after an answer of 2"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(export(&scene.client), exported);
    }
}

#[tokio::test]
async fn what_a_restored_server_refuses_for_want_of_what_it_forgot_goes_after_it() {
    let scene = Scene::set();
    scene.queue(1);
    scene.server.on_push(|request| Ok(applied_in(request, 1)));
    scene.client.flush().await.unwrap();
    let folder = scene.client.children(None).unwrap()[0].node.id.clone();
    scene.client.rename(&folder, name("renamed")).unwrap();
    scene.queue(1);
    scene.server.on_push(|request| {
        let mut answer = applied_in(request, 2);
        answer.results[0].status = PushStatus::InvalidOp;
        answer.results[0].reason = Some(PushReason::UnknownItem);
        Ok(answer)
    });
    scene.server.on_push(|request| Ok(stale(request, 3)));
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    let report = scene.client.flush().await.unwrap();
    assert_eq!((report.applied, report.rejected), (3, 0));
    assert_eq!(sent(&scene.server), [vec![1], vec![2, 3], vec![1, 2], vec![4, 5]]);
    assert_eq!(scene.client.queue().rejected(10).unwrap(), []);
}

#[tokio::test]
async fn a_server_that_is_another_one_each_time_keeps_no_flush_going() {
    let scene = Scene::set();
    scene.queue(600);
    for epoch in 1..100 {
        scene.server.on_push(move |request| Ok(applied_in(request, epoch)));
    }
    scene.client.flush().await.unwrap();
    assert!(sent(&scene.server).len() < 5);
    let status = scene.client.status().unwrap();
    assert_eq!(status.pending + status.acknowledged, 600);
}

#[tokio::test]
async fn what_the_feed_brings_back_is_not_pushed_again() {
    let scene = Scene::set();
    scene.queue(3);
    let file = scene.client.children(None).unwrap()[2].node.id.clone();
    scene.client.rename(&file, name("renamed")).unwrap();
    let ops = scene.client.queue().operations(10).unwrap();
    let me = scene.client.client_id();
    let map = settled(&me, 5);
    // The answer is lost, and then the server has forgotten what it answered.
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    scene.client.sync().await.unwrap_err();
    let scene = scene.reopened();
    scene.server.on_push(|request| Ok(stale(request, 4)));
    scene.server.on_pull(move |_| {
        let mut page = build::page().write_id(me.as_str(), 4);
        // What was written after the third stands in its place.
        for (at, index) in [(1, 0), (2, 1), (3, 3)] {
            let op = &ops[index].operation;
            let change = build::folder(op.item_id.as_str());
            let mut entry = build::entry(at, &format!("c{at}"), change);
            let (op_id, replica_id) = (op.op_id.clone(), me.clone());
            entry.body.origin = Some(Origin { op_id, replica_id, write_id: op.write_id });
            page = page.entries([entry]);
        }
        Ok(page.build())
    });
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    scene.client.sync().await.unwrap_err();
    assert_eq!(sent(&scene.server)[1..], [vec![1, 2, 3, 4], vec![5]]);
    assert_eq!(scene.write_ids(), [3, 4], "the others have come back");
    assert!(scene.names().contains(&"renamed".to_owned()), "{:?}", scene.names());
    let scene = scene.reopened();
    scene.server.on_push(|request| Ok(stale(request, 4)));
    scene.server.on_push(|request| Ok(all_results(request, PushStatus::Applied)));
    scene.server.on_pull(|_| Ok(build::page().build()));
    scene.server.on_pull(move |_| Ok(map.clone()));
    scene.client.sync().await.unwrap();
    assert_eq!(sent(&scene.server)[3..], [vec![3], vec![5]]);
    assert_eq!(scene.write_ids(), [0; 0]);
}

#[tokio::test]
async fn what_a_rebuild_brings_back_is_not_pushed_again_either() {
    let scene = Scene::set();
    scene.queue(2);
    let second = scene.client.queue().operations(10).unwrap()[1].operation.clone();
    let me = scene.client.client_id();
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    scene.client.sync().await.unwrap_err();
    scene.server.on_pull(move |_| {
        let mut entry = build::entry(1, "c1", build::folder(second.item_id.as_str()));
        let (op_id, replica_id) = (second.op_id.clone(), second.replica_id.clone());
        entry.body.origin = Some(Origin { op_id, replica_id, write_id: second.write_id });
        Ok(build::page().epoch(1).write_id(me.as_str(), 2).entries([entry]).build())
    });
    scene.client.rematerialise().await.unwrap();
    scene.client.sync().await.unwrap();
    assert_eq!(sent(&scene.server), [vec![1, 2], vec![1]]);
}

#[tokio::test]
async fn what_a_restored_server_took_keeps_its_number_when_others_are_queued_again() {
    let scene = Scene::set();
    scene.queue(2);
    let second = scene.client.queue().operations(10).unwrap()[1].operation.clone();
    let me = scene.client.client_id();
    // The second comes back by the feed under its number; the first gets a higher one.
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    scene.client.flush().await.unwrap_err();
    let mut entry = build::entry(1, "c1", build::folder(second.item_id.as_str()));
    let (op_id, replica_id) = (second.op_id.clone(), second.replica_id.clone());
    entry.body.origin = Some(Origin { op_id, replica_id, write_id: second.write_id });
    let page = build::page().epoch(1).write_id(me.as_str(), 2).entries([entry]).build();
    scene.server.on_pull(move |_| Ok(page.clone()));
    scene.client.pull().await.unwrap();
    scene.server.on_push(|request| Ok(stale(request, 2)));
    scene.server.on_push(|request| Ok(applied_in(request, 1)));
    scene.client.flush().await.unwrap();
    assert_eq!(scene.write_ids(), [3, 2]);
    scene.client.create_folder(None, name("third")).unwrap();
    for _ in 0..2 {
        scene.server.on_push(|request| Ok(applied_in(request, 2)));
    }
    scene.client.flush().await.unwrap();
    assert_eq!(sent(&scene.server)[3..], [vec![5], vec![6, 7]]);
    assert_eq!(scene.write_ids(), [6, 7, 5]);
    let page = build::page().epoch(2).write_id(me.as_str(), 7).build();
    scene.server.on_pull(move |_| Ok(page.clone()));
    scene.client.rematerialise().await.unwrap();
    assert_eq!(scene.write_ids(), [0; 0], "all three are covered");
}

#[tokio::test]
async fn what_was_made_in_a_folder_that_went_meanwhile_is_still_the_users_own() {
    let scene = Scene::set();
    let folders = build::page().entries([
        build::entry(1, "1", build::folder("gone")),
        build::entry(2, "2", build::folder("stays")),
    ]);
    scene.server.on_pull(move |_| Ok(folders.build()));
    scene.client.pull().await.unwrap();
    let [gone, stays] = ["gone", "stays"].map(|id| ItemId::new(id).unwrap());
    let made = scene.client.create_folder(Some(&gone), name("made")).unwrap();
    let removal = build::page().entry(3, "3", build::deleted("gone"));
    scene.server.on_pull(move |_| Ok(removal.build()));
    scene.client.pull().await.unwrap();
    assert_eq!(scene.client.node(&gone).unwrap(), None);
    scene.client.move_to(&made, Some(&stays)).unwrap();
    assert_eq!(scene.client.children(Some(&stays)).unwrap()[0].node.id, made);
}

#[tokio::test]
async fn what_is_pushed_again_has_the_time_that_the_server_gave_it() {
    let scene = Scene::set();
    scene.queue(1);
    let believed = Timestamp::from_millis(1_000).unwrap();
    scene.server.on_push(move |request| {
        let mut answer = applied_in(request, 1);
        answer.results[0].authored_at = Some(believed);
        Ok(answer)
    });
    scene.client.flush().await.unwrap();
    let scene = scene.reopened();
    scene.server.on_pull(|_| Ok(build::page().epoch(2).build()));
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.client.sync().await.unwrap();
    let again = scene.server.record().pushed()[1].clone();
    assert_eq!(
        again.operations[0].occurred_at, believed,
        "else it beats what was written after it"
    );
}

/// The answer to a push of one operation, which the server takes for one of the first second.
fn believed_in(request: &PushRequest, epoch: u64) -> PushResponse {
    let mut answer = applied_in(request, epoch);
    answer.results[0].authored_at = Timestamp::from_millis(1_000);
    answer
}

#[tokio::test]
async fn what_a_map_may_cover_is_pushed_again_as_it_was_sent() {
    let scene = Scene::set();
    scene.queue(1);
    scene.server.on_push(|request| Ok(believed_in(request, 1)));
    scene.client.flush().await.unwrap();
    scene.queue(1);
    // The server applies the second, and the answer is lost; then it starts again.
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    scene.client.flush().await.unwrap_err();
    let scene = scene.reopened();
    let me = scene.client.client_id();
    scene.server.on_pull(move |_| Ok(build::page().epoch(2).write_id(me.as_str(), 2).build()));
    scene.client.pull().await.unwrap();
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.client.flush().await.unwrap();
    let pushed = scene.server.record().pushed();
    let before: Vec<_> = pushed[..2].iter().flat_map(|push| push.operations.clone()).collect();
    assert_eq!(pushed[2].operations, before, "else the server takes the first for another one");
}

#[tokio::test]
async fn what_this_epoch_applied_keeps_its_time_when_others_are_queued_again() {
    let (server, hour) = (Arc::new(ScriptedTransport::new()), Timestamp::from_millis(3_600_000));
    let environment = Arc::new(TestEnvironment::new(1, hour.unwrap()));
    let config = ClientConfig { environment: environment.clone(), ..ClientConfig::default() };
    let user = UserId::new("alice").unwrap();
    let client = SyncClient::builder(server.clone()).config(config).in_memory(user).unwrap();
    client.create_folder(None, name("ahead")).unwrap();
    server.on_push(|request| Ok(believed_in(request, 1)));
    client.flush().await.unwrap();
    // The clock is set right, and the server starts again twice.
    environment.clock().freeze(Timestamp::from_millis(2_000).unwrap());
    client.create_folder(None, name("right")).unwrap();
    for epoch in [2, 3, 3] {
        server.on_push(move |request| Ok(applied_in(request, epoch)));
    }
    client.flush().await.unwrap();
    client.flush().await.unwrap();
    let pushed = server.record().pushed();
    let sent: Vec<_> = pushed.iter().map(|push| &push.operations[..]).collect();
    assert_eq!(sent, [sent[0], sent[1], sent[0], sent[1]]);
}

#[tokio::test]
async fn what_a_restored_server_lacks_keeps_its_order_under_new_numbers() {
    let (server, hour) = (Arc::new(ScriptedTransport::new()), Timestamp::from_millis(3_600_000));
    let environment = Arc::new(TestEnvironment::new(1, hour.unwrap()));
    let config = ClientConfig { environment: environment.clone(), ..ClientConfig::default() };
    let user = UserId::new("alice").unwrap();
    let client = SyncClient::builder(server.clone()).config(config).in_memory(user).unwrap();
    let folder = client.create_folder(None, name("ahead")).unwrap();
    server.on_push(|request| Ok(believed_in(request, 1)));
    client.flush().await.unwrap();
    environment.clock().freeze(Timestamp::from_millis(2_000).unwrap());
    client.rename(&folder, name("right")).unwrap();
    server.on_push(|request| Ok(applied_in(request, 1)));
    client.flush().await.unwrap();
    // The restored server lacks both, takes a third, and has another one for the first.
    client.create_folder(None, name("third")).unwrap();
    server.on_push(|request| Ok(applied_in(request, 2)));
    server.on_push(|request| Ok(stale(request, 3)));
    server.on_push(|request| Ok(applied_in(request, 2)));
    client.flush().await.unwrap();
    let pushed = server.record().pushed();
    let [first, second] = &pushed[4].operations[..] else { panic!("{pushed:?}") };
    assert_eq!(sent(&server)[3..], [vec![1, 2], vec![4, 5]]);
    assert!(first.occurred_at <= second.occurred_at, "else the create beats the rename");
}

#[tokio::test]
async fn what_gets_a_new_number_in_another_epoch_has_the_time_that_the_server_gave_it() {
    let scene = Scene::set();
    scene.queue(1);
    scene.server.on_push(|request| Ok(believed_in(request, 1)));
    scene.client.flush().await.unwrap();
    let scene = scene.reopened();
    scene.queue(1);
    // The restored server takes the second, and has another operation for the first.
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.server.on_push(|request| Ok(stale(request, 3)));
    scene.server.on_push(|_| Err(TransportError::network("cut off")));
    scene.client.flush().await.unwrap_err();
    let scene = scene.reopened();
    scene.server.on_push(|request| Ok(stale(request, 3)));
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.client.flush().await.unwrap();
    let pushed = scene.server.record().pushed();
    let [as_sent, renumbered, once_more, again] = &pushed[2..] else { panic!("{pushed:?}") };
    assert_eq!(sent(&scene.server)[2..], [vec![1], vec![4], vec![1], vec![4]]);
    assert_eq!(as_sent.operations, pushed[0].operations);
    assert_eq!(once_more.operations, pushed[0].operations, "the new number is not certain yet");
    let given = Timestamp::from_millis(1_000).unwrap();
    assert_eq!(renumbered.operations[0].occurred_at, given, "whoever saw it may have changed it");
    assert_eq!(again.operations, renumbered.operations);
}

#[tokio::test]
async fn what_gets_a_new_number_is_no_earlier_than_what_was_stored_again_before_it() {
    let (server, hour) = (Arc::new(ScriptedTransport::new()), Timestamp::from_millis(3_600_000));
    for memory in [true, false] {
        let scene = Scene::set();
        let environment = Arc::new(TestEnvironment::new(1, hour.unwrap()));
        let config = ClientConfig { environment: environment.clone(), ..ClientConfig::default() };
        let user = UserId::new("alice").unwrap();
        let client = SyncClient::builder(server.clone()).server("s").config(config);
        let client = match memory {
            true => client.in_memory(user).unwrap(),
            false => client.create(scene.dir.path().join("other"), user).unwrap(),
        };
        let folder = client.create_folder(None, name("ahead")).unwrap();
        client.rename(&folder, name("renamed")).unwrap();
        server.on_push(|request| {
            let mut answer = believed_in(request, 1);
            answer.results[1].authored_at = Timestamp::from_millis(1_000);
            Ok(answer)
        });
        client.flush().await.unwrap();
        client.create_folder(None, name("third")).unwrap();
        // The restored server takes the first again, later, and has another operation for the
        // second.
        server.on_push(|request| Ok(applied_in(request, 2)));
        server.on_push(|request| {
            let mut answer = applied_in(request, 2);
            answer.results[0].authored_at = Timestamp::from_millis(2_000);
            answer.results[1] = stale(request, 3).results[1].clone();
            Ok(answer)
        });
        server.on_push(|request| Ok(applied_in(request, 2)));
        client.flush().await.unwrap();
        let pushed = server.record().pushed();
        let [renamed] = &pushed.last().unwrap().operations[..] else { panic!("{pushed:?}") };
        let stored = Timestamp::from_millis(2_000).unwrap();
        assert_eq!(renamed.occurred_at, stored, "else the create beats the rename");
    }
}

#[tokio::test]
async fn what_was_pushed_again_with_another_time_is_known_by_that() {
    let scene = Scene::set();
    scene.queue(1);
    scene.server.on_push(|request| Ok(believed_in(request, 1)));
    scene.client.flush().await.unwrap();
    // A server that lost it gets it with the time that counts, and starts again.
    scene.server.on_pull(|_| Ok(build::page().epoch(2).build()));
    scene.client.pull().await.unwrap();
    scene.server.on_push(|request| Ok(applied_in(request, 2)));
    scene.client.flush().await.unwrap();
    let scene = scene.reopened();
    scene.queue(1);
    for _ in 0..2 {
        scene.server.on_push(|request| Ok(applied_in(request, 3)));
    }
    scene.client.flush().await.unwrap();
    let pushed = scene.server.record().pushed();
    assert_ne!(pushed[1].operations, pushed[0].operations);
    assert_eq!(pushed[3].operations, pushed[1].operations);
}

#[tokio::test]
async fn a_cancelled_sync_loses_nothing() {
    let scene = Scene::set();
    scene.queue(700);
    for _ in 0..20 {
        let sync = scene.client.sync();
        let _ = tokio::time::timeout(std::time::Duration::from_micros(300), sync).await;
    }
    scene.client.sync().await.unwrap();
    let status = scene.client.status().unwrap();
    assert_eq!((status.pending, status.acknowledged), (0, 700));
    assert_eq!(scene.names().len(), 700);
}
