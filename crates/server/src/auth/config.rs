//! Sources of the keys that verify tokens, and the claims that tokens must have.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm as Jwa;

use super::secret::Secret;

/// The least length of a shared secret in bytes: as many bits as HS256 uses.
pub const MIN_SECRET_BYTES: usize = 32;

/// The greatest size of a secret's file in bytes: a mistaken path must not fill the memory.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The algorithms that this server verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Algorithm {
    Hs256,
    #[strum(serialize = "EdDSA")]
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    /// The name in a token's header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    pub(super) const fn jwa(self) -> Jwa {
        match self {
            Self::Hs256 => Jwa::HS256,
            Self::EdDsa => Jwa::EdDSA,
            Self::Es256 => Jwa::ES256,
            Self::Rs256 => Jwa::RS256,
        }
    }
}

/// The location of the verification keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A shared secret, for HS256.
    Secret(Secret),
    /// A PEM file with one public key.
    PublicKeyFile(PathBuf),
    /// A JSON Web Key Set in a file, read again when a token names a key that is not in it.
    JwksFile(PathBuf),
    /// A JSON Web Key Set behind `https:`, or `http:` on this machine.
    JwksUrl(String),
    /// The key set that an OpenID provider names, by its issuer identifier.
    Issuer(String),
    /// No key: only credentials of devices count.
    None,
}

/// The OpenID provider at which the users of devices sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInConfig {
    /// The issuer identifier: the `iss` of its tokens, and where its configuration is.
    pub issuer: String,
    /// The id by which the provider knows the program on the devices.
    pub client_id: String,
    /// The required value of `aud`, or of one of its elements; that of the client without it.
    pub audience: Option<String>,
    /// The scopes that devices ask for, separated by spaces, `openid` among them.
    pub scope: String,
    /// Refuses tokens that are given by hand, except to operators.
    pub requires_device_credentials: bool,
}

/// Configuration of the token verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// The keys that tokens given by hand are verified with.
    pub keys: KeySource,
    /// The way in which users of devices sign in, if there is one besides tokens by hand.
    pub sign_in: Option<SignInConfig>,
    /// The only accepted algorithm; `None` takes it from the key.
    pub algorithm: Option<Algorithm>,
    /// The required value of `iss`, if any.
    pub issuer: Option<String>,
    /// The required value of `aud`, or of one of its elements, if any.
    pub audience: Option<String>,
    /// The accepted difference between the clocks of issuer and server.
    pub leeway: Duration,
    /// The time after which a key set from a URL or file is fetched again.
    pub jwks_max_age: Duration,
    /// The least time between two fetches that unknown key ids cause.
    pub jwks_min_refresh: Duration,
    /// The time that a fetch of a key set takes at most, and a request of an unknown key waits.
    pub jwks_timeout: Duration,
}

/// An error in the configuration, with the variable's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthConfigError {
    /// No key source is configured.
    #[error(
        "no key to verify tokens with: set one of VFS_SYNC_JWT_SECRET, VFS_SYNC_JWT_SECRET_FILE, \
         VFS_SYNC_JWT_PUBLIC_KEY_FILE, VFS_SYNC_JWKS_FILE, VFS_SYNC_JWKS_URL, or the OpenID \
         provider at which users sign in: VFS_SYNC_OIDC_ISSUER"
    )]
    Missing,
    /// More than one key source is configured.
    #[error("{0} and {1} are both set: set one of them")]
    Several(&'static str, &'static str),
    /// The secret is too short.
    #[error(
        "{variable} has {found} bytes, and needs at least {MIN_SECRET_BYTES}: \
         make one with `openssl rand -base64 48`"
    )]
    ShortSecret {
        /// The name of the variable, or of the file that it names.
        variable: String,
        /// The secret's length in bytes.
        found: usize,
    },
    /// A file cannot be read.
    #[error("{variable}: cannot read {path}: {reason}")]
    File {
        /// The name of the variable.
        variable: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The reason from the operating system or the parser.
        reason: String,
    },
    /// A value is not of the form that the variable has.
    #[error("{variable} {problem}")]
    Value {
        /// The name of the variable.
        variable: &'static str,
        /// The problem with its value.
        problem: String,
    },
}

