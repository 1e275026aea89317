//! The operator's console without a browser: who gets in, what a session is good for, and what its calls
//! answer.

use std::time::Duration;

use serde_json::{Value, json};
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::{MemoryStore, TestServer};

use crate::blobs::{bring, stage, upload};
use crate::scene::{Answer, Caller, Scene, send, soon};

const SESSIONS: &str = "/v1/vfs/admin/sessions";
const CURRENT: &str = "/v1/vfs/admin/sessions/current";
const OVERVIEW: &str = "/v1/vfs/admin/overview";

async fn scene() -> Scene {
    Scene::of(TestServer::builder().admin()).await
}

/// A page of the console, as a browser sends its calls.
struct Page {
    caller: Caller,
    origin: String,
    cookie: Option<String>,
}

impl Page {
    fn of(scene: &Scene) -> Self {
        let origin = scene.server.admin_url().unwrap();
        Self { caller: scene.operator(None), origin, cookie: None }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.caller.request(method, path).header("vfs-sync-console", "1");
        let request = match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        };
        // Browsers name the origin where something may change.
        if method == "GET" { request } else { request.header("origin", &self.origin) }
    }

    async fn call(&self, method: &str, path: &str) -> Answer {
        send(self.request(method, path)).await
    }

    async fn sign_in(&mut self, token: &str) -> Answer {
        let answer = send(self.request("POST", SESSIONS).bearer_auth(token)).await;
        if answer.status == 201 {
            let cookie = answer.header("set-cookie").split(';').next().unwrap();
            self.cookie = Some(cookie.to_owned());
        }
        answer
    }
}

async fn signed_in(scene: &Scene) -> Page {
    let mut page = Page::of(scene);
    let token = scene.server.token_with_scope("root", "vfs:admin");
    assert_eq!(page.sign_in(&token).await.status, 201);
    page
}

