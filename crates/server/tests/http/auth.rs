//! Tokens that count, and tokens that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::sync::watch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::auth::{AuthConfig, Authenticator, KeySource, Secret};
use vfs_sync_testkit::TestServer;

use crate::scene::{Answer, Scene};

const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";

pub(crate) const ED_ONE: &[u8] = include_bytes!("../keys/ed-one.pem");
pub(crate) const ED_TWO: &[u8] = include_bytes!("../keys/ed-two.pem");
const P256: &[u8] = include_bytes!("../keys/p256.pem");
const RSA: &[u8] = include_bytes!("../keys/rsa.pem");

/// 2030-01-01, where the scene's clock stands.
pub(crate) const NOW: i64 = 1_893_456_000;

pub(crate) async fn scene(change: impl FnOnce(&mut AuthConfig)) -> Scene {
    let mut config = AuthConfig::with_secret(Secret::new(SECRET)).unwrap();
    change(&mut config);
    let scene = Scene::of(TestServer::builder().auth(config)).await;
    scene.server.clock().freeze(Timestamp::from_millis(NOW * 1_000).unwrap());
    scene
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": NOW + 60})
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET);
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, &claims(), key).unwrap()
}

pub(crate) async fn limits(scene: &Scene, token: &str) -> Answer {
    scene.bearer(token).get("/v1/vfs/limits").await
}

pub(crate) fn refused(answer: &Answer, reason: &str) {
    let body = answer.refused(401, "unauthorized");
    assert_eq!(body["reason"], reason, "{body}");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn a_token_is_needed_and_must_be_one() {
    let scene = scene(|_| {}).await;
    limits(&scene, &hs256(&claims())).await.ok();
    refused(&scene.nobody().get("/v1/vfs/limits").await, "missing");
    for (header, reason) in [
        ("Basic YTpi", "missing"),
        ("Bearer", "malformed"),
        ("Bearer x", "malformed"),
        ("Bearer a.b.c", "malformed"),
        (&*format!("Bearer {}", "x".repeat(10_000)), "malformed"),
    ] {
        let request = scene.nobody().request("GET", "/v1/vfs/limits");
        refused(&crate::scene::send(request.header("authorization", header)).await, reason);
    }
    let lower = format!("bearer {}", hs256(&claims()));
    let request = scene.nobody().request("GET", "/v1/vfs/limits").header("authorization", lower);
    crate::scene::send(request).await.ok();
}

#[tokio::test]
async fn times_are_checked_by_the_servers_clock() {
    let scene = scene(|_| {}).await;
    for (claims, reason) in [
        (json!({"sub": "alice"}), "no_expiry"),
        (with("exp", json!(NOW - 31)), "expired"),
        (with("exp", json!(0)), "expired"),
        (with("exp", json!("soon")), "malformed"),
        (with("nbf", json!(NOW + 31)), "not_yet_valid"),
    ] {
        refused(&limits(&scene, &hs256(&claims)).await, reason);
    }
    for good in [
        with("exp", json!(NOW - 29)),
        with("nbf", json!(NOW + 29)),
        with("exp", json!(NOW as f64 + 0.5)),
    ] {
        limits(&scene, &hs256(&good)).await.ok();
    }
    let token = hs256(&claims());
    scene.server.clock().advance(Duration::from_secs(91));
    refused(&limits(&scene, &token).await, "expired");
}

#[tokio::test]
async fn the_subject_is_a_user_id() {
    let scene = scene(|_| {}).await;
    for bad in [json!(null), json!(""), json!(" a"), json!("a\u{0}"), json!("x".repeat(129))] {
        refused(&limits(&scene, &hs256(&with("sub", bad))).await, "bad_subject");
    }
    refused(&limits(&scene, &hs256(&with("sub", json!(7)))).await, "malformed");
}

#[tokio::test]
async fn issuer_and_audience_count_where_they_are_configured() {
    let open = scene(|_| {}).await;
    limits(&open, &hs256(&with("aud", json!("anybody")))).await.ok();
    limits(&open, &hs256(&with("iss", json!("anybody")))).await.ok();

    let strict = scene(|config| {
        config.issuer = Some("https://id.example".into());
        config.audience = Some("vfs".into());
    })
    .await;
    let claims = |iss: Value, aud: Value| {
        hs256(&json!({"sub": "a", "exp": NOW + 60, "iss": iss, "aud": aud}))
    };
    let issuer = json!("https://id.example");
    for audience in [json!("vfs"), json!(["other", "vfs"])] {
        limits(&strict, &claims(issuer.clone(), audience)).await.ok();
    }
    for audience in [json!(null), json!("other"), json!([]), json!(["vfs2"])] {
        refused(&limits(&strict, &claims(issuer.clone(), audience)).await, "wrong_audience");
    }
    for other in [json!(null), json!("https://id.example/")] {
        refused(&limits(&strict, &claims(other, json!("vfs"))).await, "wrong_issuer");
    }
    limits(&strict, &strict.server.token("alice")).await.ok();
}

#[tokio::test]
async fn a_signature_must_be_of_the_key_that_is_configured() {
    let scene = scene(|_| {}).await;
    let other = EncodingKey::from_secret(b"another secret of thirty-two bytes!!");
    let forged = jsonwebtoken::encode(&Header::default(), &claims(), &other).unwrap();
    refused(&limits(&scene, &forged).await, "bad_signature");
    let good = hs256(&claims());
    let (head, _) = good.rsplit_once('.').unwrap();
    refused(&limits(&scene, &format!("{head}.")).await, "bad_signature");
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(algorithm, None, &EncodingKey::from_secret(SECRET));
        refused(&limits(&scene, &token).await, "unknown_key");
    }
    // {"alg":"none","typ":"JWT"}, in several spellings: no algorithm at all.
    let (_, body) = head.split_once('.').unwrap();
    for none in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOb25lIn0"] {
        refused(&limits(&scene, &format!("{none}.{body}.")).await, "malformed");
    }
}

