//! Names on a disk and names in the protocol.
//!
//! A disk's name is bytes, the protocol's is UTF-8. [`to_protocol`] and [`to_disk`] are inverse to
//! each other: only bytes that are not UTF-8 are escaped, after `%raw%`, and a disk's
//! name that looks like such an escape is escaped itself.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use unicode_normalization::UnicodeNormalization as _;
use vfs_sync_core::item::{InvalidName, Name};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::tree::conflict_copy_name;

/// The prefix of an escaped name; after it, `%XX` stands for a byte.
pub(crate) const ESCAPE_PREFIX: &str = "%raw%";

const TEMP_PREFIX: &str = ".vfs-sync-tmp-";
const DISPLACED_PREFIX: &str = ".vfs-sync-old-";

/// Returns the unique part of the names that a file has before it gets its own, and its predecessor
/// after that.
pub(crate) fn unique() -> String {
    crate::seam::unique().simple().to_string()
}

/// Returns a unique name for a file that an export is writing, ending in `end`.
pub fn temporary(end: &str) -> OsString {
    OsString::from(format!("{TEMP_PREFIX}{}{end}", unique()))
}

/// Returns the name for a file that an export is writing.
pub(crate) fn temporary_of(unique: &str) -> OsString {
    OsString::from(format!("{TEMP_PREFIX}{unique}"))
}

/// Returns whether `name` has the exact form of [`temporary`]: imports ignore such files and the
/// next export removes them. Names with only the same beginning belong to the user.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    has_own_prefix(name, TEMP_PREFIX)
}

/// Returns a unique name for a file that an export moved aside and has not verified yet.
pub(crate) fn displaced() -> OsString {
    displaced_of(&unique())
}

/// Returns the name for a file that an export moves aside, and for the one that takes its place.
pub(crate) fn displaced_of(unique: &str) -> OsString {
    OsString::from(format!("{DISPLACED_PREFIX}{unique}"))
}

/// Returns whether `name` has the form of [`displaced`]: the file may be the user's work.
pub(crate) fn is_displaced(name: &OsStr) -> bool {
    has_own_prefix(name, DISPLACED_PREFIX)
}

fn has_own_prefix(name: &OsStr, prefix: &str) -> bool {
    const UNIQUE: usize = 32;
    let Some(rest) = name.as_bytes().strip_prefix(prefix.as_bytes()) else { return false };
    let Some((unique, end)) = rest.split_at_checked(UNIQUE) else { return false };
    unique.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && (end.is_empty() || end.first() == Some(&b'-'))
}

/// Converts a name on a disk to the protocol's name.
///
/// # Errors
/// Only a name whose escaped form is too long cannot be converted (and the empty one, `.`, `..`).
pub fn to_protocol(name: &OsStr) -> Result<Name, InvalidName> {
    Name::new(escaped(name.as_bytes()))
}

/// Converts a name of the protocol to the disk's name.
pub fn to_disk(name: &str) -> OsString {
    OsString::from_vec(unescaped(name).unwrap_or_else(|| name.as_bytes().to_vec()))
}

/// Converts the target of a symbolic link to its text in the protocol, with the escapes of names.
pub(crate) fn target_to_protocol(target: &OsStr) -> String {
    match target.to_str() {
        Some(text) if !text.starts_with(ESCAPE_PREFIX) => text.to_owned(),
        _ => escape(target.as_bytes()),
    }
}

/// Converts the text of a symbolic link's target to the disk's target; `None` if no target has
/// this text.
pub(crate) fn target_to_disk(text: &str) -> Option<OsString> {
    let target = match text.strip_prefix(ESCAPE_PREFIX) {
        None => OsString::from(text),
        Some(body) => OsString::from_vec(decoded(body)?),
    };
    let is_target = !target.is_empty() && !target.as_bytes().contains(&0);
    (is_target && target_to_protocol(&target) == text).then_some(target)
}

/// Returns the disk's name for a conflicted copy of `name`.
pub(crate) fn conflict_copy(name: &OsStr, device: &str, at: Timestamp, number: u32) -> OsString {
    let plain = to_protocol(name).ok().or_else(|| Name::new("recovered").ok());
    plain.map_or_else(OsString::new, |plain| {
        to_disk(conflict_copy_name(&plain, device, at, number).as_str())
    })
}

/// Formats a path, each name in its protocol form if it has one.
pub fn path_text(path: &std::path::Path) -> String {
    let names = path.components().map(|part| escaped(part.as_os_str().as_bytes()));
    names.collect::<Vec<_>>().join("/")
}

fn escaped(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if unescaped(text).is_none() => text.to_owned(),
        _ => escape(name),
    }
}

fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len() + 16);
    text.push_str(ESCAPE_PREFIX);
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' { text.push_str("%25") } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Returns the bytes whose escaped form is exactly `text`, if there are any, so that no two names
/// map to the same bytes.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let bytes = decoded(text.strip_prefix(ESCAPE_PREFIX)?)?;
    let is_disk_name = !bytes.is_empty()
        && !bytes.contains(&b'/')
        && !bytes.contains(&0)
        && bytes != b"."
        && bytes != b"..";
    let needs_escape = match std::str::from_utf8(&bytes) {
        // The text is shorter each time, so this terminates.
        Ok(inner) => unescaped(inner).is_some(),
        Err(_) => true,
    };
    (is_disk_name && needs_escape && escape(&bytes) == text).then_some(bytes)
}

/// Decodes the text after [`ESCAPE_PREFIX`].
fn decoded(body: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'A'..=b'F' => Some(b - b'A' + 10),
            _ => None,
        };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    Some(bytes)
}

/// The rules by which a disk distinguishes names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskRules {
    /// True if the disk takes `A` and `a` for one name.
    pub(crate) case_insensitive: bool,
    /// True if the disk takes `é` and `e` with a combining accent for one name.
    pub(crate) normalising: bool,
    /// True if the disk lists `é` as `e` with a combining accent.
    pub(crate) decomposing: bool,
    /// True if the disk takes `a.` for `a`.
    pub(crate) strips_dots: bool,
    /// True if the disk takes `a` with a space at its end for `a`.
    pub(crate) strips_spaces: bool,
}

impl DiskRules {
    /// Returns a key that is equal for names that such a disk may treat as one. In doubt the keys
    /// are equal, because disks differ in their tables.
    pub(crate) fn key(self, name: &OsStr) -> Vec<u8> {
        let Some(text) = name.to_str() else { return name.as_bytes().to_vec() };
        let mut text = text.to_owned();
        if self.normalising {
            text = text.nfd().collect();
        }
        if self.case_insensitive {
            text = text.to_uppercase().to_lowercase();
            if self.normalising {
                text = text.nfd().collect();
            }
        }
        text.into_bytes()
    }

    /// Returns the name that the disk lists for an entry that is given the name `name`.
    pub(crate) fn listed(self, name: OsString) -> OsString {
        match name.to_str().filter(|_| self.decomposing) {
            Some(text) => text.nfd().collect::<String>().into(),
            None => name,
        }
    }

    /// Returns why the disk would keep an entry under another name than `name`, if it would.
    pub(crate) fn drops_end(self, name: &OsStr) -> Option<&'static str> {
        match name.as_bytes().last() {
            Some(b'.') if self.strips_dots => Some("the disk drops the dot at its end"),
            Some(b' ') if self.strips_spaces => Some("the disk drops the space at its end"),
            _ => None,
        }
    }
}

/// The name of a sibling on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskName {
    /// The name to write on the disk.
    pub name: OsString,
    /// True if the disk could not distinguish the original name from another sibling's.
    pub changed: bool,
}

/// Gives each sibling `(name, id)` a distinct name on a disk with `rules`; returns the names in the
/// given order. The names do not depend on the order: of colliding siblings the first by name, then
/// id, keeps its own.
pub fn distinct(siblings: &[(&str, &str)], rules: DiskRules) -> Vec<DiskName> {
    let mut order: Vec<usize> = (0..siblings.len()).collect();
    order.sort_by_key(|&index| siblings[index]);
    let mut count: HashMap<Vec<u8>, usize> = HashMap::with_capacity(siblings.len());
    for (name, _) in siblings {
        *count.entry(rules.key(&to_disk(name))).or_default() += 1;
    }
    let mut taken: HashSet<Vec<u8>> = count.keys().cloned().collect();
    let mut seen: HashSet<Vec<u8>> = HashSet::with_capacity(siblings.len());
    let mut names = vec![None; siblings.len()];
    for index in order {
        let (name, id) = siblings[index];
        let own = rules.listed(to_disk(name));
        names[index] = Some(if seen.insert(rules.key(&own)) {
            DiskName { name: own, changed: false }
        } else {
            let other = (0..).map(|round| with_mark(&own, id, round));
            let free = other.into_iter().find(|name| taken.insert(rules.key(name)));
            DiskName { name: free.expect("one of endlessly many is free"), changed: true }
        });
    }
    names.into_iter().flatten().collect()
}

/// Adds a conflict mark to a name, as in `photo (conflict 1a2b3c4d).jpg`, within the 255 bytes that
/// a disk allows.
fn with_mark(name: &OsStr, id: &str, round: u32) -> OsString {
    let mut short: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    short = short.split_off(short.len().saturating_sub(8)).to_lowercase();
    if round > 0 {
        short.push_str(&format!("-{round}"));
    }
    let bytes = name.as_bytes();
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|at| *at > 0);
    let dot = dot.filter(|at| bytes.len() - at <= 32).unwrap_or(bytes.len());
    let (stem, extension) = bytes.split_at(dot);
    let mark = format!(" (conflict {short})");
    let mut room = 255usize.saturating_sub(mark.len() + extension.len()).min(stem.len());
    if let Ok(text) = std::str::from_utf8(stem) {
        room = text.floor_char_boundary(room);
    }
    OsString::from_vec([&stem[..room], mark.as_bytes(), extension].concat())
}

