//! Credentials of devices: signing in, renewing, ending, and the keys of access tokens.

use vfs_sync_core::server::credential::{
    KEY_MILLIS, MAX_USER_CREDENTIALS, OLD_KEY_MILLIS, SigningKey,
};
use vfs_sync_core::wire::credential::RefreshSecret;
use vfs_sync_store::{DeviceChange, RenewAnswer, SignInAnswer, UserChange};

use super::scene::*;

/// The first secret of a credential; `n` stands for what a device takes at random.
pub(crate) fn secret(n: u16) -> RefreshSecret {
    let mut handle = [0; 16];
    handle[..2].copy_from_slice(&n.to_be_bytes());
    RefreshSecret::first(handle, [1; 32])
}

impl Scene {
    pub(crate) async fn sign_in(
        &self,
        who: &str,
        client: &str,
        first: &RefreshSecret,
    ) -> SignInAnswer {
        let (user, client) = (user(who), replica(client));
        self.store.sign_in(user, client, first.proposal(), self.now()).await.unwrap()
    }

    async fn renew(
        &self,
        client: &str,
        presented: &RefreshSecret,
        next: &RefreshSecret,
    ) -> RenewAnswer {
        let client = replica(client);
        self.store.renew_credential(presented, client, next.hash(), self.now()).await.unwrap()
    }

    async fn is_good(&self, who: &str, client: &str, secret: &RefreshSecret) -> bool {
        let admission = self.store.admission(user(who), Some(replica(client))).await.unwrap();
        admission.credential == Some(secret.id())
    }
}

fn granted(who: &str, client: &str) -> RenewAnswer {
    RenewAnswer::Granted { user: user(who), client: replica(client) }
}

pub(crate) async fn a_secret_renews_until_the_next_is_used_and_then_ends_the_credential(
    scene: Scene,
) {
    let s0 = secret(0);
    let (s1, s2) = (s0.next([2; 32]), s0.next([2; 32]).next([3; 32]));
    assert!(!scene.is_good("alice", "laptop", &s0).await);
    let before = scene.store.admission_generation().await.unwrap();
    for _ in 0..2 {
        assert_eq!(scene.sign_in("alice", "laptop", &s0).await, SignInAnswer::SignedIn);
        assert_eq!(scene.store.admission_generation().await.unwrap(), before + 1);
        assert!(scene.is_good("alice", "laptop", &s0).await);
    }
    for _ in 0..2 {
        assert_eq!(scene.renew("laptop", &s0, &s1).await, granted("alice", "laptop"));
    }
    assert_eq!(scene.renew("phone", &s1, &s2).await, RenewAnswer::OtherClient);
    assert_eq!(scene.renew("laptop", &s1, &s2).await, granted("alice", "laptop"));
    assert_eq!(scene.renew("laptop", &s0, &s1).await, RenewAnswer::Unknown { generation: 2 });
    assert_eq!(scene.store.admission_generation().await.unwrap(), before + 1);
    assert!(scene.is_good("alice", "laptop", &s2).await);
    let stolen = s0.next([9; 32]);
    let (user, client) = (user("alice"), replica("laptop"));
    assert_eq!(scene.renew("laptop", &s0, &stolen).await, RenewAnswer::Reused { user, client });
    assert_eq!(scene.store.admission_generation().await.unwrap(), before + 2);
    assert!(!scene.is_good("alice", "laptop", &s2).await);
    assert_eq!(scene.renew("laptop", &s2, &s2.next([4; 32])).await, RenewAnswer::Ended);
    assert_eq!(scene.renew("laptop", &secret(9), &s1).await, RenewAnswer::Ended);
}

pub(crate) async fn signing_in_again_ends_the_credential_before_and_no_other(scene: Scene) {
    let (first, phones, bobs) = (secret(0), secret(1), secret(2));
    for (who, client, one) in
        [("alice", "laptop", &first), ("alice", "phone", &phones), ("bob", "laptop", &bobs)]
    {
        assert_eq!(scene.sign_in(who, client, one).await, SignInAnswer::SignedIn);
    }
    // The id of a credential is its replica's alone.
    assert_eq!(scene.sign_in("bob", "phone", &first).await, SignInAnswer::Taken);
    assert_eq!(scene.sign_in("alice", "phone", &first).await, SignInAnswer::Taken);
    let again = secret(3);
    assert_eq!(scene.sign_in("alice", "laptop", &again).await, SignInAnswer::SignedIn);
    assert!(scene.is_good("alice", "laptop", &again).await);
    assert_eq!(scene.renew("laptop", &first, &first.next([2; 32])).await, RenewAnswer::Ended);
    assert!(scene.is_good("alice", "phone", &phones).await);
    assert!(scene.is_good("bob", "laptop", &bobs).await);

    let before = scene.store.admission_generation().await.unwrap();
    let ended = scene.store.end_credential(&again).await.unwrap();
    assert_eq!(ended, Some((user("alice"), replica("laptop"))));
    assert_eq!(scene.store.end_credential(&again).await.unwrap(), None);
    assert_eq!(scene.store.admission_generation().await.unwrap(), before + 1);
    assert!(!scene.is_good("alice", "laptop", &again).await);
    assert!(scene.is_good("alice", "phone", &phones).await);
}

