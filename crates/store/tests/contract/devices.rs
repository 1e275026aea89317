//! Devices: what they said, what they reported, and which are revoked.

use serde_json::Map;
use vfs_sync_core::id::OpId;
use vfs_sync_core::server::device::{MAX_USER_DEVICES, Sighting};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::device::Description;
use vfs_sync_core::wire::telemetry::{Counted, KEPT_REPORTS, Kind};
use vfs_sync_store::DeviceChange;

use super::scene::*;

pub(crate) fn sighting(who: &str, client: &str, at: Timestamp) -> Sighting {
    let description = Description {
        name: format!("{client} of {who}"),
        version: "1.2.3".into(),
        platform: "linux-x86_64".into(),
        queue: Some(3),
        stopped: None,
        epoch: None,
    };
    let (user, client) = (user(who), replica(client));
    let address = Some("192.0.2.1".to_owned());
    Sighting { user, client, at, address, description: Some(description) }
}

pub(crate) fn report(n: u64) -> Counted {
    Counted {
        report_id: OpId::new(format!("report-{n}")).unwrap(),
        kind: Kind::Violation { stage: "pull", code: "pullCursorRegression" },
        details: Map::from_iter([("attempts".to_owned(), n.into())]),
        occurred_at: at(0),
    }
}

pub(crate) async fn a_device_is_listed_with_what_it_said_and_how_far_it_is(scene: Scene) {
    let store = &scene.store;
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b"), folder(3, "c")]).await;
    let page = scene.page(from(None)).await;
    let second = cursor_of(&serde_json::from_str(&page.items[1]).unwrap());
    scene.reconcile("phone", &second, &[]).await;
    let first_seen = scene.now();
    let all = vec![
        sighting("alice", "phone", first_seen),
        sighting("alice", "laptop", first_seen),
        sighting("bob", "phone", first_seen),
    ];
    store.note_devices(all).await.unwrap();
    let again = Sighting { description: None, ..sighting("alice", "phone", scene.now()) };
    store.note_devices(vec![again.clone()]).await.unwrap();

    let found = store.devices(Some(user("alice")), None, 10).await.unwrap();
    let names: Vec<&str> = found.iter().map(|one| one.device.name()).collect();
    assert_eq!(names, ["laptop of alice", "phone of alice"]);
    let phone = &found[1];
    assert_eq!((phone.lag(), found[0].lag()), (Some(1), None));
    let facts = &phone.device.facts;
    assert_eq!((phone.device.last_seen, facts.first_seen), (again.at, first_seen));
    assert_eq!((&*facts.version, facts.queue), ("1.2.3", Some(3)));
    assert_eq!(facts.applied, Some(second.change_id.clone()));

    let next = Some((user("alice"), replica("laptop")));
    let rest = store.devices(None, next.clone(), 10).await.unwrap();
    let keys: Vec<String> =
        rest.iter().map(|one| format!("{} {}", one.device.user, one.device.client)).collect();
    assert_eq!(keys, ["alice phone", "bob phone"]);
    assert_eq!(store.devices(Some(user("alice")), next, 10).await.unwrap(), found[1..]);
    assert_eq!(store.devices(None, None, 1).await.unwrap(), found[..1]);
    let active = store.active_devices(again.at, 10).await.unwrap();
    assert_eq!(active, found[1..]);

    let rename = DeviceChange::Rename("Work".into());
    let changed = async |who: &str, client: &str, change: &DeviceChange| {
        store.change_device(user(who), replica(client), change, scene.now()).await.unwrap()
    };
    assert!(changed("alice", "phone", &rename).await);
    assert!(!changed("alice", "tablet", &rename).await);
    assert!(!changed("carol", "phone", &rename).await);
    store.note_devices(vec![sighting("alice", "phone", scene.now())]).await.unwrap();
    let found = store.devices(Some(user("alice")), None, 10).await.unwrap();
    assert_eq!(found[1].device.name(), "Work", "what the user said stays");
}

