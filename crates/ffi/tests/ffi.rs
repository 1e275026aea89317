//! The surface for other languages, as a binding uses it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use vfs_sync_ffi::{
    Cancellation, Client, ClientOptions, ErrorCode, ForeignAnswer, ForeignCall, ForeignTransport,
    PutOptions, Server, StaticToken, Subscription, TokenProvider,
};
use vfs_sync_testkit::TestServer;

fn options(json: Value) -> ClientOptions {
    ClientOptions::parse(&json.to_string()).unwrap()
}

async fn device(server: &TestServer, user: &str) -> Client {
    let options = options(json!({ "mode": "memory", "user": user, "server": server.url() }));
    let token = Box::new(StaticToken::new(server.token(user)));
    Client::open(options, Server::Http(token)).await.unwrap()
}

fn read(client: &Client, call: Value) -> Value {
    serde_json::from_str(&client.read(&call.to_string()).unwrap()).unwrap()
}

async fn write(client: &Client, call: Value) -> Value {
    serde_json::from_str(&client.write(&call.to_string()).await.unwrap()).unwrap()
}

async fn run(client: &Client, call: &str) -> Result<Value, vfs_sync_ffi::Error> {
    let done = client.run(&json!({ "call": call }).to_string(), None).await?;
    Ok(serde_json::from_str(&done).unwrap())
}

async fn create(client: &Client, kind: &str, parent: Option<&str>, name: &str) -> String {
    let edit = json!({ "edit": "create", "type": kind, "parent": parent, "name": name });
    let made = write(client, json!({ "call": "edit", "edits": [edit] })).await;
    made[0].as_str().unwrap().to_owned()
}

async fn next(stream: &Subscription) -> Value {
    serde_json::from_str(&stream.next(None).await.unwrap().unwrap()).unwrap()
}

fn put(item: &str) -> PutOptions {
    PutOptions::parse(&json!({ "item": item }).to_string()).unwrap()
}

