//! Credentials of devices: which secret renews, which is a repetition, and which shows that somebody
//! else has one.
//!
//! A credential belongs to one replica of a user. Its secrets come one after another. A device keeps
//! the next secret before it asks for it, and the server knows of that one only the digest, so that:
//!
//! 1. A call that is cut anywhere is repeated with the same secrets, and nothing is lost: the secret
//!    before the newest one counts until the newest one is used.
//! 2. A secret from before that one is in other hands too, or in a copy of the device: the credential
//!    ends, and whoever has a secret of it has nothing.
//! 3. A call that arrives late, after its device has gone on, changes nothing.
//! 4. A database that went back, by a restore or a failover, ends nothing: it says how far it is, and
//!    the device presents the secret of that time.

use crate::id::{ReplicaId, UserId};
use crate::time::Timestamp;
use crate::wire::credential::{CredentialId, Proposal, RefreshSecret, SecretHash};

/// The number of a user's credentials. Beyond it the one that was used longest ago is forgotten: its
/// device has to sign in again.
pub const MAX_USER_CREDENTIALS: u64 = 1_000;

/// The lifetime of an access token in seconds.
pub const ACCESS_SECONDS: u64 = 3_600;

/// The age at which a key that signs access tokens gets a successor, in milliseconds: 30 days.
pub const KEY_MILLIS: i64 = 30 * 24 * 3_600 * 1_000;

/// The time for which a key verifies after its successor was made, in milliseconds: that of a day, and
/// a token lives for an hour.
pub const OLD_KEY_MILLIS: i64 = 24 * 3_600 * 1_000;

/// The row of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The id of the credential.
    pub id: CredentialId,
    /// The user of the credential.
    pub user: UserId,
    /// The replica that the credential is good for.
    pub client: ReplicaId,
    /// The number of the newest secret.
    pub generation: u64,
    /// The digest of the newest secret.
    pub current: SecretHash,
    /// The digest of the secret before it, which counts until the newest one is used.
    pub previous: Option<SecretHash>,
    /// The time at which the user signed in.
    pub made_at: Timestamp,
    /// The time of the last renewal.
    pub used_at: Timestamp,
    /// The time at which a secret of the past ended the credential.
    pub ended_at: Option<Timestamp>,
}

/// The decision about a presented secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The device gets an access token; the credential has changed.
    Granted,
    /// The secret is of the past: the credential has ended now.
    Reused,
    /// The credential had ended before.
    Ended,
    /// The secret is not one that the database knows; nothing has changed. Its secret of this
    /// generation, or an earlier one, may be.
    Unknown {
        /// The number of the newest secret that the database knows.
        generation: u64,
    },
    /// The credential is another replica's; nothing has changed.
    OtherClient,
}

impl Credential {
    /// Creates the credential of a replica whose user has just signed in.
    #[must_use]
    pub const fn new(user: UserId, client: ReplicaId, first: Proposal, now: Timestamp) -> Self {
        Self {
            id: first.id,
            user,
            client,
            generation: 0,
            current: first.hash,
            previous: None,
            made_at: now,
            used_at: now,
            ended_at: None,
        }
    }

    /// Decides about a secret that `client` presents, with the digest of the one that it uses next.
    pub fn renew(
        &mut self,
        presented: &RefreshSecret,
        client: &ReplicaId,
        next: SecretHash,
        now: Timestamp,
    ) -> Renewal {
        if self.ended_at.is_some() {
            return Renewal::Ended;
        }
        let (known, generation) = (self.generation, presented.generation());
        let unknown = Renewal::Unknown { generation: known };
        let hash = presented.hash();
        let is_current = generation == known && hash == self.current;
        let is_previous = generation.checked_add(1) == Some(known) && Some(hash) == self.previous;
        if !is_current && !is_previous {
            // It proposes what the device uses by now: a call that arrives late.
            let is_late = next == self.current || Some(next) == self.previous;
            if generation >= known || is_late {
                return unknown;
            }
            self.ended_at = Some(now);
            return Renewal::Reused;
        }
        if self.client != *client {
            return Renewal::OtherClient;
        }
        if is_current {
            if next == self.current {
                return unknown;
            }
            let Some(after) = known.checked_add(1) else { return unknown };
            self.generation = after;
            self.previous = Some(self.current);
        }
        self.current = next;
        self.used_at = self.used_at.max(now);
        Renewal::Granted
    }
}

