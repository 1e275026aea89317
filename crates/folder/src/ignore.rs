//! Rules for entries that do not cross between a directory and the tree: those of `.vfsignore`
//! files, and built-in ones.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Node, SyncClient};
use vfs_sync_core::content::Sha256Digest;

use super::disk::digest::digest_bytes;
use super::disk::dir::{Folder, Kind, Stat};
use super::disk::stable_reader::{ATTEMPTS, Cut, StableReader};
use crate::error::{Error, Result};
use crate::report::{Problem, ProblemKind};

/// The name of a file with rules for its folder and the folders below.
pub const RULES_FILE: &str = ".vfsignore";
/// The greatest size of a file with rules.
const MAX_RULES_BYTES: u64 = 1024 * 1024;
/// The greatest number of rules in a file, which bounds the time to compile them.
const MAX_RULES: usize = 10_000;
/// The number of malformed rules of one file that are reported.
const WRONG_SHOWN: usize = 100;

/// The rules that apply to the entries of a folder: its own, then those of the folders above, then
/// the built-in ones. The first rule that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Rules(Option<Arc<Level>>);

#[derive(Debug)]
struct Level {
    folder: PathBuf,
    matcher: Gitignore,
    above: Rules,
}

impl Rules {
    /// Returns the rules of `folder` with `matcher`, where these apply above.
    pub fn with(&self, folder: &Path, matcher: Gitignore) -> Self {
        if matcher.is_empty() {
            return self.clone();
        }
        Self(Some(Arc::new(Level { folder: folder.to_owned(), matcher, above: self.clone() })))
    }

    /// Returns whether only the built-in rules apply.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the entry `name` of `folder` is ignored. A file with rules never is.
    pub fn ignore(&self, folder: &Path, name: &OsStr, is_folder: bool, size: u64) -> bool {
        if name == RULES_FILE {
            return false;
        }
        let mut level = self.0.as_deref();
        if level.is_some() {
            let at = folder.join(name);
            while let Some(Level { folder, matcher, above }) = level {
                match matcher.matched(at.strip_prefix(folder).unwrap_or(&at), is_folder) {
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                    Match::None => level = above.0.as_deref(),
                }
            }
        }
        !is_folder && is_built_in(name.as_bytes(), size)
    }

    /// Returns whether an entry of the disk is ignored.
    pub(crate) fn ignore_entry(&self, folder: &Path, name: &OsStr, stat: &Stat) -> bool {
        let size = if stat.kind == Kind::File { stat.size } else { 0 };
        self.ignore(folder, name, stat.kind == Kind::Folder, size)
    }
}

/// Returns whether a file is one of those that programs leave beside a file while it is open, or
/// that file managers make for themselves.
fn is_built_in(name: &[u8], size: u64) -> bool {
    const NAMES: [&[u8]; 3] = [b".DS_Store", b"Thumbs.db", b"desktop.ini"];
    const BEGINNINGS: [&[u8]; 4] = [b"~$", b".#", b".goutputstream-", b".fuse_hidden"];
    let is_hex = |rest: &[u8]| rest.len() >= 8 && rest.iter().all(u8::is_ascii_hexdigit);
    match name {
        // Vim tests with an empty file of this name whether it may create files. Others mean it.
        b"4913" => size == 0,
        _ if NAMES.contains(&name) => true,
        _ if BEGINNINGS.iter().any(|start| name.len() > start.len() && name.starts_with(start)) => {
            true
        }
        [b'#', _, .., b'#'] => true,
        [b'.', b'~', b'l', b'o', b'c', b'k', b'.', .., b'#'] => true,
        [b'.', b'n', b'f', b's', rest @ ..] => is_hex(rest),
        // A swap file of vim: the last letter goes down from p as more are open.
        [b'.', .., b'.', b's', b'w', b'a'..=b'p' | b'x'] => true,
        [b'.', b's', b'w', b'a'..=b'p' | b'x'] => true,
        _ => false,
    }
}

/// The rules of one file.
#[derive(Debug)]
pub struct Parsed {
    /// The rules that are well-formed, to match paths.
    pub matcher: Gitignore,
    /// The malformed lines, by number, with the reason.
    wrong: Vec<(usize, String)>,
}

impl Parsed {
    /// Returns a problem for each malformed rule of the file at `at`.
    pub(crate) fn problems(&self, at: &Path) -> Vec<Problem> {
        let problem = |(line, why): &(usize, String)| {
            let detail = format!("line {line} is no rule and does not count: {why}");
            Problem::new(at, ProblemKind::IgnoreRules, detail)
        };
        self.wrong.iter().map(problem).collect()
    }
}

