//! The runbook on the command line, without a replica and without a server.

use crate::support::Scene;

#[test]
fn a_signature_code_status_or_error_text_is_explained_offline() {
    let scene = Scene::offline();
    let ran = scene.run(["explain", "pull:pullCursorRegression"]).expect(0);
    ran.says("two servers on different databases")
        .says("docs/en/vfs-sync-runbook.md#1-sync-state-divergence")
        .says("next: vfs-sync ");
    let text = ["explain", "409", "Client reconcile state is behind required visibility"];
    scene.run(text).expect(0).says("reconcile_state_behind (code, status 409)");
    let text = "explain error: the server refused (413 quota_exceeded): no --more for you";
    scene.run(text.split(' ')).expect(0).says("quota_exceeded");
    let found = scene.run(["--json", "explain", "409"]).expect(0).json();
    let keys: Vec<_> = found["entries"].as_array().unwrap().iter().map(|e| &e["key"]).collect();
    assert_eq!(keys[0], "409");
    assert!(keys.contains(&&"write_ids_ahead_of_server".into()), "{keys:?}");
    let all = scene.run(["--json", "explain"]).expect(0).json();
    assert!(all["entries"].as_array().unwrap().len() > 120, "{all}");
    scene.run(["explain"]).expect(0).says("NoSuchKey").says("heldDeletions");
    assert_eq!(std::fs::read_dir(scene.dir.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn an_unknown_one_has_near_matches() {
    let scene = Scene::offline();
    scene.run(["explain", "pullCursorRegresion"]).expect(1).says("pull:pullCursorRegression?");
    let ran = scene.run(["--json", "explain", "\u{1b}[2J"]).expect(1);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "notFound");
    assert_eq!(error["error"]["details"]["near"], serde_json::json!([]));
    assert!(!ran.stderr.contains('\u{1b}'));
}

#[test]
fn errors_name_the_command_that_explains_them() {
    let mut scene = Scene::with_server();
    scene.replica_of("carol");
    scene.replica_of("dave");
    std::fs::copy(scene.path("dave.token"), scene.path("carol.token")).unwrap();
    scene.on("carol", &["sync"]).expect(4).says("`vfs-sync explain wrong_user`");
    scene.on("carol", &["status"]).expect(5).says("vfs-sync explain wrong_user");
    std::fs::write(scene.path("carol.token"), "e30.e30.e30").unwrap();
    scene.on("carol", &["sync"]).expect(4).says("`vfs-sync explain unauthorized`");
    scene.stop_server();
    scene.on("carol", &["sync"]).expect(4).says("`vfs-sync explain network`");
}
