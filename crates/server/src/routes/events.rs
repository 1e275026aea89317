//! The stream of live updates.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::Uri;

use crate::admission::rates::Origin;
use crate::error::ApiError;
use crate::http::connection::{Connection, Streaming};
use crate::http::extract::TokenExpiry;
use crate::http::query::Query;
use crate::live::{self, FeedHead};
use crate::routes::sync::client_id;
use crate::state::App;

pub(crate) async fn events(
    State(app): State<App>,
    Origin { user, .. }: Origin,
    TokenExpiry(expires_at): TokenExpiry,
    connection: Option<Extension<Arc<Connection>>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = Query::parse(&uri, &["clientId"])?;
    let client =
        query.get("clientId").ok_or_else(|| ApiError::invalid("clientId", "is missing"))?;
    let connection = connection.map(|Extension(connection)| Streaming::over(connection));
    // Opened before the head is read, so that no move in between is missed.
    let open = app.live.open(&user, &client_id(client)?, connection)?;
    app.store.arrive(&user).await?;
    let found = app.store.heads([user].as_slice()).await?;
    app.live.found(&found);
    let position = found.heads.first().and_then(|(_, position)| *position);
    let head = FeedHead { epoch: found.epoch, position };
    let expires_in = expires_at.map(|at| {
        let millis = at.as_millis().saturating_sub(app.now().as_millis());
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    });
    Ok(live::events(open, head, expires_in))
}