const SECRET: &str = "VFS_SYNC_JWT_SECRET";
const SECRET_FILE: &str = "VFS_SYNC_JWT_SECRET_FILE";
const PUBLIC_KEY_FILE: &str = "VFS_SYNC_JWT_PUBLIC_KEY_FILE";
const JWKS_FILE: &str = "VFS_SYNC_JWKS_FILE";
const JWKS_URL: &str = "VFS_SYNC_JWKS_URL";
const ALGORITHM: &str = "VFS_SYNC_JWT_ALGORITHM";
const ISSUER: &str = "VFS_SYNC_JWT_ISSUER";
const AUDIENCE: &str = "VFS_SYNC_JWT_AUDIENCE";
const OIDC_ISSUER: &str = "VFS_SYNC_OIDC_ISSUER";
const OIDC_CLIENT_ID: &str = "VFS_SYNC_OIDC_CLIENT_ID";
const OIDC_AUDIENCE: &str = "VFS_SYNC_OIDC_AUDIENCE";
const OIDC_SCOPE: &str = "VFS_SYNC_OIDC_SCOPE";
const REQUIRE: &str = "VFS_SYNC_REQUIRE_DEVICE_CREDENTIALS";

impl AuthConfig {
    /// Creates a configuration that verifies tokens by a shared secret.
    ///
    /// # Errors
    /// [`AuthConfigError::ShortSecret`] below 32 bytes.
    pub fn with_secret(secret: Secret) -> Result<Self, AuthConfigError> {
        check_length(SECRET, &secret)?;
        Ok(Self::new(KeySource::Secret(secret)))
    }

    /// Creates a configuration that verifies tokens by `keys`, with defaults for the rest.
    #[must_use]
    pub fn new(keys: KeySource) -> Self {
        Self {
            keys,
            sign_in: None,
            algorithm: None,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            jwks_max_age: Duration::from_secs(600),
            jwks_min_refresh: Duration::from_secs(30),
            jwks_timeout: Duration::from_secs(10),
        }
    }

    /// Returns the kind of the key source, for a log: never the key or its place.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        match self.keys {
            KeySource::Secret(_) => "secret",
            KeySource::PublicKeyFile(_) => "public_key_file",
            KeySource::JwksFile(_) => "jwks_file",
            KeySource::JwksUrl(_) => "jwks_url",
            KeySource::Issuer(_) => "issuer",
            KeySource::None => "none",
        }
    }

    /// Reads the variables that `lookup` finds: exactly one of `VFS_SYNC_JWT_SECRET`,
    /// `VFS_SYNC_JWT_SECRET_FILE`, `VFS_SYNC_JWT_PUBLIC_KEY_FILE`, `VFS_SYNC_JWKS_FILE` and
    /// `VFS_SYNC_JWKS_URL`; optionally `VFS_SYNC_JWT_ALGORITHM`, `VFS_SYNC_JWT_ISSUER` and
    /// `VFS_SYNC_JWT_AUDIENCE`. With `VFS_SYNC_OIDC_ISSUER` and `VFS_SYNC_OIDC_CLIENT_ID` no key is
    /// needed; then also `VFS_SYNC_OIDC_AUDIENCE`, `VFS_SYNC_OIDC_SCOPE` and
    /// `VFS_SYNC_REQUIRE_DEVICE_CREDENTIALS`. An empty variable counts as not set.
    ///
    /// # Errors
    /// [`AuthConfigError`] names the variable that is missing or wrong.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, AuthConfigError> {
        let set = |name: &'static str| lookup(name).filter(|value| !value.is_empty());
        let mut sources = [SECRET, SECRET_FILE, PUBLIC_KEY_FILE, JWKS_FILE, JWKS_URL]
            .into_iter()
            .filter_map(|name| set(name).map(|value| (name, value)));
        let sign_in = SignInConfig::from_lookup(set)?;
        let keys = match sources.next() {
            Some((name, value)) => {
                if let Some((other, _)) = sources.next() {
                    return Err(AuthConfigError::Several(name, other));
                }
                key_source(name, value)?
            }
            None if sign_in.is_some() => KeySource::None,
            None => return Err(AuthConfigError::Missing),
        };
        let mut config = Self { sign_in, ..Self::new(keys) };
        config.algorithm = set(ALGORITHM).map(|text| parse_algorithm(&text)).transpose()?;
        config.issuer = set(ISSUER);
        config.audience = set(AUDIENCE);
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), AuthConfigError> {
        let secret = matches!(self.keys, KeySource::Secret(_));
        match self.algorithm {
            Some(algorithm) if secret != (algorithm == Algorithm::Hs256) => {
                Err(AuthConfigError::Value {
                    variable: ALGORITHM,
                    problem: format!(
                        "is {}, which does not go with the key: HS256 goes with a secret, \
                         EdDSA, ES256 and RS256 with public keys",
                        algorithm.as_str()
                    ),
                })
            }
            _ => Ok(()),
        }
    }
}

