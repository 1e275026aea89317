//! The log of the process.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[derive(Clone, Copy)]
struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        *self
    }
}

static STARTED: LazyLock<()> = LazyLock::new(|| {
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_writer(Log).init();
});

/// Begins an empty log.
pub(crate) fn begin() {
    LazyLock::force(&STARTED);
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Returns the text of the log.
pub(crate) fn text() -> String {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&lines).into_owned()
}

/// Returns the fields of the lines of the audit log with this event.
pub(crate) fn audited(event: &str) -> Vec<Value> {
    let text = text();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let audit = lines.filter(|line| line["target"] == "audit" && line["fields"]["event"] == event);
    audit.map(|line| line["fields"].clone()).collect()
}