#[tokio::test]
async fn a_public_key_verifies_its_own_algorithm_alone() {
    let keys = [
        ("ed-one", Algorithm::EdDSA, EncodingKey::from_ed_pem(ED_ONE).unwrap()),
        ("p256", Algorithm::ES256, EncodingKey::from_ec_pem(P256).unwrap()),
        ("rsa", Algorithm::RS256, EncodingKey::from_rsa_pem(RSA).unwrap()),
    ];
    for (name, algorithm, key) in &keys {
        let path = format!("{}/tests/keys/{name}.pub.pem", env!("CARGO_MANIFEST_DIR"));
        let scene =
            scene(|config| config.keys = KeySource::PublicKeyFile(path.clone().into())).await;
        limits(&scene, &signed(*algorithm, None, key)).await.ok();
        limits(&scene, &signed(*algorithm, Some("any"), key)).await.ok();
        // The public key as an HMAC secret: the classic confusion.
        let public = EncodingKey::from_secret(&std::fs::read(&path).unwrap());
        refused(&limits(&scene, &signed(Algorithm::HS256, None, &public)).await, "unknown_key");
        for (other, other_algorithm, other_key) in &keys {
            if other != name {
                let token = signed(*other_algorithm, None, other_key);
                refused(&limits(&scene, &token).await, "unknown_key");
            }
        }
    }
    let rsa = &keys[2].2;
    let path = format!("{}/tests/keys/rsa.pub.pem", env!("CARGO_MANIFEST_DIR"));
    let scene = scene(|config| config.keys = KeySource::PublicKeyFile(path.into())).await;
    for other in [Algorithm::RS512, Algorithm::PS256] {
        refused(&limits(&scene, &signed(other, None, rsa)).await, "unknown_key");
    }
}

pub(crate) fn jwk(pem: &[u8], algorithm: Algorithm, kid: &str) -> Value {
    let key = match algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
        _ => EncodingKey::from_rsa_pem(pem),
    };
    let mut jwk = Jwk::from_encoding_key(&key.unwrap(), algorithm).unwrap();
    jwk.common.key_id = Some(kid.into());
    serde_json::to_value(jwk).unwrap()
}

/// A key set behind a URL that a test changes.
pub(crate) struct Issuer {
    pub(crate) url: String,
    document: watch::Sender<Option<Value>>,
    asked: Arc<AtomicUsize>,
    hangs: watch::Sender<bool>,
}

