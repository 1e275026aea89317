//! S3: its configuration, and the settings of the `object_store` library.

mod service;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{ClientOptions, RetryConfig};

pub(crate) use service::{Refusal, Service};

/// The time limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit until the answer begins, and between its bytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_REGION: &str = "us-east-1";

/// The location of blobs in S3, and the credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The name of the bucket.
    pub bucket: String,
    /// The prefix of every key, which may be empty.
    pub key_prefix: String,
    /// The URL of the store; `None` for Amazon's in the region.
    pub endpoint: Option<String>,
    /// The region of the bucket.
    pub region: String,
    /// The id and secret of a key; `None` for the usual chain (environment, web identity, role).
    pub key: Option<(String, String)>,
    /// True if the bucket is part of the path rather than of the host name.
    pub force_path_style: bool,
    /// The time limit until the store's answer begins, and between its bytes.
    pub answer_timeout: Duration,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("key_prefix", &self.key_prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("force_path_style", &self.force_path_style)
            .finish_non_exhaustive()
    }
}

/// An error in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct S3ConfigError {
    /// The name of the variable.
    pub variable: &'static str,
    /// The reason why its value is invalid.
    pub problem: String,
}

fn wrong(variable: &'static str, problem: impl Into<String>) -> S3ConfigError {
    S3ConfigError { variable, problem: problem.into() }
}

const BUCKET: &str = "VFS_BLOB_S3_BUCKET";
const KEY_PREFIX: &str = "VFS_BLOB_S3_KEY_PREFIX";
const ENDPOINT: &str = "VFS_BLOB_S3_ENDPOINT";
const REGION: &str = "VFS_BLOB_S3_REGION";
const ACCESS_KEY_ID: &str = "VFS_BLOB_S3_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "VFS_BLOB_S3_SECRET_ACCESS_KEY";
const FORCE_PATH_STYLE: &str = "VFS_BLOB_S3_FORCE_PATH_STYLE";

impl S3Config {
    /// Reads `VFS_BLOB_S3_*` with `lookup`; `None` if none of them is set, which selects a
    /// directory. An empty variable counts as not set.
    ///
    /// # Errors
    /// [`S3ConfigError`] names the variable and the problem.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, S3ConfigError> {
        let lookup = |name| lookup(name).filter(|value| !value.is_empty());
        let Some(bucket) = lookup(BUCKET) else {
            let others =
                [KEY_PREFIX, ENDPOINT, REGION, ACCESS_KEY_ID, SECRET_ACCESS_KEY, FORCE_PATH_STYLE];
            return match others.into_iter().find(|name| lookup(name).is_some()) {
                Some(_) => Err(wrong(BUCKET, "is missing, though others of VFS_BLOB_S3_* are set")),
                None => Ok(None),
            };
        };
        check_bucket(&bucket)?;
        let key_prefix = lookup(KEY_PREFIX).unwrap_or_default().trim_matches('/').to_owned();
        check_prefix(&key_prefix)?;
        let endpoint = lookup(ENDPOINT).map(check_endpoint).transpose()?;
        let region = lookup(REGION).unwrap_or_else(|| DEFAULT_REGION.to_owned());
        if !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(wrong(REGION, "must have only letters, digits and hyphens"));
        }
        let key = match (lookup(ACCESS_KEY_ID), lookup(SECRET_ACCESS_KEY)) {
            (Some(id), Some(secret)) => Some((id, secret)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(wrong(SECRET_ACCESS_KEY, "is required with the key's id"));
            }
            (None, Some(_)) => return Err(wrong(ACCESS_KEY_ID, "is required with the secret")),
        };
        let force_path_style = match lookup(FORCE_PATH_STYLE).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(wrong(FORCE_PATH_STYLE, "must be true or false")),
        };
        let answer_timeout = ANSWER_TIMEOUT;
        let config =
            Self { bucket, key_prefix, endpoint, region, key, force_path_style, answer_timeout };
        Ok(Some(config))
    }

    /// Builds the library's client: it retries nothing, removes objects one by one, and its errors
    /// contain S3's answer.
    pub(crate) fn build(&self, service: &Arc<Service>) -> Result<AmazonS3, object_store::Error> {
        let builder = match &self.key {
            Some((id, secret)) => {
                AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret)
            }
            None => AmazonS3Builder::from_env(),
        };
        let mut builder = builder
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_bulk_delete(true)
            .with_disable_tagging(true)
            .with_http_connector(service::Connector(Arc::clone(service)));
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_read_timeout(self.answer_timeout);
        let in_path = self.force_path_style || self.endpoint.as_deref().is_some_and(is_address);
        builder = builder.with_virtual_hosted_style_request(!in_path);
        if let Some(endpoint) = &self.endpoint {
            options = options.with_allow_http(endpoint.starts_with("http:"));
            builder = builder.with_endpoint(match endpoint.split_once("://") {
                Some((scheme, host)) if !in_path => format!("{scheme}://{}.{host}", self.bucket),
                _ => endpoint.clone(),
            });
        }
        builder.with_client_options(options).build()
    }
}