/// Returns why a name is invalid on another system's disk, if it is.
pub(crate) fn reserved(name: &str) -> Option<&'static str> {
    const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_lowercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|n| matches!(n.as_bytes(), [b'1'..=b'9']))
    };
    if DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt") {
        Some("it is a device name on Windows")
    } else if name.ends_with(['.', ' ']) {
        Some("Windows allows no name that ends in a dot or a space")
    } else if name.chars().any(|c| c < ' ' || "<>:\"\\|?*".contains(c)) {
        Some("it has a character that Windows allows in no name")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn protocol(bytes: &[u8]) -> String {
        to_protocol(OsStr::from_bytes(bytes)).unwrap().as_str().to_owned()
    }

    #[test]
    fn only_what_the_protocol_cannot_carry_is_escaped() {
        assert_eq!(protocol(b"100%.txt"), "100%.txt");
        assert_eq!(protocol("naïve\n\u{1b}[31m".as_bytes()), "naïve\n\u{1b}[31m");
        assert_eq!(protocol(b"caf\xE9 50%"), "%raw%caf%E9 50%25");
        assert_eq!(to_disk("%raw%caf%E9 50%25").as_bytes(), b"caf\xE9 50%");
    }

    #[test]
    fn a_name_that_looks_escaped_is_escaped_itself() {
        assert_eq!(protocol(b"%raw%a%E9"), "%raw%%25raw%25a%25E9");
        assert_eq!(protocol(b"%raw%plain"), "%raw%plain", "it stands for no bytes");
        assert_eq!(to_disk("%raw%plain").as_bytes(), b"%raw%plain");
        assert_eq!(to_disk("%raw%..%2F%E9").as_bytes(), b"%raw%..%2F%E9", "no way out of a folder");
    }

    #[test]
    fn a_name_too_long_once_escaped_is_an_error() {
        assert_eq!(to_protocol(OsStr::from_bytes(&[0xFF; 200])), Err(InvalidName::TooLong));
    }

    #[test]
    fn siblings_that_a_disk_takes_for_one_get_names_of_their_own() {
        let rules = DiskRules { case_insensitive: true, normalising: true, ..DiskRules::default() };
        let siblings = [
            ("readme.md", "0193-b-00000002"),
            ("README.md", "0193-a-00000001"),
            ("caf\u{e9}", "0193-c-00000003"),
            ("cafe\u{301}", "0193-d-00000004"),
            ("other", "0193-e-00000005"),
        ];
        let names = distinct(&siblings, rules);
        let texts: Vec<_> = names.iter().map(|n| n.name.to_str().unwrap()).collect();
        assert_eq!(
            texts,
            [
                "readme (conflict 00000002).md",
                "README.md",
                "caf\u{e9} (conflict 00000003)",
                "cafe\u{301}",
                "other"
            ]
        );
        let reversed: Vec<_> = siblings.iter().rev().copied().collect();
        let again: Vec<_> = distinct(&reversed, rules).into_iter().rev().collect();
        assert_eq!(again, names, "the order they come in does not matter");
        assert!(distinct(&siblings, DiskRules::default()).iter().all(|name| !name.changed));
    }

    #[test]
    fn a_name_given_to_one_sibling_is_not_anothers() {
        let rules = DiskRules { case_insensitive: true, ..DiskRules::default() };
        let siblings = [("A", "x1"), ("a", "x2"), ("a (conflict x2)", "x3")];
        let names: HashSet<_> = distinct(&siblings, rules).into_iter().map(|n| n.name).collect();
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn names_that_other_systems_reserve_are_known() {
        for name in ["con", "NUL.txt", "com1", "a.", "b ", "a:b", "x\u{7}"] {
            assert!(reserved(name).is_some(), "{name}");
        }
        for name in ["console", "com0", "a.b", ".hidden", "ünï"] {
            assert!(reserved(name).is_none(), "{name}");
        }
    }

    fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"%raw%".to_vec()),
            Just(b"%25".to_vec()),
            Just(b"%E9".to_vec()),
            Just(b"%".to_vec()),
            Just(vec![0xE9]),
            Just("é".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..3),
        ];
        proptest::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat()).prop_filter(
            "a disk has such a name",
            |name| {
                !name.is_empty()
                    && !name.contains(&b'/')
                    && !name.contains(&0)
                    && name != b"."
                    && name != b".."
            },
        )
    }

    proptest! {
        #[test]
        fn every_disk_name_comes_back(bytes in tricky_bytes()) {
            if let Ok(name) = to_protocol(OsStr::from_bytes(&bytes)) {
                let back = to_disk(name.as_str());
                prop_assert_eq!(back.as_bytes(), &bytes[..]);
            }
        }

        #[test]
        fn every_protocol_name_comes_back(bytes in tricky_bytes()) {
            if let Ok(name) = Name::new(String::from_utf8_lossy(&bytes)) {
                prop_assert_eq!(to_protocol(&to_disk(name.as_str())), Ok(name));
            }
        }
    }
}
