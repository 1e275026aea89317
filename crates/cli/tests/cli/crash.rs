//! `kill -9` at random instants, of the server and of the client: nothing acknowledged is lost,
//! nothing is applied twice, the next start goes on.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::world::{World, kills, seeded, tree};
use serde_json::{Value, json};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::entry::Change;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PullPage, PushResponse, PushStatus};
use vfs_sync_testkit::Random;

/// The moment at which to kill is the one thing here that time decides.
fn after_random_millis(random: &mut Random, at_most: usize) {
    std::thread::sleep(Duration::from_micros(random.below(at_most * 1_000) as u64));
}

/// The acknowledged names by item.
type Acknowledged = BTreeMap<String, String>;

/// Pushes creations and renames until stopped; a push without an answer is repeated.
async fn push_until(
    url: String,
    token: String,
    end: &AtomicBool,
    mut random: Random,
) -> Acknowledged {
    let http = reqwest::Client::new();
    let mut acknowledged = Acknowledged::new();
    let mut write_id = 0u64;
    while !end.load(Ordering::SeqCst) {
        let mut operations = Vec::new();
        let mut names = Vec::new();
        for _ in 0..=random.below(30) {
            write_id += 1;
            let known = acknowledged.len();
            let rename = known > 0 && random.below(3) == 0;
            let item = if rename {
                acknowledged.keys().nth(random.below(known)).unwrap().clone()
            } else {
                format!("item-{write_id}")
            };
            let mut op = json!({
                "opId": format!("op-{write_id}"), "opType": "item_upsert", "itemId": item,
                "replicaId": "pusher", "writeId": write_id, "name": format!("name-{write_id}"),
                "occurredAt": Timestamp::from_millis(1_700_000_000_000).unwrap(),
            });
            if !rename {
                op["objectType"] = "note".into();
            }
            operations.push(op);
            names.push((item, format!("name-{write_id}")));
        }
        let body = json!({"clientId": "pusher", "operations": operations});
        let response = loop {
            let sent =
                http.post(format!("{url}/v1/vfs/crdt/push")).bearer_auth(&token).json(&body).send();
            if let Ok(answer) = sent.await {
                let status = answer.status();
                if let Ok(response) = answer.json::<PushResponse>().await {
                    break response;
                }
                assert!(status.is_success() || status.is_server_error(), "{status}");
            }
            tokio::task::yield_now().await;
        };
        for (result, (item, name)) in response.results.iter().zip(names) {
            let status = result.status;
            assert!(
                matches!(status, PushStatus::Applied | PushStatus::AlreadyApplied),
                "{status:?} for {item}"
            );
            acknowledged.insert(item, name);
        }
    }
    acknowledged
}

/// Pulls until settled, going on from where `reader` is.
async fn pull(
    url: &str,
    token: &str,
    cursor: &mut Option<Cursor>,
    view: &mut Acknowledged,
) -> bool {
    let http = reqwest::Client::new();
    loop {
        let from = cursor.as_ref().map_or(String::new(), |c| format!("&cursor={}", c.encode()));
        let sent = http
            .get(format!("{url}/v1/vfs/crdt/vfs-sync?limit=50{from}"))
            .bearer_auth(token)
            .send()
            .await;
        let Ok(answer) = sent else { return false };
        let status = answer.status();
        let Ok(body) = answer.bytes().await else { return false };
        if status.is_server_error() {
            return false;
        }
        assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        let page: PullPage = serde_json::from_slice(&body).unwrap();
        for entry in page.items {
            assert!(Some(&entry.position) > cursor.as_ref(), "the feed stepped back");
            *cursor = Some(entry.position);
            if let Change::ItemUpsert(item) = entry.body.change {
                view.insert(item.item_id.to_string(), item.name.unwrap().to_string());
            }
        }
        if !page.has_more {
            return true;
        }
    }
}