fn check_bucket(bucket: &str) -> Result<(), S3ConfigError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let good = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| plain(b) || b.is_ascii_uppercase())
        && bucket.starts_with(|first: char| first.is_ascii_alphanumeric());
    if good { Ok(()) } else { Err(wrong(BUCKET, "is not a valid bucket name")) }
}

/// Checks that a prefix is unambiguous: without empty, relative or unusual segments.
fn check_prefix(prefix: &str) -> Result<(), S3ConfigError> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(&b))
    };
    if prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(plain)) {
        return Ok(());
    }
    let problem = "must be segments of letters, digits and -_.= with single slashes between";
    Err(wrong(KEY_PREFIX, problem))
}

fn check_endpoint(endpoint: String) -> Result<String, S3ConfigError> {
    let endpoint = endpoint.trim_end_matches('/');
    let uri: Result<http::Uri, _> = endpoint.parse();
    let good = uri.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path_and_query().is_none_or(|rest| rest == "/")
    });
    if good {
        return Ok(endpoint.to_owned());
    }
    Err(wrong(ENDPOINT, "must be http://host[:port] or https://host[:port]"))
}

/// Returns whether the URL's host is an IP address, which cannot have a bucket prefix.
fn is_address(endpoint: &str) -> bool {
    let uri: Option<http::Uri> = endpoint.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<S3Config>, S3ConfigError> {
        S3Config::from_lookup(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_a_bucket_blobs_are_in_a_directory() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(BUCKET, "")]), Ok(None));
        assert_eq!(read(&[(REGION, "eu-west-1")]).unwrap_err().variable, BUCKET);
    }

    #[test]
    fn a_configuration_is_read_whole() {
        let config = read(&[
            (BUCKET, "files"),
            (KEY_PREFIX, "/a/b/"),
            (ENDPOINT, "http://10.0.0.1:9000/"),
            (REGION, "eu-west-1"),
            (ACCESS_KEY_ID, "id"),
            (SECRET_ACCESS_KEY, "hush"),
            (FORCE_PATH_STYLE, "true"),
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!((&*config.bucket, &*config.key_prefix), ("files", "a/b"));
        assert_eq!(config.endpoint.as_deref(), Some("http://10.0.0.1:9000"));
        assert!(config.force_path_style);
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variable, value) in [
            (BUCKET, "a/b"),
            (BUCKET, "x"),
            (KEY_PREFIX, "a//b"),
            (KEY_PREFIX, "../x"),
            (KEY_PREFIX, "a b"),
            (ENDPOINT, "example.com"),
            (ENDPOINT, "ftp://example.com"),
            (ENDPOINT, "https://user:secret@example.com"),
            (ENDPOINT, "https://example.com/path"),
            (REGION, "eu west"),
            (FORCE_PATH_STYLE, "maybe"),
        ] {
            let mut variables = vec![(variable, value)];
            if variable != BUCKET {
                variables.push((BUCKET, "files"));
            }
            let error = read(&variables).unwrap_err();
            assert_eq!(error.variable, variable, "{value}");
            assert!(!error.to_string().contains("secret"));
        }
        let half = [(BUCKET, "files"), (ACCESS_KEY_ID, "id")];
        assert_eq!(read(&half).unwrap_err().variable, SECRET_ACCESS_KEY);
        let half = [(BUCKET, "files"), (SECRET_ACCESS_KEY, "s")];
        assert_eq!(read(&half).unwrap_err().variable, ACCESS_KEY_ID);
    }
}
