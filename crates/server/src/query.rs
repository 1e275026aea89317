//! Query strings: known fields once each, unknown ones ignored.

use http::Uri;

use crate::error::ApiError;

/// The fields of a query string.
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri, fields: &[&'static str]) -> Result<Self, ApiError> {
        let given = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::invalid("the query", error))?;
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in given.0 {
            let Some(field) = fields.iter().find(|field| **field == name) else { continue };
            if found.iter().any(|(name, _)| name == field) {
                return Err(ApiError::invalid(field, "is there twice"));
            }
            found.push((field, value));
        }
        Ok(Self(found))
    }

    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == field).map(|(_, value)| &**value)
    }
}
