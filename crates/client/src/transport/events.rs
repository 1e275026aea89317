//! The stream of live updates, and the parser of server-sent events.
//!
//! The parser reads what a server or a proxy sends within fixed bounds of memory. It is written by
//! hand: the libraries for it grow their buffers as far as the peer wants.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use serde::Deserialize;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::ChangeId;

use super::error::{Result, TransportError};

/// The longest line of a stream, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// The most bytes of data of one event.
const MAX_EVENT_BYTES: usize = 16 * 1024;
/// The longest time that a server can ask to wait before the stream is opened again.
const MAX_RETRY: Duration = Duration::from_secs(3_600);

/// An event of the stream of live updates. It is a hint: every fact comes by a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveEvent {
    /// The head of the user's feed.
    Head {
        /// The epoch of the server's database.
        epoch: Epoch,
        /// The id of the feed's last change; `None` for a feed without entries.
        position: Option<ChangeId>,
    },
    /// A sign of life without news.
    Alive,
    /// The time to wait before the stream is opened again once it has ended.
    Retry(Duration),
    /// The server ends the stream.
    Bye {
        /// The server's reason: `expired`, `replaced`, `shutdown`, or one of a later version.
        reason: String,
    },
}

/// A stream of live updates. It ends when the server ends it; after an error nothing follows.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<LiveEvent>> + Send>>;

#[derive(Deserialize)]
struct HeadData {
    epoch: String,
    position: Option<ChangeId>,
}

#[derive(Deserialize)]
struct ByeData {
    reason: String,
}

fn malformed(reason: &str) -> TransportError {
    let (field, reason) = ("body".into(), reason.into());
    TransportError::MalformedResponse { call: "events", field, reason }
}

/// A parser of the bytes of a stream of live updates, for custom transports.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    /// True after a carriage return, with which a line feed belongs together.
    after_return: bool,
    /// True once the first line has begun, before which there may be a byte-order mark.
    begun: bool,
    name: String,
    data: String,
    has_data: bool,
}

impl EventParser {
    /// Creates the parser of a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses the next bytes; returns the events that they complete.
    ///
    /// # Errors
    /// [`TransportError::MalformedResponse`] for a line or an event beyond the bounds, or an event
    /// with the wrong data. The stream must not be read further.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<LiveEvent>> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() > MAX_LINE_BYTES {
                return Err(malformed("has a line that is too long"));
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.line(&line)?);
        }
        Ok(events)
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<LiveEvent>> {
        let mut line = line;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            return self.event();
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            // A comment.
            "" => return Ok(Some(LiveEvent::Alive)),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.data.len() + value.len() >= MAX_EVENT_BYTES {
                    return Err(malformed("has an event that is too long"));
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                let millis = value.parse().unwrap_or(u64::MAX);
                return Ok(Some(LiveEvent::Retry(Duration::from_millis(millis).min(MAX_RETRY))));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Ends the present event.
    fn event(&mut self) -> Result<Option<LiveEvent>> {
        let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if !std::mem::take(&mut self.has_data) {
            return Ok(None);
        }
        match name.as_str() {
            "head" => {
                let wrong = || malformed("has a head without epoch and position");
                let head: HeadData = serde_json::from_str(&data).map_err(|_| wrong())?;
                let epoch = head.epoch.parse().ok().and_then(Epoch::from_u64);
                let (epoch, position) = (epoch.ok_or_else(wrong)?, head.position);
                Ok(Some(LiveEvent::Head { epoch, position }))
            }
            "bye" => {
                let bye = serde_json::from_str::<ByeData>(&data);
                let reason = bye.map_or_else(|_| String::new(), |bye| bye.reason);
                Ok(Some(LiveEvent::Bye { reason }))
            }
            // An event of a later version.
            _ => Ok(Some(LiveEvent::Alive)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(parts: &[&[u8]]) -> Result<Vec<LiveEvent>> {
        let mut parser = EventParser::new();
        let mut events = Vec::new();
        for part in parts {
            events.extend(parser.push(part)?);
        }
        Ok(events)
    }

    fn head(position: Option<&str>) -> LiveEvent {
        let position = position.map(|text| ChangeId::new(text).unwrap());
        LiveEvent::Head { epoch: Epoch::from_u64(7).unwrap(), position }
    }

    const STREAM: &str = "retry: 2500\n\nevent: head\ndata: {\"epoch\":\"7\",\"position\":null}\n\n\
        : keep-alive\n\nevent: head\ndata: {\"epoch\":\"7\",\ndata: \"position\":\"a-1\"}\nid: 4\n\n\
        event: later\ndata: x\n\nevent: bye\nretry: 99999999999999999999\n\
        data: {\"reason\":\"expired\"}\n\n";

    fn events() -> Vec<LiveEvent> {
        vec![
            LiveEvent::Retry(Duration::from_millis(2_500)),
            head(None),
            LiveEvent::Alive,
            head(Some("a-1")),
            LiveEvent::Alive,
            LiveEvent::Retry(MAX_RETRY),
            LiveEvent::Bye { reason: "expired".into() },
        ]
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut_and_its_lines_end() {
        let windows = STREAM.replace('\n', "\r\n");
        let old = STREAM.replace('\n', "\r");
        let marked = format!("\u{feff}{STREAM}");
        for text in [STREAM, &windows, &old, &marked] {
            assert_eq!(parse(&[text.as_bytes()]).unwrap(), events());
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(parse(&bytes).unwrap(), events());
        }
    }

    #[test]
    fn what_is_endless_or_wrong_is_refused() {
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        let many = format!("data: {}\n", "x".repeat(1_000)).repeat(17);
        let wrong = |data: &str| format!("event: head\ndata: {data}\n\n");
        for text in [
            long,
            many,
            wrong("7"),
            wrong("{}"),
            wrong("{\"epoch\":7,\"position\":null}"),
            wrong("{\"epoch\":\"-7\",\"position\":null}"),
            wrong("{\"epoch\":\"7\",\"position\":\"\"}"),
        ] {
            let error = parse(&[text.as_bytes()]).unwrap_err();
            assert!(matches!(error, TransportError::MalformedResponse { .. }), "{error}");
        }
        assert_eq!(parse(&[b"event: head\n\n:\n\nretry: 1s\n\ndata"]).unwrap(), [LiveEvent::Alive]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_grow(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50),
        ) {
            let mut parser = EventParser::new();
            for part in &parts {
                if parser.push(part).is_err() {
                    break;
                }
                prop_assert!(parser.line.len() <= MAX_LINE_BYTES);
                prop_assert!(parser.data.len() <= MAX_EVENT_BYTES);
            }
        }

        #[test]
        fn damage_to_a_stream_does_not_make_the_parser_panic(
            at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = STREAM.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let cut = cut.index(bytes.len());
            let _ = parse(&[&bytes[..cut], &bytes[cut..]]);
        }
    }
}
