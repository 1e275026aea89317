//! The situations, each with its cause.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::super::fake::{Fake, Reply};
use super::{Cause, Situation, note, problem, set};
use crate::support::Scene;

pub(super) const SITUATIONS: &[Situation] = &[
    // The replica.
    problem("there is no replica", "replica.settings", "replica.settings", |_| Cause::default()),
    problem("the settings are damaged", "replica.settings", "replica.settings", |scene| {
        scene.replica("one");
        scene.write("one/settings.json", "{\"version\":1");
        Cause::default()
    }),
    problem("the settings are gone", "replica.settings", "replica.settings", |scene| {
        in_step(scene);
        std::fs::remove_file(scene.path("one/settings.json")).unwrap();
        Cause::default()
    }),
    problem("the replica's file is missing", "replica.file", "client", |scene| {
        scene.replica("one");
        std::fs::remove_file(scene.path("one/replica.db")).unwrap();
        Cause::default()
    }),
    problem("the replica's file is junk", "replica.file", "corruptReplica", |scene| {
        scene.replica("one");
        scene.write("one/replica.db", vec![0x5A; 8_192]);
        Cause::default()
    }),
    problem(
        "the file is a database of another program",
        "replica.file",
        "corruptReplica",
        |scene| {
            scene.replica("one");
            sql(scene, "PRAGMA application_id = 7");
            Cause::default()
        },
    ),
    problem("a newer version wrote the replica", "replica.file", "newerReplica", |scene| {
        scene.replica("one");
        sql(scene, "PRAGMA user_version = 99");
        Cause::default()
    }),
    problem("a row of the replica is damaged", "replica.integrity", "corruptReplica", |scene| {
        in_step(scene);
        sql(scene, "UPDATE items_a SET body = x'00'");
        Cause::default()
    }),
    problem("an index of the replica is damaged", "replica.integrity", "corruptReplica", |scene| {
        in_step(scene);
        damage_index(scene);
        Cause::default()
    }),
    note("a damaged replica has no export", "recovery", "recovery", |scene| {
        scene.replica("one");
        scene.write("one/replica.db", vec![0x5A; 8_192]);
        Cause::default()
    }),
    note("a damaged replica has a good export", "recovery", "recovery", |scene| {
        in_step(scene);
        scene.write("one/replica.db", vec![0x5A; 8_192]);
        Cause::default()
    }),
    problem(
        "bytes that were not uploaded are gone",
        "replica.contents",
        "replica.contents",
        |scene| {
            scene.replica("one");
            queued(scene);
            std::fs::remove_dir_all(scene.path("one/contents")).unwrap();
            Cause::default()
        },
    ),
    problem("the disk of the replica is full", "replica.disk", "replica.disk", full_disk),
    problem("the disk of the replica is read-only", "replica.disk", "replica.disk", read_only_disk),
    note("another command uses the replica", "replica.file", "inUse", |scene| {
        scene.replica("one");
        scene.on("one", &["sync"]).expect(0);
        let lock = std::fs::OpenOptions::new().write(true).open(scene.path("one/replica.lock"));
        let lock = lock.unwrap();
        lock.lock().unwrap();
        Cause::keeping(lock)
    }),
    // What waits.
    problem(
        "a guardrail stopped the device",
        "sync.stopped",
        "pull:pullCursorRegression",
        |scene| {
            let fake = regressing(scene);
            scene.on("one", &["sync"]).expect(3);
            Cause::keeping(fake)
        },
    ),
    note("edits wait for the next sync", "sync.queue", "sync.queue", |scene| {
        in_step(scene);
        queued(scene);
        Cause::default()
    }),
    problem("the user's quota is exhausted", "sync.uploads", "quota_exceeded", |scene| {
        scene.replica("one");
        let address = scene.url().trim_start_matches("http://").to_owned();
        scene.terminate_server();
        scene.start_server_with(&address, &[("VFS_SYNC_MAX_STORED_BYTES", "10")]);
        queued(scene);
        scene.on("one", &["sync"]).expect(5);
        Cause::default()
    }),
    problem(
        "pushes fail because the server's disk is full",
        "sync.failing",
        "storage_full",
        |scene| {
            let fake = Fake::before(scene.url(), |head, reply| {
                if head.starts_with("POST /v1/vfs/crdt/push") {
                    error(reply, 507, "storage_full");
                }
            });
            init_at(scene, fake.url());
            queued(scene);
            scene.on("one", &["sync"]).expect(5);
            Cause::keeping(fake)
        },
    ),
    problem(
        "access was revoked while edits were queued",
        "sync.rejected",
        "unknownItem",
        |scene| {
            scene.replica_of("bob");
            scene.on("bob", &["mkdir", "/shared"]).expect(0);
            scene.on("bob", &["sync"]).expect(0);
            scene.replica("one");
            scene.on("one", &["sync"]).expect(0);
            scene.on("bob", &["share", "/shared", "alice", "write"]).expect(0);
            scene.on("bob", &["sync"]).expect(0);
            scene.on("one", &["sync"]).expect(0);
            scene.on("one", &["mkdir", "shared:bob/shared/new"]).expect(0);
            scene.on("bob", &["unshare", "/shared", "alice"]).expect(0);
            scene.on("bob", &["sync"]).expect(0);
            scene.on("one", &["sync"]).expect(5);
            Cause::default()
        },
    ),
    problem("a restored server lost a grant", "sync.recover", "sync.recover", |scene| {
        scene.replica_of("bob");
        scene.on("bob", &["sync"]).expect(0);
        scene.replica("one");
        scene.on("one", &["mkdir", "/a"]).expect(0);
        scene.on("one", &["sync"]).expect(0);
        restored_after(scene, |scene| {
            scene.on("one", &["share", "/a", "bob", "read"]).expect(0);
            scene.on("one", &["sync"]).expect(0);
        });
        scene.on("one", &["sync"]).expect(5);
        Cause::default()
    }),
    note("a stage has expired before its attach", "sync.attach", "stage_expired", |scene| {
        let fake = staged(scene, true);
        Cause::keeping(fake)
    }),
    problem("a stored reconcile state is malformed", "server.ready", "malformed_row", |scene| {
        in_step(scene);
        let address = scene.url().trim_start_matches("http://").to_owned();
        scene.terminate_server();
        let database = rusqlite::Connection::open(scene.path("server/metadata.sqlite3")).unwrap();
        let changed = database.execute("UPDATE reconcile_state SET write_ids = '[]'", []).unwrap();
        assert_eq!(changed, 1);
        drop(database);
        scene.start_server(&address);
        Cause::default()
    }),
    // The token.
    problem("the token's file is missing", "token.present", "missing", |scene| {
        in_step(scene);
        std::fs::remove_file(scene.path("token")).unwrap();
        Cause::default()
    }),
    problem("the token's file is empty", "token.present", "missing", |scene| {
        in_step(scene);
        scene.write("token", "\n");
        Cause::default()
    }),
    problem("the token has expired", "token.expiry", "expired", |scene| {
        in_step(scene);
        scene.write("token", unsigned("{\"sub\":\"alice\",\"exp\":1700000000}"));
        Cause::default()
    }),
    problem("the token is valid only later", "token.expiry", "not_yet_valid", |scene| {
        in_step(scene);
        let claims = "{\"sub\":\"alice\",\"nbf\":32500000000,\"exp\":32600000000}";
        scene.write("token", unsigned(claims));
        Cause::default()
    }),
    problem("the token is of another user", "token.user", "wrong_user", |scene| {
        in_step(scene);
        scene.write("token", scene.token("bob"));
        Cause::default()
    }),
    problem("the token is of another server", "server.user", "bad_signature", |scene| {
        in_step(scene);
        scene.write("token", unsigned("{\"sub\":\"alice\",\"exp\":32500000000}"));
        Cause::default()
    }),
    note("others may read the token's file", "token.file", "token.file", |scene| {
        use std::os::unix::fs::PermissionsExt as _;
        in_step(scene);
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(scene.path("token"), open).unwrap();
        Cause::default()
    }),
    // The way to the server.
    problem("the server's address is no URL", "network.address", "invalid_address", |scene| {
        in_step(scene);
        set(scene, "server", "files.example.org");
        Cause::default()
    }),
    problem("the address is not encrypted", "network.address", "invalid_address", |scene| {
        in_step(scene);
        set(scene, "server", "http://files.example.org");
        Cause::default()
    }),
    problem("the server's name is unknown", "network.name", "network.name", |scene| {
        in_step(scene);
        set(scene, "server", "https://no-such-host.invalid");
        Cause::default()
    }),
    problem("nothing listens at the address", "network.tcp", "network.tcp", |scene| {
        in_step(scene);
        scene.stop_server();
        Cause::default()
    }),
    problem("the other side does not speak TLS", "network.tls", "network.tls", |scene| {
        in_step(scene);
        let url = scene.url().replace("http://", "https://");
        set(scene, "server", url);
        Cause::default()
    }),
    problem(
        "connections are accepted and never answered",
        "network.http",
        "network.http",
        |scene| {
            in_step(scene);
            let fake = Fake::silent();
            set(scene, "server", fake.url());
            Cause::keeping(fake)
        },
    ),
    problem("the proxy cannot be reached", "network.tcp", "network.tcp", |scene| {
        in_step(scene);
        set(scene, "server", "https://files.example.org");
        Cause {
            environment: vec![("HTTPS_PROXY", "http://127.0.0.1:9".into())],
            ..Cause::default()
        }
    }),
    problem("the proxy refuses to connect", "network.proxy", "network.proxy", |scene| {
        in_step(scene);
        set(scene, "server", "https://files.example.org");
        let fake =
            Fake::answering(|_| b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec());
        let environment = vec![("HTTPS_PROXY", fake.url().to_owned())];
        Cause { environment, ..Cause::keeping(fake) }
    }),
    problem("a network's log-in page redirects", "server.kind", "302", |scene| {
        in_step(scene);
        let fake = Fake::answering(|_| {
            b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n"
                .to_vec()
        });
        set(scene, "server", fake.url());
        Cause::keeping(fake)
    }),
    problem("a network's log-in page answers", "server.kind", "malformedResponse", |scene| {
        in_step(scene);
        let fake = Fake::answering(|_| {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
                .to_vec()
        });
        set(scene, "server", fake.url());
        Cause::keeping(fake)
    }),
    problem("a proxy does not reach the server", "server.kind", "502", |scene| {
        in_step(scene);
        let fake = Fake::answering(|_| {
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
                .to_vec()
        });
        set(scene, "server", fake.url());
        Cause::keeping(fake)
    }),
    problem("this device's clock is an hour behind", "server.clock", "server.clock", |scene| {
        let fake = Fake::before(scene.url(), |_, reply| dated(reply, 3_600));
        init_at(scene, fake.url());
        scene.on("one", &["sync"]).expect(0);
        Cause::keeping(fake)
    }),
    // The server.
    problem(
        "the server's database does not answer",
        "server.ready",
        "database_unavailable",
        |scene| {
            in_step(scene);
            let fake = Fake::before(scene.url(), |head, reply| {
                if !head.contains("/v1/vfs/limits") {
                    error(reply, 503, "database_unavailable");
                }
            });
            set(scene, "server", fake.url());
            Cause::keeping(fake)
        },
    ),
    problem("the client is too old for the server", "server.user", "upgrade_required", |scene| {
        in_step(scene);
        let fake = Fake::before(scene.url(), |_, reply| error(reply, 426, "upgrade_required"));
        set(scene, "server", fake.url());
        Cause::keeping(fake)
    }),
    problem(
        "the server sends a page that breaks a guardrail",
        "server.feed",
        "pull:pullCursorRegression",
        |scene| Cause::keeping(regressing(scene)),
    ),
    problem(
        "the server was restored from a backup",
        "server.feed",
        "pull:pullRematerializationRequired",
        |scene| {
            in_step(scene);
            restored_after(scene, |scene| {
                scene.on("one", &["mkdir", "/after the backup"]).expect(0);
                scene.on("one", &["sync"]).expect(0);
            });
            Cause::default()
        },
    ),
    problem(
        "the server has a new, empty database",
        "server.feed",
        "pull:pullRematerializationRequired",
        |scene| {
            in_step(scene);
            let address = scene.url().trim_start_matches("http://").to_owned();
            scene.terminate_server();
            std::fs::remove_dir_all(scene.path("server")).unwrap();
            scene.start_server(&address);
            Cause::default()
        },
    ),
    problem(
        "an older copy of the database is served",
        "server.feed",
        "malformedResponse",
        |scene| {
            in_step(scene);
            let fake = Fake::before(scene.url(), |head, reply| {
                if head.contains("/crdt/vfs-sync") {
                    edit(reply, |json| json["epoch"] = 1.into());
                }
            });
            set(scene, "server", fake.url());
            Cause::keeping(fake)
        },
    ),
    problem(
        "two installations have one client id",
        "server.writeIds",
        "flush:staleWriteRecoveryExhausted",
        |scene| {
            in_step(scene);
            let copied = Command::new("cp")
                .args(["-a", "one", "copy"])
                .current_dir(scene.dir.path())
                .status();
            assert!(copied.unwrap().success());
            scene.on("copy", &["mkdir", "/by the copy"]).expect(0);
            scene.on("copy", &["sync"]).expect(0);
            Cause::default()
        },
    ),
    problem("the device was revoked", "server.user", "device_revoked", |scene| {
        in_step(scene);
        queued(scene);
        let status = scene.on("one", &["--json", "status"]).expect(5).json();
        let id = status["clientId"].as_str().unwrap();
        // The server writes down now and then which devices it has seen.
        while !scene.on("one", &["--json", "devices", "list"]).expect(0).stdout.contains(id) {}
        scene.as_operator(&["admin", "devices", "revoke", "alice", id, "--yes"]).expect(0);
        Cause::default()
    }),
    problem("the user was disabled", "server.user", "user_disabled", |scene| {
        in_step(scene);
        queued(scene);
        scene.as_operator(&["admin", "users", "disable", "alice"]).expect(0);
        Cause::default()
    }),
    problem("the user was deleted", "server.user", "user_deleted", |scene| {
        in_step(scene);
        queued(scene);
        scene.as_operator(&["admin", "users", "delete", "alice", "--wait", "0", "--yes"]).expect(0);
        // The server begins with it by itself.
        while !scene.on("one", &["sync"]).stderr.contains("user_deleted") {}
        Cause::default()
    }),
    note("this device has not synchronised for a while", "server.feed", "server.feed", |scene| {
        in_step(scene);
        scene.replica("other");
        scene.on("other", &["mkdir", "/news"]).expect(0);
        scene.on("other", &["sync"]).expect(0);
        Cause::default()
    }),
    note("a proxy holds live updates back", "server.live", "network", |scene| {
        in_step(scene);
        let fake = Fake::before(scene.url(), |_, _| {});
        set(scene, "server", fake.url());
        Cause::keeping(fake)
    }),
    // Live folders.
    note("`up` does not run", "folders.agent", "folders.agent", |scene| {
        live(scene);
        Cause::default()
    }),
    note("a directory is paused", "folders.state", "folders.state", |scene| {
        live(scene);
        scene.on("one", &["folder", "pause", "d"]).expect(0);
        Cause::default()
    }),
    problem("a directory is gone, or cannot be read", "folders.state", "directory", |scene| {
        live(scene);
        std::fs::remove_dir_all(scene.path("d")).unwrap();
        Cause::default()
    }),
    problem("most of a directory is gone", "folders.state", "heldDeletions", |scene| {
        live(scene);
        for name in 0..3 {
            std::fs::remove_file(scene.path(&format!("d/f{name}"))).unwrap();
        }
        scene.on("one", &["up", "--once"]).expect(5);
        Cause::default()
    }),
    problem("an entry of a directory is left out", "folders.state", "specialFile", |scene| {
        live(scene);
        let made = Command::new("mkfifo").arg(scene.path("d/pipe")).status();
        assert!(made.unwrap().success());
        scene.on("one", &["up", "--once"]).expect(5);
        Cause::default()
    }),
    problem(
        "the states of the directories are damaged",
        "folders.state",
        "folders.state",
        |scene| {
            live(scene);
            scene.write("one/live.json", "{");
            Cause::default()
        },
    ),
];

