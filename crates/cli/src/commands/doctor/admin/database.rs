//! Checks of the database: its schema, identity and place, what it may lose, and its means.

use std::path::Path;
use std::sync::Arc;

use vfs_sync_core::time::Timestamp;
use vfs_sync_store::{DatabaseFacts, MetadataStore, ServerFacts, StoreError, open_to_read};

use super::super::check::{Check, Outcome};
use super::super::replica::disk_of;
use super::super::site::quoted;
use super::Ground;
use crate::output::bytes_text;
use crate::server::{self, store_failure};

/// The difference of two clocks that is a problem, in milliseconds: tokens and the order of changes
/// depend on them.
const CLOCK_PROBLEM: i64 = 60_000;
/// The difference of two clocks that is a note, in milliseconds.
const CLOCK_NOTE: i64 = 5_000;
/// The part of the connections, in percent, from which more are a problem.
const CONNECTIONS_PERCENT: u64 = 90;
/// The seconds for which a transaction may be open before it keeps the database from tidying up.
const OLD_TRANSACTION: f64 = 600.0;
/// The age of the oldest transaction id from which the database's own upkeep is behind.
const OLD_ID: u64 = 1_000_000_000;
/// The seconds by which a standby may be behind.
const LAG_SECONDS: f64 = 60.0;
/// Unused bytes that are worth a word, if they are half of the database too.
const BLOAT_BYTES: u64 = 256 << 20;

/// Opens the database to read it; a problem is the last check.
pub(super) async fn open(
    ground: &Ground<'_>,
    checks: &mut Vec<Check>,
) -> Option<Arc<dyn MetadataStore>> {
    const ID: &str = "database.schema";
    match open_to_read(&ground.database).await {
        Ok((version, store)) => {
            let text = format!("the database has schema version {}", version.found);
            let check = if version.found > version.known {
                let text = format!("{text}; this program knows {}", version.known);
                Check::problem(ID, text).next("vfs-sync --version")
            } else if version.found < version.known {
                let text = format!("{text}; this program writes {}", version.known);
                Check::problem(ID, text).next(ground.command("migrate"))
            } else {
                Check::ok(ID, text)
            };
            checks.push(check.with("found", version.found).with("known", version.known));
            store
        }
        Err(error) => {
            checks.push(failed(ground, ID, "the database cannot be opened", error));
            None
        }
    }
}

/// Returns the check of a call of the store that failed.
pub(super) fn failed(
    ground: &Ground<'_>,
    id: &'static str,
    what: &str,
    error: StoreError,
) -> Check {
    let key = match &error {
        StoreError::Full(_) => "storage_full",
        StoreError::MalformedRow { .. } => "malformed_row",
        StoreError::Unavailable(_) | StoreError::Conflict => "database_unavailable",
        _ => id,
    };
    let next = match (&error, ground.is_postgres()) {
        (StoreError::MissingTable { .. }, _) => "vfs-sync backup restore --help".to_owned(),
        (_, true) => "psql \"$VFS_SYNC_DATABASE_URL\" -c 'SELECT now()'".to_owned(),
        (_, false) => format!("ls -l {}", quoted(Path::new(&ground.database))),
    };
    let failure = store_failure(error);
    Check::problem(id, format!("{what}: {}", failure.message))
        .text("error", failure.message)
        .explained(key)
        .next(next)
}

pub(super) async fn checks(
    ground: &Ground<'_>,
    store: &dyn MetadataStore,
    checks: &mut Vec<Check>,
) {
    checks.push(identity(ground, store).await);
    let facts = match store.database_facts().await {
        Ok(facts) => facts,
        Err(error) => {
            checks.push(failed(ground, "database.facts", "the database does not answer", error));
            return;
        }
    };
    checks.push(
        Check::ok("database.facts", format!("{}, {}", facts.product, bytes_text(facts.bytes)))
            .with("product", &facts.product)
            .with("bytes", facts.bytes),
    );
    checks.push(durability(&facts));
    checks.push(bloat(ground, &facts));
    checks.push(clock(ground, store, &facts).await);
    if let Some(server) = &facts.server {
        checks.push(place(server));
        checks.push(replication(server));
        checks.push(connections(server));
        checks.push(transactions(server));
    }
    if let Some(data) = ground.data() {
        checks.push(disk_of("disk.free", "server", data));
    }
}