impl Issuer {
    pub(crate) async fn new(keys: Vec<Value>) -> Self {
        let (document, current) = watch::channel(Some(json!({"keys": keys})));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let (hangs, hanging) = watch::channel(false);
        let answer = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let (document, mut hanging) = (current.borrow().clone(), hanging.clone());
            async move {
                let _ = hanging.wait_for(|hangs| !hangs).await;
                document.map(axum::Json).ok_or(http::StatusCode::BAD_GATEWAY)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let url = format!("{base}/jwks");
        let configuration = json!({"issuer": base, "jwks_uri": url});
        let configuration = move || async move { axum::Json(configuration) };
        let router = axum::Router::new()
            .route("/jwks", axum::routing::get(answer))
            .route("/.well-known/openid-configuration", axum::routing::get(configuration));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, document, asked, hangs }
    }

    pub(crate) fn publish(&self, keys: Vec<Value>) {
        self.document.send_replace(Some(json!({"keys": keys})));
    }

    /// Lets the issuer accept requests and answer none.
    pub(crate) fn hang(&self) {
        self.hangs.send_replace(true);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_key_that_is_new_at_the_issuer_counts_at_once() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    let scene = scene(|config| {
        config.keys = KeySource::JwksUrl(issuer.url.clone());
        config.jwks_min_refresh = Duration::ZERO;
    })
    .await;
    let one = signed(Algorithm::EdDSA, Some("one"), &EncodingKey::from_ed_pem(ED_ONE).unwrap());
    let two = signed(Algorithm::EdDSA, Some("two"), &EncodingKey::from_ed_pem(ED_TWO).unwrap());
    for _ in 0..3 {
        limits(&scene, &one).await.ok();
    }
    assert_eq!(issuer.asked(), 1, "a key set that has the key is not fetched again");
    refused(&limits(&scene, &two).await, "unknown_key");
    issuer
        .publish(vec![jwk(ED_TWO, Algorithm::EdDSA, "two"), jwk(P256, Algorithm::ES256, "three")]);
    limits(&scene, &two).await.ok();
    refused(&limits(&scene, &one).await, "unknown_key");
    let three = EncodingKey::from_ec_pem(P256).unwrap();
    limits(&scene, &signed(Algorithm::ES256, Some("three"), &three)).await.ok();
    limits(&scene, &signed(Algorithm::ES256, None, &three)).await.ok();
    refused(&limits(&scene, &signed(Algorithm::ES256, Some("two"), &three)).await, "unknown_key");
}

#[tokio::test]
async fn made_up_key_ids_do_not_hammer_the_issuer() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    let scene = scene(|config| config.keys = KeySource::JwksUrl(issuer.url.clone())).await;
    let key = EncodingKey::from_ed_pem(ED_TWO).unwrap();
    for at in 0..10 {
        let token = signed(Algorithm::EdDSA, Some(&format!("made-up-{at}")), &key);
        refused(&limits(&scene, &token).await, "unknown_key");
    }
    assert!(issuer.asked() <= 2, "{}", issuer.asked());
}

#[tokio::test]
async fn the_last_good_keys_stay_while_the_issuer_is_down() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    let scene = scene(|config| {
        config.keys = KeySource::JwksUrl(issuer.url.clone());
        config.jwks_min_refresh = Duration::ZERO;
        config.jwks_max_age = Duration::ZERO;
    })
    .await;
    let one = signed(Algorithm::EdDSA, Some("one"), &EncodingKey::from_ed_pem(ED_ONE).unwrap());
    for broken in [None, Some(json!({"keys": []})), Some(json!("no key set"))] {
        issuer.document.send_replace(broken);
        for _ in 0..3 {
            limits(&scene, &one).await.ok();
        }
    }
}

#[tokio::test]
async fn without_any_key_set_nobody_is_told_to_sign_in_again() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    issuer.document.send_replace(None);
    let scene = scene(|config| {
        config.keys = KeySource::JwksUrl(issuer.url.clone());
        config.jwks_min_refresh = Duration::ZERO;
    })
    .await;
    let one = signed(Algorithm::EdDSA, Some("one"), &EncodingKey::from_ed_pem(ED_ONE).unwrap());
    let answer = limits(&scene, &one).await;
    answer.refused(503, "keys_unavailable");
    assert_eq!(answer.header("retry-after"), "5");
    issuer.publish(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]);
    limits(&scene, &one).await.ok();
}

