//! The OpenAPI 3.1 description of the server's own routes, in `openapi.json`.

use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;

/// The OpenAPI 3.1 document of this server, in JSON.
pub const OPENAPI: &str = include_str!("../openapi.json");

pub(crate) async fn serve() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;
    use vfs_sync_core::limits::{self, Limits};

    use super::*;

    fn document() -> Value {
        serde_json::from_str(OPENAPI).unwrap()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let described: BTreeSet<String> =
            document()["paths"].as_object().unwrap().keys().cloned().collect();
        let served: BTreeSet<String> =
            crate::router::route_paths().into_iter().map(str::to_owned).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn check(value: &Value, root: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(root.pointer(pointer).is_some(), "{reference}");
                    }
                    members.values().for_each(|member| check(member, root));
                }
                Value::Array(elements) => elements.iter().for_each(|one| check(one, root)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
    }

    #[test]
    fn the_document_has_the_limits_that_are_served() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let described: BTreeSet<&String> =
            schemas["Limits"]["properties"].as_object().unwrap().keys().collect();
        let served = serde_json::to_value(Limits::default()).unwrap();
        assert_eq!(described, served.as_object().unwrap().keys().collect());
        let operations = &schemas["PushRequest"]["properties"]["operations"];
        assert_eq!(operations["maxItems"], limits::MAX_PUSH_OPERATIONS);
        let files = &schemas["BatchRequest"]["properties"]["files"];
        assert_eq!(files["maxItems"], limits::MAX_BLOB_BATCH);
        assert_eq!(schemas["WriteIds"]["maxProperties"], limits::MAX_WRITE_ID_ENTRIES);
        let limit = &document["components"]["parameters"]["Limit"]["schema"];
        assert_eq!(limit["maximum"], limits::MAX_PULL_LIMIT);
        assert_eq!(limit["default"], limits::DEFAULT_PULL_LIMIT);
    }
}
