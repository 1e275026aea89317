//! An operator's desk: a server, and a browser that shows its console.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::TestServer;

use crate::browser::Browser;
use crate::log;

/// The time within which something has to be seen.
const PATIENCE: Duration = Duration::from_secs(15);

/// A name that would be markup, a quotation, and text in another direction.
pub(crate) const HOSTILE: &str = "<script>window.harm=1</script>\"'><b>&\u{202e}gnp.exe";
/// A user's id of that kind, as long as an id may be.
pub(crate) const HOSTILE_USER: &str = "\"><img src=x onerror='window.harm=2'>\u{202e}\u{2066}mallory-mallory-mallory-mallory-mallory-mallory-mallory-mallory-12345";

/// What each page of the browser notes from its beginning.
const NOTES: &str = "window.notes = [];
document.addEventListener('securitypolicyviolation', (event) => window.notes.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));
window.addEventListener('error', (event) => window.notes.push(`error: ${event.message}`));
window.addEventListener('unhandledrejection', (event) => window.notes.push(`rejected: ${event.reason}`));";

static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) struct Desk {
    pub(crate) server: TestServer,
    pub(crate) browser: Browser,
    http: reqwest::Client,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        // One desk at a time: log and metrics are of the process.
        let turn = TURN.lock().await;
        log::begin();
        let server = TestServer::builder().config(ServerConfig::default()).admin().start().await;
        let browser = Browser::start().await;
        let desk = Self { server, browser, http: reqwest::Client::new(), _turn: turn };
        desk.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": NOTES})).await;
        desk
    }

    /// Makes a call of the browser's tools for developers.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.browser.call("goog/cdp/execute", body).await
    }

    pub(crate) async fn open(&self) {
        let url = format!("{}/console/", self.server.admin_url().unwrap());
        self.browser.call("url", json!({ "url": url })).await;
    }

    pub(crate) fn token(&self) -> String {
        self.server.token_with_scope("root", "vfs:admin")
    }

    /// Evaluates an expression in the page.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return ({expression})"), "args": []});
        let value = self.browser.call("execute/sync", script).await;
        assert!(value.get("stacktrace").is_none(), "{expression}: {value}");
        value
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn until(&self, expression: &str) {
        let begun = Instant::now();
        while self.eval(&format!("Boolean({expression})")).await != true {
            if begun.elapsed() > PATIENCE {
                let page = self.eval("document.body.innerText").await;
                let notes = self.eval("window.notes").await;
                panic!("not true: {expression}\n{}\n{notes}", page.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the page shows a text.
    pub(crate) async fn sees(&self, text: &str) {
        let text = serde_json::to_string(text).unwrap();
        self.until(&format!("document.body.innerText.includes({text})")).await;
    }

    pub(crate) async fn text(&self, selector: &str) -> String {
        let selector = serde_json::to_string(selector).unwrap();
        let text = self.eval(&format!("document.querySelector({selector})?.innerText ?? ''")).await;
        text.as_str().unwrap().to_owned()
    }

    /// Clicks the button or link with this text or label, once it is there; of several, the first.
    pub(crate) async fn click(&self, name: &str) {
        let name = serde_json::to_string(name).unwrap();
        let find = format!(
            "[...document.querySelectorAll('dialog[open] button, dialog[open] a, button, a')]\
             .filter((one) => one.checkVisibility() && !one.disabled)\
             .find((one) => (one.getAttribute('aria-label') ?? one.innerText).trim() === {name})"
        );
        self.until(&find).await;
        self.eval(&format!("{find}.click()")).await;
    }

    /// Goes to a view by its link.
    pub(crate) async fn view(&self, name: &str) {
        self.click(name).await;
        let name = serde_json::to_string(name).unwrap();
        self.until(&format!("document.querySelector('#main h1')?.innerText === {name}")).await;
    }

    /// Goes to the view of a user.
    pub(crate) async fn open_user(&self, user: &str) {
        self.eval(&format!("location.hash = '#/users/{user}'")).await;
        self.until(&format!("document.querySelector('#main h1')?.innerText === 'User {user}'"))
            .await;
    }

    /// Types into whatever has the focus; `\u{e004}` and the like are keys.
    pub(crate) async fn keys(&self, text: &str) {
        let strokes: Vec<Value> = text
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": strokes});
        self.browser.call("actions", json!({"actions": [keyboard]})).await;
    }

    /// Fills the input with this id in, as a script does.
    pub(crate) async fn fill(&self, id: &str, text: &str) {
        let text = serde_json::to_string(text).unwrap();
        self.until(&format!("document.getElementById('{id}')")).await;
        self.eval(&format!("document.getElementById('{id}').value = {text}")).await;
    }

    pub(crate) async fn sign_in_with(&self, token: &str) {
        self.until("document.getElementById('sign-in').open").await;
        self.fill("token", token).await;
        self.click("Sign in").await;
    }

    pub(crate) async fn sign_in(&self) {
        self.sign_in_with(&self.token()).await;
        self.until(
            "!document.getElementById('sign-in').open && document.querySelector('#main h1')",
        )
        .await;
    }

    /// Checks that the page did nothing that its policy forbids, and had no error.
    pub(crate) async fn is_clean(&self) {
        assert_eq!(self.eval("window.notes").await, json!([]));
        assert_eq!(self.eval("window.harm ?? null").await, Value::Null);
    }

    /// Takes a picture of what the browser shows, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let shot = self.devtools("Page.captureScreenshot", json!({"format": "png"})).await;
        STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    pub(crate) async fn resize(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": scheme})).await;
    }

    pub(crate) fn request(&self, user: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.server.url());
        self.http.request(method.parse().unwrap(), url).bearer_auth(self.server.token(user))
    }

    /// Has a user's device call, and describe itself.
    pub(crate) async fn calls(&self, user: &str, client: &str, name: &str, rest: &str) {
        let name = percent(name);
        let description = format!("name={name}&version=0.1.0&platform=linux-x86_64{rest}");
        let request = self.request(user, "GET", "/v1/vfs/crdt/vfs-sync?limit=10");
        let request = request.header("vfs-sync-client", client);
        let answer = request.header("vfs-sync-device", description).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Has a user's device report a violation or a stop; one that names itself is stopped by it.
    pub(crate) async fn reports(
        &self,
        user: &str,
        client: &str,
        name: Option<&str>,
        signature: &str,
    ) {
        let stage = signature.split_once(':').map(|(stage, _)| stage);
        let body = json!({"clientId": client, "clientVersion": "0.1.0", "reports": [{
            "reportId": uuid::Uuid::now_v7().to_string(), "signature": signature, "stage": stage,
            "code": signature, "occurredAt": "2026-01-01T00:00:00Z", "details": {"attempts": 2},
        }]});
        let mut request = self.request(user, "POST", "/v1/vfs/telemetry");
        if let Some(name) = name {
            let (name, signature) = (percent(name), percent(signature));
            let description = format!(
                "name={name}&version=0.1.0&platform=linux-x86_64&queue=3&stopped={signature}"
            );
            request = request.header("vfs-sync-client", client);
            request = request.header("vfs-sync-device", description);
        }
        assert_eq!(request.json(&body).send().await.unwrap().status(), 204);
    }

    /// Has a user create files; the first write id is given.
    pub(crate) async fn files(&self, user: &str, client: &str, from: u64, number: u64) {
        let operations: Vec<Value> = (from..from + number)
            .map(|n| {
                json!({
                    "opId": format!("{user}-op-{n}"), "opType": "item_upsert",
                    "itemId": format!("{client}-item-{n}"), "replicaId": client, "writeId": n,
                    "occurredAt": "2026-01-01T00:00:00Z", "objectType": "file",
                    "name": format!("secret-plan-{n}.txt"),
                })
            })
            .collect();
        let body = json!({"clientId": client, "operations": operations});
        let answer = self.request(user, "POST", "/v1/vfs/crdt/push").json(&body).send().await;
        let answer: Value = answer.unwrap().json().await.unwrap();
        assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
    }

    /// Has a user open a stage with a small content.
    pub(crate) async fn stages(&self, user: &str, stage: &str) {
        let body = json!({
            "stagingId": stage, "blobId": format!("blob-of-{stage}"), "dataBase64": "Ynl0ZXM=",
        });
        let answer = self.request(user, "POST", "/v1/vfs/blobs/stage").json(&body).send().await;
        assert_eq!(answer.unwrap().status(), 201);
    }

    /// Limits a user's items, by the operators' API.
    pub(crate) async fn limit_items(&self, user: &str, items: u64) {
        let url = format!("{}/v1/vfs/admin/users/{user}/limits", self.server.url());
        let request =
            self.http.post(url).bearer_auth(self.token()).json(&json!({"maxItems": items}));
        assert_eq!(request.send().await.unwrap().status(), 204);
    }

    pub(crate) async fn close(self) {
        self.browser.close().await;
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
