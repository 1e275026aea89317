//! What is another's answers as what is not there, whatever it is and however one asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use vfs_sync_testkit::TestServer;

use crate::blobs::{abandon, attach, bring, digest_field, stage, upload};
use crate::scene::{Answer, Caller, Scene, on_every_store, send};

on_every_store! {
    a_stage_of_anothers_is_like_none
    a_blob_of_anothers_is_like_none
    an_id_that_is_taken_says_nothing_of_what_took_it
    whoever_is_no_administrator_learns_nothing_by_looking_up
}

/// Status, header fields and body.
type Told = (u16, Vec<(String, String)>, String);

/// All of an answer but what differs between any two: when it was given, and its id.
fn told(answer: &Answer) -> Told {
    // Every answer names its own caller.
    let own = ["date", "x-request-id", "vfs-sync-user"];
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    let mut body = String::from_utf8_lossy(&answer.bytes).into_owned();
    if let Ok(mut json) = serde_json::from_slice::<Value>(&answer.bytes) {
        json.as_object_mut().unwrap().remove("requestId");
        body = json.to_string();
    }
    (answer.status, headers, body)
}

type Ask = (&'static str, &'static str, Vec<(&'static str, String)>, Vec<u8>);

/// Asks the same of each of `ids`, of which the last is nobody's: the answers are alike.
async fn assert_alike(caller: &Caller, asks: &[Ask], ids: &[&str]) {
    for (method, path, headers, body) in asks {
        let ask = async |id: &str| {
            let mut request = caller.request(method, &path.replace("{}", id));
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            told(&send(request.body(body.clone())).await)
        };
        let (unknown, others) = ids.split_last().unwrap();
        assert!(others.iter().all(|other| other.len() == unknown.len()));
        let expected = ask(unknown).await;
        assert!((400..500).contains(&expected.0), "{method} {path}: {expected:?}");
        for other in others {
            assert_eq!(ask(other).await, expected, "{method} {path} of {other}");
        }
    }
}

fn json_body(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

async fn a_stage_of_anothers_is_like_none(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    let own = bob.file(2).await;
    for name in ["expd", "gone", "open", "full", "part", "done"] {
        stage(&alice, name, name).await.ok();
        if name == "expd" {
            scene.server.clock().advance(std::time::Duration::from_secs(25 * 3_600));
        }
    }
    upload(&alice, "full", b"bytes").await.ok();
    upload(&alice, "done", b"bytes").await.ok();
    attach(&alice, "done", json!({"itemId": item})).await.ok();
    abandon(&alice, "gone").await.ok();
    let tus = |method: &str, path: &str| {
        let request = alice.request(method, &format!("/v1/vfs/blobs/uploads{path}"));
        request.header("tus-resumable", "1.0.0")
    };
    let named = format!("stagingId {0},blobId {0}", STANDARD.encode("part"));
    let create = tus("POST", "").header("upload-metadata", named).header("upload-length", 10);
    assert_eq!(send(create).await.status, 201);
    let append = tus("PATCH", "/part").header("upload-offset", 0);
    let append = append.header("content-type", "application/offset+octet-stream");
    assert_eq!(send(append.body("hello")).await.status, 204);

    const STAGE: &str = "/v1/vfs/blobs/stage/{}";
    const UPLOAD: &str = "/v1/vfs/blobs/uploads/{}";
    let kind = || ("content-type", "application/json".to_owned());
    let resumable = || ("tus-resumable", "1.0.0".to_owned());
    let stream = || ("content-type", "application/offset+octet-stream".to_owned());
    let at = |offset: u64| ("upload-offset", offset.to_string());
    let attach_to = |item: &str| json_body(&json!({"itemId": item}));
    let mut asks: Vec<Ask> = vec![
        ("GET", STAGE, vec![], vec![]),
        ("POST", "/v1/vfs/blobs/stage/{}/abandon", vec![], vec![]),
        ("POST", "/v1/vfs/blobs/stage/{}/attach", vec![kind()], attach_to(&own)),
        ("POST", "/v1/vfs/blobs/stage/{}/attach", vec![kind()], attach_to(&item)),
        ("POST", "/v1/vfs/blobs/stage/{}/attach", vec![kind()], attach_to("nowhere")),
        ("POST", "/v1/vfs/blobs/stage/{}/attach", vec![kind()], b"{".to_vec()),
        (
            "POST",
            "/v1/vfs/blobs/stage/{}/attach",
            vec![kind()],
            json_body(&json!({"itemId": own, "clientId": "laptop"})),
        ),
        (
            "POST",
            "/v1/vfs/blobs/stage/{}/attach",
            vec![kind()],
            json_body(&json!({"itemId": own, "relationKind": "photo", "expectedBlobId": null})),
        ),
    ];
    let data = "/v1/vfs/blobs/stage/{}/data";
    for (headers, body) in [
        (vec![], b"bytes".to_vec()),
        (vec![("content-digest", digest_field(b"other"))], b"bytes".to_vec()),
        (vec![("content-digest", "nonsense".to_owned())], b"bytes".to_vec()),
        (vec![("content-encoding", "gzip".to_owned())], b"bytes".to_vec()),
        (vec![], vec![7; 2_000_000]),
    ] {
        asks.push(("PUT", data, headers, body));
    }
    for override_it in [false, true] {
        let mut ask =
            |method: &'static str, mut headers: Vec<(&'static str, String)>, body: &str| {
                let mut sent = method;
                if override_it {
                    headers.push(("x-http-method-override", method.to_owned()));
                    sent = "POST";
                }
                asks.push((sent, UPLOAD, headers, body.as_bytes().to_vec()));
            };
        ask("HEAD", vec![resumable()], "");
        ask("HEAD", vec![], "");
        ask("DELETE", vec![resumable()], "");
        for offset in [0, 5, 7] {
            ask("PATCH", vec![resumable(), stream(), at(offset)], "world");
        }
        ask("PATCH", vec![resumable(), at(5)], "world");
        ask("PATCH", vec![resumable(), stream()], "world");
        let checksum = ("upload-checksum", "sha1 AAAA".to_owned());
        ask("PATCH", vec![resumable(), stream(), at(5), checksum], "world");
        let longer = ("upload-length", "11".to_owned());
        ask("PATCH", vec![resumable(), stream(), at(5), longer], "world!");
    }
    assert_alike(&bob, &asks, &["expd", "gone", "open", "full", "part", "done", "none"]).await;
    // Nobody has changed anything.
    assert_eq!(alice.get("/v1/vfs/blobs/stage/open").await.ok()["status"], "blob-stage:staged");
    assert_eq!(alice.get("/v1/vfs/blobs/stage/part").await.ok()["offset"], 5);
    assert_eq!(alice.get("/v1/vfs/blobs/full").await.bytes, b"bytes");
}

async fn a_blob_of_anothers_is_like_none(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    // Somebody whom the registry knows.
    bob.file(2).await;
    for name in ["old", "new"] {
        bring(&alice, &item, name, b"bytes").await;
    }
    for name in ["own", "rid"] {
        stage(&alice, name, name).await.ok();
        upload(&alice, name, b"bytes").await.ok();
    }
    alice.delete("/v1/vfs/blobs/rid").await.ok();
    stage(&alice, "nil", "nil").await.ok();
    let tag = alice.get("/v1/vfs/blobs/new").await.header("etag").to_owned();
    const BLOB: &str = "/v1/vfs/blobs/{}";
    let mut asks: Vec<Ask> = vec![("DELETE", BLOB, vec![], vec![])];
    for method in ["GET", "HEAD"] {
        for headers in [
            vec![],
            vec![("range", "bytes=0-1".to_owned())],
            vec![("range", "bytes=99-".to_owned())],
            vec![("if-none-match", tag.clone())],
            vec![("if-none-match", "*".to_owned())],
            vec![("if-range", tag.clone()), ("range", "bytes=0-1".to_owned())],
        ] {
            asks.push((method, BLOB, headers, vec![]));
        }
    }
    assert_alike(&bob, &asks, &["old", "new", "own", "rid", "nil", "non"]).await;
    let ids = ["old", "new", "own", "rid", "nil", "non"];
    let many = bob.post("/v1/vfs/blobs/batch/read", json!({"blobIds": ids})).await;
    let lines: Vec<Value> = many
        .bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["error"].clone())
        .collect();
    assert_eq!(lines.len(), ids.len());
    assert!(lines.iter().all(|line| *line == lines[5]), "{lines:?}");
    let items: [Ask; 1] = [("GET", "/v1/vfs/items/{}/versions", vec![], vec![])];
    assert_alike(&bob, &items, &[&item, "item-9"]).await;
    assert_eq!(alice.get("/v1/vfs/blobs/own").await.bytes, b"bytes");
}

/// That it is taken is told, since ids are random: but not by whom, for what, or since when.
async fn an_id_that_is_taken_says_nothing_of_what_took_it(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    for name in ["open", "full", "done", "gone"] {
        stage(&alice, name, name).await.ok();
    }
    for name in ["full", "done", "gone"] {
        upload(&alice, name, b"bytes").await.ok();
    }
    attach(&alice, "done", json!({"itemId": item})).await.ok();
    abandon(&alice, "gone").await.ok();
    let inline = |name: &str, data: &str| json!({"stagingId": name, "blobId": name, "dataBase64": STANDARD.encode(data)});
    let mut answers = Vec::new();
    for name in ["open", "full", "done", "gone"] {
        answers.push(told(&stage(&bob, name, "free").await));
        answers.push(told(&stage(&bob, "free", name).await));
        for data in ["bytes", "other"] {
            answers.push(told(&bob.post("/v1/vfs/blobs/stage", inline(name, data)).await));
        }
    }
    let alike = |answers: &[Told]| {
        assert_eq!(answers[0].0, 409, "{:?}", answers[0]);
        answers.iter().for_each(|answer| assert_eq!(*answer, answers[0]));
    };
    alike(&answers);
    let mut answers = Vec::new();
    for name in ["open", "full", "done", "gone"] {
        for id in ["stagingId", "blobId"] {
            let request = bob.request("POST", "/v1/vfs/blobs/uploads");
            let request = request.header("tus-resumable", "1.0.0").header("upload-length", 5);
            let named = format!("{id} {}", STANDARD.encode(name));
            answers.push(told(&send(request.header("upload-metadata", named)).await));
        }
    }
    alike(&answers);
    let mut files = Vec::new();
    for name in ["open", "full", "done", "gone"] {
        for data in ["bytes", "other"] {
            let mut file = inline(name, data);
            file["attach"] = json!({"itemId": item});
            files.push(file);
        }
    }
    let answer = bob.post("/v1/vfs/blobs/batch", json!({"files": files})).await.ok();
    for result in answer["results"].as_array().unwrap() {
        assert_eq!(result["error"], answer["results"][0]["error"]);
        assert_eq!(result["error"]["code"], "id_taken");
    }
    bob.get("/v1/vfs/blobs/stage/free").await.refused(404, "unknown_stage");
    assert_eq!(alice.get("/v1/vfs/blobs/full").await.bytes, b"bytes");
}

async fn whoever_is_no_administrator_learns_nothing_by_looking_up(scene: Scene) {
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    let item = alice.file(1).await;
    bring(&alice, &item, "b", b"bytes").await;
    let admin = "/v1/vfs/admin";
    let mut answers = Vec::new();
    for path in [
        "stages/s-b",
        "stages/none",
        "stages/%00",
        "blobs/b",
        "blobs/none",
        "users/alice/state?clientId=laptop",
        "users/nobody/state",
        "users/%20/state?nonsense=1",
        "groups/none/members",
        "groups/%20/members?limit=x",
        "organizations/none/members",
    ] {
        // One's own are looked up no more than another's.
        for caller in [&alice, &bob] {
            answers.push(told(&caller.get(&format!("{admin}/{path}")).await));
        }
    }
    for (method, path) in [("PUT", "groups/g/members/bob"), ("DELETE", "groups/g/members/%20")] {
        answers.push(told(&send(bob.request(method, &format!("{admin}/{path}"))).await));
    }
    assert_eq!(answers[0].0, 403, "{:?}", answers[0]);
    answers.iter().for_each(|answer| assert_eq!(*answer, answers[0]));
}

/// A quota counts what is one's own: what others have is not to be found out by it.
#[tokio::test]
async fn a_quota_says_nothing_of_what_others_have() {
    let scene = Scene::of(TestServer::builder().config(crate::quota::small())).await;
    let (alice, bob) = (scene.user("alice"), scene.user("bob"));
    for name in ["a", "b", "c"] {
        stage(&alice, name, name).await.ok();
    }
    upload(&alice, "a", &vec![0; 3_000_000]).await.ok();
    stage(&alice, "d", "d").await.refused(413, "quota_exceeded");
    stage(&bob, "d", "d").await.ok();
    upload(&bob, "d", &vec![0; 3_000_000]).await.ok();
}
