//! `admin users export`: one archive of everything that a user owns.
//!
//! The archive has the files under `tree/`, with the names that an export of the user's own would give
//! them, then `items.json`, `grants.json` and `devices.json`, and `manifest.json` at last: without it an
//! archive is not whole. Contents pass through in parts; of the tree, only the metadata is in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use vfs_sync_blobs::{BlobStore, Outgoing};
use vfs_sync_client::Node;
use vfs_sync_core::content::{RelationKind, Sha256Digest};
use vfs_sync_core::entry::{Change, Entry, ItemView};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::tree::NodeContent;
use vfs_sync_folder::disk::link;
use vfs_sync_folder::disk::metadata::{self, OnDisk, on_disk};
use vfs_sync_folder::disk::names::{self, DiskRules};
use vfs_sync_store::{MetadataStore, PullAnswer, PullRequest};

use super::existing;
use crate::args::ExportUser;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, counted};
use crate::server;

/// Entries of a feed that are read at a time.
const PAGE: u32 = 500;
/// Devices that are read at a time.
const DEVICES: u32 = 200;
/// The deepest folder that is written as one: deeper items stand under their ids.
const MAX_DEPTH: usize = 500;

/// Returns the failure of a command that names a user of whom there is nothing.
pub(in crate::commands) fn unknown(user: &UserId) -> Failure {
    let text = format!("the server knows no user {}", escaped(user.as_str()));
    Failure::new(Kind::NotFound, text)
        .hint("`vfs-sync admin users list` has the names; a deleted user has nothing left")
}

pub(in crate::commands) async fn export(
    args: ExportUser,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let database = existing(&args.database)?;
    let target = args.file.clone();
    refuse_existing(&target)?;
    let blobs = server::existing_blobs(args.database.data.as_deref()).await?;
    let store =
        vfs_sync_store::open(&database, server::now()).await.map_err(server::store_failure)?;
    let known = store.user_record(&args.user).await.map_err(server::store_failure)?;
    if known.is_none() {
        return Err(unknown(&args.user));
    }
    let tree = Tree::read(&*store, &args.user).await?;
    let devices = devices(&*store, &args.user).await?;
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let user = args.user.clone();
    let progress = output.progress("exporting");
    let handle = Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let failed = || format!("cannot write in {}", directory.display());
        // Without a name until it is whole, so that nothing is left of an interrupted one.
        let file = tempfile::Builder::new()
            .prefix(".vfs-sync-export-")
            .tempfile_in(&directory)
            .map_err(Failure::io(failed()))?;
        let source = Source { blobs, handle, stop };
        let mut archive = Archive::new(file.as_file(), source, &progress);
        archive.write(&user, &tree, &devices)?;
        let done = archive.finish()?;
        file.as_file().sync_all().map_err(Failure::io(failed()))?;
        match file.persist_noclobber(&target) {
            Ok(_) => Ok(done),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(already(&target))
            }
            Err(error) => {
                Err(Failure::io(format!("cannot write {}", target.display()))(error.error))
            }
        }
    });
    let done = work.await.map_err(|error| Failure::failed(error.to_string()))??;
    output.say(format_args!(
        "{}: {}, {} of {}",
        escaped(&args.file.to_string_lossy()),
        counted(done.items, "item", "items"),
        counted(done.contents, "content", "contents"),
        bytes_text(done.bytes)
    ))?;
    output.json(&json!({
        "file": args.file, "items": done.items, "contents": done.contents, "bytes": done.bytes,
        "problems": done.problems,
    }))?;
    if done.problems.is_empty() {
        return Ok(());
    }
    for problem in done.problems.iter().take(20) {
        output.say(escaped(problem))?;
    }
    let text = format!("{} contents are missing or damaged in the archive", done.problems.len());
    Err(Failure::new(Kind::Partial, text)
        .hint("`vfs-sync blobs check --digests` names them; manifest.json in the archive does too"))
}

fn refuse_existing(target: &Path) -> Result<()> {
    if std::fs::symlink_metadata(target).is_ok() { Err(already(target)) } else { Ok(()) }
}

fn already(target: &Path) -> Failure {
    let text = format!("{} exists already", escaped(&target.to_string_lossy()));
    Failure::new(Kind::Exists, text).hint("name another file: nothing is replaced")
}

