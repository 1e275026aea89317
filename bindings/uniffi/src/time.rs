//! Times: RFC 3339 in JSON, and what the language has for a time outside.

use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use vfs_sync_ffi::{Error, Timestamp};

use crate::Result;

fn parsed(text: &str) -> std::result::Result<SystemTime, String> {
    let millis = Timestamp::parse(text).map_err(|reason| reason.to_string())?.as_millis();
    let distance = Duration::from_millis(millis.unsigned_abs());
    let time = match millis {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    time.ok_or_else(|| format!("{text} is no time of this system"))
}

/// Reads a time that is always there.
pub(crate) fn required<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<SystemTime, D::Error> {
    parsed(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// Reads a time that may be `null`.
pub(crate) fn optional<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parsed(&text).map_err(D::Error::custom)).transpose()
}

/// Returns a time as JSON has it, to the nearest millisecond.
pub(crate) fn text(time: SystemTime) -> Result<String> {
    let wrong = || Error::invalid("the time is not one of the years 0 to 9999");
    // What has only a double for a time is a little off.
    let time = time.checked_add(Duration::from_micros(500)).ok_or_else(wrong)?;
    Ok(Timestamp::from_system_time(time).ok_or_else(wrong)?.to_string())
}
