//! Files whose changes the server refuses: their bytes are only here, and stay here.

use std::fs;

use super::has;
use crate::support::Scene;

#[test]
fn what_the_server_refuses_is_neither_replaced_nor_removed_by_the_tree() {
    let scene = Scene::with_server();
    for user in ["alice", "bob"] {
        scene.replica_of(user);
    }
    for name in ["edited", "deleted later", "stays"] {
        scene.write(&format!("da/{name}"), "base");
    }
    let [alice, bob] = ["alice", "bob"].map(|user| {
        let scene = &scene;
        move |args: &[&str]| scene.on(user, args)
    });
    alice(&["up", "--once", "da", "/shared"]).expect(0);
    alice(&["share", "/shared", "bob", "write"]).expect(0);
    alice(&["sync"]).expect(0);
    bob(&["sync"]).expect(0);
    bob(&["up", "--once", "db", "shared:alice/shared"]).expect(0);
    // Queued before he knows that he may not any more.
    for name in ["edited", "deleted later", "new"] {
        scene.write(&format!("db/{name}"), "of bob");
    }
    bob(&["import", "db", "shared:alice/shared"]).expect(0);
    alice(&["share", "/shared", "bob", "read"]).expect(0);
    alice(&["sync"]).expect(0);
    for name in ["edited", "new"] {
        scene.write(&format!("da/{name}"), "of alice");
    }
    alice(&["up", "--once"]).expect(0);
    let are_his =
        |names: &[&str]| names.iter().all(|name| has(&scene.path("db").join(name), "of bob"));
    for _ in 0..2 {
        bob(&["up", "--once"]).expect(5);
        assert!(
            are_his(&["edited", "deleted later", "new"]),
            "{:?}",
            fs::read_dir(scene.path("db"))
        );
    }
    fs::remove_file(scene.path("da/deleted later")).unwrap();
    alice(&["up", "--once"]).expect(0);
    alice(&["up", "--once"]).expect(0);
    for _ in 0..2 {
        bob(&["up", "--once"]).expect(5);
        assert!(are_his(&["edited", "deleted later", "new"]));
    }
    bob(&["folder", "problems"]).expect(5).says("refused").says("vfs-sync rejected");
    assert!(has(&scene.path("da/edited"), "of alice") && has(&scene.path("da/new"), "of alice"));
}