#[tokio::test]
async fn a_tree_is_edited_synchronised_and_read() {
    let server = TestServer::start().await;
    let (laptop, phone) = (device(&server, "alice").await, device(&server, "alice").await);
    let changes = phone.subscribe(r#"{"stream":"changes"}"#).unwrap();
    let call = json!({ "call": "getOrCreateFolder", "name": "Photos" });
    let photos = write(&laptop, call.clone()).await;
    assert_eq!(write(&laptop, call).await, photos);
    let photos = photos.as_str().unwrap();
    let sea = create(&laptop, "file", Some(photos), "sea.jpg").await;

    let writer = laptop.writer(put(&sea)).unwrap();
    for part in [&b"a wave"[..], b"", b" and a shore"] {
        writer.write(part.to_vec()).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap()["size"], 18);
    assert_eq!(writer.finish().await.unwrap_err().code, ErrorCode::Closed);
    let report = run(&laptop, "sync").await.unwrap();
    assert_eq!((&report["applied"], &report["uploaded"]), (&json!(2), &json!(1)));

    run(&phone, "sync").await.unwrap();
    let mut paths = vec![];
    for _ in 0..2 {
        let change = next(&changes).await;
        assert_eq!((&change["type"], &change["before"]), (&json!("appeared"), &Value::Null));
        paths.push(change["after"]["path"].as_str().unwrap().to_owned());
    }
    paths.sort();
    assert_eq!(paths, ["/Photos", "/Photos/sea.jpg"]);
    let reader = phone.reader(sea.clone(), None, None).await.unwrap();
    assert_eq!(reader.size(), 18);
    let mut bytes = Vec::new();
    loop {
        let chunk = reader.read(7).await.unwrap();
        if chunk.is_empty() {
            break;
        }
        bytes.extend(chunk);
    }
    assert_eq!(bytes, b"a wave and a shore");
    let children = read(&phone, json!({ "call": "children", "parent": photos }));
    assert_eq!(children[0]["shownName"], "sea.jpg");
    let path = read(&phone, json!({ "call": "pathOf", "item": sea }));
    assert_eq!(path, "/Photos/sea.jpg");
    let state = read(&phone, json!({ "call": "syncState" }));
    assert_eq!((&state["connection"], &state["pending"]), (&json!("online"), &json!(0)));
    assert!(state["lastInStepAt"].is_string());
    let texts = |client: &Client| read(client, json!({ "call": "exportState" }));
    assert_eq!(texts(&phone), texts(&phone));
}

#[tokio::test]
async fn writes_happen_in_the_order_of_the_calls_and_all_or_none() {
    let server = TestServer::start().await;
    let client = device(&server, "alice").await;
    let item = create(&client, "note", None, "0").await;
    let rename = |name: &str| {
        let edit = json!({ "edit": "rename", "item": item, "name": name });
        json!({ "call": "edit", "edits": [edit] }).to_string()
    };
    let writes: Vec<_> =
        (1..=50).map(|number| client.write(&rename(&number.to_string()))).collect();
    // The first ones are given up, and happen all the same.
    for write in writes.into_iter().skip(25) {
        write.await.unwrap();
    }
    let node = json!({ "call": "node", "item": item });
    assert_eq!(read(&client, node.clone())["name"], "50");
    assert_eq!(read(&client, json!({ "call": "status" }))["pending"], 51);

    let edits = json!([
        { "edit": "rename", "item": item, "name": "other" },
        { "edit": "rename", "item": "unknown", "name": "x" },
    ]);
    let both = json!({ "call": "edit", "edits": edits }).to_string();
    let error = client.write(&both).await.unwrap_err();
    assert_eq!((error.code, &error.details["item"]), (ErrorCode::UnknownItem, &json!("unknown")));
    assert_eq!(read(&client, node)["name"], "50");
}

#[tokio::test]
async fn calls_of_a_wrong_form_are_refused_by_name() {
    let server = TestServer::start().await;
    let client = device(&server, "alice").await;
    for (call, part) in [
        (r#"{"call":"explode"}"#, "unknown variant `explode`"),
        (r#"{"call":"node"}"#, "missing field `item`"),
        (r#"{"call":"node","item":""}"#, "must not be empty"),
        (r#"{"call":"children","parent":null,"other":1}"#, "unknown field `other`"),
        ("[]", "not valid"),
        ("", "EOF"),
    ] {
        let error = client.read(call).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(error.message.contains(part), "{}", error.message);
    }
    let bad = r#"{"call":"edit","edits":[{"edit":"rename","item":"a","name":"a/b"}]}"#;
    let error = client.write(bad).await.unwrap_err();
    assert!(error.message.contains("'/'"), "{}", error.message);
    assert_eq!(client.run("{}", None).await.unwrap_err().code, ErrorCode::Invalid);
    let unknown = json!({ "mode": "memory", "user": "a", "colour": "red" }).to_string();
    assert_eq!(ClientOptions::parse(&unknown).unwrap_err().code, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_closed_client_ends_its_streams_and_releases_the_replica() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = || Server::Http(Box::new(StaticToken::new(server.token("alice"))));
    let options = options(json!({
        "user": "alice", "directory": dir.path(), "server": server.url(),
    }));
    let client = Client::open(options.clone(), token()).await.unwrap();
    run(&client, "startBackground").await.unwrap();
    let changes = client.subscribe(r#"{"stream":"changes"}"#).unwrap();
    let item = create(&client, "file", None, "f").await;
    client.put(put(&item), b"bytes".to_vec()).await.unwrap();
    let reader = client.reader(item.clone(), None, None).await.unwrap();
    let other = Client::open(options.clone(), token()).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::InUse);
    while changes.next(None).now_or_never_ready().await.is_some() {}

    let waiting = tokio::spawn(changes.next(None));
    let writer = client.writer(put(&item)).unwrap();
    writer.write(b"half".to_vec()).await.unwrap();
    client.close().await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err().code, ErrorCode::Closed);
    client.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), None);
    assert_eq!(client.read(r#"{"call":"user"}"#).unwrap_err().code, ErrorCode::Closed);
    assert_eq!(run(&client, "sync").await.unwrap_err().code, ErrorCode::Closed);
    assert_eq!(reader.read(99).await.unwrap(), b"bytes", "an open file can be read to its end");

    let again = Client::open(options.clone(), token()).await.unwrap();
    drop(client);
    assert_eq!(read(&again, json!({ "call": "node", "item": item }))["name"], "f");
    drop(changes);
    drop(reader);
    again.close().await.unwrap();
    // Whatever a cancelled call left running is done when the client is closed.
    for _ in 0..30 {
        let client = Client::open(options.clone(), token()).await.unwrap();
        run(&client, "startBackground").await.unwrap();
        let call = r#"{"call":"getOrCreateFolder","name":"f"}"#;
        let (sync, edit) = (client.run(r#"{"call":"sync"}"#, None), client.write(call));
        client.close().await.unwrap();
        let synced = sync.await.err();
        assert!(synced.is_none_or(|error| error.code == ErrorCode::Closed));
        drop(edit);
    }
}

#[tokio::test]
async fn closing_goes_on_if_nobody_waits_and_each_call_returns_after_the_release() {
    let dir = tempfile::tempdir().unwrap();
    let options = || options(json!({ "user": "alice", "directory": dir.path() }));
    let foreign = || Server::Foreign(Arc::new(Odd(AtomicUsize::new(0), "never")));
    for _ in 0..30 {
        let client = Client::open(options(), foreign()).await.unwrap();
        run(&client, "startBackground").await.unwrap();
        drop(client.close()); // as a task that is cancelled
        let (first, second) = (client.close(), client.close());
        drop(first);
        second.await.unwrap();
    }
    Client::open(options(), foreign()).await.unwrap().close().await.unwrap();
}

/// Takes what a stream has, without waiting for more.
trait Ready {
    async fn now_or_never_ready(self) -> Option<String>;
}

impl<F: Future<Output = Result<Option<String>, vfs_sync_ffi::Error>>> Ready for F {
    async fn now_or_never_ready(self) -> Option<String> {
        let soon = std::time::Duration::from_millis(200);
        tokio::time::timeout(soon, self).await.ok()?.unwrap()
    }
}

/// A transport that panics, fails, waits for ever, or forwards.
struct Odd(AtomicUsize, &'static str);

#[async_trait]
impl ForeignTransport for Odd {
    async fn call(&self, call: ForeignCall) -> Result<ForeignAnswer, String> {
        self.0.fetch_add(1, Ordering::SeqCst);
        match self.1 {
            "panic" => panic!("out of cheese"),
            "never" => std::future::pending().await,
            "fail" => Err("no line".into()),
            "empty" => {
                let (body, data) = ("{}".into(), None);
                Ok(ForeignAnswer { status: 200, body, data, retry_after: None })
            }
            "twice" => {
                call.forward().await.map_err(|error| error.message)?;
                call.forward().await.map_err(|error| error.message)
            }
            _ => call.forward().await.map_err(|_| "forwarding failed".to_owned()),
        }
    }
}

async fn over(odd: &'static str) -> Client {
    let foreign = Arc::new(Odd(AtomicUsize::new(0), odd));
    let options = options(json!({ "mode": "memory", "user": "alice" }));
    Client::open(options, Server::Foreign(foreign)).await.unwrap()
}

#[tokio::test]
async fn a_panic_a_failure_and_a_wrong_answer_are_errors_and_change_nothing() {
    for (odd, code) in [
        ("panic", ErrorCode::Panicked),
        ("fail", ErrorCode::Network),
        ("empty", ErrorCode::MalformedResponse),
    ] {
        let client = over(odd).await;
        create(&client, "folder", None, "kept").await;
        let before = read(&client, json!({ "call": "exportState" }));
        for _ in 0..2 {
            let error = run(&client, "sync").await.unwrap_err();
            assert_eq!(error.code, code, "{}", error.message);
            assert_eq!(error.transient, code == ErrorCode::Network);
        }
        assert_eq!(read(&client, json!({ "call": "exportState" })), before);
        let state = read(&client, json!({ "call": "syncState" }));
        let offline = code == ErrorCode::Network;
        assert_eq!(state["connection"] == "offline", offline);
        assert_eq!(state["offlineSince"].is_string(), offline);
    }
}

#[tokio::test]
async fn a_call_is_cancelled_at_its_next_await_and_the_next_one_goes_on() {
    let client = over("never").await;
    let cancel = Cancellation::new();
    let waiting = tokio::spawn(client.run(r#"{"call":"pull"}"#, Some(cancel.clone())));
    cancel.cancel();
    assert_eq!(waiting.await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
    let stream = client.subscribe(r#"{"stream":"events"}"#).unwrap();
    assert_eq!(stream.next(Some(cancel)).await.unwrap_err().code, ErrorCode::Cancelled);
    // The lock of the work is free again: this waits for the transport, and not for the first call.
    let waiting = tokio::spawn(client.run(r#"{"call":"pull"}"#, None));
    client.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code, ErrorCode::Closed);
}

#[tokio::test]
async fn a_transport_around_another_forwards_and_keeps_its_failures() {
    let mut server = TestServer::start().await;
    let around = |odd, token: String| {
        let options = options(json!({ "mode": "memory", "user": "alice", "server": server.url() }));
        let foreign = Arc::new(Odd(AtomicUsize::new(0), odd));
        Client::open(options, Server::Around(Box::new(StaticToken::new(token)), foreign))
    };
    let client = around("twice", server.token("alice")).await.unwrap();
    let item = create(&client, "file", None, "f").await;
    client.put(put(&item), vec![7; 100]).await.unwrap();
    let large = create(&client, "file", None, "large").await;
    client.put(put(&large), vec![8; 3_000_000]).await.unwrap();
    run(&client, "sync").await.unwrap();
    assert_eq!(read(&client, json!({ "call": "outstanding" }))["uploads"], 0);
    let other = around("once", server.token("alice")).await.unwrap();
    run(&other, "sync").await.unwrap();
    let reader = other.reader(large, None, None).await.unwrap();
    assert_eq!(reader.size(), 3_000_000);

    let wrong = around("once", server.token("bob")).await.unwrap();
    let error = run(&wrong, "sync").await.unwrap_err();
    assert_eq!((error.code, &error.details["actual"]), (ErrorCode::WrongUser, &json!("bob")));
    server.stop().await;
    assert_eq!(run(&other, "sync").await.unwrap_err().code, ErrorCode::Network);
}

struct NoToken;

#[async_trait]
impl TokenProvider for NoToken {
    async fn token(&self, _refresh: bool) -> Result<String, String> {
        Err("signed out".into())
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_an_error() {
    let server = TestServer::start().await;
    let options = options(json!({ "mode": "memory", "user": "alice", "server": server.url() }));
    let client = Client::open(options, Server::Http(Box::new(NoToken))).await.unwrap();
    let error = run(&client, "sync").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unauthorized);
    assert!(error.message.contains("signed out"), "{}", error.message);
}

#[tokio::test]
async fn children_and_the_sync_state_are_watched() {
    let client = over("fail").await;
    let children = client.subscribe(r#"{"stream":"children","parent":null}"#).unwrap();
    let state = client.subscribe(r#"{"stream":"syncState"}"#).unwrap();
    assert_eq!(next(&children).await, json!([]));
    assert_eq!(next(&state).await["connection"], "unknown");
    create(&client, "folder", None, "a").await;
    assert_eq!(next(&children).await[0]["name"], "a");
    assert_eq!(next(&state).await["pending"], 1);
    run(&client, "sync").await.unwrap_err();
    assert_eq!(next(&state).await["connection"], "offline");
    children.close();
    assert_eq!(children.next(None).await.unwrap(), None);
}

#[tokio::test]
async fn calls_for_the_next_value_get_the_values_in_the_order_of_the_calls() {
    let client = over("").await;
    for _ in 0..20 {
        let changes = client.subscribe(r#"{"stream":"changes"}"#).unwrap();
        let waiting: Vec<_> = (0..20).map(|_| changes.next(None)).collect();
        let mut items = vec![];
        for number in 1..waiting.len() {
            items.push(create(&client, "folder", None, &format!("n{number}")).await);
        }
        let mut waiting = waiting.into_iter();
        for (item, next) in items.iter().zip(&mut waiting) {
            let change: Value = serde_json::from_str(&next.await.unwrap().unwrap()).unwrap();
            assert_eq!(&change["id"], item);
        }
        changes.close();
        assert_eq!(waiting.next().unwrap().await.unwrap(), None, "the last call gets the end");
    }
}

#[tokio::test]
async fn a_query_finds_pages_and_is_watched() {
    let client = over("fail").await;
    let query = r#"{"stream":"query","query":{"type":"note","sortBy":"name"}}"#;
    let results = client.subscribe(query).unwrap();
    assert_eq!(next(&results).await["order"], json!([]));
    let b = create(&client, "note", None, "b").await;
    assert_eq!(next(&results).await["added"][0]["name"], "b");
    let a = create(&client, "note", None, "a").await;
    create(&client, "file", None, "c").await;
    assert_eq!(next(&results).await["order"], json!([a, b]));
    let mut after = Value::Null;
    for expected in [json!([a]), json!([b]), json!([])] {
        let query = json!({ "type": "note", "limit": 1, "after": after });
        let call = json!({ "call": "find", "query": query }).to_string();
        let page: Value = serde_json::from_str(&client.run(&call, None).await.unwrap()).unwrap();
        let ids: Value =
            page["items"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect();
        assert_eq!(ids, expected);
        after = page["next"].clone();
    }
    let both = r#"{"call":"find","query":{"name":"a","namePrefix":"a"}}"#;
    assert_eq!(client.run(both, None).await.unwrap_err().code, ErrorCode::Invalid);
}

#[tokio::test]
async fn clients_of_one_seed_make_the_same_state() {
    let mut states = Vec::new();
    for _ in 0..2 {
        let test = json!({ "seed": 7, "now": "2026-01-01T12:00:00.000Z" });
        let options = options(json!({ "mode": "memory", "user": "alice", "test": test }));
        let foreign = Arc::new(Odd(AtomicUsize::new(0), "fail"));
        let client = Client::open(options, Server::Foreign(foreign)).await.unwrap();
        create(&client, "folder", None, "a").await;
        client.advance_clock(1_500).unwrap();
        create(&client, "folder", None, "b").await;
        states.push(read(&client, json!({ "call": "exportState" })));
    }
    assert_eq!(states[0], states[1]);
    assert!(states[0].as_str().unwrap().contains("2026-01-01T12:00:01.500Z"));
}
