//! A server on which all is well, with traffic while it is examined: nothing is found.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use vfs_sync_store::testing::new_postgres_database;

use super::{Cause, examine_server, findings};
use crate::support::Scene;

/// What the throw-away PostgreSQL of the tests is found for: it does not wait for its disk.
fn is_of_the_tests(finding: &str) -> bool {
    finding.contains("\"database.durability\"") && finding.contains("fsync = off")
}

#[track_caller]
fn is_well(scene: &Scene, cause: &Cause, more: &[&str]) -> Value {
    let (_, report) = examine_server(scene, cause, more);
    let found: Vec<_> = findings(&report).into_iter().filter(|f| !is_of_the_tests(f)).collect();
    assert_eq!(found, [""; 0], "{more:?}: {report:#}");
    report
}

/// Examines a server in ordinary life: empty, with shares and contents, and under load.
fn ordinary_life(scene: &Scene, cause: &Cause) {
    for more in [&[][..], &["--all"]] {
        is_well(scene, cause, more);
    }
    for user in ["alice", "bob", "carol"] {
        scene.replica_of(user);
        scene.on(user, &["sync"]).expect(0);
    }
    for n in 0..60 {
        scene.write(&format!("d/{}/{n}", n % 7), format!("text {n}"));
    }
    scene.on("alice", &["import", "d", "/d"]).expect(0);
    scene.on("alice", &["share", "/d", "bob", "write"]).expect(0);
    scene.on("alice", &["share", "/d/3", "carol", "read"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    for more in [&[][..], &["--all"], &["--user", "alice"], &["--user", "bob"]] {
        is_well(scene, cause, more);
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..12 {
                let folder = format!("/d/new {n}");
                scene.on("alice", &["mkdir", &folder]).expect(0);
                scene.on("alice", &["mv", &format!("/d/{}/{n}", n % 7), &folder]).expect(0);
                if n % 3 == 0 {
                    scene.on("alice", &["rm", "-r", &folder]).expect(0);
                    scene.on("alice", &["unshare", "/d/3", "carol"]).expect(0);
                } else {
                    scene.on("alice", &["share", "/d/3", "carol", "write"]).expect(0);
                }
                scene.on("alice", &["sync"]).expect(0);
                scene.on("bob", &["sync"]).expect(0);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            is_well(scene, cause, &["--all"]);
        }
    });
    let report = is_well(scene, cause, &["--all", "--fix"]);
    assert_eq!(report["actions"], serde_json::json!([]), "there is nothing to repair");
    let shown = report["checks"].as_array().unwrap().iter();
    let mut feeds = shown.filter(|one| one["id"] == "state.feeds");
    let feeds = feeds.next().unwrap();
    assert!(feeds["summary"].as_str().unwrap().contains("3 users"), "{feeds}");
}

#[test]
fn a_healthy_server_with_traffic_has_no_problem() {
    let scene = Scene::with_server();
    let url = scene.url().to_owned();
    ordinary_life(&scene, &Cause::args(&["--url", &url]));
    let nobody = scene.run(["admin", "doctor", "--data", "server", "--user", "nobody"]);
    nobody.expect(1).says("knows no user nobody");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_healthy_server_on_postgres_has_no_problem_and_is_repaired() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(new_postgres_database()).unwrap();
    let mut scene = Scene::offline();
    scene.start_server_with("127.0.0.1:0", &[("VFS_SYNC_DATABASE_URL", &database)]);
    let cause = Cause::environment("VFS_SYNC_DATABASE_URL", database.as_str());
    ordinary_life(&scene, &cause);
    let sql = |text: &str| {
        runtime.block_on(async {
            let client = vfs_sync_store::testing::connect(&database).await.unwrap();
            client.batch_execute(text).await.unwrap();
        });
    };
    sql("DELETE FROM access WHERE user_id = 'bob'; \
         DELETE FROM feed WHERE user_id = 'alice' AND counter < 20; \
         UPDATE realms SET items = items + 3; UPDATE blob_usage SET stored = 1");
    let (_, report) = examine_server(&scene, &cause, &["--user", "bob"]);
    assert!(findings(&report).iter().any(|one| one.contains("state.levels")), "{report:#}");
    let (_, report) = examine_server(&scene, &cause, &["--all", "--fix"]);
    assert_eq!(report["actions"].as_array().unwrap().len(), 3, "{report:#}");
    is_well(&scene, &cause, &["--all"]);
    for user in ["alice", "bob"] {
        scene.on(user, &["sync"]).expect(0);
    }
}
