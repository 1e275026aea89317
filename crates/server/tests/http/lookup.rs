//! What operators look up.

use serde_json::{Value, json};

use crate::blobs::{bring, stage, upload};
use crate::scene::{Scene, on_every_store};

on_every_store! {
    an_operator_sees_any_stage_blob_and_state
}

async fn an_operator_sees_any_stage_blob_and_state(scene: Scene) {
    let alice = scene.user("alice");
    let admin = scene.administrator("root");
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    stage(&alice, "open", "c").await.ok();
    upload(&alice, "open", b"staged").await.ok();

    let found = admin.get("/v1/vfs/admin/stages/open").await.ok();
    assert_eq!(found["owner"], "alice");
    assert_eq!(found["stage"]["status"], "blob-stage:staged");
    assert_eq!((&found["expired"], &found["blobStatus"]), (&json!(false), &json!("live")));
    let found = admin.get("/v1/vfs/admin/blobs/b").await.ok();
    assert_eq!(found["attachments"][0]["itemId"], item);
    assert_eq!(found["object"], json!({"present": true}));
    let blob = vfs_sync_core::id::BlobId::new("b").unwrap();
    scene.server.blobs().delete(&blob).await.unwrap();
    let found = admin.get("/v1/vfs/admin/blobs/b").await.ok();
    assert_eq!(found["object"], json!({"present": false}));

    let head = alice.pull_all().await["baseline"].clone();
    let body =
        json!({"clientId": "laptop", "cursor": head, "lastReconciledWriteIds": {"laptop": 1}});
    alice.post("/v1/vfs/crdt/reconcile", body).await.ok();
    let path = "/v1/vfs/admin/users/alice/state?clientId=laptop";
    let found = admin.get(path).await.ok();
    assert_eq!(found["state"]["reconcileState"]["cursor"], head);
    assert_eq!(found["blobUsage"], json!({"storedBytes": 11, "stagedBytes": 6, "openStages": 1}));

    for path in ["/v1/vfs/admin/stages/open", "/v1/vfs/admin/blobs/b", path] {
        alice.get(path).await.refused(403, "insufficient_scope");
        scene.nobody().get(path).await.refused(401, "unauthorized");
    }
    admin.get("/v1/vfs/admin/stages/none").await.refused(404, "unknown_stage");
    admin.get("/v1/vfs/admin/blobs/none").await.refused(404, "unknown_blob");
    let nobody = admin.get("/v1/vfs/admin/users/nobody/state?clientId=x").await.ok();
    assert_eq!(nobody["state"]["reconcileState"], Value::Null);
    admin.get("/v1/vfs/admin/users/alice/state").await.refused_field("clientId");
}
