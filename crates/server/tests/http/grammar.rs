//! Requests by a grammar against the whole server: made from the OpenAPI document and broken, as
//! bytes of HTTP/1.1 and as frames of HTTP/2. No answer is an error of the server's, none is
//! undocumented, nothing panics, and the server goes on.
//!
//! `VFS_SYNC_TEST_HTTP_CASES` is the number of cases, `VFS_SYNC_TEST_SEED` the first seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::described::{Seen, resolved, routes, undocumented};
use crate::lifecycle::with;
use crate::scene::{Scene, create};

const CASES: u64 = 1_200;
/// The time without an answer after which a peer of broken bytes ends.
const SILENCE: Duration = Duration::from_millis(50);
/// Broken connections at one time.
const AT_A_TIME: usize = 64;
/// The time in which a server answers, hangs up, or waits for more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the first seed and the number of cases.
fn extent() -> (u64, u64) {
    let number = vfs_sync_testkit::number;
    let cases = number("VFS_SYNC_TEST_HTTP_CASES").unwrap_or(CASES);
    (number("VFS_SYNC_TEST_SEED").unwrap_or(1), cases)
}

/// Ids that meet each other again, and ids of odd shapes.
const IDS: [&str; 12] =
    ["a", "b", "c", "item-1", "laptop", "alice", "bob", "..", "a/b", "é", "%2e", "stage"];

struct Grammar {
    rng: Rng,
    tokens: Vec<String>,
    cursors: Vec<String>,
}

fn one<'a, T: ?Sized>(rng: &mut Rng, of: &[&'a T]) -> &'a T {
    of[rng.usize(..of.len())]
}

impl Grammar {
    /// Returns whether something happens that does once in `times`.
    fn once_in(&mut self, times: u32) -> bool {
        self.rng.u32(..times) == 0
    }

    fn id(&mut self) -> String {
        if self.once_in(12) {
            let long = "x".repeat(self.rng.usize(120..140));
            return one(&mut self.rng, &["", " a", "a\0", "\u{7f}", &long]).to_owned();
        }
        one(&mut self.rng, &IDS).to_owned()
    }

    fn text(&mut self) -> String {
        match self.rng.u32(..8) {
            0 => String::new(),
            1 => "é\u{1f600}\u{202e}".to_owned(),
            2 => "x".repeat(self.rng.usize(..70_000)),
            3 => "2026-01-01T00:00:00Z".to_owned(),
            4 => "aGVsbG8=".to_owned(),
            5 => self.cursor(),
            _ => self.id(),
        }
    }

    fn cursor(&mut self) -> String {
        let at = self.rng.usize(..self.cursors.len());
        self.cursors[at].clone()
    }

    fn odd_value(&mut self) -> Value {
        match self.rng.u32(..9) {
            0 => Value::Null,
            1 => json!(self.rng.i64(..)),
            2 => json!(1e300),
            3 => json!([]),
            4 => json!({}),
            5 => json!(self.rng.bool()),
            6 => (0..100).fold(json!(0), |inner, _| json!([inner])),
            7 => json!({"a": {"b": [self.text()]}}),
            _ => json!(self.text()),
        }
    }

