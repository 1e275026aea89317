//! The tables of a replica.

/// The `PRAGMA application_id` of our files: "vfsr".
pub(super) const APPLICATION_ID: i64 = 0x7666_7372;
/// The `PRAGMA user_version` of the schema below.
pub(super) const FORMAT: i64 = 8;

const SLOT: &str = "
CREATE TABLE items@ (id TEXT PRIMARY KEY, owner TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE links@ (
    parent TEXT NOT NULL, child TEXT NOT NULL, authored_at INTEGER NOT NULL,
    PRIMARY KEY (parent, child)) WITHOUT ROWID;
CREATE INDEX links@_by_child ON links@ (child, parent);
CREATE TABLE grants@ (
    item TEXT NOT NULL, kind TEXT NOT NULL, principal TEXT NOT NULL, level INTEGER NOT NULL,
    authored_at INTEGER NOT NULL, PRIMARY KEY (item, kind, principal)) WITHOUT ROWID;
CREATE TABLE attachments@ (
    item TEXT NOT NULL, ref_id TEXT NOT NULL, body BLOB NOT NULL, authored_at INTEGER NOT NULL,
    PRIMARY KEY (item, ref_id)) WITHOUT ROWID;
CREATE TABLE containers@ (
    id TEXT PRIMARY KEY, changed_at INTEGER NOT NULL, change_id TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX containers@_by_change ON containers@ (changed_at, change_id, id);
CREATE TABLE tops@ (id TEXT PRIMARY KEY) WITHOUT ROWID;
";

const SHARED: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- state: 0 pending, 1 acknowledged, 2 held. The row's write id and time count, not those in op.
CREATE TABLE queue (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, op_id TEXT NOT NULL UNIQUE, item TEXT NOT NULL,
    parent TEXT, state INTEGER NOT NULL, write_id INTEGER NOT NULL, occurred_at INTEGER NOT NULL,
    op TEXT NOT NULL);
CREATE INDEX queue_by_item ON queue (item, seq);
CREATE INDEX queue_by_parent ON queue (parent, item) WHERE parent IS NOT NULL;
CREATE INDEX queue_by_state ON queue (state, seq);
CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, op_id TEXT NOT NULL UNIQUE, op TEXT NOT NULL,
    reason TEXT, detail TEXT);
-- state: 0 queued, 1 attached, 2 rejected.
CREATE TABLE uploads (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL, blob_id TEXT NOT NULL UNIQUE,
    state INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX uploads_by_item ON uploads (item, seq);
CREATE INDEX uploads_by_state ON uploads (state, seq);
";

/// The contents whose bytes are to leave the cache; new in format 2.
const FORGOTTEN: &str = "
CREATE TABLE forgotten (blob_id TEXT PRIMARY KEY, item TEXT NOT NULL) WITHOUT ROWID;
";

/// The removals, and the list of changes that a restored server lost; new in format 3.
const OFFERING: &str = "
-- key: the register's; body: the removal. lost.blob_id: a content whose bytes stay here.
CREATE TABLE removals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, body TEXT NOT NULL,
    authored_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, change_id TEXT NOT NULL);
CREATE INDEX removals_by_change ON removals (changed_at);
CREATE TABLE lost (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, item TEXT NOT NULL,
    blob_id TEXT, body TEXT NOT NULL);
CREATE INDEX lost_by_blob ON lost (blob_id) WHERE blob_id IS NOT NULL;
";

/// The feed position of a register: epoch and counter, in byte order; new in format 3.
const POSITION: &str = "
ALTER TABLE items@ ADD COLUMN position BLOB;
ALTER TABLE links@ ADD COLUMN position BLOB;
ALTER TABLE grants@ ADD COLUMN position BLOB;
ALTER TABLE attachments@ ADD COLUMN position BLOB;
";

fn of_both(sql: &str) -> String {
    format!("{}{}", sql.replace('@', "_a"), sql.replace('@', "_b"))
}

/// The records of directories; new in format 4.
const DIRECTORIES: &str = "
CREATE TABLE directories (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE directory_entries (
    directory INTEGER NOT NULL, id INTEGER NOT NULL, parent INTEGER NOT NULL, name BLOB NOT NULL,
    inode INTEGER NOT NULL, item TEXT NOT NULL, made INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (directory, id)) WITHOUT ROWID;
CREATE UNIQUE INDEX directory_entries_by_name ON directory_entries (directory, parent, name);
CREATE INDEX directory_entries_by_inode ON directory_entries (directory, inode);
CREATE INDEX directory_entries_by_item ON directory_entries (item);
CREATE INDEX directory_entries_made ON directory_entries (made) WHERE made = 1;
";

/// The move that an operation is part of; new in format 5.
const MOVES: &str = "
ALTER TABLE queue ADD COLUMN moved TEXT;
CREATE INDEX queue_by_move ON queue (moved, seq) WHERE moved IS NOT NULL;
";

/// The time that a server gave an operation which is sent again as it was sent before; new in
/// format 6.
const GIVEN: &str = "
ALTER TABLE queue ADD COLUMN given_at INTEGER;
";

/// The index of shown items that queries read; new in format 7. It counts while `meta` has `indexed`.
const FOUND: &str = "
CREATE TABLE found (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, owner TEXT NOT NULL,
    modified INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX found_by_name ON found (name, id);
CREATE INDEX found_by_modified ON found (modified, id);
CREATE INDEX found_by_type ON found (type, name, id);
CREATE INDEX found_by_type_modified ON found (type, modified, id);
CREATE INDEX found_by_owner ON found (owner, name, id);
CREATE INDEX found_by_owner_modified ON found (owner, modified, id);
CREATE TABLE found_metadata (
    id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, name TEXT NOT NULL,
    type TEXT NOT NULL, owner TEXT NOT NULL, modified INTEGER NOT NULL,
    PRIMARY KEY (id, key)) WITHOUT ROWID;
CREATE INDEX found_metadata_by_name ON found_metadata (key, value, name, id);
CREATE INDEX found_metadata_by_modified ON found_metadata (key, value, modified, id);
";

/// The changes of directories that were announced and not settled; new in format 8.
const INTENTS: &str = "
CREATE TABLE directory_intents (
    directory INTEGER NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (directory, id)) WITHOUT ROWID;
";

/// Returns the statements that a replica of the format `found` lacks; `None` for an unknown format.
pub(super) fn upgrade(found: i64) -> Option<String> {
    let offering = format!("{OFFERING}{}", of_both(POSITION));
    let steps = [FORGOTTEN, &offering, DIRECTORIES, MOVES, GIVEN, FOUND, INTENTS];
    let has = usize::try_from(found).ok()?.checked_sub(1)?;
    Some(steps.get(has..)?.concat())
}

/// Returns the whole schema, as one script.
pub(super) fn create() -> String {
    let (slots, positions) = (of_both(SLOT), of_both(POSITION));
    let records = format!("{DIRECTORIES}{MOVES}{GIVEN}{FOUND}{INTENTS}");
    format!("{SHARED}{FORGOTTEN}{OFFERING}{records}{slots}{positions}")
}
