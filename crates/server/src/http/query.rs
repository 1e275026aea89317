//! Query strings: each known field at most once, unknown fields ignored.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// The fields of a query string.
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri, fields: &[&'static str]) -> Result<Self, ApiError> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
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

/// Decodes a part of a query. A percent sign that is not followed by two hex digits stands for
/// itself.
fn decoded(part: &str) -> Result<String, ApiError> {
    let part = part.replace('+', " ");
    // By hand: form_urlencoded replaces bytes that are not UTF-8, which could make two ids one.
    let text = percent_decode_str(&part).decode_utf8();
    text.map(Cow::into_owned).map_err(|_| ApiError::invalid("the query", "must be UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_forms_write_them() {
        for (query, value) in [
            ("x=a", Some("a")),
            ("x=a+b%20c%2B", Some("a b c+")),
            ("y=1&&x=a%3Db=c&z", Some("a=b=c")),
            ("%78=%zz%4", Some("%zz%4")),
            ("x", Some("")),
            ("y=x", None),
            ("", None),
        ] {
            let uri = format!("/?{query}").parse().unwrap();
            assert_eq!(Query::parse(&uri, &["x"]).unwrap().get("x"), value, "{query}");
        }
        let twice = Query::parse(&"/?x=1&%78=2".parse().unwrap(), &["x"]);
        assert!(twice.is_err());
    }

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