pub(crate) async fn a_revoked_device_and_a_disabled_user_get_nothing(scene: Scene) {
    let (laptops, phones) = (secret(0), secret(1));
    for (client, one) in [("laptop", &laptops), ("phone", &phones)] {
        assert_eq!(scene.sign_in("alice", client, one).await, SignInAnswer::SignedIn);
    }
    let seen = super::devices::sighting("alice", "phone", scene.now());
    scene.store.note_devices(vec![seen]).await.unwrap();
    let (alice, phone) = (user("alice"), replica("phone"));
    let revoke = DeviceChange::Revoke;
    assert!(scene.store.change_device(&alice, phone, revoke, scene.now()).await.unwrap());
    let next = phones.next([2; 32]);
    let refused = scene.renew("phone", &phones, &next).await;
    assert!(matches!(refused, RenewAnswer::Denied(why) if why.is_revoked), "{refused:?}");
    let refused = scene.sign_in("alice", "phone", &secret(7)).await;
    assert!(matches!(refused, SignInAnswer::Denied(why) if why.is_revoked), "{refused:?}");
    let next = laptops.next([2; 32]);
    assert_eq!(scene.renew("laptop", &laptops, &next).await, granted("alice", "laptop"));

    scene.store.change_user(&alice, UserChange::Disable, scene.now()).await.unwrap();
    let after = next.next([3; 32]);
    let refused = scene.renew("laptop", &next, &after).await;
    assert!(matches!(refused, RenewAnswer::Denied(why) if why.is_disabled), "{refused:?}");
    let refused = scene.sign_in("alice", "tablet", &secret(8)).await;
    assert!(matches!(refused, SignInAnswer::Denied(why) if why.is_disabled), "{refused:?}");
    scene.store.change_user(&alice, UserChange::Enable, scene.now()).await.unwrap();
    assert_eq!(scene.renew("laptop", &next, &after).await, granted("alice", "laptop"));
}

pub(crate) async fn of_renewals_at_once_none_loses_the_credential(scene: Scene) {
    let s0 = secret(0);
    assert_eq!(scene.sign_in("alice", "laptop", &s0).await, SignInAnswer::SignedIn);
    let proposals: Vec<RefreshSecret> = (0..8).map(|n| s0.next([10 + n; 32])).collect();
    let answers =
        futures::future::join_all(proposals.iter().map(|next| scene.renew("laptop", &s0, next)));
    for answer in answers.await {
        assert_eq!(answer, granted("alice", "laptop"));
    }
    // One of them is the next, and while none was used the one before leads on.
    let mut good = 0;
    for (n, next) in (0u8..).zip(&proposals) {
        match scene.renew("laptop", next, &next.next([30 + n; 32])).await {
            RenewAnswer::Granted { .. } => good += 1,
            RenewAnswer::Unknown { generation: 1 } => {}
            RenewAnswer::Reused { .. } if good == 1 => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(good, 1);
}

pub(crate) async fn of_sign_ins_at_once_one_credential_is_good(scene: Scene) {
    let secrets: Vec<RefreshSecret> = (0..8).map(secret).collect();
    let answers =
        futures::future::join_all(secrets.iter().map(|one| scene.sign_in("alice", "laptop", one)));
    assert!(answers.await.iter().all(|answer| *answer == SignInAnswer::SignedIn));
    let mut good = 0;
    for one in &secrets {
        good += usize::from(scene.is_good("alice", "laptop", one).await);
    }
    assert_eq!(good, 1);
}

pub(crate) async fn a_user_has_so_many_credentials_and_the_one_unused_longest_goes(scene: Scene) {
    let most = u16::try_from(MAX_USER_CREDENTIALS).unwrap();
    let name = |n: u16| format!("d{n:04}");
    let (first, second) = (secret(0), secret(1));
    for (n, one) in [(0, &first), (1, &second)] {
        assert_eq!(scene.sign_in("alice", &name(n), one).await, SignInAnswer::SignedIn);
    }
    let one = |n| {
        let scene = &scene;
        async move { scene.sign_in("alice", &name(n), &secret(n)).await }
    };
    let rest: Vec<u16> = (2..most).collect();
    for some in rest.chunks(50) {
        let signed = futures::future::join_all(some.iter().map(|n| one(*n))).await;
        assert!(signed.iter().all(|answer| *answer == SignInAnswer::SignedIn));
    }
    let next = first.next([2; 32]);
    assert_eq!(scene.renew(&name(0), &first, &next).await, granted("alice", &name(0)));
    assert_eq!(one(most).await, SignInAnswer::SignedIn);
    assert!(!scene.is_good("alice", &name(1), &second).await, "unused for longest");
    assert!(scene.is_good("alice", &name(0), &first).await);
    assert!(scene.is_good("alice", &name(most), &secret(most)).await);
}

pub(crate) async fn a_key_has_a_successor_in_time_and_goes_a_day_later(scene: Scene) {
    let key = |n: u8, made_at: i64| SigningKey {
        id: format!("key-{n}"),
        secret: [n; 32],
        made_at: at(made_at),
    };
    let add = async |key: &SigningKey, only: bool| {
        let keys = scene.store.add_signing_key(key, only).await.unwrap();
        assert_eq!(scene.store.signing_keys().await.unwrap(), keys);
        keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    assert_eq!(scene.store.signing_keys().await.unwrap(), []);
    assert_eq!(add(&key(1, 0), false).await, ["key-1"]);
    assert_eq!(scene.store.signing_keys().await.unwrap(), [key(1, 0)]);
    assert_eq!(add(&key(2, KEY_MILLIS - 1), false).await, ["key-1"], "none is due");
    assert_eq!(add(&key(3, KEY_MILLIS), false).await, ["key-3", "key-1"]);
    let late = KEY_MILLIS + OLD_KEY_MILLIS;
    assert_eq!(add(&key(4, late), false).await, ["key-3"]);
    assert_eq!(add(&key(5, late), true).await, ["key-5"], "an operator replaced them");
}
