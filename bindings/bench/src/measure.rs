//! The measured calls in Rust. `measure.mjs` and `measure.py` have the same ones, by the same names.

use std::hint::black_box;
use std::io::Read as _;
use std::time::Instant;

use tokio::runtime::Runtime;
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::{NameIs, Query, SortBy, SyncClient};

use crate::{Failure, Times, replica};

/// The number of bytes of a content.
pub(crate) const CONTENT: usize = 16 << 20;

/// Something that makes the calls of the benchmark, by their names.
pub(crate) trait Measured {
    /// Makes a call a number of times; returns the nanoseconds of one, or of each part of one.
    fn round(&mut self, call: &str) -> Result<Times, Failure>;
}

/// The client in Rust.
pub(crate) struct Direct {
    client: SyncClient,
    runtime: Runtime,
    folder: ItemId,
    file: ItemId,
    note: Option<ItemId>,
    path: String,
    bytes: Vec<u8>,
    edits: usize,
}

/// The newest notes, as an application lists them.
fn notes() -> Query {
    Query {
        object_type: Some(ObjectType::Note),
        sort_by: SortBy::ModifiedAt,
        descending: true,
        limit: 100,
        ..Query::default()
    }
}

fn by_name() -> Query {
    let name = Some(NameIs::StartsWith("name-0000".into()));
    Query { name, limit: 100, ..Query::default() }
}

/// Returns the nanoseconds of one call.
fn timed<T, E: Into<Failure>>(
    calls: u32,
    mut call: impl FnMut() -> Result<T, E>,
) -> Result<Times, Failure> {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(call().map_err(Into::into)?);
    }
    Ok(vec![begun.elapsed().as_nanos() as f64 / f64::from(calls)])
}

impl Direct {
    pub(crate) fn new(client: SyncClient, runtime: Runtime, items: usize) -> Result<Self, Failure> {
        let (folder, file) = (replica::id(items / 2 / 100 * 100)?, replica::measured(items)?);
        let path = client.path_of(&file)?;
        let bytes = vec![7; CONTENT];
        Ok(Self { client, runtime, folder, file, note: None, path, bytes, edits: 0 })
    }

    /// Measures the first result of a watch, an edit, and the time from its end to the result with it.
    fn watch(&mut self) -> Result<Times, Failure> {
        let found = if self.note.is_none() { self.client.find(&notes())? } else { Vec::new() };
        let note = self.note.get_or_insert_with(|| found[0].id.clone()).clone();
        self.edits += 1;
        let name = Name::new(format!("renamed-{}-{}", std::process::id(), self.edits))?;
        let client = self.client.clone();
        self.runtime.block_on(async move {
            let begun = Instant::now();
            let mut watch = client.watch(notes());
            watch.next().await?;
            let first = begun.elapsed();
            let begun = Instant::now();
            let edited = async {
                let edit = tokio::task::spawn_blocking(move || {
                    client.rename(&note, name).map(|()| begun.elapsed())
                });
                Ok::<_, Failure>(edit.await??)
            };
            let changed = async { Ok::<_, Failure>(watch.next().await.map(|_| begun.elapsed())?) };
            let (edited, changed) = tokio::try_join!(edited, changed)?;
            let times = [first, edited, changed.saturating_sub(edited)];
            Ok(times.map(|time| time.as_nanos() as f64).to_vec())
        })
    }
}

impl Measured for Direct {
    fn round(&mut self, call: &str) -> Result<Times, Failure> {
        let Self { client, folder, file, path, bytes, .. } = self;
        match call {
            "node" => timed(2_000, || client.node(file)),
            "parentsOf" => timed(2_000, || client.parents_of(file)),
            "status" => timed(2_000, || client.status()),
            // The name that is shown depends on all siblings.
            "pathOf" => timed(10, || client.path_of(file)),
            "resolve" => timed(10, || client.resolve(path)),
            "children" => timed(20, || client.children(Some(folder))),
            "walk" => timed(1, || {
                let entries = client.walk(None)?.take(10_000);
                entries.collect::<Result<Vec<_>, _>>()
            }),
            "find" => {
                let page = Query { limit: 1_000, ..Query::default() };
                timed(2, || client.find(&page))
            }
            "put" => timed(1, || client.contents().put(file, &**bytes)),
            "read" => timed(1, || {
                let content = self.runtime.block_on(client.contents().read(file))?;
                let mut read = Vec::with_capacity(CONTENT);
                content.reader()?.read_to_end(&mut read)?;
                Ok::<_, Failure>(read)
            }),
            "query by name" => timed(5, || client.find(&by_name())),
            "query by type and time" => timed(5, || client.find(&notes())),
            "watch" => self.watch(),
            other => Err(format!("{other} is not measured").into()),
        }
    }
}