async fn devices(store: &dyn MetadataStore, user: &UserId) -> Result<Vec<Value>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.devices(Some(user.clone()), after, DEVICES).await;
        let page = page.map_err(server::store_failure)?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some((last.device.user.clone(), last.device.client.clone()));
        for state in page {
            let device = state.device;
            found.push(json!({
                "clientId": device.client, "name": device.name(), "lastSeen": device.last_seen,
                "revokedAt": device.revoked_at, "facts": device.facts,
            }));
        }
    }
}

/// The items that a user owns, as the user's feed shows them.
struct Tree {
    nodes: BTreeMap<ItemId, Node>,
    /// The parents of each item.
    parents: HashMap<ItemId, Vec<ItemId>>,
    grants: BTreeMap<(ItemId, String, String), Value>,
}

impl Tree {
    /// Reads the user's feed, page by page, until it is settled.
    async fn read(store: &dyn MetadataStore, user: &UserId) -> Result<Self> {
        let mut views: BTreeMap<ItemId, ItemView> = BTreeMap::new();
        let mut contents: HashMap<ItemId, NodeContent> = HashMap::new();
        let mut links: HashMap<ItemId, Vec<ItemId>> = HashMap::new();
        let mut grants = BTreeMap::new();
        let (mut cursor, mut baseline, mut head) = (None, None, None);
        loop {
            let request = PullRequest { cursor, baseline, head, client_id: None, limit: PAGE };
            let before = request.baseline.clone();
            let answer = store.pull(user, request).await.map_err(server::store_failure)?;
            let PullAnswer::Page(page) = answer else {
                return Err(Failure::new(Kind::Network, "the user's feed changed its history")
                    .hint("run the export again"));
            };
            baseline = page.baseline.or(before);
            head = page.head;
            cursor = page.next_cursor;
            for text in &page.items {
                let entry: Entry = serde_json::from_str(text)
                    .map_err(|error| Failure::new(Kind::Corrupt, format!("the feed: {error}")))?;
                match entry.body.change {
                    Change::ItemUpsert(view) => drop(views.insert(view.item_id.clone(), *view)),
                    Change::ItemDelete { item, .. } => drop(views.remove(&item)),
                    Change::LinkAdd { parent, child } => {
                        let parents = links.entry(child).or_default();
                        if !parents.contains(&parent) {
                            parents.push(parent);
                        }
                    }
                    Change::LinkRemove { parent, child, .. } => {
                        if let Some(parents) = links.get_mut(&child) {
                            parents.retain(|held| *held != parent);
                        }
                    }
                    Change::GrantAdd { item, principal, level } => {
                        let kind = json!(principal.kind);
                        let key = (item.clone(), kind.to_string(), principal.id.to_string());
                        grants.insert(
                            key,
                            json!({
                                "itemId": item, "principalType": kind,
                                "principalId": principal.id, "accessLevel": level,
                            }),
                        );
                    }
                    Change::GrantRemove { item, principal, .. } => {
                        let kind = json!(principal.kind).to_string();
                        grants.remove(&(item, kind, principal.id.to_string()));
                    }
                    Change::BlobAttach(held) if held.relation_kind == RelationKind::File => {
                        contents.insert(held.item_id.clone(), (*held).into());
                    }
                    Change::BlobDetach { item, relation_kind: RelationKind::File, .. } => {
                        contents.remove(&item);
                    }
                    Change::BlobAttach(_) | Change::BlobDetach { .. } => {}
                }
            }
            if !page.has_more {
                break;
            }
        }
        // What others share is theirs.
        views.retain(|_, view| view.owner_id == *user);
        grants.retain(|(item, ..), _| views.contains_key(item));
        for parents in links.values_mut() {
            parents.retain(|parent| views.contains_key(parent));
            parents.sort();
        }
        let node = |(id, view): (ItemId, ItemView)| {
            let content = contents.remove(&id);
            (id, Node::confirmed(view, content))
        };
        Ok(Self { nodes: views.into_iter().map(node).collect(), parents: links, grants })
    }

    /// Returns the children of each folder, and of the top (`None`): each item is under the first of
    /// its parents.
    fn children(&self) -> HashMap<Option<&ItemId>, Vec<&Node>> {
        let mut children: HashMap<Option<&ItemId>, Vec<&Node>> = HashMap::new();
        for (id, node) in &self.nodes {
            let parent = self.parents.get(id).and_then(|parents| parents.first());
            children.entry(parent).or_default().push(node);
        }
        children
    }
}

/// The object store that contents come from.
struct Source {
    blobs: Arc<dyn BlobStore>,
    handle: Handle,
    stop: CancellationToken,
}