#[test]
fn a_server_that_is_killed_loses_nothing_acknowledged_and_applies_nothing_twice() {
    let mut world = World::new();
    let mut random = seeded("server kills");
    let (url, token) = (world.url(), world.token.clone());
    let end = AtomicBool::new(false);
    let seed = seeded("pushes");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (acknowledged, (mut cursor, mut lagging)) = std::thread::scope(|scope| {
        let pusher =
            scope.spawn(|| runtime.block_on(push_until(url.clone(), token.clone(), &end, seed)));
        let reader = scope.spawn(|| {
            let (mut cursor, mut view) = (None, Acknowledged::new());
            while !end.load(Ordering::SeqCst) {
                runtime.block_on(pull(&url, &token, &mut cursor, &mut view));
            }
            (cursor, view)
        });
        for _ in 0..kills() {
            after_random_millis(&mut random, 40);
            world.kill_server();
            world.start_server();
        }
        end.store(true, Ordering::SeqCst);
        (pusher.join().unwrap(), reader.join().unwrap())
    });
    println!("{} items acknowledged over {} kills", acknowledged.len(), kills());
    let (mut start, mut fresh) = (None, Acknowledged::new());
    assert!(runtime.block_on(pull(&url, &token, &mut start, &mut fresh)));
    assert_eq!(fresh, acknowledged, "what is there is what was acknowledged, each once");
    assert!(runtime.block_on(pull(&url, &token, &mut cursor, &mut lagging)));
    assert_eq!(lagging, acknowledged, "also for who read along");
}

/// Starts a command and kills it at a random instant; whether it was done by then.
fn run_and_kill(mut command: Command, random: &mut Random, at_most: usize) -> bool {
    let null = std::process::Stdio::null;
    let mut child = command.stdout(null()).stderr(null()).spawn().unwrap();
    after_random_millis(random, at_most);
    let done = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    done.is_some_and(|status| status.success())
}

#[test]
fn a_client_that_is_killed_goes_on_where_it_was() {
    let world = World::new();
    let mut random = seeded("client kills");
    world.init("a");
    world.ok("a", &["mkdir", "/tree"]);
    let source = world.path("source");
    std::fs::create_dir(&source).unwrap();
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..kills() {
        for _ in 0..5 {
            change_something(&source, &mut random);
        }
        let (source, import) = (source.to_str().unwrap(), round % 2 == 0);
        let command = if import {
            world.on("a", &["import", source, "/tree", "--delete"])
        } else {
            world.on("a", &["sync"])
        };
        run_and_kill(command, &mut random, 120);
        if round % 10 == 9 {
            let (file, path) = (world.path("put"), format!("/put-{round}"));
            std::fs::write(&file, format!("content {round}")).unwrap();
            world.ok("a", &["put", file.to_str().unwrap(), &path]);
            acknowledged.insert(path, format!("content {round}"));
        }
    }
    world.ok("a", &["import", source.to_str().unwrap(), "/tree", "--delete", "--yes"]);
    world.ok("a", &["sync"]);
    let status: Value = serde_json::from_str(&world.ok("a", &["--json", "status"])).unwrap();
    assert_eq!(status["pending"], 0, "{status}");
    assert_eq!(status["rejected"], 0, "{status}");
    assert_eq!(status["uploads"], 0, "{status}");
    world.init("b");
    world.ok("b", &["sync"]);
    let exported = world.exported("b", "copy");
    for (path, content) in acknowledged {
        let (found, ..) = exported[std::path::Path::new(&path[1..])].as_ref().unwrap();
        assert_eq!(String::from_utf8_lossy(found), content, "{path}");
    }
    assert_eq!(tree(&world.path("copy").join("tree")), tree(&source));
}

/// Bytes of any size up to more than what is sent in one go, each content its own.
fn content(random: &mut Random) -> Vec<u8> {
    let most = match random.below(12) {
        0 => 24 * 1024 * 1024,
        1..=4 => 3 * 1024 * 1024,
        _ => 40_000,
    };
    let size = random.below(most);
    let mut bytes = vec![0; size];
    for at in (0..size).step_by(512) {
        bytes[at] = u8::try_from(random.below(256)).unwrap();
    }
    bytes
}

