//! The rules and links that may cross between a live folder and its directory, by the replica's settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vfs_sync_folder::disk::link::AllowedLinks;
use vfs_sync_folder::ignore::{OwnRules, Trust};

use super::{read_settings, remember_rules};
use crate::error::Result;

/// The settings of a replica as the place of rules that were written on this device.
#[derive(Debug)]
struct InSettings(PathBuf);

impl OwnRules for InSettings {
    fn remember(&self, digest: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(remember_rules(&self.0, digest)?)
    }
}

/// Reads from a replica's settings which rules count in `directory`.
pub(crate) fn trust(replica: &Path, directory: &Path) -> Result<Trust> {
    let settings = read_settings(replica)?;
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let mut folders = settings.folders.iter();
    let all = folders.any(|one| one.directory == directory && one.trust_ignore);
    Ok(Trust::new(all, settings.own_rules, Arc::new(InSettings(replica.to_owned()))))
}

/// Reads from a replica's settings which links are allowed in `directory`.
pub(crate) fn allowed_links(replica: &Path, directory: &Path) -> Result<AllowedLinks> {
    let settings = read_settings(replica)?;
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let (mut allowed, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for one in settings.folders.into_iter().filter(|one| one.directory == directory) {
        allowed.extend(one.allowed_links);
        refused.extend(one.refused_links);
    }
    Ok(AllowedLinks::new(allowed, refused))
}
