//! Devices and users as the command line shows them, and what a revoked device keeps.

use serde_json::Value;

use crate::support::{Ran, Scene};

impl Scene {
    /// Runs a command with an operator's token.
    pub(crate) fn as_operator(&self, args: &[&str]) -> Ran {
        let token = self.run(["token", "--user", "root", "--scope", "vfs:admin"]).expect(0).stdout;
        let output = self
            .command()
            .env("VFS_SYNC_TOKEN", token.trim())
            .args(args)
            .args(["--server", self.url()])
            .output()
            .unwrap();
        output.into()
    }

    /// Waits until the server lists as many devices of alice as that.
    fn listed(&self, replica: &str, count: usize) -> Vec<Value> {
        loop {
            let list = self.on(replica, &["--json", "devices", "list"]).expect(0).json();
            let list = list["devices"].as_array().unwrap().clone();
            if list.len() >= count {
                return list;
            }
        }
    }

    fn client_id(&self, replica: &str) -> String {
        let status = self.on(replica, &["--json", "status"]).expect(0).json();
        status["clientId"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_device_is_listed_renamed_and_revoked_and_keeps_everything() {
    let scene = Scene::with_server();
    scene.replica("laptop");
    scene.replica("phone");
    scene.write("note", "text");
    scene.on("phone", &["put", "note", "/note"]).expect(0);
    for replica in ["laptop", "phone"] {
        scene.on(replica, &["sync"]).expect(0);
    }
    let list = scene.listed("laptop", 2);
    let phone = scene.client_id("phone");
    let found = list.iter().find(|one| one["clientId"] == *phone).unwrap();
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(found["condition"], "active");
    assert!(found["queue"].is_u64());

    scene.on("laptop", &["devices", "rename", &phone, "Pocket"]).expect(0).says("Pocket");
    scene.on("laptop", &["devices", "list"]).expect(0).says("Pocket");
    scene.on("laptop", &["devices", "revoke", "Pocket"]).expect(2).says("--yes");
    scene.on("laptop", &["devices", "revoke", "Mug", "--yes"]).expect(1).says("devices list");
    scene.on("laptop", &["devices", "revoke", "Pocket", "--yes"]).expect(0).says("revoked");

    scene.on("phone", &["mkdir", "/queued"]).expect(0);
    let before = scene.on("phone", &["state", "export"]).expect(0).stdout;
    for _ in 0..2 {
        let refused = scene.on("phone", &["sync"]).expect(4);
        refused.says("device_revoked").says("its queue");
    }
    scene.on("phone", &["status"]).expect(5).says("synchronisation is stopped");
    let status = scene.on("phone", &["--json", "status"]).expect(5).json();
    assert_eq!(status["stopped"]["signature"], "device_revoked");
    assert_eq!(status["pending"], 1);
    assert_eq!(scene.on("phone", &["state", "export"]).expect(0).stdout, before);
    assert_eq!(scene.on("phone", &["cat", "/note"]).expect(0).stdout, "text");
    scene.on("laptop", &["sync"]).expect(0);
    scene.on("laptop", &["devices", "list"]).expect(0).says("revoked");
}

#[test]
fn an_operator_lists_limits_disables_and_enables() {
    let scene = Scene::with_server();
    scene.replica("laptop");
    scene.on("laptop", &["mkdir", "/a"]).expect(0);
    scene.on("laptop", &["sync"]).expect(0);
    scene.listed("laptop", 1);
    let laptop = scene.client_id("laptop");
    scene.on("laptop", &["admin", "users", "list"]).expect(4).says("scope");
    scene.as_operator(&["admin", "users", "list"]).expect(0).says("alice").says("enabled");
    scene.as_operator(&["admin", "devices", "list"]).expect(0).says(&laptop).says("alice");
    let none = scene.as_operator(&["admin", "devices", "list", "--user", "bob"]).expect(0);
    none.says("no device");
    scene.as_operator(&["admin", "users", "show", "bob"]).expect(1);

    let limit = ["admin", "users", "limit", "alice", "--items", "1", "--stored-bytes", "1G"];
    scene.as_operator(&limit).expect(0).says("1073741824");
    scene.as_operator(&["admin", "users", "limit", "alice", "--stored-bytes", "default"]).expect(0);
    let shown = scene.as_operator(&["--json", "admin", "users", "show", "alice"]).expect(0).json();
    assert_eq!(shown["limits"], serde_json::json!({"maxItems": 1}));
    scene.on("laptop", &["mkdir", "/b"]).expect(0);
    scene.on("laptop", &["sync"]).expect(5).says("quota");
    scene.as_operator(&["admin", "users", "limit", "alice", "--items", "default"]).expect(0);
    scene.on("laptop", &["sync"]).expect(0);

    let typo = ["admin", "users", "disable", "alice2"];
    scene.as_operator(&typo).expect(0).says("has never seen alice2");
    scene.on("laptop", &["sync"]).expect(0);
    let disabled = scene.as_operator(&["admin", "users", "disable", "alice"]).expect(0);
    assert!(!disabled.says("disabled").stderr.contains("never seen"));
    scene.on("laptop", &["mkdir", "/c"]).expect(0);
    scene.on("laptop", &["sync"]).expect(4).says("user_disabled").says("its queue");
    scene.as_operator(&["admin", "users", "enable", "alice"]).expect(0);
    scene.on("laptop", &["sync"]).expect(0);

    let revoke = ["admin", "devices", "revoke", "alice", &laptop];
    scene.as_operator(&revoke).expect(2).says("--yes");
    scene.as_operator(&[&revoke[..], &["--yes"]].concat()).expect(0);
    scene.on("laptop", &["sync"]).expect(4).says("device_revoked");
}

#[test]
fn a_stop_that_happens_is_in_the_list_of_the_servers_devices() {
    let mut scene = Scene::with_server();
    scene.replica("laptop");
    scene.on("laptop", &["mkdir", "/a"]).expect(0);
    scene.on("laptop", &["sync"]).expect(0);
    let address = scene.url().trim_start_matches("http://").to_owned();
    // A server that lost everything: the replica's cursor is none of its.
    scene.terminate_server();
    std::fs::rename(scene.path("server"), scene.path("before")).unwrap();
    scene.start_server(&address);
    scene.on("laptop", &["sync", "--no-rematerialise"]).expect(3);
    let list = scene.listed("laptop", 1);
    let report = &list[0]["reports"][0];
    assert_eq!(report["signature"], "pull:pullRematerializationRequired", "{list:?}");
    assert!(report["details"].get("requestedChangeId").is_some());
    assert_eq!(list[0]["condition"], "stopped");
    // With reports turned off nothing comes.
    scene.on("laptop", &["sync"]).expect(0);
    let quiet = ["--no-report", "sync", "--no-rematerialise"];
    scene.terminate_server();
    std::fs::rename(scene.path("server"), scene.path("between")).unwrap();
    scene.start_server(&address);
    scene.on("laptop", &quiet).expect(3);
    let list = scene.listed("laptop", 1);
    assert_eq!(list[0]["reports"], serde_json::json!([]));
}
