//! Sessions of the operator's console, and the item that an operator looks up.

use vfs_sync_core::server::session::{ConsoleSession, MAX_SESSIONS};

use super::scene::*;

/// A session that begins at a second, and ends an hour later.
pub(crate) fn session(id: &str, begun: i64) -> ConsoleSession {
    ConsoleSession {
        id: id.into(),
        by: "0123456789abcdef".into(),
        sealed: vec![7; 300],
        made_at: at(begun * 1_000),
        expires_at: at((begun + 3_600) * 1_000),
    }
}

pub(crate) async fn a_session_is_read_listed_and_ended(scene: Scene) {
    let store = &scene.store;
    let (first, second) = (session("a", 0), session("b", 60));
    store.begin_session(&first).await.unwrap();
    store.begin_session(&second).await.unwrap();
    assert_eq!(store.session("a").await.unwrap(), Some(first.clone()));
    assert_eq!(store.session("c").await.unwrap(), None);
    assert_eq!(store.sessions(10_u32).await.unwrap(), [second.clone(), first.clone()]);
    assert_eq!(store.sessions(1_u32).await.unwrap(), std::slice::from_ref(&second));

    assert!(store.end_session("b").await.unwrap());
    assert!(!store.end_session("b").await.unwrap());
    assert_eq!(store.sessions(10_u32).await.unwrap(), std::slice::from_ref(&first));

    assert_eq!(store.drop_ended_sessions(at(3_599_000)).await.unwrap(), 0);
    store.begin_session(session("c", 3_600)).await.unwrap();
    assert_eq!(store.session("a").await.unwrap(), None, "it ended when the third began");
    assert_eq!(store.drop_ended_sessions(at(7_200_000)).await.unwrap(), 1);
    assert_eq!(store.sessions(10_u32).await.unwrap(), []);

    for n in 0..MAX_SESSIONS {
        store.begin_session(session(&format!("s{n}"), i64::from(n))).await.unwrap();
    }
    store.begin_session(session("last", i64::from(MAX_SESSIONS))).await.unwrap();
    assert_eq!(store.sessions(u32::MAX >> 1).await.unwrap().len(), MAX_SESSIONS as usize);
    assert_eq!(store.session("s0").await.unwrap(), None);
    assert!(store.session("s1").await.unwrap().is_some());
}

pub(crate) async fn an_item_is_looked_up_with_where_it_hangs(scene: Scene) {
    scene.apply("laptop", vec![folder(1, "folder"), file_in(2, "file", "folder")]).await;
    let id = vfs_sync_core::id::ItemId::new("file").unwrap();
    let found = scene.store.any_item(&id).await.unwrap().unwrap();
    assert_eq!(found.item.owner.as_str(), "alice");
    assert_eq!(found.parents, [vfs_sync_core::id::ItemId::new("folder").unwrap()]);
    assert_eq!((found.grants, found.attachments.len()), (0, 0));
    let nothing = vfs_sync_core::id::ItemId::new("none").unwrap();
    assert_eq!(scene.store.any_item(&nothing).await.unwrap(), None);
}
