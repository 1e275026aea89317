//! Signing in, renewing and signing out, with a provider of the test's own; and whom that binds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::RefreshSecret;
use vfs_sync_server::auth::{AuthConfig, Secret, SignInConfig};
use vfs_sync_testkit::{MemoryStore, TestServer};

use crate::auth::{ED_ONE, ED_TWO, Issuer, NOW, jwk, refused};
use crate::scene::{Answer, Scene, send};

const CLIENT: &str = "vfs-sync-devices";

/// Servers over one database, and the provider at which users sign in.
struct Signing {
    scene: Scene,
    issuer: Issuer,
    store: Arc<MemoryStore>,
    auth: AuthConfig,
}

impl Signing {
    async fn new(change: impl FnOnce(&mut SignInConfig)) -> Self {
        let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
        let mut sign_in = SignInConfig {
            issuer: issuer.url.trim_end_matches("/jwks").to_owned(),
            client_id: CLIENT.into(),
            audience: None,
            scope: "openid".into(),
            requires_device_credentials: false,
        };
        change(&mut sign_in);
        let mut auth = AuthConfig::with_secret(Secret::new([7; 32])).unwrap();
        auth.jwks_min_refresh = Duration::ZERO;
        auth.sign_in = Some(sign_in);
        let now = Timestamp::from_millis(NOW * 1_000).unwrap();
        let store = Arc::new(MemoryStore::new(now));
        let scene = Self::server(&store, &auth).await;
        Self { scene, issuer, store, auth }
    }

    async fn server(store: &Arc<MemoryStore>, auth: &AuthConfig) -> Scene {
        let builder = TestServer::builder().auth(auth.clone()).store(Arc::clone(store) as _);
        let scene = Scene::of(builder.admin()).await;
        scene.server.clock().freeze(Timestamp::from_millis(NOW * 1_000).unwrap());
        scene
    }

    /// Starts another process over the same database.
    async fn another(&self) -> Scene {
        Self::server(&self.store, &self.auth).await
    }

    fn claims(&self, user: &str) -> Value {
        let issuer = &self.auth.sign_in.as_ref().unwrap().issuer;
        json!({"sub": user, "iss": issuer, "aud": CLIENT, "iat": NOW, "exp": NOW + 60})
    }

    async fn sign_in(&self, user: &str, client: &str, first: &RefreshSecret) -> Answer {
        sign_in(&self.scene, &id_token(&self.claims(user)), client, first).await
    }

    async fn token(&self, user: &str, client: &str, first: &RefreshSecret) -> String {
        access_token(&self.sign_in(user, client, first).await)
    }
}

fn signed(claims: &Value, kid: &str, key: &[u8]) -> String {
    let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_pem(key).unwrap()).unwrap()
}

fn id_token(claims: &Value) -> String {
    signed(claims, "one", ED_ONE)
}

fn secret(n: u8) -> RefreshSecret {
    RefreshSecret::first([n; 16], [n; 32])
}

fn access_token(answer: &Answer) -> String {
    answer.ok()["accessToken"].as_str().unwrap().to_owned()
}

async fn sign_in(scene: &Scene, token: &str, client: &str, first: &RefreshSecret) -> Answer {
    let request = scene.bearer(token).request("POST", "/v1/vfs/auth/credential");
    let request = request.header("vfs-sync-client", client);
    send(request.header("vfs-sync-next-secret", first.proposal().header())).await
}

async fn renew(
    scene: &Scene,
    client: &str,
    presented: &RefreshSecret,
    next: &RefreshSecret,
) -> Answer {
    let request = scene.bearer(&presented.text()).request("POST", "/v1/vfs/auth/renewal");
    let request = request.header("vfs-sync-client", client);
    send(request.header("vfs-sync-next-secret", next.proposal().header())).await
}

async fn limits(scene: &Scene, token: &str) -> Answer {
    scene.bearer(token).get("/v1/vfs/limits").await
}