/// Kills whatever moves contents: taking them in, uploading, attaching, downloading, evicting.
#[test]
fn contents_survive_a_client_that_is_killed_while_it_moves_them() {
    let world = World::new();
    let mut random = seeded("kills among contents");
    world.init("a");
    world.init("b");
    let limit = 6 * 1024 * 1024;
    let (small_cache, file) = (limit.to_string(), world.path("put"));
    let mut acknowledged: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let export = world.path("export");
    let _ = world.run("b", &["sync"]);
    let mut kills_left = kills();
    while kills_left > 0 {
        let bytes = content(&mut random);
        std::fs::write(&file, &bytes).unwrap();
        // The same few paths again and again: later contents of a file follow earlier ones.
        let path = format!("/f{}", random.below(20));
        let put = ["--cache-size", &small_cache, "put", file.to_str().unwrap(), &path];
        world.ok("a", &put);
        acknowledged.insert(path, bytes);
        for _ in 0..1 + random.below(4) {
            let to = export.to_str().unwrap();
            let (replica, args): (&str, &[&str]) = match random.below(8) {
                0..=3 => ("a", &["sync"]),
                4 => ("a", &["put", file.to_str().unwrap(), "/never-acknowledged"]),
                5 => ("b", &["sync"]),
                _ => ("b", &["export", to, "--force"]),
            };
            let limited: Vec<&str> =
                ["--cache-size", &small_cache].iter().chain(args).copied().collect();
            run_and_kill(world.on(replica, &limited), &mut random, 250);
            kills_left = kills_left.saturating_sub(1);
        }
    }
    for replica in ["a", "b"] {
        world.ok(replica, &["--cache-size", &small_cache, "sync"]);
        let status = world.ok(replica, &["--json", "--cache-size", &small_cache, "status"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        let rejected = world.ok(replica, &["rejected"]);
        for none in ["pending", "rejected", "uploads", "rejectedUploads"] {
            assert_eq!(status[none], 0, "{replica}: {status}: {rejected}");
        }
    }
    world.ok("b", &["--cache-size", &small_cache, "export", export.to_str().unwrap(), "--force"]);
    for (path, bytes) in acknowledged {
        let found = std::fs::read(export.join(&path[1..])).unwrap();
        assert!(found == bytes, "{path}: {} bytes, put {}", found.len(), bytes.len());
    }
    let names: Vec<String> = tree(&export).into_keys().map(|p| p.display().to_string()).collect();
    assert!(names.iter().all(|name| !name.contains("conflict")), "no copies: {names:?}");
    for replica in ["a", "b"] {
        let contents = world.path(replica).join("contents");
        let left = |of: &str| std::fs::read_dir(contents.join(of)).unwrap().count();
        assert_eq!(left("drafts"), 0, "{replica}");
        let kept: u64 =
            tree(&contents).into_values().flatten().map(|(bytes, ..)| bytes.len() as u64).sum();
        // Downloads that were killed stay a while, to be gone on with.
        let partial: u64 = tree(&contents.join("partial"))
            .into_values()
            .flatten()
            .map(|(bytes, ..)| bytes.len() as u64)
            .sum();
        assert!(kept - partial <= limit, "{replica}: {kept} bytes kept");
    }
}

/// A new, changed, moved or deleted file or folder.
fn change_something(root: &std::path::Path, random: &mut Random) {
    let name = |random: &mut Random| format!("n{}", random.below(12));
    let folder = root.join(name(random));
    if folder.is_file() {
        std::fs::remove_file(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("f{}", random.below(6)));
    match random.below(6) {
        0 if file.exists() => std::fs::remove_file(&file).unwrap(),
        1 if file.exists() => {
            let to = root.join(name(random));
            if to.is_dir() {
                std::fs::rename(&file, to.join("moved")).unwrap();
            }
        }
        2 => std::fs::remove_dir_all(&folder).unwrap(),
        _ => {
            let size = random.below(40_000);
            std::fs::write(&file, format!("{}-", random.below(1_000)).repeat(size / 4)).unwrap();
        }
    }
}
