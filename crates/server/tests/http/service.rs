//! A server without a socket.

use std::sync::Arc;

use http::{Request, StatusCode};
use vfs_sync_blobs::ObjectBlobs;
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::auth::{AuthConfig, Authenticator, Secret};
use vfs_sync_server::{Body, Environment, Server, Service};

/// A moment that does not pass, and one id over and over.
struct Still;

impl Environment for Still {
    fn now(&self) -> Timestamp {
        "2026-01-01T12:00:00.000Z".parse().unwrap()
    }

    fn unique(&self) -> u128 {
        7
    }
}

async fn service(dir: &tempfile::TempDir) -> (Service, String) {
    let database = dir.path().join("server.db");
    let store = vfs_sync_store::open(database.to_str().unwrap(), Still.now()).await.unwrap();
    let auth = AuthConfig::with_secret(Secret::new("s".repeat(32))).unwrap();
    let hour = std::time::Duration::from_secs(3_600);
    let token = auth.mint(&UserId::new("alice").unwrap(), None, hour, Still.now()).unwrap();
    let auth = Authenticator::load(&auth).await.unwrap();
    let server = Server::builder(store, Arc::new(ObjectBlobs::memory()), auth);
    (server.environment(Arc::new(Still)).build().into_service(), token)
}

async fn json(body: Body) -> serde_json::Value {
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_service_answers_as_the_server_does_by_its_own_clock_and_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (service, token) = service(&dir).await;
    let call = |path: &str, body: &str| {
        let request = Request::post(format!("/v1/vfs/blobs{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(body.to_owned())
            .unwrap();
        service.call(request)
    };
    let opened = call("/stage", r#"{"blobId":"b"}"#).await;
    assert_eq!(opened.status(), StatusCode::CREATED);
    let opened = json(opened.into_body()).await;
    assert_eq!(opened["stagingId"], "00000000-0000-0000-0000-000000000007");
    let refused = call("/nowhere", "{}").await;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.headers()["x-request-id"], "00000000-0000-0000-0000-000000000007");
    let nobody = service.call(Request::get("/v1/vfs/limits").body(Body::empty()).unwrap()).await;
    assert_eq!(json(nobody.into_body()).await["code"], "unauthorized");
}