#[tokio::test]
async fn a_server_says_how_one_signs_in() {
    let by_hand = Scene::new().await;
    let answer = by_hand.nobody().get("/v1/vfs/auth").await.ok();
    assert_eq!(answer, json!({"method": "token", "requiresDeviceCredentials": false}));
    sign_in(&by_hand, "x", "laptop", &secret(1)).await.refused(404, "no_sign_in");

    let signing = Signing::new(|_| {}).await;
    let answer = signing.scene.nobody().get("/v1/vfs/auth").await.ok();
    let issuer = &signing.auth.sign_in.as_ref().unwrap().issuer;
    let expected = json!({"method": "deviceFlow", "issuer": issuer, "clientId": CLIENT,
        "scope": "openid", "requiresDeviceCredentials": false});
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_device_signs_in_and_renews_and_its_token_is_good_for_it_alone() {
    let signing = Signing::new(|_| {}).await;
    let (scene, s0) = (&signing.scene, secret(1));
    let answer = signing.sign_in("alice", "laptop", &s0).await;
    let body = answer.ok();
    assert_eq!((&body["userId"], &body["clientId"]), (&json!("alice"), &json!("laptop")));
    assert_eq!(body["expiresIn"], 3_600);
    assert_eq!(answer.header("cache-control"), "no-store");
    let token = access_token(&answer);
    let laptop = scene.bearer(&token);
    let pushed = laptop.push("laptop", vec![crate::scene::create("a", 1)]).await;
    assert_eq!(pushed.ok()["results"][0]["status"], "applied");
    let devices = laptop.get("/v1/vfs/devices").await.ok();
    assert!(devices["devices"].is_array());
    // In its body, its query, or its headers.
    refused(&laptop.push("phone", vec![crate::scene::create("b", 2)]).await, "other_device");
    refused(&laptop.get("/v1/vfs/crdt/vfs-sync?clientId=phone").await, "other_device");
    let named = laptop.request("GET", "/v1/vfs/limits").header("vfs-sync-client", "phone");
    refused(&send(named).await, "other_device");
    laptop.get("/v1/vfs/admin/users").await.refused(403, "insufficient_scope");

    let s1 = s0.next([2; 32]);
    refused(&renew(scene, "phone", &s0, &s1).await, "other_device");
    let other = signing.another().await;
    let renewed = access_token(&renew(&other, "laptop", &s0, &s1).await);
    for token in [&token, &renewed] {
        limits(scene, token).await.ok();
        limits(&other, token).await.ok();
    }
    // A secret is no token of calls, and a token is no secret.
    refused(&limits(scene, &s1.text()).await, "malformed");
    let request = scene.bearer(&token).request("POST", "/v1/vfs/auth/renewal");
    let request = request.header("vfs-sync-client", "laptop");
    let answer = send(request.header("vfs-sync-next-secret", s1.proposal().header())).await;
    refused(&answer, "malformed");
    let later = Timestamp::from_millis((NOW + 3_631) * 1_000).unwrap();
    scene.server.clock().freeze(later);
    refused(&limits(scene, &renewed).await, "expired");
}

#[tokio::test]
async fn only_the_configured_issuers_token_for_this_server_signs_in() {
    let signing = Signing::new(|_| {}).await;
    let with = |field: &str, value: Value| {
        let mut claims = signing.claims("alice");
        claims[field] = value;
        claims
    };
    for (claims, reason) in [
        (with("iss", json!("https://evil.example")), "wrong_issuer"),
        (with("iss", Value::Null), "wrong_issuer"),
        (with("aud", json!("another")), "wrong_audience"),
        (with("aud", json!(["another"])), "wrong_audience"),
        (with("azp", json!("another")), "wrong_audience"),
        (with("exp", json!(NOW - 31)), "expired"),
        (with("exp", Value::Null), "no_expiry"),
        (with("sub", json!("")), "bad_subject"),
    ] {
        let answer = sign_in(&signing.scene, &id_token(&claims), "laptop", &secret(1)).await;
        refused(&answer, reason);
    }
    let foreign = signed(&signing.claims("alice"), "one", ED_TWO);
    refused(&sign_in(&signing.scene, &foreign, "laptop", &secret(1)).await, "bad_signature");
    // A token that counts by hand signs nobody in.
    let by_hand = signing.scene.server.token("alice");
    refused(&sign_in(&signing.scene, &by_hand, "laptop", &secret(1)).await, "unknown_key");
    for good in [with("exp", json!(NOW - 29)), with("aud", json!(["x", CLIENT]))] {
        let answer = sign_in(&signing.scene, &id_token(&good), "laptop", &secret(1)).await;
        answer.ok();
    }
    let token = id_token(&signing.claims("alice"));
    let request = |client: Option<&str>, next: &str| {
        let request = signing.scene.bearer(&token).request("POST", "/v1/vfs/auth/credential");
        let request = request.header("vfs-sync-next-secret", next);
        client.into_iter().fold(request, |request, id| request.header("vfs-sync-client", id))
    };
    let good = secret(2).proposal().header();
    send(request(None, &good)).await.refused_field("Vfs-Sync-Client");
    send(request(Some("a%3Ab"), &good)).await.refused_field("Vfs-Sync-Client");
    send(request(Some("laptop"), "x")).await.refused_field("Vfs-Sync-Next-Secret");
    let bob = request(Some("laptop"), &good).header("vfs-sync-user", "bob");
    send(bob).await.refused(403, "wrong_user");
}

#[tokio::test]
async fn a_secret_of_the_past_ends_the_sign_in_and_every_token_of_it() {
    let signing = Signing::new(|_| {}).await;
    let (scene, s0) = (&signing.scene, secret(1));
    let first = signing.token("alice", "laptop", &s0).await;
    let phone = signing.token("alice", "phone", &secret(9)).await;
    let other = signing.another().await;
    limits(&other, &first).await.ok();
    let (s1, s2) = (s0.next([2; 32]), s0.next([2; 32]).next([3; 32]));
    for _ in 0..3 {
        // As often as the answer is lost.
        renew(scene, "laptop", &s0, &s1).await.ok();
    }
    let last = access_token(&renew(scene, "laptop", &s1, &s2).await);
    let begun = Instant::now();
    refused(&renew(scene, "laptop", &s0, &s0.next([4; 32])).await, "credential_reused");
    for token in [&first, &last] {
        refused(&limits(scene, token).await, "credential_ended");
    }
    crate::scene::soon(async || limits(&other, &last).await.status == 401).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    refused(&renew(&other, "laptop", &s2, &s2.next([5; 32])).await, "credential_ended");
    limits(&other, &phone).await.ok();
    // Whoever signs in again is served at once, everywhere.
    let again = signing.token("alice", "laptop", &secret(3)).await;
    limits(&other, &again).await.ok();
    limits(scene, &again).await.ok();
    refused(&limits(&other, &last).await, "credential_ended");
}

#[tokio::test]
async fn a_revocation_and_a_sign_out_bind_every_process_within_five_seconds() {
    let signing = Signing::new(|_| {}).await;
    let (scene, s0) = (&signing.scene, secret(1));
    let other = signing.another().await;
    let token = signing.token("alice", "phone", &s0).await;
    let laptop = signing.token("alice", "laptop", &secret(2)).await;
    crate::scene::soon(async || {
        let devices = scene.bearer(&laptop).get("/v1/vfs/devices").await.ok();
        devices["devices"].as_array().unwrap().len() == 2
    })
    .await;
    for at in [scene, &other] {
        limits(at, &token).await.ok();
    }
    let begun = Instant::now();
    let revoked = scene.bearer(&laptop).delete("/v1/vfs/devices/phone").await;
    assert_eq!(revoked.status, 204);
    limits(scene, &token).await.refused(403, "device_revoked");
    crate::scene::soon(async || limits(&other, &token).await.status == 403).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    for at in [scene, &other] {
        renew(at, "phone", &s0, &s0.next([2; 32])).await.refused(403, "device_revoked");
    }
    signing.sign_in("alice", "phone", &secret(4)).await.refused(403, "device_revoked");

    limits(&other, &laptop).await.ok();
    let begun = Instant::now();
    for _ in 0..2 {
        let out = scene.bearer(&secret(2).text()).delete("/v1/vfs/auth/credential").await;
        assert_eq!(out.status, 204);
    }
    refused(&limits(scene, &laptop).await, "credential_ended");
    crate::scene::soon(async || limits(&other, &laptop).await.status == 401).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    let next = secret(2).next([2; 32]);
    refused(&renew(&other, "laptop", &secret(2), &next).await, "credential_ended");
}

#[tokio::test]
async fn where_devices_have_to_sign_in_a_token_by_hand_is_an_operators() {
    let signing = Signing::new(|sign_in| sign_in.requires_device_credentials = true).await;
    let scene = &signing.scene;
    for by_hand in [scene.user("alice"), scene.administrator("root")] {
        let answer = by_hand.get("/v1/vfs/limits").await;
        refused(&answer, "device_credential_required");
        assert!(answer.json()["error"].as_str().unwrap().contains("vfs-sync login"));
        let pushed = by_hand.push("laptop", vec![crate::scene::create("a", 1)]).await;
        refused(&pushed, "device_credential_required");
    }
    scene.administrator("root").get("/v1/vfs/admin/users").await.ok();
    scene.user("alice").get("/v1/vfs/admin/users").await.refused(403, "insufficient_scope");
    let token = signing.token("alice", "laptop", &secret(1)).await;
    limits(scene, &token).await.ok();
    assert_eq!(scene.nobody().get("/v1/vfs/auth").await.ok()["requiresDeviceCredentials"], true);
}

#[tokio::test]
async fn a_key_that_is_new_at_the_provider_counts_and_one_that_hangs_costs_its_callers_alone() {
    let signing = Signing::new(|_| {}).await;
    let token = signing.token("alice", "laptop", &secret(1)).await;
    let two = signed(&signing.claims("alice"), "two", ED_TWO);
    refused(&sign_in(&signing.scene, &two, "laptop", &secret(2)).await, "unknown_key");
    signing.issuer.publish(vec![jwk(ED_TWO, Algorithm::EdDSA, "two")]);
    sign_in(&signing.scene, &two, "phone", &secret(2)).await.ok();
    let old = id_token(&signing.claims("alice"));
    refused(&sign_in(&signing.scene, &old, "phone", &secret(3)).await, "unknown_key");

    // Neither a call nor a renewal needs the provider, and a server starts without it.
    signing.issuer.hang();
    let three = signed(&signing.claims("alice"), "three", ED_TWO);
    let first = secret(4);
    let waiting = sign_in(&signing.scene, &three, "laptop", &first);
    let served = async {
        let other = signing.another().await;
        for scene in [&signing.scene, &other] {
            limits(scene, &token).await.ok();
            renew(scene, "laptop", &secret(1), &secret(1).next([2; 32])).await.ok();
            limits(scene, &signing.scene.server.token("bob")).await.ok();
        }
    };
    tokio::select! {
        () = served => {}
        answer = waiting => panic!("the provider answered: {}", answer.status),
    }
}
