//! Signing in and renewing: the credentials of devices, and the keys that sign their access tokens.

use vfs_sync_core::server::credential::{
    Credential, MAX_USER_CREDENTIALS, Renewal, is_key_due, verifying_keys,
};

use super::device::admission;
use crate::command::{
    AddSigningKey, Command, EndCredential, ReadSigningKeys, RenewCredential, SignIn, one_call,
};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::{RenewAnswer, SignInAnswer};

one_call! {
    ReadSigningKeys: |tx, _it| tx.signing_keys();
}

impl Command for SignIn {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, client, first, now } = self;
        let admission = admission(tx, user, Some(client)).await?;
        if admission.is_denied() {
            return Ok(SignInAnswer::Denied(admission));
        }
        let new = Credential::new(user.clone(), client.clone(), *first, *now);
        if let Some(found) = tx.credential(&first.id).await? {
            let (made_at, used_at) = (found.made_at, found.used_at);
            // A repetition of a call whose answer was lost.
            let again = found == Credential { made_at, used_at, ..new };
            return Ok(if again { SignInAnswer::SignedIn } else { SignInAnswer::Taken });
        }
        if !tx.drop_credential(user, client).await?
            && tx.count_credentials(user, MAX_USER_CREDENTIALS).await? >= MAX_USER_CREDENTIALS
        {
            tx.drop_oldest_credential(user).await?;
        }
        tx.put_credential(&new, true).await?;
        // Tokens of the credential before count no longer.
        tx.next_admission_generation().await?;
        Ok(SignInAnswer::SignedIn)
    }
}

impl Command for RenewCredential {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { presented, client, next, now } = self;
        let Some(mut credential) = tx.credential(&presented.id()).await? else {
            return Ok(RenewAnswer::Ended);
        };
        let renewal = credential.renew(presented, client, *next, *now);
        let (user, client) = (credential.user.clone(), credential.client.clone());
        match renewal {
            Renewal::Granted => {
                let admission = admission(tx, &user, Some(&client)).await?;
                if admission.is_denied() {
                    return Ok(RenewAnswer::Denied(admission));
                }
                tx.put_credential(&credential, false).await?;
                Ok(RenewAnswer::Granted { user, client })
            }
            Renewal::Reused => {
                tx.put_credential(&credential, false).await?;
                tx.next_admission_generation().await?;
                Ok(RenewAnswer::Reused { user, client })
            }
            Renewal::Ended => Ok(RenewAnswer::Ended),
            Renewal::Unknown { generation } => Ok(RenewAnswer::Unknown { generation }),
            Renewal::OtherClient => Ok(RenewAnswer::OtherClient),
        }
    }
}

impl Command for EndCredential {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Some(credential) = tx.credential(&self.presented.id()).await? else { return Ok(None) };
        // Whoever knows a secret of it, an old one too, can end it by a renewal as well.
        tx.drop_credential(&credential.user, &credential.client).await?;
        tx.next_admission_generation().await?;
        Ok(Some((credential.user, credential.client)))
    }
}

impl Command for AddSigningKey {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { key, only } = self;
        let now = key.made_at;
        let mut keys = tx.signing_keys().await?;
        // Of processes that start at one time each may add one: any of them verifies.
        if *only || is_key_due(keys.first(), now) {
            tx.put_signing_key(key).await?;
            keys.insert(0, key.clone());
        }
        let kept = if *only { 1 } else { verifying_keys(&keys, now) };
        for key in keys.split_off(kept) {
            tx.drop_signing_key(&key.id).await?;
        }
        Ok(keys)
    }
}
