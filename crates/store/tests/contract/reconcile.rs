//! The reconcile state: what a client is known to have applied.

use std::sync::Arc;

use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::limits::MAX_READER_STATES;
use vfs_sync_core::wire::{EpochEnd, ReconcileState};
use vfs_sync_store::{ReconcileAnswer, Rematerialize};

use super::scene::*;

fn merged(cursor: &Cursor, ids: &[(&str, u64)]) -> ReconcileAnswer {
    ReconcileAnswer::Merged(ReconcileState {
        cursor: cursor.clone(),
        last_reconciled_write_ids: write_ids(ids),
    })
}

/// Two positions of alice's feed, the write ids laptop 2 and phone 1 used.
async fn two_positions(scene: &Scene) -> (Cursor, Cursor) {
    scene.apply("laptop", vec![folder(1, "a"), folder(2, "b")]).await;
    let early = scene.head().await;
    scene.apply("phone", vec![folder(1, "c")]).await;
    (early, scene.head().await)
}

pub(crate) async fn the_state_never_goes_back(scene: Scene) {
    let (early, late) = two_positions(&scene).await;
    let answer = scene.reconcile("laptop", &late, &[("laptop", 1)]).await;
    assert_eq!(answer, merged(&late, &[("laptop", 1)]));
    let answer = scene.reconcile("laptop", &early, &[("laptop", 2), ("phone", 1)]).await;
    let both = [("laptop", 2), ("phone", 1)];
    assert_eq!(answer, merged(&late, &both));
    assert_eq!(scene.reconcile("laptop", &early, &[("laptop", 1)]).await, merged(&late, &both));
    let state = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    let ReconcileAnswer::Merged(expected) = merged(&late, &both) else { unreachable!() };
    assert_eq!(state.reconcile_state, Some(expected));
    assert_eq!(state.feed_head, Some(late));
    assert_eq!(state.last_write_ids, write_ids(&both));
}

pub(crate) async fn nobody_can_reconcile_ahead_of_the_server(scene: Scene) {
    let (_, late) = two_positions(&scene).await;
    let position = Position::parse(&late.change_id).unwrap();
    let beyond = Position { counter: position.counter + 1, ..position }.at(late.changed_at);
    let refused = scene.reconcile("laptop", &beyond, &[]).await;
    let (oldest_available, end) =
        (None, EpochEnd { epoch: position.epoch, last_counter: position.counter });
    let epoch = Some(position.epoch);
    let lost = Rematerialize { oldest_available, history: vec![end], epoch };
    assert_eq!(refused, ReconcileAnswer::Rematerialize(lost));
    let expected = ReconcileAnswer::WriteIdsAhead {
        replica_id: replica("laptop"),
        sent: write_id(3),
        last: Some(write_id(2)),
    };
    assert_eq!(scene.reconcile("laptop", &late, &[("laptop", 3)]).await, expected);
    let state = scene.store.state(&user("alice"), &replica("laptop")).await.unwrap();
    assert_eq!(state.reconcile_state, None, "a refused request changes nothing");
    // What the server does not know is left out.
    let answer = scene.reconcile("laptop", &late, &[("laptop", 1), ("stranger", 3)]).await;
    assert_eq!(answer, merged(&late, &[("laptop", 1)]));
}

pub(crate) async fn states_of_other_users_and_clients_are_their_own(scene: Scene) {
    let (early, late) = two_positions(&scene).await;
    scene.reconcile("laptop", &late, &[("laptop", 2)]).await;
    assert_eq!(scene.reconcile("phone", &early, &[]).await, merged(&early, &[]));
    let state = scene.store.state(&user("bob"), &replica("laptop")).await.unwrap();
    assert_eq!(state.reconcile_state, None);
    assert_eq!((state.feed_head, state.last_write_ids.len()), (None, 0));
}

pub(crate) async fn beyond_512_entries_the_least_active_are_dropped(scene: Scene) {
    let names: Vec<String> = (0..600).map(|n| format!("r{n:03}")).collect();
    for name in &names {
        scene.apply(name, vec![folder(1, name)]).await;
    }
    let head = scene.head().await;
    let part = |from: usize, to: usize| -> Vec<(&str, u64)> {
        names[from..to].iter().map(|name| (name.as_str(), 1)).collect()
    };
    scene.reconcile("r000", &head, &part(0, 300)).await;
    let answer = scene.reconcile("r000", &head, &part(300, 600)).await;
    // r000 was active just now: it reconciled.
    let kept = [part(0, 1), part(89, 600)].concat();
    assert_eq!(answer, merged(&head, &kept));
}

pub(crate) async fn reconciling_at_once_keeps_the_greatest(scene: Scene) {
    for n in 1..=20 {
        scene.apply("laptop", vec![folder(n, &format!("f{n}"))]).await;
    }
    let cursors: Vec<Cursor> = scene.settle().await.iter().map(cursor_of).collect();
    let scene = Arc::new(scene);
    let calls: Vec<_> = (1..=20u64)
        .map(|n| {
            let (scene, cursor) = (scene.clone(), cursors[20 - n as usize].clone());
            tokio::spawn(async move { scene.reconcile("laptop", &cursor, &[("laptop", n)]).await })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), ReconcileAnswer::Merged(_)));
    }
    let answer = scene.reconcile("laptop", &cursors[0], &[]).await;
    assert_eq!(answer, merged(&cursors[19], &[("laptop", 20)]));
}

pub(crate) async fn made_up_clients_leave_so_many_states_and_no_more(scene: Scene) {
    let (early, late) = two_positions(&scene).await;
    scene.reconcile("laptop", &early, &[("laptop", 2)]).await;
    scene.reconcile("reader", &late, &[]).await;
    let state = async |client: &str| {
        let state = scene.store.state(&user("alice"), &replica(client)).await.unwrap();
        state.reconcile_state
    };
    let most = usize::try_from(MAX_READER_STATES).unwrap();
    let made_up = |at: usize| format!("made-up-{at}");
    for at in 0..most + 20 {
        scene.reconcile(&made_up(at), &early, &[]).await;
    }
    let mut kept = 0;
    for at in 0..most + 20 {
        kept += usize::from(state(&made_up(at)).await.is_some());
    }
    assert_eq!(kept, most - 1, "with the reader's");
    assert!(state("laptop").await.is_some(), "who pushed is no reader");
    assert!(state("reader").await.is_some(), "who is furthest stays");
    // One that was dropped begins again.
    let answer = scene.reconcile(&made_up(most + 20), &late, &[("phone", 1)]).await;
    assert_eq!(answer, merged(&late, &[("phone", 1)]));
}
