//! Signing in by the command line, at a real OpenID provider, through the server's processes.

mod browser;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vfs_sync_testkit::{Direction, Proxy};

use self::browser::{Browser, Decision, Provider};
use crate::support::{Scene, ServerProcess};

/// A scene whose server names a provider.
struct Signing {
    scene: Scene,
    provider: Provider,
}

impl Signing {
    fn new() -> Self {
        let provider = Provider::start();
        let mut scene = Scene::offline();
        scene.start_server_with("127.0.0.1:0", &environment(&provider.issuer));
        Self { scene, provider }
    }

    /// Begins `login` for the replica `name`; returns the running command and its document `code`.
    fn begin(
        &self,
        name: &str,
        server: &str,
    ) -> (Child, BufReader<std::process::ChildStdout>, Value) {
        let mut login = self.scene.command();
        login.args(["--replica", name, "--json", "login", "--server", server]);
        let mut child = login.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("{:?}", child.wait_with_output());
        }
        let code: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(code["event"], "code");
        (child, lines, code)
    }

    /// Signs the replica `name` in as `user`; returns the document `signedIn`.
    async fn sign_in(&self, name: &str, user: &str, server: &str) -> Value {
        let (mut child, mut lines, code) = self.begin(name, server);
        let page = code["verificationUriComplete"].as_str().unwrap();
        Browser::new().decide(page, user, Decision::Confirm).await;
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(child.wait().unwrap().success(), "{line}");
        serde_json::from_str(&line).unwrap()
    }

    fn credential(&self, name: &str) -> Value {
        serde_json::from_str(&self.scene.read(&format!("{name}/credential.json"))).unwrap()
    }

    /// Has the next command of the replica renew its token.
    fn expire(&self, name: &str) {
        let mut stored = self.credential(name);
        stored["renewAt"] = json!("2020-01-01T00:00:00.000Z");
        self.scene.write(&format!("{name}/credential.json"), stored.to_string());
    }

    /// Returns the number of the newest secret of a replica.
    fn generation(&self, name: &str) -> u64 {
        let stored = self.credential(name);
        stored["secrets"][0].as_str().unwrap().split('.').nth(2).unwrap().parse().unwrap()
    }
}