/// A key that signs access tokens: every server process of the database uses it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The id of the key, which tokens name.
    pub id: String,
    /// The secret that signs and verifies.
    pub secret: [u8; 32],
    /// The time at which it was made.
    pub made_at: Timestamp,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({}, …)", self.id)
    }
}

/// Returns how many of `keys`, which begin with the newest one, verify at `now`: a key does so until a
/// while after its successor was made.
#[must_use]
pub fn verifying_keys(keys: &[SigningKey], now: Timestamp) -> usize {
    let lasts = |successor: &&SigningKey| successor.made_at.plus_millis(OLD_KEY_MILLIS) > now;
    let successors = keys.iter().take_while(lasts).count();
    (successors + 1).min(keys.len())
}

/// Returns whether another key is due at `now`, where `newest` is the newest one.
#[must_use]
pub fn is_key_due(newest: Option<&SigningKey>, now: Timestamp) -> bool {
    newest.is_none_or(|key| now.as_millis().saturating_sub(key.made_at.as_millis()) >= KEY_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000 + second * 1_000).unwrap()
    }

    fn laptop() -> ReplicaId {
        ReplicaId::new("laptop").unwrap()
    }

    fn signed_in() -> (Credential, RefreshSecret) {
        let first = RefreshSecret::first([7; 16], [0; 32]);
        let user = UserId::new("alice").unwrap();
        (Credential::new(user, laptop(), first.proposal(), at(0)), first)
    }

    fn renew(
        credential: &mut Credential,
        presented: &RefreshSecret,
        next: &RefreshSecret,
    ) -> Renewal {
        credential.renew(presented, &laptop(), next.hash(), at(1))
    }

    #[test]
    fn the_secret_before_counts_until_the_newest_is_used_and_then_ends_the_credential() {
        let (mut credential, s0) = signed_in();
        let (s1, s2) = (s0.next([1; 32]), s0.next([1; 32]).next([2; 32]));
        for _ in 0..3 {
            // As often as its answer is lost.
            assert_eq!(renew(&mut credential, &s0, &s1), Renewal::Granted);
        }
        assert_eq!(renew(&mut credential, &s1, &s2), Renewal::Granted);
        let before = credential.clone();
        let stolen = s0.next([9; 32]);
        assert_eq!(renew(&mut credential, &s0, &stolen), Renewal::Reused);
        assert_eq!(credential, Credential { ended_at: Some(at(1)), ..before });
        for secret in [&s0, &s1, &s2] {
            assert_eq!(renew(&mut credential, secret, &secret.next([3; 32])), Renewal::Ended);
        }
    }

    #[test]
    fn a_call_that_arrives_late_changes_nothing() {
        let (mut credential, s0) = signed_in();
        let s1 = s0.next([1; 32]);
        let s2 = s1.next([2; 32]);
        assert_eq!(renew(&mut credential, &s0, &s1), Renewal::Granted);
        assert_eq!(renew(&mut credential, &s1, &s2), Renewal::Granted);
        let before = credential.clone();
        assert_eq!(renew(&mut credential, &s0, &s1), Renewal::Unknown { generation: 2 });
        assert_eq!(credential, before);
        assert_eq!(renew(&mut credential, &s2, &s2), Renewal::Unknown { generation: 2 });
        assert_eq!(credential, before);
    }

    #[test]
    fn two_processes_that_do_not_know_of_each_other_lose_nothing() {
        let (mut credential, s0) = signed_in();
        let (one, other) = (s0.next([1; 32]), s0.next([2; 32]));
        assert_eq!(renew(&mut credential, &s0, &one), Renewal::Granted);
        assert_eq!(renew(&mut credential, &s0, &other), Renewal::Granted);
        // The one that was replaced is refused, and the one before it leads on.
        assert_eq!(
            renew(&mut credential, &one, &one.next([3; 32])),
            Renewal::Unknown { generation: 1 }
        );
        assert_eq!(renew(&mut credential, &s0, &one), Renewal::Granted);
        assert_eq!(renew(&mut credential, &one, &one.next([3; 32])), Renewal::Granted);
    }

    #[test]
    fn a_thief_and_a_device_end_each_other() {
        let (mut credential, s0) = signed_in();
        let mine = s0.next([1; 32]);
        assert_eq!(renew(&mut credential, &s0, &mine), Renewal::Granted);
        let thiefs = s0.next([9; 32]);
        assert_eq!(renew(&mut credential, &s0, &thiefs), Renewal::Granted);
        assert_eq!(renew(&mut credential, &thiefs, &thiefs.next([10; 32])), Renewal::Granted);
        assert_eq!(renew(&mut credential, &mine, &mine.next([2; 32])), Renewal::Reused);
    }

    #[test]
    fn a_database_that_went_back_takes_the_secret_of_its_time() {
        let (mut credential, s0) = signed_in();
        let s1 = s0.next([1; 32]);
        let s2 = s1.next([2; 32]);
        let s3 = s2.next([3; 32]);
        assert_eq!(renew(&mut credential, &s0, &s1), Renewal::Granted);
        let mut restored = credential.clone();
        assert_eq!(renew(&mut credential, &s1, &s2), Renewal::Granted);
        assert_eq!(renew(&mut credential, &s2, &s3), Renewal::Granted);
        assert_eq!(
            renew(&mut restored, &s3, &s3.next([4; 32])),
            Renewal::Unknown { generation: 1 }
        );
        assert_eq!(renew(&mut restored, &s1, &s2), Renewal::Granted);
    }

    #[test]
    fn a_secret_is_good_for_its_own_replica_only() {
        let (mut credential, s0) = signed_in();
        let before = credential.clone();
        let phone = ReplicaId::new("phone").unwrap();
        let next = s0.next([1; 32]).hash();
        assert_eq!(credential.renew(&s0, &phone, next, at(1)), Renewal::OtherClient);
        assert_eq!(credential, before);
        // Whoever guesses learns nothing of whose it is.
        let guessed = RefreshSecret::first([7; 16], [5; 32]);
        let answer = credential.renew(&guessed, &phone, next, at(1));
        assert_eq!(answer, Renewal::Unknown { generation: 0 });
    }

    #[test]
    fn a_key_is_due_after_its_time() {
        let key = SigningKey { id: "a".into(), secret: [0; 32], made_at: at(0) };
        assert!(is_key_due(None, at(0)));
        assert!(!is_key_due(Some(&key), at(KEY_MILLIS / 1_000 - 1)));
        assert!(is_key_due(Some(&key), at(KEY_MILLIS / 1_000)));
        assert!(!is_key_due(Some(&key), at(-5)), "a clock that went back");
        assert_eq!(format!("{key:?}"), "SigningKey(a, …)");
    }

    #[test]
    fn a_key_verifies_until_a_day_after_its_successor_was_made() {
        let day = OLD_KEY_MILLIS / 1_000;
        let key = |made_at| SigningKey { id: String::new(), secret: [0; 32], made_at: at(made_at) };
        let keys = [key(60 * day), key(30 * day), key(0)];
        assert_eq!(verifying_keys(&[], at(0)), 0);
        assert_eq!(verifying_keys(&keys[2..], at(99 * day)), 1);
        assert_eq!(verifying_keys(&keys, at(61 * day - 1)), 2);
        assert_eq!(verifying_keys(&keys, at(61 * day)), 1);
    }
}
