//! What works without a server: a durable tree, edits visible at once, names, the queue.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::core::item::ObjectType;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{
    ClientConfig, ClientError, Delete, Environment, HttpConfig, HttpTransport, StateExport,
    StaticToken, SyncClient, Transport,
};

use crate::support::{export, name, paths};

/// A clock that stands still, and ids that count.
#[derive(Debug)]
struct Counting(AtomicU64);

impl Environment for Counting {
    fn now(&self) -> Timestamp {
        "2026-01-01T12:00:00.000Z".parse().unwrap()
    }

    fn unique(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn jitter(&self) -> f64 {
        f64::NAN
    }
}

fn nowhere() -> Arc<dyn Transport> {
    let config = HttpConfig::new("http://127.0.0.1:1");
    Arc::new(HttpTransport::new(config, StaticToken::new("t")).unwrap())
}

fn user() -> UserId {
    UserId::new("alice").unwrap()
}

fn create(dir: &Path) -> SyncClient {
    SyncClient::builder(nowhere()).server("s").create(dir, user()).unwrap()
}

fn open(dir: &Path) -> Result<SyncClient, ClientError> {
    SyncClient::builder(nowhere()).open(dir)
}

/// Runs a test on both back ends.
fn check(test: impl Fn(&SyncClient)) {
    let dir = tempfile::tempdir().unwrap();
    test(&create(dir.path()));
    test(&SyncClient::builder(nowhere()).in_memory(user()).unwrap());
}

fn names(client: &SyncClient, parent: Option<&ItemId>) -> Vec<String> {
    client.children(parent).unwrap().into_iter().map(|child| child.name).collect()
}

#[test]
fn edits_are_visible_at_once() {
    check(|client| {
        let docs = client.create_folder(None, name("docs")).unwrap();
        let file = client.create_file(Some(&docs), name("a.txt")).unwrap();
        assert_eq!(paths(client), ["docs", "docs/a.txt"]);
        client.rename(&file, name("b.txt")).unwrap();
        client.set_metadata(&file, vec![("mode".into(), Some(420.into()))]).unwrap();
        let node = client.resolve("/docs/b.txt").unwrap();
        assert_eq!(node.id, file);
        assert_eq!(node.metadata["mode"], 420);
        assert!(node.pending);
        let other = client.create_folder(None, name("other")).unwrap();
        client.move_to(&file, Some(&other)).unwrap();
        assert_eq!(paths(client), ["docs", "other", "other/b.txt"]);
        client.move_to(&file, None).unwrap();
        assert_eq!(paths(client), ["b.txt", "docs", "other"]);
        client.move_to(&docs, Some(&other)).unwrap();
        assert_eq!(client.path_of(&docs).unwrap(), "/other/docs");
        let error = client.move_to(&other, Some(&docs)).unwrap_err();
        assert!(matches!(error, ClientError::Cycle { .. }), "{error}");
        assert_eq!(client.delete(&other, Delete::Item).unwrap(), 1);
        assert_eq!(paths(client), ["b.txt", "docs"], "what hung there alone goes to the top");
    });
}

#[test]
fn no_walk_ends_before_the_tree_does() {
    let dir = tempfile::tempdir().unwrap();
    walk_all_of_a_deep_tree(&create(dir.path()), 1_500);
    let config = ClientConfig::default();
    walk_all_of_a_deep_tree(
        &SyncClient::builder(nowhere()).config(config).in_memory(user()).unwrap(),
        5_000,
    );
}

fn walk_all_of_a_deep_tree(client: &SyncClient, depth: usize) {
    let mut batch = client.batch();
    let mut folders: Vec<ItemId> = Vec::new();
    for _ in 0..depth {
        let above = folders.last();
        folders.push(batch.create(ObjectType::Folder, above, name("d"), Vec::new()));
    }
    let file = batch.create(ObjectType::File, folders.last(), name("thesis"), Vec::new());
    batch.put_content(&file, &b"three years of work"[..]).unwrap();
    batch.commit().unwrap();
    let walked: Vec<_> = client.walk(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(walked.len(), depth + 1);
    let deepest = walked.last().unwrap();
    assert_eq!((deepest.depth, &deepest.node.id), (depth, &file));
    let path = format!("{}thesis", "d/".repeat(depth));
    assert_eq!(deepest.path, path);
    assert_eq!(client.resolve(&path).unwrap().id, file);
    assert_eq!(client.path_of(&file).unwrap(), format!("/{path}"));
    let copy = client.copy(&folders[0], None, name("copy")).unwrap();
    let copied: Vec<_> = client.walk(Some(&copy)).unwrap().map(Result::unwrap).collect();
    assert_eq!(copied.len(), depth);
    assert!(copied.last().unwrap().node.content.is_some());
    assert_eq!(client.delete(&folders[0], Delete::Recursive).unwrap(), depth as u64 + 1);
    assert_eq!(names(client, None), ["copy"]);
}

#[test]
fn folders_that_hang_under_each_other_twice_do_not_make_a_walk_double() {
    const LEVELS: usize = 16;
    check(|client| {
        let mut above = [client.create_folder(None, name("top")).unwrap(), client.new_item_id()];
        for level in 0..LEVELS {
            let [one, other] = ["one", "other"].map(|side| {
                let side = name(&format!("{side} {level}"));
                client.create_folder(Some(&above[0]), side).unwrap()
            });
            if level > 0 {
                client.link(&one, &above[1]).unwrap();
                client.link(&other, &above[1]).unwrap();
            }
            above = [one, other];
        }
        let walked = client.walk(None).unwrap().map(Result::unwrap);
        let deepest = walked.filter(|entry| entry.node.id == above[0]).collect::<Vec<_>>();
        assert_eq!(deepest.len(), 2, "met under both folders that it hangs under");
        assert_eq!(client.walk(None).unwrap().count(), 1 + 2 * (2 * LEVELS - 1));

        let top = client.resolve("top").unwrap().id;
        let copy = client.copy(&top, None, name("copy")).unwrap();
        let copied = client.walk(Some(&copy)).unwrap().count();
        assert_eq!(copied, 2 * (2 * LEVELS - 1), "a copy has the same shape");
    });
}

#[test]
fn a_recursive_delete_spares_what_hangs_elsewhere_too() {
    check(|client| {
        let top = client.create_folder(None, name("top")).unwrap();
        let inner = client.create_folder(Some(&top), name("inner")).unwrap();
        let gone = client.create_file(Some(&inner), name("gone")).unwrap();
        let shared = client.create_file(Some(&inner), name("shared")).unwrap();
        let other = client.create_folder(None, name("other")).unwrap();
        client.link(&shared, &other).unwrap();
        assert_eq!(client.delete(&top, Delete::Recursive).unwrap(), 3);
        assert_eq!(paths(client), ["other", "other/shared"]);
        assert_eq!(client.node(&gone).unwrap(), None);
    });
}

#[test]
fn a_batch_is_queued_whole_or_not_at_all() {
    check(|client| {
        client.create_folder(None, name("before")).unwrap();
        let state = export(client);
        let mut batch = client.batch();
        let folder = batch.create(ObjectType::Folder, None, name("f"), Vec::new());
        batch.create(ObjectType::File, Some(&folder), name("x"), Vec::new());
        batch.rename(&ItemId::new("nobody").unwrap(), name("y"));
        assert!(matches!(batch.commit(), Err(ClientError::UnknownItem(_))));
        assert_eq!(export(client), state);
        assert_eq!(paths(client), ["before"]);
        let mut batch = client.batch();
        let folder = batch.create(ObjectType::Folder, None, name("f"), Vec::new());
        batch.create(ObjectType::File, Some(&folder), name("x"), Vec::new());
        assert_eq!(batch.commit().unwrap().len(), 2);
        assert_eq!(paths(client), ["before", "f", "f/x"]);
    });
}

#[test]
fn what_was_queued_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let client = create(dir.path());
    let folder = client.create_folder(None, name("f")).unwrap();
    let file = client.create_file(Some(&folder), name("x")).unwrap();
    client.contents().put(&file, &b"hello"[..]).unwrap();
    let (state, id) = (export(&client), client.client_id());
    drop(client);
    let client = open(dir.path()).unwrap();
    assert_eq!(client.client_id(), id);
    assert_eq!(export(&client), state);
    assert_eq!(paths(&client), ["f", "f/x"]);
    assert_eq!(client.queue().operations(10).unwrap().len(), 2);
    assert_eq!(client.node(&file).unwrap().unwrap().content.unwrap().size, 5);
    assert_eq!(client.status().unwrap().uploads, 1);
}

#[test]
fn one_process_at_a_time_has_a_replica_open() {
    let dir = tempfile::tempdir().unwrap();
    let client = create(dir.path());
    assert!(matches!(open(dir.path()), Err(ClientError::InUse(_))));
    drop(client);
    assert!(open(dir.path()).is_ok());
}

#[test]
fn a_file_that_is_no_replica_of_this_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(open(dir.path()), Err(ClientError::NoReplica(_))));
    drop(create(dir.path()));
    let file = dir.path().join("replica.db");
    let pragma = |text: &str| {
        rusqlite::Connection::open(&file).unwrap().execute_batch(text).unwrap();
    };
    pragma("PRAGMA user_version = 99");
    assert!(matches!(open(dir.path()), Err(ClientError::NewerReplica { found: 99, .. })));
    pragma("PRAGMA user_version = 8; UPDATE meta SET value = '{' WHERE key = 'floor'");
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("floor"), "{error}");
    pragma("PRAGMA application_id = 5");
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    std::fs::write(&file, "not a database, whatever it is called".repeat(100)).unwrap();
    assert!(matches!(open(dir.path()), Err(ClientError::CorruptReplica { .. })));
    let again = SyncClient::builder(nowhere()).server("s").create(dir.path(), user());
    assert!(matches!(again, Err(ClientError::ReplicaExists(_))));
}