    /// Makes a value of a schema, or nearly.
    fn value(&mut self, schema: &'static Value, name: &str) -> Value {
        if self.once_in(60) {
            return self.odd_value();
        }
        let schema = resolved(schema);
        if let Some(only) = schema.get("const") {
            return only.clone();
        }
        if let Some(all) = schema["enum"].as_array() {
            return all[self.rng.usize(..all.len())].clone();
        }
        for several in ["oneOf", "allOf"] {
            if let Some(parts) = schema[several].as_array() {
                let part = self.rng.usize(..parts.len());
                return self.value(&parts[part], name);
            }
        }
        let kind = match &schema["type"] {
            Value::String(one) => one.as_str(),
            Value::Array(all) => all[self.rng.usize(..all.len())].as_str().unwrap(),
            _ if schema.get("properties").is_some() => "object",
            _ => return self.odd_value(),
        };
        match kind {
            "object" => {
                let properties = schema["properties"].as_object();
                let mut members = serde_json::Map::new();
                for (name, of) in properties.into_iter().flatten() {
                    let required = schema["required"].as_array();
                    let required = required.is_some_and(|all| all.iter().any(|one| one == name));
                    if required && !self.once_in(40) || self.once_in(2) {
                        members.insert(name.clone(), self.value(of, name));
                    }
                }
                if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
                    for _ in 0..self.rng.u32(..3) {
                        members.insert(self.id(), self.value(of, ""));
                    }
                }
                Value::Object(members)
            }
            "array" => {
                let of = schema.get("items").unwrap_or(&Value::Null);
                (0..self.rng.u32(..4)).map(|_| self.value(of, name)).collect()
            }
            "integer" | "number" => match self.rng.u32(..6) {
                0 => json!(self.rng.i64(..)),
                1 => json!(0),
                _ => json!(self.rng.u32(1..9)),
            },
            "boolean" => json!(self.rng.bool()),
            "null" => Value::Null,
            _ if name.ends_with("ursor") || name == "basis" => json!(self.cursor()),
            _ if name.ends_with("At") => json!("2026-01-01T00:00:00.5Z"),
            _ if name.ends_with("Base64") => json!("aGVsbG8="),
            _ if name == "name" => json!(self.text()),
            _ => json!(self.id()),
        }
    }

    fn escaped(&mut self, text: &str) -> String {
        if self.once_in(40) {
            return one(&mut self.rng, &["%", "%zz", "%ff", "%00", "..", "%2e%2e"]).to_owned();
        }
        let mut escaped = String::new();
        for byte in vfs_sync_testkit::core::id::to_path_step(text).bytes() {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    }

    /// Makes a request: its method, its target, and its bytes.
    fn request(&mut self) -> Request {
        let all: Vec<_> = routes().collect();
        let (route, methods) = all[self.rng.usize(..all.len())];
        let names: Vec<&String> = methods.keys().collect();
        let method = names[self.rng.usize(..names.len())];
        let operation = &methods[method];
        let method = match self.rng.u32(..30) {
            0 => "BREW".to_owned(),
            1 => {
                one(&mut self.rng, &["GET", "PUT", "OPTIONS", "PATCH", "TRACE", "HEAD"]).to_owned()
            }
            _ => method.to_ascii_uppercase(),
        };
        let mut steps = Vec::new();
        for step in route.split('/') {
            let id = self.id();
            let kind = one(&mut self.rng, &["user", "group", "organization", "x"]);
            steps.push(match step {
                "{type}" => kind.to_owned(),
                step if step.starts_with('{') => self.escaped(&id),
                step => step.to_owned(),
            });
        }
        let mut target = steps.join("/");
        let mut headers: Vec<(String, String)> = Vec::new();
        let token = self.rng.usize(..self.tokens.len());
        let bearer = format!("Bearer {}", self.tokens[token]);
        if !self.once_in(20) {
            headers.push(("authorization".into(), bearer));
        }
        let mut query = Vec::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = resolved(parameter);
            let name = parameter["name"].as_str().unwrap();
            let required = parameter["required"] == true;
            // Nearly all of its versions are refused before anything else is looked at.
            let refused = name == "Vfs-Sync-Protocol" && !self.once_in(30);
            if refused || !required && self.once_in(2) || self.once_in(40) {
                continue;
            }
            let value = match self.value(&parameter["schema"], name) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            match parameter["in"].as_str() {
                Some("query") => query.push(format!("{name}={}", self.escaped(&value))),
                // The server's answers name this user; another one is refused.
                Some("header") if name == "Vfs-Sync-User" && !self.once_in(10) => {}
                Some("header") => {
                    let value: String =
                        value.chars().filter(|c| (' '..'~').contains(c)).take(300).collect();
                    headers.push((name.to_owned(), value));
                }
                _ => {}
            }
        }
        if self.once_in(30) {
            query.push(
                one(&mut self.rng, &["x=1", "limit=1&limit=2", "=", "&&", "limit=%zz"]).to_owned(),
            );
        }
        if !query.is_empty() {
            let _ = write!(target, "?{}", query.join("&"));
        }
        if self.once_in(6) {
            let (name, value) = [
                ("content-encoding", "zstd"),
                ("content-encoding", "gzip"),
                ("content-encoding", "x"),
                ("range", "bytes=0-"),
                ("range", "bytes=9-1,,"),
                ("if-none-match", "*"),
                ("x-http-method-override", "PATCH"),
                ("x-http-method-override", "DELETE"),
                ("vfs-sync-protocol", "0"),
                ("vfs-sync-protocol", "x"),
                ("upload-length", "5"),
                ("upload-offset", "0"),
                ("upload-defer-length", "1"),
                ("content-digest", "sha-256=::"),
                ("upload-metadata", "blobId YQ==,stagingId Yg=="),
                ("upload-checksum", "sha1 x"),
                ("content-type", "application/offset+octet-stream"),
                ("x-request-id", "a b"),
                ("origin", "https://evil.example"),
                ("accept-encoding", "identity;q=0"),
            ][self.rng.usize(..20)];
            headers.push((name.into(), value.into()));
        }
        let content = operation["requestBody"]["content"].as_object();
        let (kind, schema) = content
            .and_then(|content| content.iter().next())
            .map_or(("", &Value::Null), |(kind, content)| (kind.as_str(), &content["schema"]));
        let body = match kind {
            "" if self.once_in(10) => b"unasked".to_vec(),
            "" => Vec::new(),
            "application/json" if self.once_in(20) => b"{\"clientId\": \"a\", \"oper".to_vec(),
            "application/json" => self.value(schema, "").to_string().into_bytes(),
            _ => vec![7; self.rng.usize(..20)],
        };
        if !kind.is_empty() && !self.once_in(25) {
            headers.push(("content-type".into(), kind.into()));
        }
        Request { method, target, headers, body }
    }
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Writes the request as HTTP/1.1.
    fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "content-length: {}\r\n\r\n", self.body.len());
        [head.as_bytes(), &self.body].concat()
    }

    /// Writes the request as frames of HTTP/2 for a stream.
    fn frames(&self, stream: u32) -> Vec<u8> {
        let mut block = Vec::new();
        let mut field = |name: &str, value: &str| {
            block.push(0);
            for text in [name, value] {
                number(text.len(), &mut block);
                block.extend_from_slice(text.as_bytes());
            }
        };
        field(":method", &self.method);
        field(":scheme", "http");
        field(":authority", "x");
        field(":path", &self.target);
        for (name, value) in &self.headers {
            field(&name.to_ascii_lowercase(), value);
        }
        let ends = u8::from(self.body.is_empty());
        let mut frames = frame(1, 4 | ends, stream, &block);
        if ends == 0 {
            frames.extend(frame(0, 1, stream, &self.body));
        }
        frames
    }
}

