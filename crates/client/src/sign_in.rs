//! Signing a device in: the provider's device flow, and the credential that the server gives for it.
//!
//! [`Provider`] takes the user through OpenID Connect's device flow (RFC 8628) and returns the
//! provider's token. [`CredentialFile::create`] exchanges it at the server and keeps the credential in
//! a file, and from then on a [`CredentialFile`] is a source of tokens that renews them by itself.
//!
//! The flow is two form posts and their errors, so it is written here: the crates `oauth2` and
//! `openidconnect` bring second versions of `rand`, `sha2`, `getrandom`, `thiserror` and an HTTP client
//! of their own, and the checks that matter, those of the token, are the server's.

mod credential;
mod provider;

use std::path::PathBuf;

pub use credential::{CredentialFile, CredentialState};
pub use provider::{DeviceCode, Provider};

use crate::transport::TransportError;

/// A reason why a device was not signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The provider cannot be reached, or its answers do not follow the standards.
    #[error("the sign-in provider {issuer}: {reason}")]
    Provider {
        /// The provider's issuer identifier.
        issuer: String,
        /// The problem with it.
        reason: String,
    },
    /// The user, or the provider, refused the device.
    #[error("the sign-in was refused at the provider")]
    Refused,
    /// Nobody confirmed the code in its time.
    #[error("the code has expired before it was confirmed")]
    Expired,
    /// A call to the server failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The file of the credential cannot be read or written.
    #[error("cannot keep the sign-in in {path}: {source}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The reason from the operating system.
        source: std::io::Error,
    },
}

/// Returns random bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], std::io::Error> {
    let mut bytes = [0; N];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let filled = provider.secure_random.fill(&mut bytes);
    filled.map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}
