//! The situations of a server, each with its cause.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use serde_json::json;

use super::{Cause, Situation};
use crate::support::{SECRET, Scene};

const fn problem(
    title: &'static str,
    check: &'static str,
    entry: &'static str,
    cause: fn(&Scene) -> Cause,
) -> Situation {
    Situation { title, check, entry, outcome: "problem", cause }
}

const fn note(
    title: &'static str,
    check: &'static str,
    entry: &'static str,
    cause: fn(&Scene) -> Cause,
) -> Situation {
    Situation { title, check, entry, outcome: "note", cause }
}

/// The directory of a server that alice and bob have used: shares, contents, a deletion.
static USED: LazyLock<Scene> = LazyLock::new(|| {
    let mut scene = Scene::with_server();
    for user in ["alice", "bob"] {
        scene.replica_of(user);
        scene.on(user, &["sync"]).expect(0);
    }
    scene.write("d/plan/text", "the plan");
    scene.write("d/old", "old");
    scene.on("alice", &["import", "d", "/d"]).expect(0);
    scene.on("alice", &["share", "/d", "bob", "write"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("alice", &["rm", "/d/old"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    scene.terminate_server();
    scene
});

/// Returns a scene with a copy of the server's directory: what serves is not examined, the rows are.
pub(super) fn used() -> Scene {
    let scene = Scene::offline();
    let copied = std::process::Command::new("cp")
        .args(["-a".as_ref(), USED.path("server").as_os_str()])
        .arg(scene.dir.path())
        .status();
    assert!(copied.unwrap().success());
    scene
}

/// Changes the server's database.
fn sql(scene: &Scene, sql: &str) -> Cause {
    let database = rusqlite::Connection::open(scene.path("server/metadata.sqlite3")).unwrap();
    database.execute_batch(sql).unwrap();
    Cause::default()
}

/// Adds a device of alice's, which was seen some seconds ago or, if negative, ahead.
fn device(scene: &Scene, seen: i64, queue_since: i64, stopped: Option<&str>) -> Cause {
    let ago = |seconds: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap() - seconds * 1_000
    };
    let text = |seconds: i64| {
        vfs_sync_core::time::Timestamp::from_millis(ago(seconds)).unwrap().to_string()
    };
    let body = json!({
        "firstSeen": text(90_000), "name": "laptop", "givenName": null, "version": "0.1.0",
        "platform": "linux", "address": null, "queue": 3, "queueSince": text(queue_since),
        "applied": null, "appliedSince": text(queue_since), "stopped": stopped, "reports": [],
    });
    let at = ago(seen);
    sql(
        scene,
        &format!(
            "INSERT INTO devices (user_id, client, last_seen, body) \
             VALUES ('alice', 'laptop', {at}, '{body}')"
        ),
    )
}

/// Returns the object of a content.
fn object(scene: &Scene) -> std::path::PathBuf {
    let mut open = vec![scene.path("server/blobs")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if std::fs::read(&path).unwrap() == b"the plan" {
                return path;
            }
        }
    }
    panic!("no object")
}

pub(super) const SITUATIONS: &[Situation] = &[
    // The database.
    problem("the database is junk", "database.schema", "database.schema", |scene| {
        scene.write("server/metadata.sqlite3", vec![0x5A; 16_384]);
        Cause::default()
    }),
    problem("a newer version wrote the database", "database.schema", "database.schema", |scene| {
        sql(scene, "INSERT INTO schema_version VALUES (99, 0)")
    }),
    problem("the database is to be migrated", "database.schema", "database.schema", |scene| {
        sql(scene, "DELETE FROM schema_version WHERE version > 13")
    }),
    problem("the database has lost a table", "database.schema", "database.schema", |scene| {
        sql(scene, "DROP TABLE moves")
    }),
    problem(
        "the directory has another database's mark",
        "database.identity",
        "database.identity",
        |scene| {
            scene.write("server/database-id", "another\n");
            Cause::default()
        },
    ),
    problem("a server's clock was an hour ahead", "database.clock", "database.clock", |scene| {
        device(scene, -3_600, 0, None)
    }),
    problem("PostgreSQL cannot be reached", "database.schema", "database_unavailable", |_| {
        let url = "postgres://vfs@127.0.0.1:9/vfs?connect_timeout=1";
        Cause::environment("VFS_SYNC_DATABASE_URL", url)
    }),
    // The background work.
    problem("expired stages are not ended", "sweeps.stages", "sweeps.stages", |scene| {
        sql(
            scene,
            "UPDATE blob_stages SET status = 'blob-stage:staged', expires_at = 1000; \
             UPDATE blob_usage SET open_stages = 2, staged = stored",
        )
    }),
    problem("contents are not removed", "sweeps.contents", "sweeps.contents", |scene| {
        sql(scene, "UPDATE blobs SET reclaim_at = 1000")
    }),
    problem("old versions are not removed", "sweeps.versions", "sweeps.versions", |scene| {
        sql(scene, "UPDATE blob_refs SET surplus_since = 1000")
    }),
    problem("the trash is not emptied", "sweeps.trash", "sweeps.trash", |scene| {
        sql(scene, "UPDATE trash SET at = 1000")
    }),
    problem("a removal for good does not go on", "sweeps.purges", "sweeps.purges", |scene| {
        sql(scene, "UPDATE trash SET at = 1000, state = 1")
    }),
    problem("feeds keep old removals", "sweeps.removals", "sweeps.removals", |scene| {
        sql(scene, "UPDATE feed SET changed_at = 1000 WHERE removal = 1")
    }),
    problem("old results are kept", "sweeps.results", "sweeps.results", |scene| {
        sql(scene, "UPDATE replicas SET accepted_from = 1000")
    }),
    problem("a user's deletion does not go on", "sweeps.deletions", "sweeps.deletions", |scene| {
        sql(scene, "INSERT INTO deletions VALUES ('0123456789abcdef', 1000, '{}')")
    }),
    // Devices.
    problem(
        "a guardrail stopped a device",
        "devices.stopped",
        "pull:pullCursorRegression",
        |scene| device(scene, 7_200, 7_200, Some("pull:pullCursorRegression")),
    ),
    problem("a device's queue does not move", "devices.stuck", "devices.stuck", |scene| {
        device(scene, 1, 7_200, None)
    }),
    // What is derived.
    problem("a reconcile state is malformed", "state.rows", "malformed_row", |scene| {
        sql(scene, "UPDATE reconcile_state SET write_ids = '[]'")
    }),
    problem("an item's row is malformed", "state.rows", "malformed_row", |scene| {
        sql(scene, "UPDATE items SET fields = x''")
    }),
    problem("a level of access is missing", "state.levels", "state.levels", |scene| {
        sql(scene, "DELETE FROM access WHERE item_id = (SELECT min(item_id) FROM access)")
    }),
    problem("a level of access is too high", "state.levels", "state.levels", |scene| {
        sql(scene, "UPDATE access SET level = 3")
    }),
    problem("entries of a feed are lost", "state.feeds", "state.feeds", |scene| {
        sql(scene, "DELETE FROM feed WHERE uid = (SELECT uid FROM realms WHERE user_id = 'bob')")
    }),
    problem("a feed shows an old name", "state.feeds", "state.feeds", |scene| {
        sql(scene, "UPDATE feed SET json = replace(json, '\"name\":\"plan\"', '\"name\":\"plot\"')")
    }),
    problem("a feed shows what is not there", "state.feeds", "state.feeds", |scene| {
        sql(scene, "DELETE FROM blob_refs")
    }),
    problem("numbers of items and links are wrong", "state.counts", "state.counts", |scene| {
        sql(scene, "UPDATE realms SET items = items + 5, links = 0")
    }),
    problem("sums of contents are wrong", "state.counts", "state.counts", |scene| {
        sql(scene, "UPDATE blob_usage SET stored = stored + 1000")
    }),
    // Contents.
    problem("the store of contents is no directory", "contents.store", "contents.store", |scene| {
        std::fs::rename(scene.path("server/blobs"), scene.path("server/aside")).unwrap();
        scene.write("server/blobs", "");
        Cause::default()
    }),
    problem("the object store does not answer", "contents.store", "ServiceUnavailable", |_| {
        let store = [
            ("VFS_BLOB_S3_BUCKET", "contents"),
            ("VFS_BLOB_S3_ENDPOINT", "http://127.0.0.1:9"),
            ("VFS_BLOB_S3_REGION", "us-east-1"),
            ("VFS_BLOB_S3_ACCESS_KEY_ID", "key"),
            ("VFS_BLOB_S3_SECRET_ACCESS_KEY", "secret"),
        ];
        let environment = store.map(|(name, value)| (name, value.to_owned())).to_vec();
        Cause { environment, ..Cause::default() }
    }),
    problem("an object was removed", "contents.registry", "NoSuchKey", |scene| {
        std::fs::remove_file(object(scene)).unwrap();
        Cause::default()
    }),
    problem("an object was cut", "contents.registry", "contents.registry", |scene| {
        std::fs::write(object(scene), "the").unwrap();
        Cause::args(&["--all"])
    }),
    note("an object is not registered", "contents.registry", "contents.registry", |scene| {
        let stray = object(scene).with_file_name("0190aaaa-0000-7000-8000-000000000000");
        std::fs::write(&stray, "stray").unwrap();
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(90_000);
        std::fs::File::options().append(true).open(&stray).unwrap().set_modified(old).unwrap();
        Cause::args(&["--all"])
    }),
    // Keys and settings.
    note("the key of access tokens is old", "keys.signing", "keys.signing", |scene| {
        sql(scene, "INSERT INTO signing_keys VALUES ('k', zeroblob(32), 1000)")
    }),
    problem("others may read the secret", "keys.tokens", "keys.tokens", |scene| {
        let file = scene.write("secret", SECRET);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        Cause {
            environment: vec![
                ("VFS_SYNC_JWT_SECRET", String::new()),
                ("VFS_SYNC_JWT_SECRET_FILE", file.to_str().unwrap().to_owned()),
            ],
            ..Cause::default()
        }
    }),
    problem("the secret is too short", "keys.tokens", "keys.tokens", |_| {
        Cause::environment("VFS_SYNC_JWT_SECRET", "short")
    }),
    problem("a setting is no number", "config.settings", "config.settings", |_| {
        Cause::environment("VFS_SYNC_MAX_ITEMS", "many")
    }),
    problem("the certificate is junk", "config.certificate", "config.certificate", |scene| {
        let pair = ["cert.pem", "key.pem"].map(|name| scene.write(name, "junk"));
        let [certificate, key] = pair.map(|path| path.to_str().unwrap().to_owned());
        Cause {
            environment: vec![("VFS_SYNC_TLS_CERT", certificate), ("VFS_SYNC_TLS_KEY", key)],
            ..Cause::default()
        }
    }),
    problem(
        "the certificate expires tomorrow",
        "config.certificate",
        "config.certificate",
        |scene| certificate(scene, "1"),
    ),
    note(
        "the certificate expires in two weeks",
        "config.certificate",
        "config.certificate",
        |scene| certificate(scene, "14"),
    ),
    problem("nothing listens at the public URL", "network.tcp", "network.tcp", |_| {
        Cause::args(&["--url", "http://127.0.0.1:9"])
    }),
    problem("there is no backup", "backup.age", "backup.age", |_| {
        Cause::args(&["--backups", "backups"])
    }),
    problem("the newest backup is old", "backup.age", "backup.age", |scene| {
        scene.run(["backup", "create", "backups", "--data", "server"]).expect(0);
        let backups = std::fs::read_dir(scene.path("backups")).unwrap();
        let manifests = backups.map(|one| one.unwrap().path().join("manifest.json"));
        for manifest in manifests.filter(|path| path.exists()) {
            let mut text: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
            text["createdAt"] = "2026-01-01T00:00:00.000Z".into();
            std::fs::write(&manifest, text.to_string()).unwrap();
        }
        Cause::args(&["--backups", "backups"])
    }),
];

/// Makes a certificate that is valid for some days.
fn certificate(scene: &Scene, days: &str) -> Cause {
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-days", days])
        .current_dir(scene.dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let path = |name: &str| scene.path(name).to_str().unwrap().to_owned();
    let environment =
        vec![("VFS_SYNC_TLS_CERT", path("cert.pem")), ("VFS_SYNC_TLS_KEY", path("key.pem"))];
    Cause { environment, ..Cause::default() }
}