/// Checks whether the database is the one that the server's directory belongs to.
async fn identity(ground: &Ground<'_>, store: &dyn MetadataStore) -> Check {
    const ID: &str = "database.identity";
    let identity = match store.identity().await {
        Ok(identity) => identity,
        Err(error) => return failed(ground, ID, "the database does not say which it is", error),
    };
    let marked = match ground.data().map(server::marked) {
        None => None,
        Some(Ok(marked)) => marked,
        Some(Err(error)) => {
            let text = format!("the mark of the database cannot be read: {error}");
            return Check::problem(ID, text).text("error", error.to_string());
        }
    };
    let check = match &marked {
        Some(marked) if *marked != identity.id => Check::problem(
            ID,
            "the server's directory belongs to another database: its file was replaced, or --data \
             and the database do not belong together",
        )
        .name("marked", marked)
        .next(format!(
            "cat {}",
            quoted(&ground.data().unwrap_or(Path::new("")).join("database-id"))
        )),
        Some(_) => Check::ok(ID, "the database is the one that the directory belongs to"),
        None => Check::ok(ID, "nothing says that it is another database than before"),
    };
    check.name("id", &identity.id).with("empty", identity.is_empty)
}

/// Checks whether what a server acknowledges is kept.
fn durability(facts: &DatabaseFacts) -> Check {
    const ID: &str = "database.durability";
    if facts.unsafe_settings.is_empty() {
        return Check::ok(ID, "what is acknowledged survives a power cut");
    }
    let settings = facts.unsafe_settings.join(", ");
    Check::problem(ID, format!("a power cut may lose acknowledged changes: {settings}"))
        .with("settings", &facts.unsafe_settings)
        .next("psql \"$VFS_SYNC_DATABASE_URL\" -c 'SHOW ALL'")
}

fn bloat(ground: &Ground<'_>, facts: &DatabaseFacts) -> Check {
    const ID: &str = "database.bloat";
    let (unused, bytes) = (facts.unused_bytes, facts.bytes);
    let text = format!("{} of {} hold nothing", bytes_text(unused), bytes_text(bytes));
    let check = if unused > BLOAT_BYTES && unused > bytes / 2 {
        let next = match ground.is_postgres() {
            true => "psql \"$VFS_SYNC_DATABASE_URL\" -c 'VACUUM (VERBOSE)'".to_owned(),
            false => format!("sqlite3 {} VACUUM", quoted(Path::new(&ground.database))),
        };
        Check::note(ID, text).next(next)
    } else {
        Check::ok(ID, text)
    };
    check.with("unusedBytes", unused)
}

/// Checks this machine's clock against the database's, and against the times that servers wrote.
async fn clock(ground: &Ground<'_>, store: &dyn MetadataStore, facts: &DatabaseFacts) -> Check {
    const ID: &str = "database.clock";
    let now = server::now();
    let oldest = match store.oldest_rows(now).await {
        Ok(oldest) => oldest,
        Err(error) => return failed(ground, ID, "the database does not answer", error),
    };
    let off = |at: Timestamp| at.as_millis().saturating_sub(now.as_millis());
    let database = facts.clock.map(off);
    // A server's clock shows only where it is ahead: its last note may be old.
    let noted = oldest.last_call.map(off).filter(|off| *off > 0);
    let worst = [database, noted].into_iter().flatten().max_by_key(|off| off.saturating_abs());
    let worst = worst.unwrap_or(0);
    let whose = if noted == Some(worst) { "a server's" } else { "the database's" };
    let way = if worst > 0 { "ahead of" } else { "behind" };
    let text =
        format!("{whose} clock is {} s {way} this machine's", worst.saturating_abs() / 1_000);
    let check = match worst.saturating_abs() {
        CLOCK_PROBLEM.. => Check::problem(ID, text).next("timedatectl status"),
        CLOCK_NOTE.. => Check::note(ID, text).next("timedatectl status"),
        _ => Check::ok(ID, "the clocks agree"),
    };
    check.with("databaseMillisAhead", database).with("lastCallMillisAhead", noted)
}