#[tokio::test]
async fn a_new_key_s_token_is_not_refused_for_good_while_the_issuer_is_down() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    let scene = scene(|config| {
        config.keys = KeySource::JwksUrl(issuer.url.clone());
        config.jwks_min_refresh = Duration::ZERO;
    })
    .await;
    let one = signed(Algorithm::EdDSA, Some("one"), &EncodingKey::from_ed_pem(ED_ONE).unwrap());
    let two = signed(Algorithm::EdDSA, Some("two"), &EncodingKey::from_ed_pem(ED_TWO).unwrap());
    for broken in [None, Some(json!({"keys": []}))] {
        issuer.document.send_replace(broken);
        let answer = limits(&scene, &two).await;
        answer.refused(503, "keys_unavailable");
        assert_eq!(answer.header("retry-after"), "5");
        limits(&scene, &one).await.ok();
    }
    let asked = issuer.asked();
    let symmetric = signed(Algorithm::HS256, Some("two"), &EncodingKey::from_secret(&[7; 32]));
    refused(&limits(&scene, &symmetric).await, "unknown_key");
    assert_eq!(issuer.asked(), asked, "no key set has a symmetric key");
    issuer.publish(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]);
    refused(&limits(&scene, &two).await, "unknown_key");
    issuer.publish(vec![jwk(ED_TWO, Algorithm::EdDSA, "two")]);
    limits(&scene, &two).await.ok();
}

#[tokio::test]
async fn made_up_key_ids_do_not_hammer_an_issuer_that_is_down() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    let scene = scene(|config| config.keys = KeySource::JwksUrl(issuer.url.clone())).await;
    issuer.document.send_replace(None);
    let asked = issuer.asked();
    let key = EncodingKey::from_ed_pem(ED_TWO).unwrap();
    for at in 0..10 {
        let token = signed(Algorithm::EdDSA, Some(&format!("made-up-{at}")), &key);
        limits(&scene, &token).await.refused(503, "keys_unavailable");
    }
    assert_eq!(issuer.asked(), asked + 1);
}

/// A provider that accepts and never answers costs those who name a key that nobody knows yet: some
/// of them wait, for a bounded time, the others hear at once that they may try later.
#[tokio::test]
async fn an_issuer_that_never_answers_holds_up_nobody_whose_key_is_known() {
    let issuer = Issuer::new(vec![jwk(ED_ONE, Algorithm::EdDSA, "one")]).await;
    let scene = scene(|config| {
        config.keys = KeySource::JwksUrl(issuer.url.clone());
        config.jwks_min_refresh = Duration::ZERO;
        config.jwks_max_age = Duration::ZERO;
        config.jwks_timeout = Duration::from_secs(3);
    })
    .await;
    let one = signed(Algorithm::EdDSA, Some("one"), &EncodingKey::from_ed_pem(ED_ONE).unwrap());
    limits(&scene, &one).await.ok();
    issuer.hang();
    let two = &EncodingKey::from_ed_pem(ED_TWO).unwrap();
    let begun = Instant::now();
    let unknown = futures::future::join_all((0..300).map(async |at| {
        let token = signed(Algorithm::EdDSA, Some(&format!("made-up-{at}")), two);
        let answer = limits(&scene, &token).await;
        (answer.status, begun.elapsed())
    }));
    let known = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let asked = Instant::now();
            limits(&scene, &one).await.ok();
            slowest = slowest.max(asked.elapsed());
        }
        (slowest, begun.elapsed())
    };
    let (unknown, (slowest, done)) = tokio::join!(unknown, known);
    assert!(slowest < Duration::from_secs(1) && done < Duration::from_secs(3), "{slowest:?}");
    let waited = unknown.iter().filter(|(_, after)| after.as_secs() >= 2).count();
    assert!((1..=64).contains(&waited), "{waited} waited");
    assert!(unknown.iter().all(|(status, _)| *status == 503));
    let longest = unknown.iter().map(|(_, after)| *after).max().unwrap();
    assert!((2..8).contains(&longest.as_secs()), "{longest:?}");
}

