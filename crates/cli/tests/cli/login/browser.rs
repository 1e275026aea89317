//! A provider in a process of its own, and the person who confirms codes in a browser.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The OpenID provider of `provider.mjs`; it ends when it is dropped.
pub(crate) struct Provider {
    child: Child,
    /// Open as long as it runs: it prints advice there, and ends where it cannot.
    _output: BufReader<ChildStdout>,
    pub(crate) issuer: String,
}

impl Provider {
    pub(crate) fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tools: PathBuf = root.join("../../target/tools/oidc");
        let mut child = Command::new("node")
            .arg(root.join("tests/cli/login/provider.mjs"))
            .arg(&tools)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node");
        let mut issuer = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut issuer).unwrap();
        assert!(
            !issuer.is_empty(),
            "oidc-provider is not in {}: see scripts/test",
            tools.display()
        );
        Self { child, _output: output, issuer: issuer.trim().to_owned() }
    }

    /// Has the provider change something: `rotate` its keys, the `lifetime` of codes, be `slow`.
    pub(crate) async fn set(&self, what: &str) {
        let url = format!("{}/test/{what}", self.issuer);
        assert!(reqwest::get(url).await.unwrap().status().is_success());
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The decision about a code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Confirm,
    Deny,
}

/// A browser without a screen: it keeps cookies, follows redirects and sends forms.
pub(crate) struct Browser {
    http: reqwest::Client,
    /// The values of cookies by path and name.
    cookies: BTreeMap<(String, String), String>,
}

/// A page: its address and its text.
struct Page {
    url: reqwest::Url,
    text: String,
}

impl Browser {
    pub(crate) fn new() -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self { http: http.build().unwrap(), cookies: BTreeMap::new() }
    }

    /// Opens the page of a code as `user`, and decides about it.
    pub(crate) async fn decide(&mut self, page: &str, user: &str, decision: Decision) {
        let mut page = self.go(page.parse().unwrap(), None).await;
        for _ in 0..6 {
            if page.text.contains("Sign-in Success") {
                assert!(decision == Decision::Confirm);
                return;
            }
            let deny = decision == Decision::Deny && page.text.contains("abort");
            let form = self.form(&page, user, deny);
            let Some((action, fields)) = form else { break };
            page = self.go(page.url.join(&action).unwrap(), Some(fields)).await;
            if deny {
                return;
            }
        }
        panic!("the provider's page: {}", page.text);
    }

    /// Returns the address and the fields of a page's form, filled in.
    fn form(&self, page: &Page, user: &str, deny: bool) -> Option<(String, Vec<(String, String)>)> {
        let form = page.text.split("<form").find(|part| part.contains("method=\"post\""))?;
        let form = form.split("</form>").next().unwrap_or_default();
        let action = attribute(form, "action").unwrap_or_else(|| page.url.path().to_owned());
        let mut fields: Vec<(String, String)> = Vec::new();
        for input in form.split("<input").skip(1) {
            let input = input.split('>').next().unwrap_or_default();
            if let Some(name) = attribute(input, "name") {
                fields.push((name, attribute(input, "value").unwrap_or_default()));
            }
        }
        for (name, value) in &mut fields {
            match &**name {
                "login" => *value = user.to_owned(),
                "password" => *value = "x".to_owned(),
                _ => {}
            }
        }
        if deny {
            fields.push(("abort".into(), "yes".into()));
        }
        Some((action, fields))
    }

    /// Requests a page, with a form if there is one, and follows redirects.
    async fn go(&mut self, url: reqwest::Url, form: Option<Vec<(String, String)>>) -> Page {
        let (mut url, mut form) = (url, form);
        loop {
            let of_page = self.cookies.iter().filter(|((path, _), _)| url.path().starts_with(path));
            let cookies: Vec<String> =
                of_page.map(|((_, name), value)| format!("{name}={value}")).collect();
            let request = match form.take() {
                None => self.http.get(url.clone()),
                Some(fields) => {
                    let mut query = url.clone();
                    query.query_pairs_mut().clear().extend_pairs(&fields);
                    let body = query.query().unwrap_or_default().to_owned();
                    let request = self.http.post(url.clone()).body(body);
                    request.header("content-type", "application/x-www-form-urlencoded")
                }
            };
            let answer = request.header("cookie", cookies.join("; ")).send().await.unwrap();
            for cookie in answer.headers().get_all("set-cookie") {
                let mut parts = cookie.to_str().unwrap().split("; ");
                let (name, value) = parts.next().unwrap().split_once('=').unwrap();
                let path = parts.find_map(|part| part.strip_prefix("path=")).unwrap_or("/");
                let key = (path.to_owned(), name.to_owned());
                if value.is_empty() {
                    self.cookies.remove(&key);
                } else {
                    self.cookies.insert(key, value.to_owned());
                }
            }
            if answer.status().is_redirection() {
                let to = answer.headers()["location"].to_str().unwrap();
                url = url.join(to).unwrap();
                continue;
            }
            return Page { url, text: answer.text().await.unwrap() };
        }
    }
}

/// Returns the value of an attribute in a tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let rest = tag.split(&format!(" {name}=\"")).nth(1)?;
    Some(rest.split('"').next()?.replace("&amp;", "&"))
}
