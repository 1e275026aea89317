//! `doctor --retry` and `doctor --fix`: what they do, and what they leave alone.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::fake::Fake;
use super::{bytes_of, check, ids};
use crate::support::Scene;

fn with_new_folder(scene: &Scene) {
    scene.on("one", &["mkdir", "/new"]).expect(0);
}

fn report(scene: &Scene, args: &[&str]) -> Value {
    scene.on("one", &[&["--json", "doctor"], args].concat()).json()
}

fn export(scene: &Scene) -> String {
    scene.on("one", &["state", "export"]).expect(0).stdout
}

/// A server whose pushes fail with this status and code.
fn refusing(scene: &Scene, status: u16, code: &'static str) -> Fake {
    Fake::before(scene.url(), move |head, reply| {
        if head.starts_with("POST /v1/vfs/crdt/push") {
            reply.head = format!("HTTP/1.1 {status} Error\r\nContent-Type: application/json");
            reply.body =
                serde_json::json!({ "error": "no", "code": code }).to_string().into_bytes();
        }
    })
}

fn point_to(scene: &Scene, url: &str) {
    let path = scene.path("one/settings.json");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    settings["server"] = url.into();
    std::fs::write(path, settings.to_string()).unwrap();
}

#[test]
fn a_retry_that_fails_leaves_the_exported_state_as_it_was() {
    let scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["sync"]).expect(0);
    with_new_folder(&scene);
    let before = export(&scene);
    let fake = refusing(&scene, 503, "overloaded");
    let real = scene.url().to_owned();
    point_to(&scene, fake.url());
    let found = report(&scene, &["--retry"]);
    let retry = check(&found, "retry");
    assert_eq!(retry["evidence"]["verdict"], "failedClosed", "{retry:#}");
    assert_eq!(retry["evidence"]["identical"], true);
    assert_eq!(scene.read("one/retry/before.json"), scene.read("one/retry/after.json"));
    assert_eq!(export(&scene), before);
    let mode = scene.path("one/retry/before.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    point_to(&scene, &real);
    let found = report(&scene, &["--retry"]);
    assert_eq!(check(&found, "retry")["evidence"]["verdict"], "succeeded", "{found:#}");
    assert_eq!(ids(&found, "problem"), [""; 0], "{found:#}");
    assert_ne!(scene.read("one/retry/before.json"), scene.read("one/retry/after.json"));
}

#[test]
fn a_retry_neither_renumbers_nor_rebuilds() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    with_new_folder(&scene);
    scene.on("one", &["sync"]).expect(0);
    // Another installation with the same client id has used the next write ids.
    let copied = std::process::Command::new("cp")
        .args(["-a", "one", "copy"])
        .current_dir(scene.dir.path())
        .status();
    assert!(copied.unwrap().success());
    scene.on("copy", &["mkdir", "/by the copy"]).expect(0);
    scene.on("copy", &["sync"]).expect(0);
    scene.on("one", &["mkdir", "/by one"]).expect(0);
    let before = export(&scene);
    let found = report(&scene, &["--retry"]);
    let retry = check(&found, "retry");
    assert_eq!(retry["evidence"]["verdict"], "failedClosed", "{retry:#}");
    assert_eq!(export(&scene), before);
    assert_eq!(check(&found, "sync.stopped")["outcome"], "ok", "an ordinary sync renumbers");
    scene.on("one", &["sync"]).expect(0);
    // A server with another history.
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.terminate_server();
    std::fs::remove_dir_all(scene.path("server")).unwrap();
    scene.start_server(&address);
    let before = export(&scene);
    let found = report(&scene, &["--retry"]);
    assert_eq!(check(&found, "retry")["evidence"]["verdict"], "failedClosed", "{found:#}");
    assert_eq!(export(&scene), before, "nothing is rebuilt");
}

#[test]
fn a_fix_sends_what_waits_and_clears_a_stop() {
    let scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["sync"]).expect(0);
    with_new_folder(&scene);
    let fake = refusing(&scene, 418, "teapot");
    let real = scene.url().to_owned();
    point_to(&scene, fake.url());
    scene.on("one", &["sync"]).expect(1);
    point_to(&scene, &real);
    let found = report(&scene, &[]);
    assert_eq!(check(&found, "sync.stopped")["outcome"], "problem", "{found:#}");
    let fixed = report(&scene, &["--fix"]);
    assert_eq!(fixed["actions"][0]["action"], "sync", "{fixed:#}");
    assert_eq!(fixed["actions"][0]["done"], true);
    assert_eq!(ids(&fixed, "problem"), [""; 0], "{fixed:#}");
    scene.on("one", &["queue"]).expect(0).says("the queue is empty");
    let again = report(&scene, &["--fix"]);
    assert_eq!(again["actions"], serde_json::json!([]), "nothing is left to do");
}

#[test]
fn a_fix_writes_lost_settings_again() {
    let scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["sync"]).expect(0);
    std::fs::remove_file(scene.path("one/settings.json")).unwrap();
    let found = report(&scene, &[]);
    assert!(check(&found, "replica.settings")["next"].as_str().unwrap().ends_with("doctor --fix"));
    let fixed = report(&scene, &["--fix"]);
    assert_eq!(fixed["actions"][0]["action"], "settings", "{fixed:#}");
    let mut command = scene.command();
    command.args(["--replica", "one", "sync"]).env("VFS_SYNC_TOKEN", scene.token("alice"));
    assert!(command.status().unwrap().success());
}