#[tokio::test]
async fn keys_that_cannot_be_trusted_are_left_out_of_a_set() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let load = |keys: Vec<Value>| {
        std::fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
        let config = AuthConfig::new(KeySource::JwksFile(path.clone()));
        async move { Authenticator::load(&config).await.map(drop).map_err(|error| error.to_string()) }
    };
    load(vec![jwk(RSA, Algorithm::RS256, "good")]).await.unwrap();
    let mut encryption = jwk(RSA, Algorithm::RS256, "enc");
    encryption["use"] = json!("enc");
    let mut confused = jwk(RSA, Algorithm::RS256, "confused");
    confused["alg"] = json!("ES256");
    let symmetric = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "AAAA"});
    let mut short = jwk(RSA, Algorithm::RS256, "short");
    short["n"] = json!(&short["n"].as_str().unwrap()[..171]);
    for bad in [encryption, confused, symmetric, short, json!({"kty": "??"}), json!(7)] {
        let error = load(vec![bad.clone()]).await.unwrap_err();
        assert!(error.starts_with("VFS_SYNC_JWKS_FILE: cannot read"), "{bad}: {error}");
        load(vec![bad, jwk(ED_ONE, Algorithm::EdDSA, "good")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_file_that_cannot_be_trusted_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let short: &[u8] = include_bytes!("../keys/rsa-1024.pub.pem");
    let other_curve: &[u8] = include_bytes!("../keys/p384.pub.pem");
    for bytes in [b"no key", short, other_curve, b""] {
        std::fs::write(&path, bytes).unwrap();
        for source in [KeySource::PublicKeyFile(path.clone()), KeySource::JwksFile(path.clone())] {
            let error = Authenticator::load(&AuthConfig::new(source)).await.unwrap_err();
            assert!(error.to_string().contains("key.pem"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_request_is_served_for_the_user_that_it_is_meant_for_and_for_no_other() {
    let scene = scene(|_| {}).await;
    let token = hs256(&with("sub", json!("d\u{e5}ve")));
    let ask = async |method: &str, path: &str, user: Option<&str>| {
        let request =
            scene.nobody().request(method, path).header("authorization", format!("Bearer {token}"));
        let request = match user {
            Some(user) => request.header("vfs-sync-user", user),
            None => request,
        };
        crate::scene::send(request).await
    };
    // Clients of earlier versions say nothing; every answer names whose the token is.
    for user in [None, Some("d%C3%A5ve"), Some("d%c3%a5ve")] {
        let answer = ask("GET", "/v1/vfs/limits", user).await;
        assert_eq!(answer.header("vfs-sync-user"), "d%C3%A5ve");
        answer.ok();
    }
    for (method, path) in [
        ("POST", "/v1/vfs/crdt/push"),
        ("GET", "/v1/vfs/crdt/vfs-sync"),
        ("POST", "/v1/vfs/crdt/reconcile"),
        ("GET", "/v1/vfs/crdt/state"),
        ("POST", "/v1/vfs/blobs/stage"),
        ("PUT", "/v1/vfs/blobs/stage/s/data"),
        ("POST", "/v1/vfs/blobs/batch"),
        ("POST", "/v1/vfs/blobs/batch/read"),
        ("GET", "/v1/vfs/blobs/b"),
        ("GET", "/v1/vfs/items/i/versions"),
        ("GET", "/v1/vfs/groups"),
    ] {
        let answer = ask(method, path, Some("carol")).await;
        assert_eq!(answer.header("vfs-sync-user"), "d%C3%A5ve", "{path}");
        let answer = answer.refused(403, "wrong_user");
        assert_eq!(
            (&answer["expected"], &answer["actual"]),
            (&json!("carol"), &json!("d\u{e5}ve"))
        );
    }
    for odd in ["", "%", "%zz", "%ff", " ", &"x".repeat(200)] {
        let answer = ask("GET", "/v1/vfs/limits", Some(odd)).await;
        assert_eq!(answer.refused(400, "invalid_request")["field"], "Vfs-Sync-User", "{odd:?}");
    }
    let twice = scene.nobody().request("GET", "/v1/vfs/limits");
    let twice = twice.header("authorization", format!("Bearer {token}"));
    let twice = twice.header("vfs-sync-user", "carol").header("vfs-sync-user", "d%C3%A5ve");
    crate::scene::send(twice).await.refused(400, "invalid_request");
}