impl SignInConfig {
    /// Reads the variables that `set` finds; `None` if no issuer is set.
    fn from_lookup(
        set: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, AuthConfigError> {
        let wrong = |variable, problem: &str| AuthConfigError::Value {
            variable,
            problem: problem.to_owned(),
        };
        let requires_device_credentials = match set(REQUIRE).as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(_) => return Err(wrong(REQUIRE, "must be true or false")),
        };
        let Some(issuer) = set(OIDC_ISSUER) else {
            let given = [OIDC_CLIENT_ID, OIDC_AUDIENCE, OIDC_SCOPE]
                .into_iter()
                .find(|name| set(name).is_some());
            let given = given.or(requires_device_credentials.then_some(REQUIRE));
            return match given {
                Some(given) => Err(wrong(given, "needs VFS_SYNC_OIDC_ISSUER, which is not set")),
                None => Ok(None),
            };
        };
        check_url(OIDC_ISSUER, &issuer)?;
        if issuer.contains(['?', '#']) {
            return Err(wrong(OIDC_ISSUER, "must have no query and no fragment"));
        }
        let client_id = set(OIDC_CLIENT_ID);
        let client_id = client_id
            .ok_or_else(|| wrong(OIDC_CLIENT_ID, "must be set, since VFS_SYNC_OIDC_ISSUER is"))?;
        let scope = set(OIDC_SCOPE).unwrap_or_else(|| "openid".to_owned());
        if !scope.split_ascii_whitespace().any(|one| one == "openid") {
            return Err(wrong(OIDC_SCOPE, "must contain openid"));
        }
        let audience = set(OIDC_AUDIENCE);
        Ok(Some(Self { issuer, client_id, audience, scope, requires_device_credentials }))
    }
}

fn parse_algorithm(text: &str) -> Result<Algorithm, AuthConfigError> {
    text.parse().map_err(|_| AuthConfigError::Value {
        variable: ALGORITHM,
        problem: "must be HS256, EdDSA, ES256 or RS256".into(),
    })
}

fn key_source(name: &'static str, value: String) -> Result<KeySource, AuthConfigError> {
    Ok(match name {
        SECRET => {
            let secret = Secret::new(value);
            check_length(name, &secret)?;
            KeySource::Secret(secret)
        }
        SECRET_FILE => KeySource::Secret(read_secret(Path::new(&value))?),
        PUBLIC_KEY_FILE => KeySource::PublicKeyFile(value.into()),
        JWKS_FILE => KeySource::JwksFile(value.into()),
        _ => {
            check_url(JWKS_URL, &value)?;
            KeySource::JwksUrl(value)
        }
    })
}

/// Reads the secret from a file, without the line break that editors add at the end.
fn read_secret(path: &Path) -> Result<Secret, AuthConfigError> {
    let file_error = |reason: String| AuthConfigError::File {
        variable: SECRET_FILE,
        path: path.to_owned(),
        reason,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| file_error(error.to_string()))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(file_error(format!("it has more than {MAX_SECRET_BYTES} bytes")));
    }
    let end = bytes.iter().rposition(|b| !b.is_ascii_whitespace()).map_or(0, |at| at + 1);
    let secret = Secret::new(&bytes[..end]);
    check_length(&path.display().to_string(), &secret)?;
    Ok(secret)
}

fn check_length(variable: &str, secret: &Secret) -> Result<(), AuthConfigError> {
    let found = secret.expose().len();
    if found >= MIN_SECRET_BYTES {
        return Ok(());
    }
    Err(AuthConfigError::ShortSecret { variable: variable.to_owned(), found })
}

/// Rejects key sets over plain HTTP except on loopback: an attacker on the network could replace
/// the keys.
fn check_url(variable: &'static str, text: &str) -> Result<(), AuthConfigError> {
    url_problem(text).map_err(|problem| AuthConfigError::Value { variable, problem })
}

