//! The decisions of operators about a user: limits of one's own, in place of the server's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::UserId;
use crate::server::push::{MetadataQuota, MetadataUsage};
use crate::server::stage::{Quota, Usage};
use crate::time::Timestamp;

/// Limits of one user; `None` is the server's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "BTreeMap<String, u64>")]
pub struct UserLimits {
    /// The number of stored bytes, including staged ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stored_bytes: Option<u64>,
    /// The number of bytes that are staged and not attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_staged_bytes: Option<u64>,
    /// The number of open stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_open_stages: Option<u64>,
    /// The number of items, deleted ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u64>,
    /// The number of links, removed ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_links: Option<u64>,
    /// The number of grants, removed ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grants: Option<u64>,
    /// The bytes of the names, metadata and encrypted forms of items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_register_bytes: Option<u64>,
    /// The number of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u64>,
}

/// The limits by name: an object and nothing else, with known names only.
impl TryFrom<BTreeMap<String, u64>> for UserLimits {
    type Error = String;

    fn try_from(given: BTreeMap<String, u64>) -> Result<Self, String> {
        let mut limits = Self::default();
        for (name, value) in given {
            let limit = match name.as_str() {
                "maxStoredBytes" => &mut limits.max_stored_bytes,
                "maxStagedBytes" => &mut limits.max_staged_bytes,
                "maxOpenStages" => &mut limits.max_open_stages,
                "maxItems" => &mut limits.max_items,
                "maxLinks" => &mut limits.max_links,
                "maxGrants" => &mut limits.max_grants,
                "maxRegisterBytes" => &mut limits.max_register_bytes,
                "maxReplicas" => &mut limits.max_replicas,
                _ => return Err(format!("{name:?} is no limit of a user")),
            };
            *limit = Some(value);
        }
        Ok(limits)
    }
}

impl UserLimits {
    /// Returns whether all limits are the server's.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the bounds on the user's blobs, where `default` are the server's.
    #[must_use]
    pub fn blobs(&self, default: &Quota) -> Quota {
        Quota {
            stored: self.max_stored_bytes.unwrap_or(default.stored),
            staged: self.max_staged_bytes.unwrap_or(default.staged),
            open_stages: self.max_open_stages.unwrap_or(default.open_stages),
        }
    }

    /// Returns the bounds on the user's realm, where `default` are the server's.
    #[must_use]
    pub fn metadata(&self, default: &MetadataQuota) -> MetadataQuota {
        MetadataQuota {
            items: self.max_items.unwrap_or(default.items),
            links: self.max_links.unwrap_or(default.links),
            grants: self.max_grants.unwrap_or(default.grants),
            bytes: self.max_register_bytes.unwrap_or(default.bytes),
            replicas: self.max_replicas.unwrap_or(default.replicas),
            results: default.results,
        }
    }
}

/// A user as operators see one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The id of the user.
    pub user: UserId,
    /// The time since when the user is disabled.
    pub disabled_at: Option<Timestamp>,
    /// The limits of the user's own.
    pub limits: UserLimits,
    /// The rows and bytes that the user's realm holds.
    pub metadata: MetadataUsage,
    /// The sum of the user's blobs.
    pub blobs: Usage,
    /// The number of the user's devices.
    pub devices: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_ones_own_takes_the_place_of_the_servers() {
        let text = r#"{"maxStoredBytes": 7, "maxReplicas": 3}"#;
        let limits: UserLimits = serde_json::from_str(text).unwrap();
        let quota = limits.blobs(&Quota { stored: 1, staged: 2, open_stages: 3 });
        assert_eq!(quota, Quota { stored: 7, staged: 2, open_stages: 3 });
        let metadata = limits.metadata(&MetadataQuota::default());
        assert_eq!(metadata, MetadataQuota { replicas: 3, ..MetadataQuota::default() });
        assert_eq!(serde_json::to_string(&limits).unwrap(), text.replace(' ', ""));
        for bad in [r#"{"maxStored": 7}"#, r#"{"maxItems": -1}"#, r#"{"maxItems": 1.5}"#, "[]"] {
            assert!(serde_json::from_str::<UserLimits>(bad).is_err(), "{bad}");
        }
    }
}