#[test]
fn a_fix_leaves_alone_what_only_its_user_can_decide() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    scene.write("f", "bytes");
    scene.on("one", &["put", "f", "/f"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    with_new_folder(&scene);
    let token = scene.read("token");
    let unchanged = |scene: &Scene, because: &str| {
        let before = bytes_of(scene, "one");
        let fixed = report(scene, &["--fix"]);
        let action = &fixed["actions"][0];
        assert_eq!(action["done"], false, "{because}: {fixed:#}");
        assert!(action["result"].as_str().unwrap().contains(because), "{action}");
        assert_eq!(bytes_of(scene, "one"), before, "{because}");
    };
    scene.write("token", scene.token("bob"));
    unchanged(&scene, "token.user");
    scene.write("token", "e30.e30.e30");
    unchanged(&scene, "server.user");
    std::fs::remove_file(scene.path("token")).unwrap();
    unchanged(&scene, "token.present");
    scene.write("token", token);
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.terminate_server();
    unchanged(&scene, "network.tcp");
    std::fs::remove_dir_all(scene.path("server")).unwrap();
    scene.start_server(&address);
    unchanged(&scene, "server.feed");
}

/// Runs a command that the doctor names, as somebody pastes it.
fn paste(scene: &Scene, command: &str) -> std::process::ExitStatus {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_vfs-sync"));
    let path = format!(
        "{}:{}",
        binary.parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let given = scene.command();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command]).current_dir(scene.dir.path()).env("PATH", path);
    shell.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdout(std::process::Stdio::null()).status().unwrap()
}

#[test]
fn the_way_back_of_a_damaged_replica_can_be_pasted() {
    for has_export in [true, false] {
        let scene = Scene::with_server();
        scene.replica("one");
        scene.write("f", "bytes");
        scene.on("one", &["put", "f", "/f"]).expect(0);
        scene.on("one", &["sync"]).expect(0);
        if !has_export {
            std::fs::remove_dir_all(scene.path("one/exports")).unwrap();
        }
        scene.write("one/replica.db", vec![0x5A; 8_192]);
        let found = report(&scene, &[]);
        let advice = check(&found, "recovery");
        let word = if has_export { "hydrate" } else { "init" };
        assert_eq!(advice["evidence"]["advice"], word, "{advice:#}");
        assert_eq!(check(&found, "replica.file")["next"], advice["next"]);
        assert!(paste(&scene, advice["next"].as_str().unwrap()).success(), "{advice:#}");
        assert_eq!(scene.on("one", &["cat", "/f"]).expect(0).stdout, "bytes");
        let found = report(&scene, &[]);
        assert_eq!(ids(&found, "problem"), [""; 0], "{found:#}");
        let names = std::fs::read_dir(scene.dir.path()).unwrap();
        let aside = names
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with("one.aside-"));
        let aside = aside.expect("the old one is moved aside").path().join("replica.db");
        assert_eq!(std::fs::read(aside).unwrap(), vec![0x5A; 8_192]);
    }
}

#[test]
fn what_the_doctor_names_for_a_revoked_device_can_be_pasted() {
    let scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["mkdir", "/sent"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    let status = scene.on("one", &["--json", "status"]).expect(0).json();
    let id = status["clientId"].as_str().unwrap();
    // The server writes down now and then which devices it has seen.
    while !scene.on("one", &["--json", "devices", "list"]).expect(0).stdout.contains(id) {}
    scene.as_operator(&["admin", "devices", "revoke", "alice", id, "--yes"]).expect(0);
    with_new_folder(&scene);
    std::fs::create_dir(scene.path("live")).unwrap();
    scene.on("one", &["up", "live", "--once"]).expect(4).says("revoked");
    scene.on("one", &["folder", "problems"]).expect(5).says("explain device_revoked");
    let found = report(&scene, &[]);
    let advice = check(&found, "recovery");
    assert_eq!(advice["evidence"]["unsent"], 1, "{advice:#}");
    assert_eq!(check(&found, "server.user")["next"], advice["next"]);
    assert!(paste(&scene, advice["next"].as_str().unwrap()).success(), "{advice:#}");
    let found = report(&scene, &[]);
    assert_eq!(ids(&found, "problem"), [""; 0], "{found:#}");
    assert!(scene.on("one", &["ls", "/"]).expect(0).stdout.contains("sent"));
    let names = std::fs::read_dir(scene.dir.path()).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let aside = names.find(|name| name.starts_with("one.aside-")).expect("it is moved aside");
    assert!(scene.on(&aside, &["ls", "/"]).expect(0).stdout.contains("new"));
}

#[test]
fn a_token_is_renewed_by_the_command_that_the_doctor_names() {
    let scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["sync"]).expect(0);
    scene.write("token", "");
    let found = report(&scene, &[]);
    let next = check(&found, "token.present")["next"].as_str().unwrap().to_owned();
    // Without the server's secret the file stays as it is.
    let with_a_secret = next.clone();
    scene.write("token", "old");
    let status = paste(&scene, &format!("export VFS_SYNC_JWT_SECRET=; {with_a_secret}"));
    assert!(!status.success());
    assert_eq!(scene.read("token"), "old");
    assert!(paste(&scene, &next).success());
    let found = report(&scene, &[]);
    assert_eq!(ids(&found, "problem"), [""; 0], "{found:#}");
    assert_eq!(check(&found, "token.file")["outcome"], "ok");
}