/// Returns what is wrong with a URL that keys come from.
pub(super) fn url_problem(text: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(()),
        "http" if local => Ok(()),
        _ => Err("must be https:".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<AuthConfig, AuthConfigError> {
        AuthConfig::from_lookup(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const LONG: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn exactly_one_key_source_is_taken() {
        assert!(matches!(parse(&[(SECRET, LONG)]).unwrap().keys, KeySource::Secret(_)));
        assert_eq!(parse(&[]), Err(AuthConfigError::Missing));
        assert_eq!(parse(&[(SECRET, "")]), Err(AuthConfigError::Missing));
        assert_eq!(
            parse(&[(SECRET, LONG), (JWKS_FILE, "keys.json")]),
            Err(AuthConfigError::Several(SECRET, JWKS_FILE))
        );
    }

    #[test]
    fn a_short_secret_is_refused_and_not_shown() {
        let error = parse(&[(SECRET, "hunter2")]).unwrap_err().to_string();
        assert!(error.starts_with("VFS_SYNC_JWT_SECRET has 7 bytes"), "{error}");
        assert!(!error.contains("hunter2"));
        assert!(!format!("{:?}", parse(&[(SECRET, LONG)])).contains("0123"));
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, format!("{LONG}\n")).unwrap();
        let config = parse(&[(SECRET_FILE, path.to_str().unwrap())]).unwrap();
        assert_eq!(config.keys, KeySource::Secret(Secret::new(LONG)));
        let error = parse(&[(SECRET_FILE, "/nowhere/at/all")]).unwrap_err().to_string();
        assert!(error.starts_with("VFS_SYNC_JWT_SECRET_FILE: cannot read /nowhere"), "{error}");
    }

    #[test]
    fn keys_come_over_a_safe_connection_or_from_this_machine() {
        for good in
            ["https://id.example/jwks", "http://127.0.0.1:1/", "http://[::1]/", "http://localhost/"]
        {
            assert!(parse(&[(JWKS_URL, good)]).is_ok(), "{good}");
        }
        for bad in [
            "http://id.example/jwks",
            "file:///etc/passwd",
            "keys",
            "http://127.0.0.1.evil.example",
        ] {
            let error = parse(&[(JWKS_URL, bad)]).unwrap_err().to_string();
            assert!(error.starts_with(JWKS_URL), "{error}");
        }
    }

    #[test]
    fn a_provider_takes_the_place_of_a_key_or_stands_beside_one() {
        let issuer = (OIDC_ISSUER, "https://id.example/realms/one");
        let client = (OIDC_CLIENT_ID, "vfs-sync");
        let alone = parse(&[issuer, client]).unwrap();
        assert_eq!(alone.keys, KeySource::None);
        let sign_in = alone.sign_in.unwrap();
        assert_eq!((&*sign_in.client_id, &*sign_in.scope), ("vfs-sync", "openid"));
        assert!(!sign_in.requires_device_credentials);
        let all = [issuer, client, (SECRET, LONG), (OIDC_SCOPE, "openid email"), (REQUIRE, "true")];
        let beside = parse(&all).unwrap();
        assert!(matches!(beside.keys, KeySource::Secret(_)));
        assert!(beside.sign_in.unwrap().requires_device_credentials);
        for (wrong, named) in [
            (vec![issuer], OIDC_CLIENT_ID),
            (vec![client, (SECRET, LONG)], OIDC_CLIENT_ID),
            (vec![(REQUIRE, "true"), (SECRET, LONG)], REQUIRE),
            (vec![(REQUIRE, "yes"), issuer, client], REQUIRE),
            (vec![issuer, client, (OIDC_SCOPE, "email")], OIDC_SCOPE),
            (vec![(OIDC_ISSUER, "http://id.example"), client], OIDC_ISSUER),
            (vec![(OIDC_ISSUER, "https://id.example/?a"), client], OIDC_ISSUER),
        ] {
            let error = parse(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }

    #[test]
    fn an_algorithm_goes_with_its_kind_of_key() {
        assert!(parse(&[(SECRET, LONG), (ALGORITHM, "HS256")]).is_ok());
        assert!(parse(&[(JWKS_FILE, "f"), (ALGORITHM, "EdDSA")]).is_ok());
        for bad in ["none", "HS512", "RS256"] {
            assert!(parse(&[(SECRET, LONG), (ALGORITHM, bad)]).is_err(), "{bad}");
        }
        assert!(parse(&[(PUBLIC_KEY_FILE, "f"), (ALGORITHM, "HS256")]).is_err());
    }
}
