//! The conformance suite of the bindings, in Rust: scenarios as data, with the results that every
//! language must have. `VFS_SYNC_BLESS=1` writes the results that are missing or differ.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use vfs_sync_ffi::{
    Client, ClientOptions, Error, ForeignAnswer, ForeignCall, ForeignTransport, PutOptions, Server,
};

/// Answers that a scenario set, by the kind of the call; the others are those of a minimal server.
#[derive(Default)]
struct Script(Mutex<HashMap<String, VecDeque<Value>>>);

fn results(request: &Value, status: &str, fields: &Value) -> Value {
    let result = |operation: &Value| {
        let mut result = json!({ "opId": operation["opId"], "status": status });
        result.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        result
    };
    let results: Value = request["operations"].as_array().unwrap().iter().map(result).collect();
    json!({ "clientId": request["clientId"], "results": results })
}

fn plainly(kind: &str, request: &Value) -> (u16, Value) {
    match kind {
        "push" => (200, results(request, "applied", &json!({}))),
        "pull" => {
            let ids = json!({});
            let page = json!({
                "items": [], "nextCursor": null, "hasMore": false, "lastReconciledWriteIds": ids,
            });
            (200, page)
        }
        "reconcile" => (200, request.clone()),
        _ => (404, json!({ "error": "the script has no answer", "code": "not_found" })),
    }
}

#[async_trait]
impl ForeignTransport for Script {
    async fn call(&self, call: ForeignCall) -> Result<ForeignAnswer, String> {
        let request: Value = serde_json::from_str(&call.body()).unwrap();
        let answers = &mut *self.0.lock().unwrap();
        let (status, body) = match answers.get_mut(&call.kind()).and_then(VecDeque::pop_front) {
            None => plainly(&call.kind(), &request),
            Some(answer) => {
                if let Some(reason) = answer["fail"].as_str() {
                    return Err(reason.to_owned());
                }
                match answer["results"].as_str() {
                    Some(status) => (200, results(&request, status, &answer["fields"])),
                    None => {
                        let status = answer["status"].as_u64().unwrap_or(200);
                        (u16::try_from(status).unwrap(), answer["body"].clone())
                    }
                }
            }
        };
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        Ok(ForeignAnswer { status, body, data: None, retry_after: None })
    }
}

/// Replaces `$name` by the value that an earlier step gave the name.
fn filled(value: &Value, names: &HashMap<String, Value>) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix('$') {
            Some(name) => names[name].clone(),
            None => value.clone(),
        },
        Value::Array(all) => all.iter().map(|one| filled(one, names)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), filled(value, names)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

/// Returns a call with the arguments of a step.
fn call(step: &Value, name: &str) -> Value {
    let mut call = step.as_object().unwrap().clone();
    for own in ["do", "expect", "error", "as", "shows"] {
        call.remove(own);
    }
    call.insert("call".into(), name.into());
    Value::Object(call)
}

async fn made(client: &Client, script: &Script, step: &Value) -> Result<Value, Error> {
    let parsed = |json: String| -> Value { serde_json::from_str(&json).unwrap() };
    let name = step["do"].as_str().unwrap();
    Ok(match name {
        "answer" => {
            let kind = step["kind"].as_str().unwrap().to_owned();
            script.0.lock().unwrap().entry(kind).or_default().push_back(step.clone());
            Value::Null
        }
        "clock" => {
            client.advance_clock(step["millis"].as_i64().unwrap())?;
            Value::Null
        }
        "put" => {
            let options = PutOptions::parse(&json!({ "item": step["item"] }).to_string())?;
            let bytes = step["text"].as_str().unwrap().as_bytes().to_vec();
            client.put(options, bytes).await?;
            Value::Null
        }
        "tree" => {
            let walk = parsed(client.read(r#"{"call":"walk"}"#)?);
            walk.as_array().unwrap().iter().map(|entry| entry["path"].clone()).collect()
        }
        "state" => parsed(client.read(r#"{"call":"exportState"}"#)?),
        "violations" => {
            let violations = client.violations().take();
            let each = |one: &Error| {
                let (signature, message) = (&one.signature, &one.message);
                json!({ "signature": signature, "message": message, "details": one.details })
            };
            violations.iter().map(each).collect()
        }
        "sync" => parsed(client.run(&call(step, name).to_string(), None).await?),
        "find" => {
            let found = parsed(client.run(&call(step, name).to_string(), None).await?);
            let items = found["items"].as_array().unwrap().iter();
            items.map(|item| json!([item["id"], item["name"], item["modifiedAt"]])).collect()
        }
        "edit" | "getOrCreateFolder" | "hydrateState" => {
            parsed(client.write(&call(step, name).to_string()).await?)
        }
        _ => parsed(client.read(&call(step, name).to_string())?),
    })
}

async fn run(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut scenario: Value = serde_json::from_str(&text).unwrap();
    let options = json!({
        "mode": "memory", "user": "alice", "clientId": "conformance", "device": "laptop",
        "test": { "seed": 1, "now": "2026-01-01T12:00:00.000Z" },
    });
    let script = Arc::new(Script::default());
    let server = Server::Foreign(script.clone());
    let options = ClientOptions::parse(&options.to_string()).unwrap();
    let client = Client::open(options, server).await.unwrap();
    let bless = std::env::var_os("VFS_SYNC_BLESS").is_some();
    let mut names = HashMap::new();
    for (at, step) in scenario["steps"].as_array_mut().unwrap().iter_mut().enumerate() {
        let place = format!("{}, step {at}: {}", path.display(), step["do"]);
        let step_now = filled(step, &names);
        match made(&client, &script, &step_now).await {
            Err(error) => {
                let error = serde_json::to_value(error).unwrap();
                let expected = step_now["error"].as_object();
                let expected = expected.unwrap_or_else(|| panic!("{place}: {error}"));
                for (key, value) in expected {
                    assert_eq!(&error[key], value, "{place}: {error}");
                }
            }
            Ok(result) => {
                assert_eq!(step_now.get("error"), None, "{place} succeeded with {result}");
                if let Some(name) = step_now["as"].as_str() {
                    names.insert(name.to_owned(), result.clone());
                }
                if let Some(shown) = step_now.get("shows") {
                    let names: Vec<&str> = result
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|child| child["shownName"].as_str().unwrap())
                        .collect();
                    for (name, pattern) in names.iter().zip(shown.as_array().unwrap()) {
                        let (start, end) = pattern
                            .as_str()
                            .unwrap()
                            .split_once('*')
                            .unwrap_or((pattern.as_str().unwrap(), ""));
                        assert!(
                            name.starts_with(start) && name.ends_with(end),
                            "{place}: {names:?}"
                        );
                    }
                } else if step_now.get("expect").is_some_and(|expect| *expect != result) {
                    assert!(bless, "{place}: {result}\nis not {}", step_now["expect"]);
                    step["expect"] = result;
                }
            }
        }
    }
    if bless {
        std::fs::write(path, serde_json::to_string_pretty(&scenario).unwrap() + "\n").unwrap();
    }
    client.close().await.unwrap();
}

#[tokio::test]
async fn every_scenario_has_the_expected_results() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bindings/conformance");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    assert!(files.len() >= 4);
    for file in files {
        run(&file).await;
    }
}
