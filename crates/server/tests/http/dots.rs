//! The ids `.` and `..` by the Rust client and by curl: URL libraries drop such steps from a path.

use std::io::Read as _;

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, PrincipalId, StagingId, UserId};
use vfs_sync_testkit::client::TransportExt as _;
use vfs_sync_testkit::client::{Delete, HttpConfig, HttpTransport, StaticToken};

use crate::scene::{Scene, create, on_every_store, send};

on_every_store! {
    items_and_users_whose_ids_are_dots_are_synced
    stages_blobs_and_uploads_whose_ids_are_dots_are_found
}

const DOTS: [(&str, &str); 2] = [(".", ".."), ("..", ".")];

async fn items_and_users_whose_ids_are_dots_are_synced(scene: Scene) {
    for (owner, id) in DOTS {
        let item = ItemId::new(id).unwrap();
        let mut operation = create(id, 1);
        operation["replicaId"] = json!(id);
        let pushed = scene.user(owner).push(id, vec![operation]).await.ok();
        assert_eq!(pushed["results"][0]["status"], "applied", "{pushed}");

        let device = scene.server.device(owner);
        let client = device.client();
        client.sync().await.unwrap();
        client.contents().put(&item, &b"first"[..]).unwrap();
        client.sync().await.unwrap();
        client.contents().put(&item, &b"second"[..]).unwrap();
        client.sync().await.unwrap();
        assert_eq!(client.contents().versions(&item).await.unwrap().len(), 2);

        let reader = Principal { kind: PrincipalType::User, id: PrincipalId::new(id).unwrap() };
        client.sharing().share(&item, reader.clone(), AccessLevel::Read).unwrap();
        client.sync().await.unwrap();
        let other = scene.server.device(id);
        other.client().sync().await.unwrap();
        let content = other.client().contents().read(&item).await.unwrap();
        let mut bytes = Vec::new();
        content.reader().unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"second");

        let http = transport(&scene, id);
        let owner_id = UserId::new(owner).unwrap();
        http.set_block(&owner_id, true).await.unwrap();
        other.client().sync().await.unwrap();
        assert!(other.client().node(&item).unwrap().is_none());
        http.set_block(&owner_id, false).await.unwrap();
        assert!(http.blocks().await.unwrap().owners.is_empty());
        assert!(http.knows(&reader).await.unwrap());

        client.delete(&item, Delete::Recursive).unwrap();
        client.sync().await.unwrap();
        assert_eq!(client.trash().list().await.unwrap().len(), 1);
        assert_eq!(client.trash().restore(&item, true).await.unwrap(), 1);
        client.sync().await.unwrap();
        assert!(client.node(&item).unwrap().is_some());
        client.delete(&item, Delete::Recursive).unwrap();
        client.sync().await.unwrap();
        assert_eq!(client.trash().purge(&item, true).await.unwrap(), 1);
        assert!(client.trash().list().await.unwrap().is_empty());

        let state = format!("/v1/vfs/admin/users/%20{owner}/state?clientId={id}");
        let state = scene.administrator("root").get(&state).await.ok();
        assert_eq!(state["userId"], owner);
        let state = scene.user(owner).get(&format!("/v1/vfs/crdt/state?clientId={id}")).await.ok();
        assert_eq!(state["lastWriteIds"][id], 1, "{state}");
    }
    let root = scene.server.token_with_scope("root", "vfs:admin");
    let root =
        HttpTransport::new(HttpConfig::new(scene.server.url()), StaticToken::new(root)).unwrap();
    for (member, id) in DOTS {
        for kind in [PrincipalType::Group, PrincipalType::Organization] {
            let group = Principal { kind, id: PrincipalId::new(id).unwrap() };
            let member = UserId::new(member).unwrap();
            root.set_member(&group, &member, true).await.unwrap();
            let members = root.members(&group, None, 10).await.unwrap().members;
            assert_eq!(members, std::slice::from_ref(&member));
            root.set_member(&group, &member, false).await.unwrap();
            assert!(!root.knows(&group).await.unwrap());
        }
    }
}

async fn stages_blobs_and_uploads_whose_ids_are_dots_are_found(scene: Scene) {
    let alice = scene.user("alice");
    let http = scene.server.transport("alice");
    let file = alice.file(1).await;
    for (stage, blob) in DOTS {
        let (staging_id, blob_id) = (StagingId::new(stage).unwrap(), BlobId::new(blob).unwrap());
        let opened = json!({"stagingId": stage, "blobId": blob});
        let opened = http.stage(&serde_json::from_value(opened).unwrap()).await.unwrap();
        assert_eq!((&opened.staging_id, &opened.blob_id), (&staging_id, &blob_id));
        let bytes = bytes::Bytes::from_static(b"hello");
        let data = futures::stream::iter([Ok(bytes.clone())]).boxed();
        if stage == "." {
            let digest = Sha256Digest(Sha256::digest(&bytes).into());
            http.upload(&staging_id, 5, digest, data).await.unwrap();
        } else {
            let opened = json!({"stagingId": stage, "blobId": blob});
            let opened = serde_json::from_value(opened).unwrap();
            assert_eq!(http.open_upload(&opened, 5).await.unwrap(), 0);
            http.append(&staging_id, 0, 5, data).await.unwrap();
        }
        let state = http.stage_state(&staging_id).await.unwrap();
        assert_eq!((state.blob_id, state.size), (blob_id.clone(), Some(5)));
        let attach = serde_json::from_value(json!({"itemId": file})).unwrap();
        assert_eq!(http.attach(&staging_id, &attach).await.unwrap().blob_id, blob_id);
        let read: Vec<_> = http.download(&blob_id, 0).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.concat(), b"hello");

        let root = scene.administrator("root");
        let found = root.get(&format!("/v1/vfs/admin/stages/%20{stage}")).await.ok();
        assert_eq!(found["stage"]["stagingId"], stage);
        let found = root.get(&format!("/v1/vfs/admin/blobs/%20{blob}")).await.ok();
        assert_eq!(found["blobId"], blob);
        // As curl sends it without an option for it.
        let url = format!("{}/v1/vfs/blobs/%20{blob}", scene.server.url());
        let bearer = format!("Authorization: Bearer {}", scene.server.token("alice"));
        let mut curl = tokio::process::Command::new("curl");
        if let Ok(output) = curl.args(["-sf", "-H", &bearer, &url]).output().await {
            assert_eq!(output.stdout, b"hello", "{output:?}");
        }
    }
}

#[tokio::test]
async fn the_place_of_an_upload_is_a_url_that_leads_to_it() {
    use base64::Engine as _;
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    for (stage, blob) in DOTS {
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let metadata = format!("blobId {},stagingId {}", encoded(blob), encoded(stage));
        let create = alice
            .request("POST", "/v1/vfs/blobs/uploads")
            .header("tus-resumable", "1.0.0")
            .header("upload-length", "5")
            .header("upload-metadata", metadata);
        let created = send(create).await;
        assert_eq!(created.status, 201);
        let place = created.header("location").to_owned();
        let look = alice.request("HEAD", &place).header("tus-resumable", "1.0.0");
        assert_eq!(send(look).await.header("upload-length"), "5", "{place}");
        let end = alice.request("DELETE", &place).header("tus-resumable", "1.0.0");
        assert_eq!(send(end).await.status, 204, "{place}");
    }
}

fn transport(scene: &Scene, user: &str) -> HttpTransport {
    let token = StaticToken::new(scene.server.token(user));
    HttpTransport::new(HttpConfig::new(scene.server.url()), token).unwrap()
}
