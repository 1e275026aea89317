//! The text of the systemd unit that runs `up`.

use std::path::Path;

use rustix::fs::RawMode;

use crate::args::Global;
use crate::error::{Failure, Result};

/// The first line of a unit that this program wrote.
pub(super) const MARK: &str =
    "# Written by `vfs-sync service install`; `vfs-sync service uninstall` removes it.";

/// Returns the text of the unit that runs `program` on `replica`, with the files that it creates
/// masked by `umask`.
pub(super) fn text(
    program: &Path,
    replica: &Path,
    umask: RawMode,
    global: &Global,
) -> Result<String> {
    let mut command = vec![quoted_path(program)?, "--replica".to_owned(), quoted_path(replica)?];
    if global.insecure_http {
        command.push("--insecure-http".to_owned());
    }
    if global.no_report {
        command.push("--no-report".to_owned());
    }
    if let Some(transfers) = global.transfers {
        command.push(format!("--transfers {transfers}"));
    }
    match global.cache_size {
        Some(u64::MAX) => command.push("--cache-size unlimited".to_owned()),
        Some(size) => command.push(format!("--cache-size {size}B")),
        None => {}
    }
    let command = command.join(" ");
    // `:` turns off the replacement of variables in the arguments.
    Ok(format!(
        "{MARK}
[Unit]
Description=Keeps directories in step (vfs-sync up)
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=:{command} up
# It begins after 10 s, and waits longer each time where systemd can (from version 254).
Restart=on-failure
RestartSec=10
RestartSteps=6
RestartMaxDelaySec=300
# These need a person: wrong usage, a guardrail, a token of another user.
RestartPreventExitStatus=2 3 4
# It was stopped while changes were on their way, or twice.
SuccessExitStatus=5 130
UMask={umask:04o}
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"
    ))
}

/// Quotes a path for a command line of a unit.
pub(super) fn quoted_path(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(quoted(text)),
        None => {
            let text = format!("{}: systemd takes only names in UTF-8", path.display());
            Err(Failure::failed(text).hint("choose another directory: see --replica"))
        }
    }
}

/// Quotes a word for a command line of a unit, as `systemd.service(5)` and `systemd.syntax(7)` say:
/// specifiers begin with `%`, and escapes are those of C.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a quoted word as systemd does.
    fn unquoted(text: &str) -> Vec<u8> {
        let inner = text.strip_prefix('"').unwrap().strip_suffix('"').unwrap().replace("%%", "%");
        let (mut word, mut rest) = (Vec::new(), inner.as_bytes());
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match (byte, after) {
                (b'\\', [b'x', high, low, after @ ..]) => {
                    let digits = [*high, *low];
                    let digits = std::str::from_utf8(&digits).unwrap();
                    word.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = after;
                }
                (b'\\', [c @ (b'"' | b'\\'), after @ ..]) => {
                    word.push(*c);
                    rest = after;
                }
                (b'\\' | b'"', _) => panic!("{text}"),
                _ => word.push(*byte),
            }
        }
        word
    }

    #[test]
    fn what_systemd_would_take_for_its_own_is_escaped() {
        assert_eq!(quoted("/a b/c"), r#""/a b/c""#);
        assert_eq!(quoted("100% \"x\\\n$HOME"), r#""100%% \"x\\\x0a$HOME""#);
    }

    proptest! {
        #[test]
        fn a_word_is_read_as_it_was_written(word in any::<String>()) {
            let text = quoted(&word);
            prop_assert!(!text.contains(char::is_control));
            prop_assert_eq!(unquoted(&text), word.as_bytes());
        }
    }
}