#[test]
fn siblings_with_one_name_are_told_apart() {
    check(|client| {
        let first = client.create_file(None, name("n.txt")).unwrap();
        client.create_file(None, name("n.txt")).unwrap();
        let shown = names(client, None);
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[1], "n.txt");
        assert!(shown[0].starts_with("n (conflict "), "{shown:?}");
        assert_eq!(client.resolve("n.txt").unwrap().id, first);
    });
}

#[test]
fn a_copy_has_its_own_items_and_contents() {
    check(|client| {
        let folder = client.create_folder(None, name("f")).unwrap();
        let file = client.create_file(Some(&folder), name("x")).unwrap();
        client.contents().put(&file, &b"hello"[..]).unwrap();
        client.copy(&folder, None, name("g")).unwrap();
        assert_eq!(paths(client), ["f", "f/x", "g", "g/x"]);
        let copy = client.resolve("g/x").unwrap();
        let original = client.resolve("f/x").unwrap();
        let (copy, original) = (copy.content.unwrap(), original.content.unwrap());
        assert_eq!(copy.digest, original.digest);
        assert_ne!(copy.blob_id, original.blob_id);
    });
}

#[test]
fn metadata_beyond_the_protocols_bounds_is_refused() {
    check(|client| {
        let file = client.create_file(None, name("x")).unwrap();
        let many = |from: usize| {
            (from..from + 40).map(|n| (format!("k{n}"), Some(n.into()))).collect::<Vec<_>>()
        };
        client.set_metadata(&file, many(0)).unwrap();
        assert!(matches!(client.set_metadata(&file, many(40)), Err(ClientError::Invalid(_))));
        let large = vec![("k0".into(), Some("x".repeat(17_000).into()))];
        assert!(matches!(client.set_metadata(&file, large), Err(ClientError::Invalid(_))));
    });
}

