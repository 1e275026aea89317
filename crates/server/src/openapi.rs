//! The description of the routes that the server serves itself.

use std::sync::LazyLock;

use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());

pub(crate) async fn serve() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// The OpenAPI 3.1 document of this server.
#[must_use]
pub fn document() -> Value {
    json!({"openapi": "3.1.0", "info": {"title": "vfs-sync", "version": "1"}, "paths": {}})
}
