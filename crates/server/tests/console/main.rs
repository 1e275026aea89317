//! The operator's console in a real browser, over a real server with real trouble in it.
//!
//! A process of its own: metrics and the log are the process's. The tests are ignored unless asked for:
//! they need Chromium and its driver, which `scripts/test` installs.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../http/browser.rs"]
mod browser;
mod desk;
mod in_a_browser;
mod log;