/// Writes a length as HPACK does, without Huffman's code.
fn number(mut length: usize, into: &mut Vec<u8>) {
    if length < 127 {
        return into.push(u8::try_from(length).unwrap());
    }
    into.push(127);
    length -= 127;
    while length >= 128 {
        into.push(u8::try_from(length % 128 + 128).unwrap());
        length /= 128;
    }
    into.push(u8::try_from(length).unwrap());
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Changes some bytes.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const TOKENS: [&[u8]; 10] = [
        b"\r\n",
        b"\0",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b" ",
        b"\xff",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
        b"0\r\n\r\n",
        b"HTTP/9.9",
    ];
    for _ in 0..rng.u32(1..6) {
        let at = rng.usize(..=bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + 40));
        match rng.u32(..5) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, TOKENS[rng.usize(..TOKENS.len())].iter().copied())),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let part = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                drop(bytes.splice(to..to, part));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.u32(..8);
                }
            }
        }
    }
}

/// Sends bytes, and returns what comes back until the server's end. With `silence`, the end follows
/// once nothing came for that long.
async fn exchange(address: &str, bytes: &[u8], silence: Option<Duration>) -> Vec<u8> {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let mut answer = Vec::new();
    let talk = async {
        // The server may hang up in the middle, and may do so before it has read everything.
        let write = async { writer.write_all(bytes).await.is_ok() };
        let read = async {
            loop {
                let next = reader.read_buf(&mut answer);
                let next = match silence {
                    Some(silence) => tokio::time::timeout(silence, next).await,
                    None => Ok(next.await),
                };
                // A stream of events has no end of its own.
                if !matches!(next, Ok(Ok(1..))) || is_stream(&answer) {
                    break;
                }
            }
        };
        tokio::join!(write, read);
        drop(writer);
        let _ = reader.read_to_end(&mut answer).await;
    };
    let ended = tokio::time::timeout(PATIENCE, talk).await;
    assert!(ended.is_ok(), "neither answered nor hung up on {:?}", String::from_utf8_lossy(bytes));
    answer
}

