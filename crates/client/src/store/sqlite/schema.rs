//! The tables of a replica.

/// What `PRAGMA application_id` says of our files: "vfsr".
pub(super) const APPLICATION_ID: i64 = 0x7666_7372;
/// What `PRAGMA user_version` says of the schema below.
pub(super) const FORMAT: i64 = 2;

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
-- state: 0 pending, 1 acknowledged. The row's write id and time count, not those in op.
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

/// Contents whose bytes are to leave the cache: new in format 2.
const FORGOTTEN: &str = "
CREATE TABLE forgotten (blob_id TEXT PRIMARY KEY, item TEXT NOT NULL) WITHOUT ROWID;
";

/// What a replica of the format `found` lacks; `None` if no version ever wrote such a one.
pub(super) fn upgrade(found: i64) -> Option<String> {
    match found {
        FORMAT => Some(String::new()),
        1 => Some(FORGOTTEN.to_owned()),
        _ => None,
    }
}

/// All of it.
pub(super) fn create() -> String {
    format!("{SHARED}{FORGOTTEN}{}{}", SLOT.replace('@', "_a"), SLOT.replace('@', "_b"))
}