#[test]
fn an_exported_state_survives_hydrating_byte_for_byte() {
    check(|client| {
        let folder = client.create_folder(None, name("f")).unwrap();
        client.create_file(Some(&folder), name("x")).unwrap();
        let state = export(client);
        let other =
            SyncClient::builder(nowhere()).client_id(client.client_id()).in_memory(user()).unwrap();
        let outcome = other.hydrate_state(state.as_bytes()).unwrap();
        assert_eq!((outcome.items, outcome.queued), (0, 2));
        assert_eq!(export(&other), state);
        assert_eq!(paths(&other), ["f", "f/x"]);
        let error = other.hydrate_state(state.as_bytes()).unwrap_err();
        assert_eq!(
            error.violation().unwrap().signature(),
            "hydrate:hydrateGuardrailViolation",
            "a client that is not pristine"
        );
    });
}

#[test]
fn a_redacted_state_has_no_names_and_cannot_be_hydrated() {
    check(|client| {
        let file = client.create_file(None, name("secret.txt")).unwrap();
        client.set_metadata(&file, vec![("diary".into(), Some("private".into()))]).unwrap();
        let mut bytes = Vec::new();
        client.export_state(StateExport { redact: true }, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for word in ["secret", "diary", "private"] {
            assert!(!text.contains(word), "{text}");
        }
        let id = client.client_id();
        let other = SyncClient::builder(nowhere()).client_id(id).in_memory(user());
        let error = other.unwrap().hydrate_state(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("redacted"), "{error}");
    });
}

#[test]
fn a_content_is_read_back_from_the_cache() {
    check(|client| {
        let file = client.create_file(None, name("x")).unwrap();
        client.contents().put(&file, &b"one"[..]).unwrap();
        let second = client.contents().put(&file, &b"second"[..]).unwrap();
        assert_eq!(client.status().unwrap().uploads, 1, "nobody had heard of the first");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = runtime.block_on(client.contents().read(&file)).unwrap();
        let mut text = String::new();
        local.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), local.digest()), ("second", second.digest));
    });
}