#[tokio::test]
async fn the_listener_answers_the_page_and_nothing_more_without_a_token() {
    let scene = scene().await;
    let nobody = scene.operator(None);
    for (path, kind) in [
        ("/console/", "text/html; charset=utf-8"),
        ("/console/main.js", "text/javascript; charset=utf-8"),
        ("/console/views/overview.js", "text/javascript; charset=utf-8"),
        ("/console/style.css", "text/css; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let answer = nobody.request("GET", path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), kind);
        assert_eq!(
            header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(header(name), value, "{path}");
        }
    }
    for path in
        ["/", "/console/none", "/console/../openapi.json", "/console/views/", "/v1/vfs/limits"]
    {
        let answer = nobody.request("GET", path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    for path in [OVERVIEW, SESSIONS, CURRENT, "/v1/vfs/admin/problems", "/v1/vfs/admin/search?q=a"]
    {
        let refused = nobody.get(path).await;
        refused.refused(401, "unauthorized");
        assert_eq!(refused.header("cache-control"), "no-store");
        let alice = scene.operator(Some(&scene.server.token("alice")));
        alice.get(path).await.refused(403, "insufficient_scope");
    }
    // The public listener has none of it.
    let public = scene.bearer(&scene.server.token_with_scope("root", "vfs:admin"));
    for path in ["/console/", OVERVIEW, SESSIONS, CURRENT, "/metrics"] {
        public.get(path).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn a_page_at_a_name_that_is_not_the_servers_gets_nothing() {
    let config =
        ServerConfig { admin_hosts: vec!["ops.example.com".into()], ..ServerConfig::default() };
    let scene = Scene::of(TestServer::builder().config(config).admin()).await;
    let token = scene.server.token_with_scope("root", "vfs:admin");
    let page = signed_in(&scene).await;
    let nobody = scene.operator(None);
    let port = scene.server.admin_url().unwrap().rsplit_once(':').unwrap().1.to_owned();
    for (host, good) in [
        ("evil.example".to_owned(), false),
        (format!("127.0.0.1.evil.example:{port}"), false),
        ("root@127.0.0.1".to_owned(), false),
        (format!("localhost:{port}"), true),
        (format!("ops.example.com:{port}"), true),
        ("[::1]".to_owned(), true),
    ] {
        let files = nobody.request("GET", "/console/").header("host", &host);
        let status = if good { 200 } else { 403 };
        assert_eq!(files.send().await.unwrap().status(), status, "{host}");
        let begun = nobody
            .request("POST", SESSIONS)
            .bearer_auth(&token)
            .header("host", &host)
            .header("origin", format!("http://{host}"))
            .header("vfs-sync-console", "1");
        let begun = send(begun).await;
        if good {
            assert_eq!(begun.status, 201, "{host}");
        } else {
            begun.refused(403, "untrusted_host");
        }
    }
    // A page that has pointed a name of its own here sends the cookie of no other name; were it sent:
    let cookie = page.cookie.clone().unwrap().replace(&format!("_{port}="), "_0=");
    let rebound = nobody.request("GET", OVERVIEW).header("host", "evil.example");
    let rebound = rebound.header("cookie", cookie).header("vfs-sync-console", "1");
    send(rebound).await.refused(403, "untrusted_host");
}

#[tokio::test]
async fn a_session_is_good_for_its_own_page_and_for_operators_calls_alone() {
    let config = ServerConfig {
        cors_origins: vec!["https://app.example".into()],
        ..ServerConfig::default()
    };
    let scene = Scene::of(TestServer::builder().config(config).admin()).await;
    let page = signed_in(&scene).await;
    let cookie = page.cookie.clone().unwrap();
    page.call("GET", OVERVIEW).await.ok();
    let own = page.call("GET", CURRENT).await.ok();
    assert_eq!((&own["userId"], &own["current"]), (&json!("root"), &json!(true)));

    let bare =
        |method: &str, path: &str| page.caller.request(method, path).header("cookie", &cookie);
    send(bare("GET", OVERVIEW)).await.refused(403, "untrusted_origin");
    let marked = |method: &str, path: &str| bare(method, path).header("vfs-sync-console", "1");
    let disable = "/v1/vfs/admin/users/alice/disable";
    // Without an origin nothing is changed, and with another nothing is even read.
    send(marked("POST", disable)).await.refused(403, "untrusted_origin");
    for other in [
        "http://evil.example",
        "https://app.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
    ] {
        for (method, path) in [("GET", OVERVIEW), ("POST", disable), ("DELETE", CURRENT)] {
            let request = marked(method, path).header("origin", other);
            send(request).await.refused(403, "untrusted_origin");
        }
    }
    for site in ["cross-site", "same-site", "none"] {
        let request = marked("GET", OVERVIEW).header("sec-fetch-site", site);
        send(request).await.refused(403, "untrusted_origin");
    }
    send(marked("GET", OVERVIEW).header("sec-fetch-site", "same-origin")).await.ok();
    assert!(
        scene
            .server
            .store()
            .user_record(vfs_sync_core::id::UserId::new("alice").unwrap())
            .await
            .unwrap()
            .is_none(),
        "nobody disabled alice"
    );

    // Neither the public listener nor a bearer takes the cookie.
    let public = scene.nobody();
    for path in ["/v1/vfs/limits", "/v1/vfs/admin/users", "/v1/vfs/admin/devices"] {
        let request = public.request("GET", path).header("cookie", &cookie);
        send(request.header("vfs-sync-console", "1")).await.refused(401, "unauthorized");
    }
    let secret = cookie.split_once('=').unwrap().1;
    scene.operator(Some(secret)).get(OVERVIEW).await.refused(401, "unauthorized");
    // What is wrong in a cookie is no session.
    for bad in ["", "AAAA", &"A".repeat(43), &"x".repeat(5_000)] {
        let name = cookie.split_once('=').unwrap().0;
        let request = page.caller.request("GET", OVERVIEW).header("vfs-sync-console", "1");
        let answer = send(request.header("cookie", format!("{name}={bad}"))).await;
        answer.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_sign_in_needs_a_good_token_with_the_scope_and_its_own_page() {
    let scene = scene().await;
    let token = scene.server.token_with_scope("root", "vfs:admin");
    let mut page = Page::of(&scene);
    let refused = page.sign_in("a.b.c").await.refused(401, "unauthorized");
    assert_eq!(refused["reason"], "malformed");
    page.sign_in(&scene.server.token("alice")).await.refused(403, "insufficient_scope");
    let other = page.caller.request("POST", SESSIONS).bearer_auth(&token);
    send(other.header("vfs-sync-console", "1")).await.refused(403, "untrusted_origin");
    let other = page.caller.request("POST", SESSIONS).bearer_auth(&token);
    let other = other.header("origin", &page.origin);
    send(other).await.refused(403, "untrusted_origin");

    let answer = page.sign_in(&token).await;
    let cookie = answer.header("set-cookie").to_owned();
    let parts: Vec<&str> = cookie.split("; ").skip(1).collect();
    let expected = ["Path=/v1/vfs/admin", "Max-Age=3600", "HttpOnly", "SameSite=Strict"];
    assert_eq!(parts, expected);
    assert!(!cookie.contains(&token));

    // So many tries, and no more for a while.
    let mut tries = 0;
    let refused = loop {
        tries += 1;
        assert!(tries < 30, "tries are bounded");
        let answer = page.sign_in("a.b.c").await;
        if answer.status == 429 {
            break answer;
        }
    };
    assert_eq!(refused.refused(429, "too_many_requests")["rate"], "consoleSignIns");
    assert!(!refused.header("retry-after").is_empty());
    // Who is in stays in.
    page.call("GET", OVERVIEW).await.ok();
}

#[tokio::test]
async fn behind_a_proxy_that_encrypts_the_cookie_is_for_encrypted_connections() {
    let scene = scene().await;
    let mut page = Page::of(&scene);
    page.origin = page.origin.replace("http:", "https:");
    let answer = page.sign_in(&scene.server.token_with_scope("root", "vfs:admin")).await;
    assert!(answer.header("set-cookie").ends_with("; Secure"));
}

#[tokio::test]
async fn a_session_ends_after_an_hour_with_its_token_or_when_somebody_ends_it() {
    let scene = scene().await;
    let page = signed_in(&scene).await;
    let other = signed_in(&scene).await;
    let listed = page.call("GET", SESSIONS).await.ok()["sessions"].clone();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed.iter().filter(|one| one["current"] == true).count(), 1);
    assert!(listed.iter().all(|one| one["by"].as_str().unwrap().len() == 16));

    // Signing out ends it for everybody who has the cookie.
    let gone = other.call("DELETE", CURRENT).await;
    assert_eq!(gone.status, 204);
    assert!(gone.header("set-cookie").contains("Max-Age=0"));
    let refused = other.call("GET", OVERVIEW).await.refused(401, "unauthorized");
    assert_eq!(refused["reason"], "session_ended");

    let third = signed_in(&scene).await;
    let id = third.call("GET", CURRENT).await.ok()["sessionId"].as_str().unwrap().to_owned();
    let path = format!("{SESSIONS}/{id}");
    assert_eq!(page.call("DELETE", &path).await.status, 204);
    page.call("DELETE", &path).await.refused(404, "unknown_session");
    page.call("DELETE", &format!("{SESSIONS}/no-id")).await.refused(404, "unknown_session");
    third.call("GET", OVERVIEW).await.refused(401, "unauthorized");

    scene.server.clock().advance(Duration::from_secs(3_599));
    page.call("GET", OVERVIEW).await.ok();
    scene.server.clock().advance(Duration::from_secs(1));
    page.call("GET", OVERVIEW).await.refused(401, "unauthorized");

    // A disabled operator is one no longer.
    let page = signed_in(&scene).await;
    let root = vfs_sync_core::id::UserId::new("root").unwrap();
    let now = Timestamp::from_millis(0).unwrap();
    let disable = vfs_sync_store::UserChange::Disable;
    scene.server.store().change_user(root, disable, now).await.unwrap();
    soon(async || page.call("GET", OVERVIEW).await.status == 403).await;
    page.call("GET", OVERVIEW).await.refused(403, "user_disabled");
}

#[tokio::test]
async fn a_session_ends_with_a_token_of_less_than_an_hour() {
    use vfs_sync_server::auth::{AuthConfig, Secret};
    let auth = AuthConfig::with_secret(Secret::new([7; 32])).unwrap();
    let scene = Scene::of(TestServer::builder().auth(auth.clone()).admin()).await;
    let root = vfs_sync_core::id::UserId::new("root").unwrap();
    let now = scene.server.clock().now();
    let minute = Duration::from_secs(60);
    let token = auth.mint(&root, Some("vfs:admin"), minute, now).unwrap();
    let mut page = Page::of(&scene);
    let answer = page.sign_in(&token).await;
    let age = answer.header("set-cookie").split("Max-Age=").nth(1).unwrap().split(';').next();
    assert!(age.unwrap().parse::<u64>().unwrap() <= 120, "{age:?}");
    page.call("GET", OVERVIEW).await.ok();
    scene.server.clock().advance(Duration::from_secs(180));
    page.call("GET", OVERVIEW).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_session_of_one_process_counts_at_another_and_after_a_restart() {
    use std::sync::Arc;
    use vfs_sync_server::auth::{AuthConfig, Secret};
    let auth = AuthConfig::with_secret(Secret::new([7; 32])).unwrap();
    let store: Arc<dyn vfs_sync_store::MetadataStore> =
        Arc::new(MemoryStore::new(Timestamp::from_millis(0).unwrap()));
    let builder = || TestServer::builder().auth(auth.clone()).store(Arc::clone(&store)).admin();
    let mut here = Scene::of(builder()).await;
    let there = Scene::of(builder()).await;
    let page = signed_in(&here).await;
    let port =
        |scene: &Scene| scene.server.admin_url().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let mut same = Page::of(&there);
    // Behind one name and port, as a balancer has them.
    same.cookie = page.cookie.clone().map(|cookie| cookie.replace(&port(&here), &port(&there)));
    same.call("GET", OVERVIEW).await.ok();
    here.server.restart().await;
    page.call("GET", OVERVIEW).await.ok();
    assert_eq!(same.call("DELETE", CURRENT).await.status, 204);
    page.call("GET", OVERVIEW).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn what_the_database_keeps_of_a_session_is_no_token() {
    let scene = scene().await;
    let token = scene.server.token_with_scope("root", "vfs:admin");
    let page = signed_in(&scene).await;
    let kept = scene.server.store().sessions(10_u32).await.unwrap().remove(0);
    let part = &token.as_bytes()[..20];
    assert!(!kept.sealed.windows(part.len()).any(|window| window == part));
    assert!(!page.cookie.unwrap().contains(&kept.id));
}

async fn report(caller: &Caller, client: &str, signature: &str) {
    let body = json!({"clientId": client, "clientVersion": "1", "reports": [{
        "reportId": format!("{client}-{signature}").replace(':', "-"), "signature": signature,
        "stage": signature.split_once(':').map(|(stage, _)| stage),
        "code": signature, "occurredAt": "2026-01-01T00:00:00Z",
    }]});
    let request = caller.request("POST", "/v1/vfs/telemetry").header("vfs-sync-client", client);
    let stopped = format!("name=Phone&version=1&platform=x&queue=2&stopped={signature}");
    let answer = send(request.header("vfs-sync-device", stopped).json(&body)).await;
    assert_eq!(answer.status, 204);
}

#[tokio::test]
async fn problems_have_the_stopped_devices_with_their_entries_at_once() {
    let scene = scene().await;
    let page = signed_in(&scene).await;
    let before = page.call("GET", "/v1/vfs/admin/problems").await.ok();
    assert_eq!((&before["stopped"], &before["devices"]), (&json!(0), &json!([])));
    report(&scene.user("alice"), "phone", "pull:pullCursorRegression").await;
    let problems = async || page.call("GET", "/v1/vfs/admin/problems").await.ok();
    soon(async || problems().await["stopped"] == 1).await;
    let found = problems().await;
    let device = &found["devices"][0];
    assert_eq!(device["device"]["userId"], "alice");
    assert_eq!(device["device"]["stopped"], "pull:pullCursorRegression");
    assert_eq!(device["entry"]["key"], "pull:pullCursorRegression");
    assert_eq!(device["entry"]["runbook"]["anchor"], "1-sync-state-divergence");
    let report = &found["reports"][0];
    assert_eq!((&report["userId"], &report["name"]), (&json!("alice"), &json!("Phone")));
    assert_eq!(report["entry"]["key"], "pull:pullCursorRegression");
    // Of other days nothing is said.
    scene.server.clock().advance(Duration::from_secs(25 * 3_600));
    let page = signed_in(&scene).await;
    let later = async || page.call("GET", "/v1/vfs/admin/problems").await.ok();
    soon(async || later().await["reports"] == json!([])).await;
}

#[tokio::test]
async fn a_search_finds_by_id_pseudonym_name_of_a_device_and_signature_but_no_names_of_items() {
    let scene = scene().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    bring(&alice, &item, "blob-1", b"bytes").await;
    stage(&alice, "open-1", "blob-2").await.ok();
    report(&alice, "phone", "pull:pullCursorRegression").await;
    let admin = scene.operator(Some(&scene.server.token_with_scope("root", "vfs:admin")));
    let search = async |text: &str| admin.get(&format!("/v1/vfs/admin/search?q={text}")).await.ok();
    let found = search("alice").await;
    let pseudonym = found["user"]["pseudonym"].as_str().unwrap().to_owned();
    assert_eq!(found["user"]["userId"], "alice");
    assert_eq!(search(&pseudonym).await["user"]["userId"], "alice");
    for device in ["phone", "Pho"] {
        assert_eq!(search(device).await["devices"][0]["clientId"], "phone", "{device}");
    }
    assert_eq!(search(&item).await["item"], json!({"itemId": item, "owner": "alice"}));
    assert_eq!(search("blob-1").await["blob"]["owner"], "alice");
    assert_eq!(search("open-1").await["stage"]["owner"], "alice");
    assert_eq!(search("user_disabled").await["entries"][0]["key"], "user_disabled");
    let by_name = search(&format!("{item}.txt")).await;
    assert_eq!(by_name["item"], Value::Null);
    for bad in ["", "%20", &"x".repeat(257)] {
        let answer = admin.get(&format!("/v1/vfs/admin/search?q={bad}")).await;
        answer.refused_field("q");
    }

    let shown = admin.get(&format!("/v1/vfs/admin/items/{item}")).await.ok();
    assert_eq!(
        (&shown["owner"], &shown["attachments"][0]["blobId"]),
        (&json!("alice"), &json!("blob-1"))
    );
    assert!(!shown.to_string().contains(".txt"), "{shown}");
    let name = admin.get(&format!("/v1/vfs/admin/items/{item}/name")).await.ok();
    assert_eq!(name["name"], format!("{item}.txt"));
    for path in ["/v1/vfs/admin/items/none", "/v1/vfs/admin/items/none/name"] {
        admin.get(path).await.refused(404, "unknown_item");
        scene
            .operator(Some(&scene.server.token("alice")))
            .get(path)
            .await
            .refused(403, "insufficient_scope");
    }
}

#[tokio::test]
async fn stages_are_listed_and_ended_and_tasks_run() {
    let scene = scene().await;
    let alice = scene.user("alice");
    for n in 0..3 {
        stage(&alice, &format!("s{n}"), &format!("b{n}")).await.ok();
    }
    upload(&alice, "s0", b"bytes").await.ok();
    let admin = scene.operator(Some(&scene.server.token_with_scope("root", "vfs:admin")));
    let listed = admin.get("/v1/vfs/admin/stages?limit=2").await.ok();
    assert_eq!(listed["stages"].as_array().unwrap().len(), 2);
    assert_eq!(listed["hasMore"], true);
    admin.get("/v1/vfs/admin/stages?limit=101").await.refused_field("limit");
    let path = "/v1/vfs/admin/stages/s0/abandon";
    assert_eq!(admin.post(path, json!(null)).await.status, 204);
    assert_eq!(admin.post(path, json!(null)).await.status, 204, "a repetition");
    admin
        .post("/v1/vfs/admin/stages/none/abandon", json!(null))
        .await
        .refused(404, "unknown_stage");
    let listed = admin.get("/v1/vfs/admin/stages").await.ok();
    assert_eq!(listed["stages"].as_array().unwrap().len(), 2);
    assert_eq!(scene.objects().await, [""; 0]);

    scene.server.clock().advance(Duration::from_secs(2 * 24 * 3_600));
    assert_eq!(admin.post("/v1/vfs/admin/tasks/sweep/run", json!(null)).await.status, 204);
    soon(async || admin.get("/v1/vfs/admin/stages").await.ok()["stages"] == json!([])).await;
    assert_eq!(admin.post("/v1/vfs/admin/tasks/prune/run", json!(null)).await.status, 204);
    admin.post("/v1/vfs/admin/tasks/format/run", json!(null)).await.refused_field("task");
}

#[tokio::test]
async fn a_user_is_examined_page_by_page() {
    let scene = scene().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    alice.pull_all().await;
    let admin = scene.operator(Some(&scene.server.token_with_scope("root", "vfs:admin")));
    let path = "/v1/vfs/admin/users/alice/examination";
    for part in ["owned", "read", "granted", "feed", "states"] {
        let found = admin.get(&format!("{path}?part={part}")).await.ok();
        assert_eq!(found["findings"], json!([]), "{part}");
    }
    assert_eq!(admin.get(&format!("{path}?part=owned")).await.ok()["examined"], 1);
    let later = admin.get(&format!("{path}?part=owned&after={item}")).await.ok();
    assert_eq!((&later["examined"], &later["next"]), (&json!(0), &json!(null)));
    admin.get(&format!("{path}?part=all")).await.refused_field("part");
    admin.get(&format!("{path}?part=feed&after=x")).await.refused_field("after");
    admin.get(&format!("{path}?part=owned&after={}", "x".repeat(129))).await.refused_field("after");
    alice.get(&format!("{path}?part=owned")).await.refused(404, "not_found");
    scene
        .operator(Some(&scene.server.token("alice")))
        .get(&format!("{path}?part=owned"))
        .await
        .refused(403, "insufficient_scope");
}

#[tokio::test]
async fn the_overview_counts_requests_of_clients() {
    let scene = scene().await;
    let admin = scene.operator(Some(&scene.server.token_with_scope("root", "vfs:admin")));
    let before = admin.get(OVERVIEW).await.ok();
    scene.user("alice").file(1).await;
    let after = admin.get(OVERVIEW).await.ok();
    let requests = |of: &Value| of["vitals"]["requests"].as_u64().unwrap();
    assert!(requests(&after) > requests(&before));
    assert_eq!(after["limits"]["maxOpenStages"], 10_000);
    let facts = admin.get("/v1/vfs/admin/database").await.ok();
    assert!(facts["product"].as_str().unwrap().starts_with("SQLite"), "{facts}");
    assert_eq!(facts["waiting"].as_array().unwrap().len(), 8);
}
