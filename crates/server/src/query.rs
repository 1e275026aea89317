//! Query strings: known fields once each, unknown ones ignored.

use http::Uri;

use crate::error::ApiError;

/// The fields of a query string.
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri, fields: &[&'static str]) -> Result<Self, ApiError> {
        if std::str::from_utf8(&decoded(uri.query().unwrap_or_default())).is_err() {
            return Err(ApiError::invalid("the query", "must be UTF-8"));
        }
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

    /// The field `limit`: from 1 to `max`, or `default`.
    pub(crate) fn limit(&self, default: u32, max: u32) -> Result<u32, ApiError> {
        let Some(text) = self.get("limit") else { return Ok(default) };
        let number = text.parse::<u32>().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| {
            ApiError::invalid("limit", format_args!("must be an integer from 1 to {max}"))
        })
    }
}

/// The bytes that a query stands for. Its parser would put U+FFFD in the place of those that are no
/// UTF-8, and so take two ids for one.
fn decoded(query: &str) -> Vec<u8> {
    let escaped = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok();
    let mut rest = query.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2).and_then(escaped)).flatten();
        bytes.push(hex.unwrap_or(byte));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_no_utf8_is_refused() {
        for (query, good) in [
            ("clientId=%ff", false),
            ("clientId=a%C3", false),
            ("clientId=%c3%a9", true),
            ("clientId=%zz%", true),
            ("clientId=%EF%BF%BD", true),
        ] {
            let uri = format!("/x?{query}").parse().unwrap();
            assert_eq!(Query::parse(&uri, &["clientId"]).is_ok(), good, "{query}");
        }
    }
}