/// Checks whether the database is where its present epoch began.
fn place(server: &ServerFacts) -> Check {
    const ID: &str = "database.place";
    let check = if server.is_standby {
        Check::problem(ID, "the database is a standby, which takes no writes")
            .next("psql \"$VFS_SYNC_DATABASE_URL\" -c 'SELECT pg_promote()'")
    } else if server.is_in_place {
        Check::ok(ID, "the database is where its present epoch began")
    } else {
        // A server that connects begins an epoch by itself.
        Check::note(
            ID,
            "the database was started, restored or failed over since a server last connected to it: \
             the next connection of a server begins an epoch",
        )
        .next("vfs-sync serve --help")
    };
    check.with("standby", server.is_standby).with("inPlace", server.is_in_place)
}

fn replication(server: &ServerFacts) -> Check {
    const ID: &str = "database.replication";
    let connected = server.standbys.len();
    let synchronous = |state: &str| matches!(state, "sync" | "quorum");
    let has_synchronous = server.standbys.iter().any(|one| synchronous(&one.sync_state));
    let slowest = server.standbys.iter().filter_map(|one| one.lag).fold(0.0, f64::max);
    let waits = !server.synchronous_standbys.is_empty()
        && !matches!(server.synchronous_commit.as_str(), "off" | "local");
    let next = "psql \"$VFS_SYNC_DATABASE_URL\" -c 'TABLE pg_stat_replication'";
    let check = if waits && !has_synchronous {
        Check::problem(
            ID,
            "commits wait for a synchronous standby, and none is connected: nothing is written",
        )
        .next(next)
    } else if slowest > LAG_SECONDS {
        let text = format!("a standby is {slowest:.0} s behind: a failover to it loses that much");
        Check::problem(ID, text).next(next)
    } else if connected == 0 {
        Check::ok(ID, "no standby is connected")
    } else if has_synchronous {
        Check::ok(ID, format!("{connected} standbys, a commit waits for one"))
    } else {
        Check::ok(ID, format!("{connected} standbys, {slowest:.0} s behind at most"))
    };
    let standbys: Vec<_> =
        server.standbys.iter().map(|one| (&one.state, &one.sync_state)).collect();
    check
        .with("synchronousCommit", &server.synchronous_commit)
        .name("synchronousStandbyNames", &server.synchronous_standbys)
        .with("standbys", standbys)
        .with("lagSeconds", slowest)
}

fn connections(server: &ServerFacts) -> Check {
    const ID: &str = "database.connections";
    let (used, most) = server.connections;
    let text = format!("{used} of {most} connections are in use");
    let outcome =
        if used * 100 >= most * CONNECTIONS_PERCENT { Outcome::Problem } else { Outcome::Ok };
    let check = Check::ok(ID, "").becomes(outcome, text).with("used", used).with("most", most);
    let next = "psql \"$VFS_SYNC_DATABASE_URL\" -c 'TABLE pg_stat_activity'";
    if outcome == Outcome::Ok { check } else { check.next(next) }
}

fn transactions(server: &ServerFacts) -> Check {
    const ID: &str = "database.transactions";
    let age = server.oldest_transaction;
    let check = if server.id_age > OLD_ID {
        let text = format!("the oldest transaction id is {} transactions old", server.id_age);
        Check::problem(ID, text).next("psql \"$VFS_SYNC_DATABASE_URL\" -c 'VACUUM (FREEZE)'")
    } else if age > OLD_TRANSACTION {
        let text = format!("a transaction is open for {age:.0} s: removed rows keep their space");
        Check::problem(ID, text).next("psql \"$VFS_SYNC_DATABASE_URL\" -c 'TABLE pg_stat_activity'")
    } else {
        Check::ok(ID, "no transaction is open for long")
    };
    check.with("oldestSeconds", age).with("idAge", server.id_age)
}