#[derive(Default)]
struct Done {
    items: u64,
    contents: u64,
    bytes: u64,
    problems: Vec<String>,
}

struct Archive<'a> {
    builder: Builder<BufWriter<&'a File>>,
    source: Source,
    progress: &'a crate::output::Progress,
    done: Done,
}

impl<'a> Archive<'a> {
    fn new(file: &'a File, source: Source, progress: &'a crate::output::Progress) -> Self {
        let builder = Builder::new(BufWriter::with_capacity(1 << 20, file));
        Self { builder, source, progress, done: Done::default() }
    }

    fn write(&mut self, user: &UserId, tree: &Tree, devices: &[Value]) -> Result<()> {
        let mut paths: HashMap<&ItemId, String> = HashMap::new();
        let children = tree.children();
        let mut seen = HashSet::new();
        let mut open: Vec<(PathBuf, Option<&ItemId>)> = vec![(PathBuf::from("tree"), None)];
        self.folder(Path::new("tree"), None)?;
        while let Some((place, parent)) = open.pop() {
            let Some(here) = children.get(&parent) else { continue };
            let shown: Vec<&&Node> =
                here.iter().filter(|node| on_disk(node.object_type) != OnDisk::Nothing).collect();
            let siblings: Vec<(&str, &str)> =
                shown.iter().map(|node| (name_of(node), node.id.as_str())).collect();
            let given = names::distinct(&siblings, DiskRules::default());
            for (node, given) in shown.into_iter().zip(given) {
                if !seen.insert(&node.id) {
                    continue;
                }
                let at = place.join(safe(given.name));
                paths.insert(&node.id, names::path_text(&at));
                self.entry(node, &at)?;
                let is_deep = at.components().count() > MAX_DEPTH;
                let below = if is_deep {
                    Path::new("tree").join(safe(node.id.as_str().into()))
                } else {
                    at
                };
                if on_disk(node.object_type) == OnDisk::Folder {
                    open.push((below, Some(&node.id)));
                }
            }
        }
        self.document("items.json", tree.nodes.values().map(|node| item(node, tree, &paths)))?;
        self.document("grants.json", tree.grants.values().cloned())?;
        self.document("devices.json", devices.iter().cloned())?;
        self.done.items = tree.nodes.len() as u64;
        let manifest = json!({
            "format": 1, "user": user, "exportedAt": server::now(), "items": self.done.items,
            "contents": self.done.contents, "bytes": self.done.bytes,
            "problems": self.done.problems,
        });
        self.document("manifest.json", std::iter::once(manifest))
    }

    fn entry(&mut self, node: &Node, at: &Path) -> Result<()> {
        if on_disk(node.object_type) == OnDisk::Folder {
            return self.folder(at, Some(node));
        }
        if let Some(target) = link::target(node) {
            let mut header = header(EntryType::Symlink, 0o777, Some(node));
            header.set_size(0);
            let linked = self.builder.append_link(&mut header, at, Path::new(&target));
            return linked.map_err(Failure::io("cannot write the archive"));
        }
        let mut header = header(EntryType::Regular, 0o644, Some(node));
        let Some(content) = &node.content else {
            header.set_size(0);
            return self.append(&mut header, at, io::empty());
        };
        let source = &self.source;
        let opened = source.handle.block_on(source.blobs.get(&content.blob_id, None));
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                self.done.problems.push(format!("{}: {error}", names::path_text(at)));
                return Ok(());
            }
        };
        header.set_size(content.size);
        let mut reader = Content::new(stream, source, content.size);
        let appended = self.builder.append_data(&mut header, at, &mut reader);
        if reader.interrupted {
            return Err(Failure::new(Kind::Interrupted, "interrupted: no archive was written"));
        }
        appended.map_err(Failure::io("cannot write the archive"))?;
        if let Some(problem) = reader.problem(&content.digest) {
            self.done.problems.push(format!("{}: {problem}", names::path_text(at)));
        }
        self.done.contents += 1;
        self.done.bytes += content.size;
        self.progress.set(format!(
            "{} contents, {}",
            self.done.contents,
            bytes_text(self.done.bytes)
        ));
        Ok(())
    }

    fn folder(&mut self, at: &Path, node: Option<&Node>) -> Result<()> {
        let mut header = header(EntryType::Directory, 0o755, node);
        header.set_size(0);
        self.append(&mut header, at, io::empty())
    }

    fn append(&mut self, header: &mut Header, at: &Path, data: impl Read) -> Result<()> {
        if self.source.stop.is_cancelled() {
            return Err(Failure::new(Kind::Interrupted, "interrupted: no archive was written"));
        }
        let appended = self.builder.append_data(header, at, data);
        appended.map_err(Failure::io("cannot write the archive"))
    }

    /// Writes values as JSON, one a line, through a file without a name.
    fn document(&mut self, name: &str, values: impl Iterator<Item = Value>) -> Result<()> {
        let failed = || Failure::io(format!("cannot write {name}"));
        let file = tempfile::tempfile().map_err(failed())?;
        let mut lines = BufWriter::new(file);
        for value in values {
            writeln!(lines, "{value}").map_err(failed())?;
        }
        let mut file = lines.into_inner().map_err(|error| failed()(error.into_error()))?;
        let size = io::Seek::stream_position(&mut file).map_err(failed())?;
        io::Seek::rewind(&mut file).map_err(failed())?;
        let mut header = header(EntryType::Regular, 0o600, None);
        header.set_size(size);
        self.append(&mut header, Path::new(name), file)
    }

    fn finish(self) -> Result<Done> {
        let failed = || Failure::io("cannot write the archive");
        let mut file = self.builder.into_inner().map_err(failed())?;
        file.flush().map_err(failed())?;
        Ok(self.done)
    }
}