#[test]
fn a_replica_of_the_format_before_is_opened_and_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let docs = create(dir.path()).create_folder(None, name("docs")).unwrap();
    let open_file = || rusqlite::Connection::open(dir.path().join("replica.db")).unwrap();
    let before = "DROP TABLE directory_intents; DROP TABLE found; DROP TABLE found_metadata;
        ALTER TABLE queue DROP COLUMN given_at; PRAGMA user_version = 5";
    open_file().execute_batch(before).unwrap();
    assert_eq!(open(dir.path()).unwrap().resolve("docs").unwrap().id, docs);
    let database = open_file();
    for slot in ["a", "b"] {
        for table in ["items", "links", "grants", "attachments"] {
            let drop = format!("ALTER TABLE {table}_{slot} DROP COLUMN position");
            database.execute_batch(&drop).unwrap();
        }
    }
    let before = "DROP TABLE found; DROP TABLE found_metadata; DROP TABLE forgotten; DROP TABLE removals; DROP TABLE lost;
        DROP TABLE directories; DROP TABLE directory_entries; DROP TABLE directory_intents;
        DROP INDEX queue_by_move; ALTER TABLE queue DROP COLUMN moved;
        ALTER TABLE queue DROP COLUMN given_at;
        DELETE FROM meta WHERE key = 'trail'; PRAGMA user_version = 1";
    database.execute_batch(before).unwrap();
    drop(database);
    for _ in 0..2 {
        assert_eq!(open(dir.path()).unwrap().resolve("docs").unwrap().id, docs);
    }
}

#[test]
fn the_same_edits_in_the_same_environment_make_the_same_replica() {
    let edit = |seed| {
        let environment = Arc::new(Counting(AtomicU64::new(seed)));
        let config = ClientConfig { environment, ..ClientConfig::default() };
        let client = SyncClient::builder(nowhere()).config(config).in_memory(user()).unwrap();
        let folder = client.create_folder(None, name("a")).unwrap();
        let file = client.create_file(Some(&folder), name("b")).unwrap();
        client.contents().put(&file, &b"bytes"[..]).unwrap();
        export(&client)
    };
    assert_eq!(edit(1), edit(1));
    assert_ne!(edit(1), edit(100));
}
