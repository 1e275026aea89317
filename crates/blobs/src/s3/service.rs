//! The HTTP layer below the library. It gives errors S3's own code, and makes the completion of a
//! multipart upload conditional, which the library does not offer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::IF_NONE_MATCH;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

/// The greatest size of an error answer, or of the answer that completes an upload.
const MAX_ANSWER: usize = 64 * 1024;

/// An error answer of S3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code} (request {request_id}): {message}")]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// S3's own code, or else a code for the HTTP status.
    pub(crate) code: String,
    message: String,
    request_id: String,
}

/// The state that all clients of one store share.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// True if the store completes a multipart upload only if no object exists.
    pub(crate) conditional_finish: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Connector(pub(crate) Arc<Service>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { inner, service: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    service: Arc<Service>,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let finishes = *request.method() == Method::POST
            && query.split('&').any(|field| field.starts_with("uploadId="));
        if finishes && self.service.conditional_finish.load(Ordering::Relaxed) {
            // Signatures cover the headers that they list; this one is added after.
            request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let response = self.inner.execute(request).await?;
        let status = response.status();
        if status.is_success() && !finishes || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let collected = Limited::new(body, MAX_ANSWER).collect().await;
        let bytes = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(_) if status.is_success() => {
                return Err(HttpError::new(HttpErrorKind::Interrupted, Cut));
            }
            Err(_) => Bytes::new(),
        };
        let text = String::from_utf8_lossy(&bytes);
        let code = element(&text, "Code").filter(|_| text.contains("<Error"));
        let passes = match (status, code) {
            (status, None) if status.is_success() => true,
            // An answer to HEAD has no body, hence no code.
            (StatusCode::NOT_FOUND, None | Some("NoSuchKey")) => true,
            (StatusCode::PRECONDITION_FAILED, _) => true,
            _ => false,
        };
        if passes {
            let full = Full::new(bytes).map_err(|never| match never {});
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(full)));
        }
        let header = parts.headers.get("x-amz-request-id").and_then(|value| value.to_str().ok());
        let refusal = Refusal {
            status,
            code: code.map_or_else(|| of_status(status).to_owned(), str::to_owned),
            message: element(&text, "Message").unwrap_or_default().chars().take(500).collect(),
            request_id: header.unwrap_or("none").to_owned(),
        };
        Err(HttpError::new(HttpErrorKind::Decode, refusal))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
struct Cut;

/// Returns the text of the first element of this name; codes and messages have no child elements.
fn element<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let length = xml[start..].find('<')?;
    Some(xml[start..start + length].trim()).filter(|text| !text.is_empty())
}

/// Returns the code for a status whose answer has none: from a proxy, or to a HEAD request.
fn of_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NoSuchKey",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "AccessDenied",
        StatusCode::TOO_MANY_REQUESTS => "SlowDown",
        StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::REQUEST_TIMEOUT => "ServiceUnavailable",
        status if status.is_redirection() => "PermanentRedirect",
        status if status.is_server_error() => "InternalError",
        _ => "InvalidRequest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_its_code() {
        let xml = "<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code>\
                   <Message>Please reduce</Message></Error>";
        assert_eq!(element(xml, "Code"), Some("SlowDown"));
        assert_eq!(element(xml, "Message"), Some("Please reduce"));
        for odd in ["", "<Code>", "<Code></Code>", "<Code>x"] {
            assert_eq!(element(odd, "Code"), None, "{odd}");
        }
    }

    #[test]
    fn a_status_alone_tells_a_code() {
        for (status, code) in [
            (404, "NoSuchKey"),
            (403, "AccessDenied"),
            (503, "ServiceUnavailable"),
            (429, "SlowDown"),
            (500, "InternalError"),
            (501, "InternalError"),
            (400, "InvalidRequest"),
        ] {
            assert_eq!(of_status(StatusCode::from_u16(status).unwrap()), code);
        }
    }
}