fn environment(issuer: &str) -> [(&'static str, &str); 3] {
    [
        ("VFS_SYNC_OIDC_ISSUER", issuer),
        ("VFS_SYNC_OIDC_CLIENT_ID", "vfs-sync"),
        ("VFS_SYNC_REQUIRE_DEVICE_CREDENTIALS", "true"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs oidc-provider"]
async fn a_device_signs_in_renews_is_revoked_and_signs_out() {
    let signing = Signing::new();
    let scene = &signing.scene;
    let (url, issuer) = (scene.url().to_owned(), &signing.provider.issuer);
    signing.provider.set("slow?1").await;
    let begun = Instant::now();
    let done = signing.sign_in("laptop", "alice", &url).await;
    assert!(begun.elapsed() > Duration::from_secs(6), "it was asked to slow down");
    assert_eq!((&done["event"], &done["user"]), (&json!("signedIn"), &json!("alice")));
    let file = scene.path("laptop/credential.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    scene.on("laptop", &["mkdir", "/a"]).expect(0);
    scene.on("laptop", &["sync"]).expect(0);
    assert_eq!(signing.generation("laptop"), 0);
    signing.expire("laptop");
    scene.on("laptop", &["sync"]).expect(0);
    assert_eq!(signing.generation("laptop"), 1);
    scene.on("laptop", &["doctor"]).expect(0);

    // A token by hand is an operator's.
    std::fs::write(scene.path("by-hand"), scene.token("alice")).unwrap();
    let init = ["init", "--server", &url, "--token-file", "by-hand"];
    scene.on("manual", &init).expect(0);
    scene.on("manual", &["sync"]).expect(4).says("vfs-sync login");
    let root = scene.run(["token", "--user", "root", "--scope", "vfs:admin"]).expect(0).stdout;
    let mut admin = scene.command();
    admin.env("VFS_SYNC_TOKEN", root.trim()).args(["admin", "users", "list", "--server", &url]);
    assert!(admin.output().unwrap().status.success());

    // After a change of keys, on another device, with another process of the server.
    signing.provider.set("rotate").await;
    let binary = || {
        let mut command = scene.command();
        command.env("RUST_LOG", "off").envs(environment(issuer));
        command
    };
    let second = ServerProcess::start(binary, "127.0.0.1:0", &scene.path("server"));
    signing.sign_in("phone", "alice", second.url()).await;
    scene.on("phone", &["sync"]).expect(0);
    scene.on("phone", &["ls"]).expect(0).says("a");
    let phone = signing.credential("phone")["clientId"].as_str().unwrap().to_owned();
    let listed = || scene.on("laptop", &["devices", "list"]).expect(0).stdout.contains(&phone);
    while !listed() {}
    scene.on("laptop", &["devices", "revoke", &phone, "--yes"]).expect(0);
    let begun = Instant::now();
    while scene.on("phone", &["sync"]).code == 0 {}
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    scene.on("phone", &["sync"]).expect(4).says("device_revoked");
    signing.expire("phone");
    scene.on("phone", &["devices", "list"]).expect(4).says("device_revoked");

    scene.on("laptop", &["logout"]).expect(0);
    assert!(!file.exists());
    scene.on("laptop", &["ls"]).expect(0).says("a");
    scene.on("laptop", &["sync"]).expect(4).says("vfs-sync login");
    scene.on("laptop", &["logout"]).expect(1).says("not signed in");
    // The same replica signs in again, as the same user only.
    let (child, _, code) = signing.begin("laptop", &url);
    let page = code["verificationUriComplete"].as_str().unwrap();
    Browser::new().decide(page, "bob", Decision::Confirm).await;
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    signing.sign_in("laptop", "alice", &url).await;
    scene.on("laptop", &["sync"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs oidc-provider"]
async fn a_code_that_is_denied_or_runs_out_signs_nobody_in() {
    let signing = Signing::new();
    let url = signing.scene.url().to_owned();
    let ends = |child: Child| {
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (child, _lines, code) = signing.begin("laptop", &url);
    let page = code["verificationUriComplete"].as_str().unwrap();
    Browser::new().decide(page, "alice", Decision::Deny).await;
    let (status, said) = ends(child);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("refused"), "{said}");

    signing.provider.set("lifetime?3").await;
    let (child, _lines, code) = signing.begin("laptop", &url);
    assert_eq!(code["expiresIn"], 3);
    let (status, said) = ends(child);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("expired"), "{said}");

    signing.provider.set("lifetime?60").await;
    let (child, _lines, _) = signing.begin("laptop", &url);
    crate::support::signal(&child, "INT");
    assert_eq!(ends(child).0, 130);
    assert!(!signing.scene.path("laptop").exists());

    let by_hand = Scene::with_server();
    let refused = by_hand.on("laptop", &["login", "--server", by_hand.url()]).expect(4);
    refused.says("--token-file");
}

/// Returns the number of the newest secret that the server knows.
fn known_to(scene: &Scene) -> u64 {
    let database = rusqlite::Connection::open(scene.path("server/metadata.sqlite3")).unwrap();
    let sql = "SELECT max(generation) FROM credentials";
    let found: i64 = database.query_row(sql, [], |row| row.get(0)).unwrap();
    found.unsigned_abs()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs oidc-provider"]
async fn a_kill_between_renewal_and_write_and_processes_at_once_lose_no_sign_in() {
    let signing = Signing::new();
    let scene = &signing.scene;
    let target = scene.url().trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::to(target).await;
    signing.sign_in("laptop", "alice", &proxy.url()).await;
    for round in 1..=3 {
        signing.expire("laptop");
        proxy.hold(Direction::Back);
        let mut command = scene.command();
        let command = command.args(["--replica", "laptop", "devices", "list"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while known_to(scene) < round {}
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(signing.generation("laptop"), round - 1, "the answer never came");
        proxy.heal();
        scene.on("laptop", &["devices", "list"]).expect(0);
        assert_eq!((signing.generation("laptop"), known_to(scene)), (round, round));
    }
    signing.expire("laptop");
    let children: Vec<Child> = (0..6)
        .map(|_| {
            let mut command = scene.command();
            let command = command.args(["--replica", "laptop", "devices", "list"]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!((signing.generation("laptop"), known_to(scene)), (4, 4), "one renewal for all");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs oidc-provider"]
async fn a_copied_sign_in_serves_no_other_replica_and_its_old_secret_ends_it() {
    let signing = Signing::new();
    let scene = &signing.scene;
    let url = scene.url().to_owned();
    signing.sign_in("laptop", "alice", &url).await;
    let old = scene.read("laptop/credential.json");
    let init = ["init", "--server", &url, "--user", "alice"];
    scene.on("other", &init).expect(0);
    scene.write("other/credential.json", &old);
    scene.on("other", &["sync"]).expect(4).says("the sign-in is of another device");

    for _ in 0..2 {
        signing.expire("laptop");
        scene.on("laptop", &["sync"]).expect(0);
    }
    let present = scene.read("laptop/credential.json");
    scene.write("laptop/credential.json", &old);
    signing.expire("laptop");
    scene.on("laptop", &["sync"]).expect(4).says("was used again").says("vfs-sync login");
    let doctor = scene.on("laptop", &["--json", "doctor"]).expect(1).json();
    let checks = doctor["checks"].as_array().unwrap();
    let expiry = checks.iter().find(|check| check["id"] == "token.expiry").unwrap();
    assert_eq!(expiry["outcome"], "problem", "{expiry}");
    assert_eq!(expiry["next"], "vfs-sync --replica 'laptop' login", "{expiry}");
    // The holder of the newest one has nothing either.
    scene.write("laptop/credential.json", &present);
    scene.on("laptop", &["sync"]).expect(4).says("vfs-sync login");
    signing.sign_in("laptop", "alice", &url).await;
    scene.on("laptop", &["sync"]).expect(0);
    scene.on("laptop", &["doctor"]).expect(0);
}
