//! Health checks: the process answers, and the database answers.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::App;

pub(crate) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Checks only the database: a failing object store must not take the server out of rotation.
pub(crate) async fn readyz(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let answer = tokio::time::timeout(app.config.idle_timeout, app.store.ping()).await;
    match answer {
        Ok(Ok(())) => Ok(Json(json!({"status": "ok"}))),
        Ok(Err(error)) => {
            let mut error = ApiError::from(error);
            error.status = StatusCode::SERVICE_UNAVAILABLE;
            Err(error)
        }
        Err(_) => Err(ApiError::timed_out()),
    }
}
