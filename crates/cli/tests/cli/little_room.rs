//! A server whose disk is nearly full.

use std::process::Command;

use serde_json::json;

use crate::support::{Scene, ServerProcess};

/// The unprivileged way to a small disk: a name space with a file system in memory.
fn on_a_disk_of(kilobytes: u32, scene: &Scene) -> Command {
    let mount = format!(
        "mount -t tmpfs -o size={kilobytes}k tmpfs '{}' && exec '{}' \"$@\"",
        scene.path("server").display(),
        env!("CARGO_BIN_EXE_vfs-sync"),
    );
    let inner = scene.command();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"]);
    command.current_dir(scene.dir.path()).env_clear().env("RUST_LOG", "off");
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[test]
fn a_server_starts_on_a_disk_with_two_megabytes_and_says_when_it_is_full() {
    let scene = Scene::offline();
    std::fs::create_dir(scene.path("server")).unwrap();
    let tries = on_a_disk_of(2_048, &scene).arg("--version").output();
    if !tries.is_ok_and(|tried| tried.status.success()) {
        println!("SKIPPED: unshare cannot mount a file system here");
        return;
    }
    let binary = || on_a_disk_of(2_048, &scene);
    let server = ServerProcess::start(binary, "127.0.0.1:0", &scene.path("server"));
    let token = scene.token("alice");
    let call = |path: &str, body: &str| {
        let url = format!("{}{path}", server.url());
        let bearer = format!("Authorization: Bearer {token}");
        let json = "Content-Type: application/json";
        let mut curl = Command::new("curl");
        curl.args(["-s", "-w", "\n%{http_code}", "-H", &bearer, "-H", json, &url]);
        if !body.is_empty() {
            curl.args(["-d", body]);
        }
        let output = String::from_utf8(curl.output().unwrap().stdout).unwrap();
        let (body, status) = output.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), body.to_owned())
    };
    assert_eq!(call("/readyz", "").0, 200);
    let push = |at: u64, payload: usize| {
        let operation = json!({
            "opId": format!("op-{at}"), "opType": "item_upsert", "itemId": format!("i{at}"),
            "replicaId": "laptop", "writeId": at, "occurredAt": "2026-01-01T00:00:00Z",
            "objectType": "file", "name": "n", "metadata": {"note": "x".repeat(payload)},
        });
        call(
            "/v1/vfs/crdt/push",
            &json!({"clientId": "laptop", "operations": [operation]}).to_string(),
        )
    };
    let (status, body) = push(1, 10);
    assert_eq!(status, 200, "{body}");
    let full = (2..400).map(|at| push(at, 15_000)).find(|(status, _)| *status != 200);
    let (status, body) = full.expect("two megabytes are used up");
    assert_eq!(status, 507, "{body}");
    assert!(body.contains("storage_full"), "{body}");
    // What it has is still served.
    let (status, body) = call("/v1/vfs/crdt/vfs-sync?limit=1", "");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"i1\""), "{body}");
    assert_eq!(server.terminate().code(), Some(0));
}
