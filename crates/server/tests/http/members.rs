//! Groups and organizations, and who is known.

use serde_json::{Value, json};

use crate::scene::{Caller, Scene};

const GROUP: &str = "/v1/vfs/admin/groups/eng/members";
const ORGANIZATION: &str = "/v1/vfs/admin/organizations/acme/members";

async fn join(admin: &Caller, path: &str) {
    let answer = admin.put(path, "").await;
    assert_eq!((answer.status, answer.bytes.len()), (204, 0), "{path}");
}

async fn members(admin: &Caller, path: &str) -> Value {
    admin.get(path).await.ok()["members"].clone()
}

#[tokio::test]
async fn an_administrator_keeps_groups_and_organizations_and_may_repeat_it() {
    let scene = Scene::new().await;
    let admin = scene.administrator("root");
    for kind in [GROUP, ORGANIZATION] {
        for user in ["bob", "alice", "bob"] {
            join(&admin, &format!("{kind}/{user}")).await;
        }
        assert_eq!(members(&admin, kind).await, json!(["alice", "bob"]));
        for _ in 0..2 {
            assert_eq!(admin.delete(&format!("{kind}/bob")).await.status, 204);
            assert_eq!(members(&admin, kind).await, json!(["alice"]));
        }
    }
}

#[tokio::test]
async fn keeping_members_needs_the_scope_and_a_refusal_changes_nothing() {
    let scene = Scene::new().await;
    let one = format!("{GROUP}/alice");
    for scope in ["", "vfs", "vfs:admins", "vfs:admin:read openid", "xvfs:admin"] {
        let caller = scene.bearer(&scene.server.token_with_scope("alice", scope));
        for answer in
            [caller.put(&one, "").await, caller.delete(&one).await, caller.get(GROUP).await]
        {
            let body = answer.refused(403, "insufficient_scope");
            assert_eq!(body["requiredScope"], "vfs:admin", "{scope:?}");
        }
    }
    scene.user("alice").put(&one, "").await.refused(403, "insufficient_scope");
    scene.nobody().put(&one, "").await.refused(401, "unauthorized");
    assert_eq!(members(&scene.administrator("root"), GROUP).await, json!([]));
}

#[tokio::test]
async fn members_come_in_pages() {
    let scene = Scene::new().await;
    let admin = scene.administrator("root");
    for n in 0..7 {
        join(&admin, &format!("{GROUP}/user-{n}")).await;
    }
    let (mut after, mut found, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = admin.get(&format!("{GROUP}?limit=3{after}")).await.ok();
        found.extend(page["members"].as_array().unwrap().clone());
        pages += 1;
        if page["hasMore"] == false {
            break;
        }
        after = format!("&after={}", found.last().unwrap().as_str().unwrap());
    }
    let all: Vec<Value> = (0..7).map(|n| json!(format!("user-{n}"))).collect();
    assert_eq!((found, pages), (all, 3));
    for limit in ["0", "501", "x", "-1"] {
        admin.get(&format!("{GROUP}?limit={limit}")).await.refused_field("limit");
    }
    admin.get(&format!("{GROUP}?after=%20x")).await.refused_field("after");
}

#[tokio::test]
async fn everybody_is_told_what_they_are_a_member_of() {
    let scene = Scene::new().await;
    let admin = scene.administrator("root");
    join(&admin, &format!("{GROUP}/alice")).await;
    join(&admin, "/v1/vfs/admin/groups/art/members/alice").await;
    join(&admin, &format!("{ORGANIZATION}/alice")).await;
    join(&admin, &format!("{ORGANIZATION}/bob")).await;
    let groups = async |user: &str| scene.user(user).get("/v1/vfs/groups").await.ok();
    let alice = json!({"groups": ["art", "eng"], "organizations": ["acme"]});
    assert_eq!(groups("alice").await, alice);
    assert_eq!(groups("bob").await, json!({"groups": [], "organizations": ["acme"]}));
    assert_eq!(groups("carol").await, json!({"groups": [], "organizations": []}));
}

#[tokio::test]
async fn a_principal_is_known_once_it_was_seen() {
    let scene = Scene::new().await;
    let admin = scene.administrator("root");
    let alice = scene.user("alice");
    let known = async |path: &str| {
        alice.get(&format!("/v1/vfs/principals/{path}")).await.ok()["known"].clone()
    };
    for path in ["user/alice", "group/eng", "organization/acme", "group/alice"] {
        assert_eq!(known(path).await, false, "{path}");
    }
    alice.file(1).await;
    join(&admin, &format!("{GROUP}/bob")).await;
    join(&admin, &format!("{ORGANIZATION}/bob")).await;
    for path in ["user/alice", "group/eng", "organization/acme"] {
        assert_eq!(known(path).await, true, "{path}");
    }
    assert_eq!(known("organization/eng").await, false, "a group is no organization");
    admin.delete(&format!("{GROUP}/bob")).await;
    assert_eq!(known("group/eng").await, false, "nobody is in it any more");
    alice.get("/v1/vfs/principals/robot/x").await.refused_field("type");
    scene.nobody().get("/v1/vfs/principals/user/alice").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn ids_of_any_shape_are_told_apart() {
    let scene = Scene::new().await;
    let admin = scene.administrator("root");
    let escaped = "a%2Fb%3F%25%20%C3%A9%3A..";
    join(&admin, &format!("/v1/vfs/admin/groups/{escaped}/members/{escaped}")).await;
    let list = format!("/v1/vfs/admin/groups/{escaped}/members");
    assert_eq!(members(&admin, &list).await, json!(["a/b?% é:.."]));
    for (group, user, field) in [
        ("%20x", "u", "groupId"),
        ("", "u", "groupId"),
        ("g", "u%00", "userId"),
        ("g", &"x".repeat(129), "userId"),
        ("%FF", "u", "the path"),
    ] {
        let path = format!("/v1/vfs/admin/groups/{group}/members/{user}");
        admin.put(&path, "").await.refused_field(field);
    }
}
