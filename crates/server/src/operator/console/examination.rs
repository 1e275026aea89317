//! The examination of a user, page by page: what is derived in the database against what it is derived
//! from, by the rules of `vfs-sync admin doctor --user`.

use axum::Json;
use axum::extract::{Path, State};
use http::Uri;
use serde::Serialize;
use serde_json::Value;
use vfs_sync_core::id::{ItemId, UserId, of_path_step};
use vfs_sync_core::runbook::{Entry, Kind, entry_of};
use vfs_sync_store::{DerivedFault, FeedExamined, ItemsExamined, ItemsOf, MalformedRow};

use crate::error::ApiError;
use crate::http::extract::Administrator;
use crate::http::query::Query;
use crate::operator::audit;
use crate::state::App;

/// Items, entries of a feed, and reconcile states of a page.
const ITEMS: u32 = 200;
const ENTRIES: u32 = 500;
/// Malformed rows that a page names.
const NAMED: usize = 20;
/// Bytes of the place after which a page begins.
const MAX_AFTER_BYTES: usize = 128;

/// The result of one check of the doctor on a page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// The id of the check.
    id: &'static str,
    count: usize,
    entry: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Examined {
    /// The number of items, entries or rows of the page.
    examined: u64,
    findings: Vec<Finding>,
    /// The malformed rows, as `table: key: reason`.
    malformed: Vec<String>,
    /// The place after which the next page begins.
    next: Option<String>,
}

impl Examined {
    fn of(
        examined: u64,
        faults: &[DerivedFault],
        malformed: Vec<MalformedRow>,
        next: Option<String>,
    ) -> Self {
        let levels =
            faults.iter().filter(|fault| matches!(fault, DerivedFault::Level { .. })).count();
        let found = [
            ("state.rows", malformed.len()),
            ("state.levels", levels),
            ("state.feeds", faults.len() - levels),
        ];
        let found = found.into_iter().filter(|(_, count)| *count > 0).map(|(id, count)| Finding {
            id,
            count,
            entry: entry_of(Kind::Check, id).map(Entry::to_json),
        });
        let named = malformed.into_iter().take(NAMED);
        let named =
            named.map(|MalformedRow { table, key, reason }| format!("{table}: {key}: {reason}"));
        Self { examined, findings: found.collect(), malformed: named.collect(), next }
    }
}

pub(crate) async fn examine(
    State(app): State<App>,
    Administrator(admin): Administrator,
    Path(text): Path<String>,
    uri: Uri,
) -> Result<Json<Examined>, ApiError> {
    let user: UserId =
        of_path_step(&text).parse().map_err(|reason| ApiError::invalid("userId", reason))?;
    let query = Query::parse(&uri, &["part", "after"])?;
    let after = query.get("after").filter(|after| !after.is_empty());
    if after.is_some_and(|after| after.len() > MAX_AFTER_BYTES) {
        let problem = format_args!("must have at most {MAX_AFTER_BYTES} bytes");
        return Err(ApiError::invalid("after", problem));
    }
    if after.is_none() {
        audit::note(&app, &admin, "user_examined", &user, "");
    }
    let store = &app.store;
    let of = match query.get("part") {
        Some("owned") => ItemsOf::Owner(user),
        Some("read") => ItemsOf::Reader(user),
        Some("granted") => ItemsOf::Grantee(user),
        Some("feed") => {
            let from = after.map_or(Ok(0), str::parse::<u64>);
            let from = from.map_err(|_| ApiError::invalid("after", "must be a number"))?;
            let FeedExamined { malformed, faults, entries, next } =
                store.examine_feed(&user, from, ENTRIES, false).await?;
            let next = next.map(|next| next.to_string());
            return Ok(Json(Examined::of(entries, &faults, malformed, next)));
        }
        Some("states") => {
            let (malformed, next) =
                store.examine_states(&user, after.unwrap_or_default(), ENTRIES).await?;
            return Ok(Json(Examined::of(0, &[], malformed, next)));
        }
        _ => return Err(ApiError::invalid("part", "must be owned, read, granted, feed or states")),
    };
    let after = after.map(str::parse::<ItemId>).transpose();
    let after = after.map_err(|reason| ApiError::invalid("after", reason))?;
    let ItemsExamined { malformed, faults, items, next } =
        store.examine_items(of, after, None, ITEMS).await?;
    Ok(Json(Examined::of(items, &faults, malformed, next.map(|next| next.to_string()))))
}