pub(crate) async fn a_report_is_kept_once_and_the_last_ones_stay(scene: Scene) {
    let store = &scene.store;
    let seen = || Sighting { description: None, ..sighting("alice", "phone", at(0)) };
    let send = async |numbers: Vec<u64>| {
        let reports = numbers.into_iter().map(report).collect::<Vec<_>>();
        store.record_reports(user("alice"), seen(), reports, scene.now()).await.unwrap()
    };
    assert_eq!(send(vec![1, 2]).await, [report(1), report(2)]);
    assert_eq!(send(vec![1, 2]).await, []);
    assert_eq!(send(vec![2, 3]).await, [report(3)]);
    for n in 4..20 {
        assert_eq!(send(vec![n]).await.len(), 1);
    }
    let found = store.devices(Some(user("alice")), None, 10).await.unwrap();
    let kept = &found[0].device.facts.reports;
    assert_eq!(kept.len(), KEPT_REPORTS);
    assert_eq!(kept[0].report_id.as_str(), "report-10");
    assert_eq!(kept[0].signature, "pull:pullCursorRegression");
    assert_eq!(found[0].device.facts.version, "", "a report alone describes nothing");
}

pub(crate) async fn a_revoked_device_is_not_admitted_and_the_generation_says_so(scene: Scene) {
    let store = &scene.store;
    store.note_devices(vec![sighting("alice", "phone", at(0))]).await.unwrap();
    let admitted = async |who: &str, client: Option<&str>| {
        let client = client.map(replica);
        let admission = store.admission(user(who), client).await.unwrap();
        (!admission.is_revoked && !admission.is_disabled, admission.generation)
    };
    let (admits, before) = admitted("alice", Some("phone")).await;
    assert!(admits);
    assert_eq!(store.admission_generation().await.unwrap(), before);
    for _ in 0..2 {
        let revoke = DeviceChange::Revoke;
        assert!(store.change_device(user("alice"), replica("phone"), revoke, at(5)).await.unwrap());
        let after = store.admission_generation().await.unwrap();
        assert_eq!(after, before + 1);
        assert_eq!(admitted("alice", Some("phone")).await, (false, after));
    }
    for (who, client) in [("alice", Some("laptop")), ("alice", None), ("bob", Some("phone"))] {
        assert!(admitted(who, client).await.0, "{who} {client:?}");
    }
    store.note_devices(vec![sighting("alice", "phone", at(9))]).await.unwrap();
    let found = store.devices(Some(user("alice")), None, 10).await.unwrap();
    assert_eq!(found[0].device.revoked_at, Some(at(5)));
    assert!(!admitted("alice", Some("phone")).await.0);
}

pub(crate) async fn a_user_has_so_many_devices_and_the_one_longest_away_goes(scene: Scene) {
    let store = &scene.store;
    let most = i64::try_from(MAX_USER_DEVICES).unwrap();
    let name = |n: i64| format!("d{n:04}");
    let seen = |n: i64| sighting("alice", &name(n), at(n));
    let all: Vec<Sighting> = (0..most).map(seen).collect();
    for some in all.chunks(100) {
        store.note_devices(some).await.unwrap();
    }
    let revoke = DeviceChange::Revoke;
    assert!(store.change_device(user("alice"), replica(&name(0)), revoke, at(0)).await.unwrap());
    store
        .note_devices(vec![seen(most), seen(most + 1), sighting("bob", "phone", at(0))])
        .await
        .unwrap();
    let found = store.devices(Some(user("alice")), None, 2_000).await.unwrap();
    assert_eq!(found.len() as u64, MAX_USER_DEVICES);
    assert_eq!(found[0].device.client, replica(&name(0)), "a revoked one is not forgotten");
    assert_eq!(found[1].device.client, replica(&name(3)));
    assert_eq!(store.devices(Some(user("bob")), None, 9).await.unwrap().len(), 1);
}

pub(crate) async fn of_reports_and_calls_at_once_none_is_lost(scene: Scene) {
    let store = &scene.store;
    let seen = || Sighting { description: None, ..sighting("alice", "phone", at(0)) };
    let work = (0..8).map(|n| async move {
        let noted = async { store.note_devices(vec![sighting("alice", "phone", at(n))]).await };
        let n = n.unsigned_abs();
        let sent = store.record_reports(user("alice"), seen(), vec![report(n)], at(0));
        let (noted, sent) = futures::join!(noted, sent);
        noted.unwrap();
        sent.unwrap().len()
    });
    let fresh = futures::future::join_all(work).await;
    assert_eq!(fresh.iter().sum::<usize>(), 8);
    let found = store.devices(Some(user("alice")), None, 9).await.unwrap();
    assert_eq!((found.len(), found[0].device.facts.reports.len()), (1, 8));
    assert_eq!(found[0].device.last_seen, at(7));
}