/// Parses the text of a file with rules; malformed lines are left out.
pub fn parse(text: &[u8]) -> std::result::Result<Parsed, String> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut builder = GitignoreBuilder::new("");
    builder.allow_unclosed_class(false);
    let (mut rules, mut wrong) = (0, Vec::new());
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        rules += 1;
        if rules > MAX_RULES {
            return Err(format!("it has more than {MAX_RULES} rules"));
        }
        let error = match std::str::from_utf8(line) {
            Ok(line) => builder.add_line(None, line).err().map(|error| error.to_string()),
            Err(_) => Some("it is not UTF-8".to_owned()),
        };
        if let Some(error) = error
            && wrong.len() < WRONG_SHOWN
        {
            wrong.push((index + 1, error));
        }
    }
    let matcher = builder.build().map_err(|error| error.to_string())?;
    Ok(Parsed { matcher, wrong })
}

/// A file with rules in a folder on the disk.
#[derive(Debug)]
pub enum RulesFile {
    /// There is no such file.
    Missing,
    /// The text of the rules.
    Text(Vec<u8>),
    /// The file cannot be used, for this reason.
    Refused(String),
}

/// Reads the file with rules in a folder.
pub fn read(folder: &Folder, stop: &CancellationToken) -> RulesFile {
    let name = OsStr::new(RULES_FILE);
    match folder.stat(name).map(|stat| stat.kind) {
        Ok(Kind::File) => {}
        Ok(Kind::Folder) => return RulesFile::Missing,
        Ok(Kind::Link) => return RulesFile::Refused("it is a symbolic link".to_owned()),
        Ok(Kind::Special(what)) => return RulesFile::Refused(format!("it is {what}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return RulesFile::Missing,
        Err(error) => return RulesFile::Refused(error.to_string()),
    }
    for _ in 0..ATTEMPTS {
        let mut reader = match StableReader::open(folder, name, stop) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return RulesFile::Missing,
            Err(error) => return RulesFile::Refused(error.to_string()),
        };
        let mut text = Vec::new();
        let read = (&mut reader).take(MAX_RULES_BYTES + 1).read_to_end(&mut text);
        if text.len() as u64 > MAX_RULES_BYTES {
            return RulesFile::Refused(too_large());
        }
        match read {
            Ok(_) => return RulesFile::Text(text),
            Err(error) => match reader.cut() {
                Some(Cut::Changed) => {}
                _ => return RulesFile::Refused(error.to_string()),
            },
        }
    }
    RulesFile::Refused(format!("it changed during each of {ATTEMPTS} reads"))
}

/// Reads the tree's file with rules.
pub(crate) async fn text_of(
    client: &SyncClient,
    node: &Node,
) -> std::result::Result<Vec<u8>, String> {
    if node.content.as_ref().is_some_and(|content| content.size > MAX_RULES_BYTES) {
        return Err(too_large());
    }
    let content = client.contents().read(&node.id).await.map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    let reader = content.reader().map_err(|error| error.to_string())?;
    reader.take(MAX_RULES_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Works as [`text_of`] in a function that is not asynchronous.
pub(crate) fn text_of_blocking(
    client: &SyncClient,
    node: &Node,
) -> std::result::Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
    tokio::task::block_in_place(|| runtime.block_on(text_of(client, node)))
}

/// Returns the reason why a file with too many bytes is not used.
fn too_large() -> String {
    format!("it has more than {MAX_RULES_BYTES} bytes")
}

/// Reports rules that cannot be used, so that the folder is left as it is on both sides.
pub(crate) fn refused(at: &Path, why: &str) -> Problem {
    let detail = format!("its rules cannot be used, so that its folder is left as it is: {why}");
    Problem::new(at, ProblemKind::IgnoreRules, detail)
}

/// Reports rules in another owner's tree that do not count.
pub(crate) fn untrusted(at: &Path) -> Problem {
    let detail = "its rules were not written on this device and do not count in another owner's tree: see \
                  `vfs-sync folder trust-ignore`";
    Problem::new(at, ProblemKind::UntrustedRules, detail)
}

/// The place that keeps the digests of rules that were written on this device.
pub trait OwnRules: std::fmt::Debug + Send + Sync {
    /// Keeps the digest durably.
    ///
    /// # Errors
    /// If it cannot be kept: the import or export ends.
    fn remember(&self, digest: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// The rules that count in another owner's tree: all, or those that were written on this device.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    all: bool,
    /// The digests of rules that were written on this device.
    own: BTreeSet<String>,
    /// The place where digests of new rules are kept.
    keeper: Option<Arc<dyn OwnRules>>,
}

impl Trust {
    /// Trusts all rules, or those of which `own` has the digests; `keeper` is given those of new ones.
    pub fn new(all: bool, own: BTreeSet<String>, keeper: Arc<dyn OwnRules>) -> Self {
        Self { all, own, keeper: Some(keeper) }
    }

    /// Returns the same trust, which saves nothing.
    #[must_use]
    pub fn without_saving(self) -> Self {
        Self { keeper: None, ..self }
    }

    /// Returns whether these rules count. Those that are `changed_here` do from now on.
    pub fn counts(&mut self, text: &[u8], changed_here: bool) -> Result<bool> {
        if self.all {
            return Ok(true);
        }
        let digest = digest_bytes(text).to_string();
        if changed_here
            && self.own.insert(digest.clone())
            && let Some(keeper) = &self.keeper
        {
            keeper.remember(&digest).map_err(Error::Caller)?;
        }
        Ok(self.own.contains(&digest))
    }
}

/// Returns whether rules are neither those that were recorded nor the tree's.
pub(crate) fn is_changed_here(text: &[u8], known: &[Option<Sha256Digest>]) -> bool {
    !known.contains(&Some(digest_bytes(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::default().with(Path::new(""), parse(text.as_bytes()).unwrap().matcher)
    }

    fn ignores(rules: &Rules, path: &str) -> bool {
        let (path, is_folder) = match path.strip_suffix('/') {
            Some(path) => (Path::new(path), true),
            None => (Path::new(path), false),
        };
        rules.ignore(path.parent().unwrap(), path.file_name().unwrap(), is_folder, 1)
    }

    #[test]
    fn rules_match_as_those_of_git() {
        let top = rules("# comment\n*.log\n!keep.log\n/build/\ndoc/*.txt\n\\#odd\nspace\\ \n");
        for path in ["a.log", "deep/down/a.log", "build/", "doc/a.txt", "#odd", "space "] {
            assert!(ignores(&top, path), "{path}");
        }
        for path in ["keep.log", "deep/build/", "build", "doc/in/a.txt", "comment", ".vfsignore"] {
            assert!(!ignores(&top, path), "{path}");
        }
        let below = top.with(Path::new("in"), parse(b"/x\n!*.log\n").unwrap().matcher);
        assert!(ignores(&below, "in/x") && !ignores(&below, "in/deep/x"));
        assert!(!ignores(&below, "in/a.log"), "the nearest file decides");
        assert!(!ignores(&rules("*"), ".vfsignore"), "rules are carried whatever they say");
    }

    #[test]
    fn what_programs_leave_behind_is_ignored_unless_a_rule_says_otherwise() {
        let none = Rules::default();
        for name in [
            ".f.swp",
            ".f.txt.swo",
            ".f.swx",
            ".swp",
            ".#f",
            "#f#",
            ".~lock.f.odt#",
            "~$f.docx",
            ".goutputstream-A1B2",
            ".DS_Store",
            "Thumbs.db",
            "desktop.ini",
            ".fuse_hidden0001",
            ".nfs0000000012345678",
        ] {
            assert!(ignores(&none, name) && ignores(&none, &format!("in/{name}")), "{name}");
            assert!(!ignores(&none, &format!("{name}/")), "{name} as a folder");
            assert!(!ignores(&rules(&format!("!{}\n", name.replace('#', "\\#"))), name), "{name}");
        }
        for name in ["f~", "#", "##", "f.swp", ".nfsrc", "4913", "Thumbs.db.txt", ".#", "~$"] {
            assert!(!ignores(&none, name), "{name}");
        }
        assert!(none.ignore(Path::new(""), OsStr::new("4913"), false, 0));
    }

    #[test]
    fn malformed_rules_are_named_and_the_others_count() {
        let parsed = parse(b"\xEF\xBB\xBF*.log\r\n[a\n\xFF\n*.tmp").unwrap();
        let lines: Vec<usize> = parsed.wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3]);
        let rules = Rules::default().with(Path::new(""), parsed.matcher);
        assert!(ignores(&rules, "a.log") && ignores(&rules, "a.tmp"));
        assert!(parse("x\n".repeat(MAX_RULES + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_file_that_is_no_plain_small_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder =
            crate::disk::dir::Root::open(dir.path()).unwrap().folder(Path::new("")).unwrap();
        let (at, stop) = (dir.path().join(RULES_FILE), CancellationToken::new());
        assert!(matches!(read(&folder, &stop), RulesFile::Missing));
        std::fs::write(&at, "*.log").unwrap();
        assert!(matches!(read(&folder, &stop), RulesFile::Text(text) if text == b"*.log"));
        std::fs::write(&at, vec![b'x'; MAX_RULES_BYTES as usize + 1]).unwrap();
        assert!(matches!(read(&folder, &stop), RulesFile::Refused(_)));
        std::fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &at).unwrap();
        assert!(matches!(read(&folder, &stop), RulesFile::Refused(_)));
    }
}