/// Returns the name of an item, or its id if the server does not see one.
fn name_of(node: &Node) -> &str {
    node.name.as_ref().map_or(node.id.as_str(), |name| name.as_str())
}

/// Returns a name that is one step of a path: an id may have any characters.
fn safe(name: OsString) -> OsString {
    match name.to_str() {
        Some("." | "..") => "%2E".into(),
        Some(text) if text.contains('/') => text.replace('/', "%2F").into(),
        _ => name,
    }
}

fn header(kind: EntryType, mode: u32, node: Option<&Node>) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(node.and_then(metadata::mode).unwrap_or(mode));
    let seconds = node.map_or(0, |node| node.modified_at().as_millis() / 1_000);
    header.set_mtime(u64::try_from(seconds).unwrap_or(0));
    header
}

fn item(node: &Node, tree: &Tree, paths: &HashMap<&ItemId, String>) -> Value {
    let content = node.content.as_ref();
    json!({
        "itemId": node.id, "objectType": node.object_type, "name": node.name,
        "path": paths.get(&node.id), "parentIds": tree.parents.get(&node.id),
        "metadata": node.metadata, "encrypted": node.encrypted, "createdAt": node.created_at,
        "modifiedAt": node.modified_at(),
        "content": content.map(|content| json!({
            "blobId": content.blob_id, "size": content.size, "digest": content.digest,
            "contentType": content.content_type,
        })),
    })
}

/// The bytes of a content, of exactly the registered size, whatever the object store gives.
struct Content<'s> {
    stream: Outgoing,
    source: &'s Source,
    part: Bytes,
    left: u64,
    digest: Sha256,
    problem: Option<String>,
    interrupted: bool,
}

impl<'s> Content<'s> {
    fn new(stream: Outgoing, source: &'s Source, size: u64) -> Self {
        let (part, digest) = (Bytes::new(), Sha256::new());
        Self { stream, source, part, left: size, digest, problem: None, interrupted: false }
    }

    /// Returns the problem with the bytes that were read, if there was one.
    fn problem(self, expected: &Sha256Digest) -> Option<String> {
        let found: [u8; 32] = self.digest.finalize().into();
        let other = || (found != expected.0).then(|| "its bytes have another digest".to_owned());
        self.problem.or_else(other)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || into.is_empty() {
            return Ok(0);
        }
        while self.part.is_empty() && self.problem.is_none() {
            let next = async {
                tokio::select! {
                    biased;
                    () = self.source.stop.cancelled() => None,
                    part = self.stream.next() => Some(part),
                }
            };
            match self.source.handle.block_on(next) {
                None => {
                    self.interrupted = true;
                    return Err(io::Error::from(io::ErrorKind::Other));
                }
                Some(Some(Ok(part))) => self.part = part,
                Some(Some(Err(error))) => self.problem = Some(error.to_string()),
                Some(None) => self.problem = Some("its object is too short".into()),
            }
        }
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = if self.part.is_empty() {
            // The header has the size: what is missing is filled, and named.
            into[..room].fill(0);
            room
        } else {
            let count = room.min(self.part.len());
            into[..count].copy_from_slice(&self.part.split_to(count));
            self.digest.update(&into[..count]);
            count
        };
        self.left -= count as u64;
        Ok(count)
    }
}