/// Returns whether an answer is a stream of events, the first of which has come.
fn is_stream(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer);
    answer.contains("text/event-stream") && answer.contains("event: head")
}

/// Sends what each case gives, some at a time.
async fn exchange_all(address: &str, cases: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let exchanges = cases.into_iter().map(|sent| async move {
        let answer = exchange(address, &sent, Some(SILENCE)).await;
        (sent, answer)
    });
    futures::stream::iter(exchanges).buffered(AT_A_TIME).collect().await
}

/// An answer of HTTP/1.1: the status, the fields of the head, and the body.
fn parsed(answer: &[u8]) -> Option<(u16, BTreeMap<String, String>, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.get(9..12)?.parse().ok()?;
    let fields: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut rest = &answer[end + 4..];
    if fields.get("transfer-encoding").is_none_or(|coding| coding != "chunked") {
        return Some((status, fields, rest.to_vec()));
    }
    let mut body = Vec::new();
    if fields.get("content-type").is_some_and(|kind| kind == "text/event-stream") {
        return Some((status, fields, body));
    }
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        if size == 0 {
            return Some((status, fields, body));
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 4 + size..)?;
    }
}

/// Fails for an error of the server's that is no refusal.
fn no_fault(status: u16, sent: &[u8]) {
    let fault = status >= 500 && !matches!(status, 503 | 505 | 507);
    assert!(!fault, "{status} for {:?}", String::from_utf8_lossy(sent));
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes each panic in a thread of this test, and in threads that work for any.
fn note_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name().is_some_and(|name| name.contains("grammar::")) {
            PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
        }
        before(panic);
    }));
}

async fn stage_for_fuzzing() -> (Scene, Grammar) {
    let scene = with(|config| {
        config.idle_timeout = Duration::from_millis(200);
        config.head_timeout = Duration::from_millis(500);
    })
    .await;
    let alice = scene.user("alice");
    for (at, id) in IDS.iter().enumerate() {
        alice.push("laptop", vec![create(id, at as u64 + 1)]).await;
    }
    let page = alice.pull_all().await;
    let mut cursors: Vec<String> = ["", "x", "e30"].map(str::to_owned).to_vec();
    let head = alice.get("/v1/vfs/crdt/state?clientId=a").await.ok();
    cursors.extend(head["feedHead"].as_str().map(str::to_owned));
    cursors.extend(page["baseline"].as_str().map(str::to_owned));
    let mut tokens: Vec<String> = vec![scene.server.token("alice"); 6];
    tokens.extend([scene.server.token("bob"), scene.server.token(".."), "x.y.z".to_owned()]);
    tokens.push(scene.server.token_with_scope("alice", "vfs:admin"));
    tokens.push(scene.server.token_with_scope("alice", "vfs:admin"));
    (scene, Grammar { rng: Rng::new(), tokens, cursors })
}