/// A replica that has all that the server has.
fn in_step(scene: &mut Scene) {
    scene.replica("one");
    scene.write("seed/f", "f");
    scene.on("one", &["import", "seed"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
}

/// A content and its item that wait to be sent.
fn queued(scene: &Scene) {
    scene.write("new", vec![7; 100]);
    scene.on("one", &["put", "new", "/new"]).expect(0);
}

fn live(scene: &mut Scene) {
    scene.replica("one");
    for name in 0..3 {
        scene.write(&format!("d/f{name}"), format!("{name}"));
    }
    scene.on("one", &["up", "--once", "d"]).expect(0);
}

fn init_at(scene: &Scene, url: &str) {
    scene.write("token", scene.token("alice"));
    scene.on("one", &["init", "--server", url, "--token-file", "token"]).expect(0);
}

/// Runs statements on the replica's file.
fn sql(scene: &Scene, statements: &str) {
    let database = rusqlite::Connection::open(scene.path("one/replica.db")).unwrap();
    database.execute_batch(statements).unwrap();
}

/// A token that names its claims, signed by nobody.
fn unsigned(claims: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\",\"typ\":\"JWT\"}");
    format!("{head}.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

/// Makes an error of the protocol of an answer.
fn error(reply: &mut Reply, status: u16, code: &str) {
    reply.head = format!("HTTP/1.1 {status} Error\r\nContent-Type: application/json");
    let body = serde_json::json!({ "error": "no", "code": code, "retryable": false });
    reply.body = body.to_string().into_bytes();
}

/// Changes the JSON of an answer.
fn edit(reply: &mut Reply, change: impl FnOnce(&mut Value)) {
    if let Ok(mut json) = serde_json::from_slice(&reply.body) {
        change(&mut json);
        reply.body = json.to_string().into_bytes();
    }
}

/// Moves the Date of an answer.
fn dated(reply: &mut Reply, seconds: u64) {
    let time = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
    let lines = reply.head.lines().filter(|line| !line.to_lowercase().starts_with("date"));
    let lines: Vec<&str> = lines.collect();
    reply.head = format!("{}\r\nDate: {}", lines.join("\r\n"), httpdate::fmt_http_date(time));
}

/// A replica in step with a server that then answers pulls with a cursor from before.
fn regressing(scene: &mut Scene) -> Fake {
    in_step(scene);
    let url = scene.url().to_owned();
    let fake = Fake::before(&url, |head, reply| {
        if head.contains("/crdt/vfs-sync") {
            edit(reply, |json| {
                // The cursor of 1970.
                let cursor = URL_SAFE_NO_PAD.encode(
                    "{\"version\":1,\"changedAt\":\"1970-01-01T00:00:00.000Z\",\"changeId\":\"a\"}",
                );
                json["items"] = serde_json::json!([]);
                json["hasMore"] = false.into();
                json["nextCursor"] = cursor.into();
            });
        }
    });
    set(scene, "server", fake.url());
    fake
}

/// Takes a copy of the server's data, runs `lost`, and serves the copy.
fn restored_after(scene: &mut Scene, lost: impl FnOnce(&mut Scene)) {
    let address = scene.url().trim_start_matches("http://").to_owned();
    let copy = |scene: &Scene, from: &str, to: &str| {
        let status =
            Command::new("cp").args(["-a", from, to]).current_dir(scene.dir.path()).status();
        assert!(status.unwrap().success());
    };
    scene.terminate_server();
    copy(scene, "server", "backup");
    scene.start_server(&address);
    lost(scene);
    scene.terminate_server();
    std::fs::remove_dir_all(scene.path("server")).unwrap();
    copy(scene, "backup", "server");
    scene.start_server(&address);
}

/// A content whose attach was cut off, and whose stage the server calls expired.
fn staged(scene: &mut Scene, expired: bool) -> Fake {
    let fake = Fake::before(scene.url(), move |head, reply| {
        if head.starts_with("POST /v1/vfs/blobs/batch") {
            error(reply, 503, "overloaded");
            reply.body = br#"{"error":"busy","code":"overloaded"}"#.to_vec();
        }
        if expired && head.starts_with("GET /v1/vfs/blobs/stage/") {
            reply.head = "HTTP/1.1 200 OK\r\nContent-Type: application/json".into();
            let id = head.split(' ').nth(1).unwrap_or_default().rsplit('/').next().unwrap();
            let body = serde_json::json!({
                "stagingId": id, "blobId": "b", "status": "blob-stage:staged",
                "stagedAt": "2020-01-01T00:00:00.000Z", "expiresAt": "2020-01-02T00:00:00.000Z",
            });
            reply.body = body.to_string().into_bytes();
        }
    });
    init_at(scene, fake.url());
    queued(scene);
    scene.on("one", &["sync"]).expect(4);
    fake
}

/// Overwrites the root page of an index.
fn damage_index(scene: &Scene) {
    use std::os::unix::fs::FileExt as _;
    let path = scene.path("one/replica.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    let root: u32 = database
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'links_a_by_child'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let size: u32 = database.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
    drop(database);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xA5; 64], u64::from((root - 1) * size)).unwrap();
}

/// The replica on a disk in memory of a name space of its own, with which `then` does something.
fn on_a_disk(scene: &mut Scene, then: &str) -> Cause {
    in_step(scene);
    std::fs::rename(scene.path("one"), scene.path("aside")).unwrap();
    std::fs::create_dir(scene.path("one")).unwrap();
    let script = format!("mount -t tmpfs -o size=4m tmpfs one && cp -a aside/. one && {then}");
    let tries = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &format!("{script}; true")])
        .current_dir(scene.dir.path())
        .stderr(Stdio::null())
        .status();
    let impossible = !tries.is_ok_and(|status| status.success());
    Cause { script: Some(script), impossible, ..Cause::default() }
}

fn full_disk(scene: &mut Scene) -> Cause {
    on_a_disk(scene, "{ cat /dev/zero > one/rest 2> /dev/null || true; }")
}

fn read_only_disk(scene: &mut Scene) -> Cause {
    on_a_disk(scene, "mount -o remount,ro one")
}
