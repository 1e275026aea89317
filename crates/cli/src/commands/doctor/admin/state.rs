//! Reports what an examination of the rows of a server found.

use std::collections::BTreeSet;
use std::time::Duration;

use vfs_sync_core::id::UserId;
use vfs_sync_store::{
    DerivedFault, Extent, Findings, MetadataStore, MetadataUsage, Usage, examine,
};

use super::super::check::Check;
use super::super::site::quoted;
use super::Ground;
use super::database::failed;
use crate::output::{count_text, counted};

/// Faults that are named.
const SHOWN: usize = 20;

/// The findings of an examination.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Findings,
    /// True if one user was examined, of whom there is nothing.
    pub(super) nobody: bool,
}

pub(super) async fn checks(
    ground: &Ground<'_>,
    store: &dyn MetadataStore,
    checks: &mut Vec<Check>,
) -> Found {
    let between = async |found: &Findings, took: Duration| {
        let (items, entries) = (count_text(found.items), count_text(found.entries));
        ground.progress.set(format!("{items} items, {entries} entries of feeds"));
        ground.give_way(took).await;
    };
    let (found, walked) = examine(store, &ground.extent, between).await;
    let mut nobody = false;
    if let Extent::User(user) = &ground.extent {
        let known = store.user_record(user).await;
        nobody = found.items + found.entries == 0 && known.is_ok_and(|known| known.is_none());
    }
    let examined = format!(
        "{} items, {} entries of feeds, {} users",
        count_text(found.items),
        count_text(found.entries),
        count_text(found.users)
    );
    let examined = match ground.extent {
        Extent::Sample { .. } => format!("a sample: {examined}"),
        Extent::User(_) | Extent::All => examined,
    };
    checks.push(match walked {
        Ok(()) => rows(ground, &found, &examined),
        Err(error) => failed(ground, "state.rows", "the examination ended early", error),
    });
    checks.push(levels(ground, &found, &examined));
    checks.push(feeds(ground, &found, &examined));
    checks.push(counts(ground, &found));
    Found { rows: found, nobody }
}

fn rows(ground: &Ground<'_>, found: &Findings, examined: &str) -> Check {
    const ID: &str = "state.rows";
    let Some(first) = found.malformed.first() else {
        return Check::ok(ID, format!("every row can be read ({examined})"));
    };
    let count = counted(found.malformed.len() as u64, "row is", "rows are");
    let named: Vec<_> = found.malformed.iter().take(SHOWN).collect();
    let named: Vec<_> = named.iter().map(|row| (&row.table, &row.key, &row.reason)).collect();
    let states = found.malformed.iter().all(|row| row.table == "reconcile_state");
    let next = match states {
        true => ground.command("admin repair reconcile-state"),
        false => "vfs-sync backup restore --help".to_owned(),
    };
    Check::problem(ID, format!("{count} malformed, one in {}: {}", first.table, first.reason))
        .with("count", found.malformed.len())
        .name("rows", named)
        .explained("malformed_row")
        .next(next)
}

/// Returns the command that repairs what the check found.
fn fix(ground: &Ground<'_>) -> String {
    let scope = match &ground.extent {
        Extent::User(user) => {
            format!(" --user {}", quoted(std::path::Path::new(user.as_str())))
        }
        // A sample would find others the next time.
        Extent::Sample { .. } | Extent::All => " --all".to_owned(),
    };
    ground.command(&format!("admin doctor{scope} --fix"))
}

fn levels(ground: &Ground<'_>, found: &Findings, examined: &str) -> Check {
    const ID: &str = "state.levels";
    if found.levels == 0 {
        return Check::ok(ID, format!("levels of access are those that grants give ({examined})"));
    }
    let faults = found.faults.iter().filter_map(|fault| match fault {
        DerivedFault::Level { item, user, stored, derived } => Some((item, user, stored, derived)),
        _ => None,
    });
    let text = format!(
        "{} of access {} not what the grants give",
        counted(found.levels, "level", "levels"),
        if found.levels == 1 { "is" } else { "are" }
    );
    Check::problem(ID, text)
        .with("count", found.levels)
        .name("levels", faults.take(SHOWN).collect::<Vec<_>>())
        .next(fix(ground))
}

fn feeds(ground: &Ground<'_>, found: &Findings, examined: &str) -> Check {
    const ID: &str = "state.feeds";
    if found.entries_off == 0 {
        return Check::ok(ID, format!("feeds show what their users see ({examined})"));
    }
    let (mut missing, mut stray, mut differs) = (0_u64, 0_u64, 0_u64);
    let mut named = Vec::new();
    for fault in &found.faults {
        let what = match fault {
            DerivedFault::Level { .. } => continue,
            DerivedFault::Missing { .. } => (&mut missing, "missing"),
            DerivedFault::Stray { .. } => (&mut stray, "stray"),
            DerivedFault::Differs { .. } => (&mut differs, "differs"),
        };
        *what.0 += 1;
        if named.len() < SHOWN {
            named.push((fault.user(), fault.item(), what.1));
        }
    }
    let text = format!(
        "{} of feeds {} not what their users see: {missing} missing, {stray} of what they do not see, \
         {differs} of another state",
        counted(found.entries_off, "entry", "entries"),
        if found.entries_off == 1 { "is" } else { "are" }
    );
    Check::problem(ID, text)
        .with("count", found.entries_off)
        .with("missing", missing)
        .with("stray", stray)
        .with("differs", differs)
        .name("entries", named)
        .next(fix(ground))
}

fn counts(ground: &Ground<'_>, found: &Findings) -> Check {
    const ID: &str = "state.counts";
    let users: BTreeSet<&UserId> = found
        .held
        .iter()
        .map(|(user, ..)| user)
        .chain(found.charges.iter().map(|(user, ..)| user))
        .collect();
    let check = if users.is_empty() {
        Check::ok(ID, "the numbers that count against quotas are those of the rows")
    } else {
        let text = format!(
            "the numbers that count against quotas differ from the rows of {}",
            counted(users.len() as u64, "user", "users")
        );
        let held = found.held.iter().take(SHOWN).map(|(user, stored, counted)| {
            let of = |usage: &MetadataUsage| [usage.items, usage.links, usage.grants];
            (user, of(stored), of(counted))
        });
        let charged = found.charges.iter().take(SHOWN).map(|(user, stored, counted)| {
            let of = |usage: &Usage| [usage.stored, usage.staged, usage.open_stages];
            (user, of(stored), of(counted))
        });
        Check::problem(ID, text)
            .name("registers", held.collect::<Vec<_>>())
            .name("contents", charged.collect::<Vec<_>>())
            .next(fix(ground))
    };
    check.with("users", users.len()).with("notCompared", found.busy)
}