#[tokio::test]
async fn no_request_of_the_grammar_gets_an_undocumented_answer() {
    note_panics();
    let (scene, mut grammar) = stage_for_fuzzing().await;
    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let (seed, cases) = extent();
    let mut statuses: BTreeMap<u16, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in 0..cases {
        grammar.rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(case));
        let request = grammar.request();
        let sent = request.bytes();
        let answer = exchange(&address, &sent, None).await;
        let shown = || format!("case {case} of seed {seed}: {:?}", String::from_utf8_lossy(&sent));
        let Some((status, fields, body)) = parsed(&answer) else {
            panic!("{}: no answer: {:?}", shown(), String::from_utf8_lossy(&answer));
        };
        if status >= 500 && !matches!(status, 503 | 507) {
            wrong.push(format!("{status}: {}", shown()));
        }
        *statuses.entry(status).or_default() += 1;
        let Some(_) = fields.get("x-request-id") else {
            // The HTTP library refuses what is no request.
            assert!(matches!(status, 400 | 414 | 431), "{}: {status}", shown());
            continue;
        };
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let seen = Seen {
            method: &request.method,
            target: request.target.split('?').next().unwrap(),
            status,
            content_type: field("content-type"),
            body: if field("content-encoding").is_empty() { &body } else { b"" },
        };
        wrong.extend(undocumented(&seen).map(|what| format!("{what}\n  {}", shown())));
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    let good: u32 = statuses.range(200..300).map(|(_, count)| count).sum();
    assert!(u64::from(good) > cases / 10, "{statuses:?}");
    scene.nobody().get("/readyz").await.ok();
    assert_eq!(*PANICS.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn no_broken_bytes_are_a_fault_of_the_server() {
    note_panics();
    let (scene, mut grammar) = stage_for_fuzzing().await;
    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let (seed, cases) = extent();
    let broken = |case: u64| {
        grammar.rng = Rng::with_seed(seed.wrapping_mul(1_000_033).wrapping_add(case));
        let mut sent = grammar.request().bytes();
        mutate(&mut grammar.rng, &mut sent);
        sent
    };
    for (sent, answer) in exchange_all(&address, (0..cases).map(broken).collect()).await {
        if let Some((status, ..)) = parsed(&answer) {
            no_fault(status, &sent);
        }
    }
    scene.nobody().get("/readyz").await.ok();
    assert_eq!(*PANICS.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn no_frames_are_a_fault_of_the_server() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    note_panics();
    let (scene, mut grammar) = stage_for_fuzzing().await;
    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let (seed, cases) = extent();
    let mut answered = 0;
    let broken = |case: u64| {
        grammar.rng = Rng::with_seed(seed.wrapping_mul(1_000_037).wrapping_add(case));
        let mut sent = [PREFACE, &frame(4, 0, 0, &[])].concat();
        let mut frames = Vec::new();
        for at in 0..grammar.rng.u32(1..5) {
            let stream = if grammar.once_in(10) { grammar.rng.u32(..) } else { 2 * at + 1 };
            frames.extend(grammar.request().frames(stream));
            if grammar.once_in(2) {
                let payload: Vec<u8> =
                    (0..grammar.rng.usize(..20)).map(|_| grammar.rng.u8(..)).collect();
                let (kind, flags) = (grammar.rng.u8(..12), grammar.rng.u8(..));
                frames.extend(frame(kind, flags, stream, &payload));
            }
        }
        if grammar.once_in(2) {
            mutate(&mut grammar.rng, &mut frames);
        }
        sent.extend(frames);
        sent
    };
    let all = exchange_all(&address, (0..cases / 2).map(broken).collect()).await;
    for (case, (_, answer)) in all.iter().enumerate() {
        let mut rest = &answer[..];
        while let Some((head, more)) = rest.split_at_checked(9) {
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some((payload, more)) = more.split_at_checked(length) else { break };
            if head[3] == 1 && !payload.is_empty() {
                answered += 1;
                // The status 500 has a place of its own in the table of HPACK.
                assert_ne!(payload[0], 0x8e, "case {case} of seed {seed}");
            }
            rest = more;
        }
    }
    // Enough cases get through; how many changes with the routes that they are drawn from.
    assert!(answered > cases / 10, "{answered}");
    scene.nobody().get("/readyz").await.ok();
    assert_eq!(*PANICS.lock().unwrap(), [""; 0]);
}
