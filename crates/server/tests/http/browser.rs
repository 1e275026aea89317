//! A headless Chromium, by the WebDriver protocol.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

fn in_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|directory| directory.join(name));
    files.find(|file| file.exists()).unwrap_or_else(|| panic!("{name} is in the path"))
}

/// A headless browser. It ends with its driver.
pub(crate) struct Browser {
    http: reqwest::Client,
    session: String,
    _driver: tokio::process::Child,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = tokio::process::Command::new(in_path("chromedriver"))
            .arg(format!("--port={port}"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let http = reqwest::Client::new();
        let capabilities = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {
            "binary": in_path("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        }}}});
        let driver = format!("http://127.0.0.1:{port}/session");
        for _ in 0..600 {
            if let Ok(answer) = http.post(&driver).json(&capabilities).send().await {
                let answer: Value = answer.json().await.unwrap();
                let id = answer["value"]["sessionId"].as_str();
                let id = id.unwrap_or_else(|| panic!("no session: {answer}"));
                let session = format!("{driver}/{id}");
                return Self { http, session, _driver: child };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the browser's driver does not start");
    }

    /// Makes a call of the protocol, with `POST`.
    pub(crate) async fn call(&self, command: &str, body: Value) -> Value {
        let url = format!("{}/{command}", self.session);
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["value"].take()
    }

    /// Makes a call of the protocol, with `GET`.
    #[allow(dead_code, reason = "not every test binary makes one")]
    pub(crate) async fn look(&self, what: &str) -> Value {
        let answer = self.http.get(format!("{}/{what}", self.session)).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["value"].take()
    }

    pub(crate) async fn close(self) {
        let _ = self.http.delete(&self.session).send().await;
    }
}
