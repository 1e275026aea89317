//! `folder forget`: deletes ignored items in the tree, and touches no disk.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Delete, Node, SyncClient};
use vfs_sync_core::id::ItemId;

use super::crossing::live_item;
use crate::args::Global;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::fs::dir::Root;
use crate::fs::ignore::{self, Rules, RulesFile, Trust};
use crate::fs::metadata::{OnDisk, on_disk};
use crate::fs::names;
use crate::output::{Output, counted};
use crate::replica;

/// Deletes in the tree the ignored items at and under the path `path` of a live folder's directory.
pub(super) fn forget(
    global: &Global,
    replica: &Path,
    (path, dry_run): (&Path, bool),
    output: Output,
    stop: &CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let (folder, node, at) = live_item(&client, &mut settings, path)?;
    let (directory, top) = (folder.directory.clone(), folder.item.clone());
    let what = format!("cannot read {}", directory.display());
    let root = Root::open(&directory).map_err(Failure::io(what))?;
    let trust = Trust::of(replica, &directory)?.without_saving();
    let others = match &top {
        Some(item) => client.node(item)?.is_some_and(|node| node.owner != client.user()),
        None => false,
    };
    let mut forget = Forget { client: &client, root, trust, others, stop, found: Vec::new() };
    forget.find(&node, &at)?;
    let Forget { found, .. } = forget;
    if found.is_empty() {
        let text = format!("no rule ignores {} or anything in it", path.display());
        return Err(Failure::new(Kind::NotFound, text)
            .hint("`.vfsignore` has the rules; `vfs-sync rm` deletes what is not ignored"));
    }
    let refused = |(id, _): &&(ItemId, PathBuf)| !client.sharing().may_delete(id).unwrap_or(false);
    if let Some((_, at)) = found.iter().find(refused) {
        let text = format!("you may not delete {}", directory.join(at).display());
        return Err(Failure::failed(text).hint("nothing was deleted; ask its owner"));
    }
    let mut deleted = 0;
    for (id, at) in &found {
        // It may have been in one of the others.
        if !dry_run && client.node(id)?.is_some() {
            deleted += client.delete(id, Delete::Recursive)?;
        }
        let word = if dry_run { "would delete" } else { "deleted in the tree:" };
        output.say(format_args!("{word} {}", escaped(&names::path_text(at))))?;
    }
    let paths: Vec<_> = found.iter().map(|(_, at)| names::path_text(at)).collect();
    output.json(
        &json!({ "directory": directory, "paths": paths, "deleted": deleted, "dryRun": dry_run }),
    )?;
    match dry_run {
        true => Ok(()),
        false => output.say(format_args!(
            "{} deleted in the tree; no disk changes: `vfs-sync trash` has them for 30 days",
            counted(deleted, "item is", "items are")
        )),
    }
}

struct Forget<'a> {
    client: &'a SyncClient,
    root: Root,
    trust: Trust,
    /// True if the directory is in step with another owner's tree.
    others: bool,
    stop: &'a CancellationToken,
    /// The ignored items, by their paths in the directory; without those under them.
    found: Vec<(ItemId, PathBuf)>,
}

impl Forget<'_> {
    /// Finds the ignored items at and under an item with the path `at`.
    fn find(&mut self, node: &Node, at: &Path) -> Result<()> {
        let mut rules = Rules::default();
        let mut above = PathBuf::new();
        for name in at {
            rules = self.rules_in(&above, &rules)?;
            let is_folder = above.join(name) != at || is_a_folder(node);
            if rules.ignore(&above, name, is_folder, size(node)) {
                self.found.push((node.id.clone(), at.to_owned()));
                return Ok(());
            }
            above.push(name);
        }
        let mut left = vec![(node.id.clone(), at.to_owned(), rules)];
        while let Some((id, path, rules)) = left.pop() {
            if self.stop.is_cancelled() {
                return Err(crate::shutdown::interrupted());
            }
            let children = self.client.children(Some(&id))?;
            let rules = match children.is_empty() {
                true => continue,
                false => self.rules_in(&path, &rules)?,
            };
            for child in children.into_iter().filter(|child| !child.shortcut) {
                let name = names::to_disk(&child.name);
                let at = path.join(&name);
                if rules.ignore(&path, &name, is_a_folder(&child.node), size(&child.node)) {
                    self.found.push((child.node.id, at));
                } else if is_a_folder(&child.node) {
                    left.push((child.node.id, at, rules.clone()));
                }
            }
        }
        self.found.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(())
    }

    /// Returns the rules for the entries of a folder: those above, and its own on the disk.
    fn rules_in(&mut self, path: &Path, above: &Rules) -> Result<Rules> {
        let found = match self.root.folder(path) {
            Ok(folder) => ignore::read(&folder, self.stop),
            // A folder that is not on this disk.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => RulesFile::Missing,
            Err(error) => RulesFile::Refused(error.to_string()),
        };
        let refused = |why: String| {
            let file = path.join(OsStr::new(ignore::RULES_FILE));
            Failure::failed(format!("{}: its rules cannot be used: {why}", file.display()))
                .hint("nothing was deleted; repair the file first")
        };
        let text = match found {
            RulesFile::Missing => return Ok(above.clone()),
            RulesFile::Refused(why) => return Err(refused(why)),
            RulesFile::Text(text) => text,
        };
        if self.others && !self.trust.counts(&text, false)? {
            return Ok(above.clone());
        }
        Ok(above.with(path, ignore::parse(&text).map_err(refused)?.matcher))
    }
}

fn is_a_folder(node: &Node) -> bool {
    on_disk(node.object_type) == OnDisk::Folder
}

fn size(node: &Node) -> u64 {
    node.content.as_ref().map_or(0, |content| content.size)
}
