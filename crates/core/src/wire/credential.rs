//! The wire format of signing in: the way that a server names, the secrets of a device's credential,
//! and the access tokens that the credential is good for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::id::{ReplicaId, UserId};

/// The header that names the secret that comes after the presented one: a [`Proposal`].
pub const NEXT_SECRET_HEADER: &str = "Vfs-Sync-Next-Secret";

/// The first part of every [`RefreshSecret`], so that people and scanners recognise one.
const PREFIX: &str = "vfsr1";
/// The greatest length of a [`RefreshSecret`] or a [`Proposal`] as text, in bytes.
const MAX_TEXT_BYTES: usize = 160;
/// Bytes of randomness that make a secret.
const SECRET_BYTES: usize = 32;
/// Bytes of randomness that all secrets of one credential share.
const HANDLE_BYTES: usize = 16;

/// The id of a credential: a digest of what its secrets have in common, so that whoever knows the id
/// knows none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId([u8; HANDLE_BYTES]);

impl CredentialId {
    /// Parses the id from 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        let mut bytes = [0; HANDLE_BYTES];
        if pairs.len() != bytes.len() {
            return None;
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? * 16 + digit(*low)?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The digest of a secret, which is all that a server stores of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; SECRET_BYTES]);

/// A secret that renews the access tokens of a device. The device makes it, and a server sees it only
/// when it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshSecret {
    handle: [u8; HANDLE_BYTES],
    /// The number of the secret: that of the one before it and 1.
    generation: u64,
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for RefreshSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefreshSecret({}, …)", self.generation)
    }
}

impl RefreshSecret {
    /// Makes the first secret of a credential from random bytes.
    #[must_use]
    pub const fn first(handle: [u8; HANDLE_BYTES], secret: [u8; SECRET_BYTES]) -> Self {
        Self { handle, generation: 0, secret }
    }

    /// Makes the secret that comes after this one from random bytes.
    #[must_use]
    pub const fn next(&self, secret: [u8; SECRET_BYTES]) -> Self {
        Self { handle: self.handle, generation: self.generation.saturating_add(1), secret }
    }

    /// Returns the number of the secret.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the id of the secret's credential.
    #[must_use]
    pub fn id(&self) -> CredentialId {
        let mut id = [0; HANDLE_BYTES];
        id.copy_from_slice(&blake3::hash(&self.handle).as_bytes()[..HANDLE_BYTES]);
        CredentialId(id)
    }

    /// Returns the digest of the secret.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(*blake3::hash(self.text().as_bytes()).as_bytes())
    }

    /// Returns what a device tells a server of the secret before it is used.
    #[must_use]
    pub fn proposal(&self) -> Proposal {
        Proposal { id: self.id(), hash: self.hash() }
    }

    /// Returns the secret as text, which is a bearer token.
    #[must_use]
    pub fn text(&self) -> String {
        let (handle, secret) =
            (URL_SAFE_NO_PAD.encode(self.handle), URL_SAFE_NO_PAD.encode(self.secret));
        format!("{PREFIX}.{handle}.{}.{secret}", self.generation)
    }

    /// Parses a secret from its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let mut parts = text.split('.');
        let (PREFIX, handle, generation, secret, None) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        let parsed = Self {
            handle: bytes(handle)?,
            generation: generation.parse().ok()?,
            secret: bytes(secret)?,
        };
        // Of a secret there is one text.
        (parsed.text() == text).then_some(parsed)
    }
}

/// A secret that a device is going to use next, as far as a server may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// The id of the credential.
    pub id: CredentialId,
    /// The digest of the secret.
    pub hash: SecretHash,
}

impl Proposal {
    /// Encodes the proposal as the value of [`NEXT_SECRET_HEADER`].
    #[must_use]
    pub fn header(&self) -> String {
        format!("{}.{}", self.id, URL_SAFE_NO_PAD.encode(self.hash.0))
    }

    /// Decodes a value of [`NEXT_SECRET_HEADER`].
    #[must_use]
    pub fn of_header(value: &str) -> Option<Self> {
        if value.len() > MAX_TEXT_BYTES {
            return None;
        }
        let (id, hash) = value.split_once('.')?;
        Some(Self { id: CredentialId::parse(id)?, hash: SecretHash(bytes(hash)?) })
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// The answer to `GET /v1/vfs/auth`: how one signs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthView {
    /// The way to sign in.
    pub method: SignInMethod,
    /// The OpenID provider, by its issuer identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The id by which the provider knows the program on the devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The scopes to ask the provider for, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// True if the server refuses tokens that are given by hand, except to operators.
    #[serde(default)]
    pub requires_device_credentials: bool,
}

/// The way in which a device gets its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SignInMethod {
    /// OpenID Connect with the device flow (RFC 8628), then a credential of the server.
    DeviceFlow,
    /// A token that is given by hand.
    Token,
}

/// The answer to signing in, and to each renewal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessGrant {
    /// The user of the credential.
    pub user_id: UserId,
    /// The replica that the credential is good for.
    pub client_id: ReplicaId,
    /// The token for calls of this replica.
    pub access_token: String,
    /// The lifetime of the token in seconds.
    pub expires_in: u64,
}

impl fmt::Debug for AccessGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessGrant").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_and_a_proposal_have_one_text_each() {
        let first = RefreshSecret::first([7; 16], [9; 32]);
        let next = first.next([1; 32]);
        for secret in [&first, &next] {
            assert_eq!(RefreshSecret::parse(&secret.text()).as_ref(), Some(secret));
            let proposal = secret.proposal();
            assert_eq!(Proposal::of_header(&proposal.header()), Some(proposal));
            assert_eq!(CredentialId::parse(&secret.id().to_string()), Some(secret.id()));
        }
        assert_eq!(first.id(), next.id());
        assert_ne!(first.hash(), next.hash());
        assert_eq!((first.generation(), next.generation()), (0, 1));
        assert_eq!(format!("{first:?}"), "RefreshSecret(0, …)");
    }

    #[test]
    fn what_is_malformed_is_no_secret_and_no_proposal() {
        let text = RefreshSecret::first([7; 16], [9; 32]).text();
        for bad in [
            String::new(),
            text.replace("vfsr1", "vfsr2"),
            format!("{text}.x"),
            text.replace(".0.", ".00."),
            text.replace(".0.", ".-1."),
            text.replace(".0.", ".99999999999999999999."),
            text[..text.len() - 1].to_owned(),
            "x".repeat(10_000),
        ] {
            assert_eq!(RefreshSecret::parse(&bad), None, "{bad}");
        }
        let header = RefreshSecret::first([7; 16], [9; 32]).proposal().header();
        for bad in ["", ".", &header[1..], &header[..40], &header.to_uppercase()] {
            assert_eq!(Proposal::of_header(bad), None, "{bad}");
        }
    }
}
