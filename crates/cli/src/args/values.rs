//! The arguments and values that several commands take.

use std::path::PathBuf;

use clap::Args;

/// The environment variable that holds the token itself.
pub(crate) const TOKEN_VARIABLE: &str = "VFS_SYNC_TOKEN";

#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The server's directory, unless VFS_SYNC_DATABASE_URL is set
    #[arg(long, value_name = "DIR", env = "VFS_SYNC_DATA")]
    pub(crate) data: Option<PathBuf>,
}

/// Parses a number of bytes, optionally with K, M, G or T (of 1024).
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || "must be a number of bytes, optionally with K, M, G or T, such as 500G".to_owned();
    let (digits, shift) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 10),
        Some('M' | 'm') => (&text[..text.len() - 1], 20),
        Some('G' | 'g') => (&text[..text.len() - 1], 30),
        Some('T' | 't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes <= i64::MAX as u64).ok_or_else(wrong)
}

/// Parses a lifetime into seconds.
pub(super) fn parse_ttl(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number with s, m, h or d, such as 30d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds) if (1..=10 * 366 * 86_400).contains(&seconds) => Ok(seconds),
        _ => Err("must be from 1s to ten years".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_a_number_and_a_unit() {
        assert_eq!(parse_ttl("30d"), Ok(2_592_000));
        assert_eq!(parse_ttl("15m"), Ok(900));
        for bad in ["", "d", "30", "-1d", "1.5h", "9999999999999999d", "0s", "1é"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
