//! The stream of the tree's changes: what was shown before, and what is shown after.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::wire::{PushReason, PushStatus};
use vfs_sync_client::{ClientConfig, Delete, ItemChange, SyncClient, TreeChange};
use vfs_sync_testkit::{ScriptedTransport, TestDevice, TestServer, all_results, build};

use crate::support::name;

/// Returns the changes that have arrived.
fn arrived(changes: &mut Receiver<TreeChange>) -> Vec<ItemChange> {
    let mut all = Vec::new();
    while let Ok(change) = changes.try_recv() {
        match change {
            TreeChange::Item(change) => all.push(*change),
            TreeChange::Rebuilt => panic!("the whole tree"),
        }
    }
    all
}

/// Returns each change as `before -> after`.
fn paths(changes: &mut Receiver<TreeChange>) -> Vec<String> {
    let path = |shown: &Option<vfs_sync_client::ShownItem>| {
        shown.as_ref().map_or_else(|| "-".to_owned(), |shown| shown.path.clone())
    };
    let text = |change: ItemChange| {
        let by = if change.local { "local" } else { "pull" };
        format!("{by} {} -> {}", path(&change.before), path(&change.after))
    };
    arrived(changes).into_iter().map(text).collect()
}

fn tree(client: &SyncClient) -> (ItemId, ItemId) {
    let docs = client.create_folder(None, name("docs")).unwrap();
    let plan = client.create_file(Some(&docs), name("plan.txt")).unwrap();
    (docs, plan)
}

#[tokio::test]
async fn edits_and_pulls_are_reported_with_the_paths_before_and_after() {
    let server = TestServer::start().await;
    for durable in [false, true] {
        let config = ClientConfig::default();
        let user = if durable { "alice" } else { "bob" };
        let laptop = TestDevice::new(durable, user, server.transport(user), config.clone());
        let phone = TestDevice::new(durable, user, server.transport(user), config);
        let (mut here, mut there) = (laptop.tree_changes(), phone.tree_changes());

        let (docs, plan) = tree(&laptop);
        laptop.contents().put(&plan, &b"one"[..]).unwrap();
        assert_eq!(
            paths(&mut here),
            [
                "local - -> /docs",
                "local - -> /docs/plan.txt",
                "local /docs/plan.txt -> /docs/plan.txt"
            ]
        );
        laptop.sync().await.unwrap();
        let pulled = arrived(&mut here);
        assert!(pulled.iter().all(|change| !change.local), "only the marks of pending work went");
        phone.sync().await.unwrap();
        let mut found = paths(&mut there);
        found.sort();
        assert_eq!(found, ["pull - -> /docs", "pull - -> /docs/plan.txt"]);

        phone.rename(&plan, name("goal.txt")).unwrap();
        phone.move_to(&plan, None).unwrap();
        assert_eq!(
            paths(&mut there),
            ["local /docs/plan.txt -> /docs/goal.txt", "local /docs/goal.txt -> /goal.txt"]
        );
        phone.sync().await.unwrap();
        laptop.sync().await.unwrap();
        let moved = arrived(&mut here);
        let of_plan: Vec<&ItemChange> = moved.iter().filter(|change| change.id == plan).collect();
        let before = of_plan[0].before.as_ref().unwrap();
        assert_eq!((before.path.as_str(), &before.parents[..]), ("/docs/plan.txt", &[docs][..]));
        assert_eq!(before.node.name, Some(name("plan.txt")));
        let after = of_plan[of_plan.len() - 1].after.as_ref().unwrap();
        assert_eq!((after.path.as_str(), after.parents.len()), ("/goal.txt", 0));

        laptop.delete(&plan, Delete::Item).unwrap();
        assert_eq!(paths(&mut here), ["local /goal.txt -> -"]);
        laptop.sync().await.unwrap();
        assert_eq!(paths(&mut here), [] as [&str; 0], "it was gone already");
        there.resubscribe();
        arrived(&mut there);
        phone.sync().await.unwrap();
        assert_eq!(paths(&mut there), ["pull /goal.txt -> -"]);
    }
}

#[tokio::test]
async fn a_rejected_edit_is_reported_as_taken_back() {
    let server = Arc::new(ScriptedTransport::new());
    let device = TestDevice::in_memory("alice", server.clone(), ClientConfig::default());
    server.on_pull(|_| Ok(build::page().entry(10, "a", build::folder("photos")).build()));
    device.sync().await.unwrap();
    let photos = device.resolve("photos").unwrap().id;
    let mut changes = device.tree_changes();
    device.rename(&photos, name("pictures")).unwrap();
    server.on_push(|request| {
        let mut answer = all_results(request, PushStatus::InvalidOp);
        answer.results[0].reason = Some(PushReason::NotPermitted);
        Ok(answer)
    });
    device.sync().await.unwrap();
    assert_eq!(paths(&mut changes), ["local /photos -> /pictures", "pull /pictures -> /photos"],);
}

#[tokio::test]
async fn a_large_transaction_and_a_rebuild_are_reported_as_a_whole() {
    let server = TestServer::start().await;
    let device = server.device("alice");
    let mut changes = device.tree_changes();
    let mut batch = device.batch();
    for number in 0..2_049 {
        let kind = vfs_sync_client::core::item::ObjectType::File;
        batch.create(kind, None, name(&format!("{number}")), Vec::new());
    }
    batch.commit().unwrap();
    assert_eq!(changes.try_recv().unwrap(), TreeChange::Rebuilt);
    assert!(changes.try_recv().is_err());
    device.rematerialise().await.unwrap();
    assert_eq!(changes.try_recv().unwrap(), TreeChange::Rebuilt);
}

#[test]
fn a_failed_edit_reports_nothing() {
    let device =
        TestDevice::in_memory("alice", Arc::new(ScriptedTransport::new()), ClientConfig::default());
    let mut changes = device.tree_changes();
    device.rename(&device.new_item_id(), name("x")).unwrap_err();
    assert!(changes.try_recv().is_err());
}
