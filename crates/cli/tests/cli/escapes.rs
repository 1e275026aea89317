//! Text that another user can influence reaches the terminal escaped: names, keys and values of
//! metadata, ids, content types, messages. JSON stays JSON.

use std::sync::Arc;

use crate::support::Scene;
use serde_json::json;
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::{PrincipalId, UserId};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::{ClientConfig, HttpConfig, HttpTransport, StaticToken, SyncClient};

/// A title, the clipboard, a colour, a line break, text that runs backwards, an eight-bit control.
const EVIL: &str = "a\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[31mb\nerror: c\u{202e}d\u{9b}2Je\u{200b}";

fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}')
}

/// Mallory, whose id runs backwards, shares a folder that is evil in all its parts.
async fn mallory(scene: &Scene) -> SyncClient {
    let user = UserId::new("mall\u{202e}ory").unwrap();
    let token = StaticToken::new(scene.token(user.as_str()));
    let transport = HttpTransport::new(HttpConfig::new(scene.url()), token).unwrap();
    let config = ClientConfig::default();
    let client = SyncClient::builder(Arc::new(transport)).config(config).in_memory(user).unwrap();
    let name = |text: &str| Name::new(text).unwrap();
    let mut batch = client.batch();
    let metadata = vec![(EVIL.to_owned(), Some(json!(EVIL))), ("mode".into(), Some(json!(511)))];
    let folder = batch.create(ObjectType::Folder, None, name("photos"), metadata.clone());
    let evil = batch.create(ObjectType::Folder, Some(&folder), name(EVIL), metadata.clone());
    let file = batch.create(ObjectType::File, Some(&evil), name(EVIL), metadata);
    for (kind, who) in [(PrincipalType::User, "alice"), (PrincipalType::Group, "g\u{202e}roup")] {
        let id = PrincipalId::new(who).unwrap();
        batch.grant(&folder, Principal { kind, id }, AccessLevel::Write);
    }
    batch.commit().unwrap();
    client.contents().put(&file, &b"evil"[..]).unwrap();
    client.sync().await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_user_controls_the_terminal() {
    let scene = Scene::with_server();
    scene.replica("r");
    let client = mallory(&scene).await;
    let top = "shared:mall\u{202e}ory/photos";
    let evil = format!("{top}/{EVIL}");
    let file = format!("{evil}/{EVIL}");
    let missing = format!("{evil}/nothing");
    std::fs::create_dir_all(scene.path("dir")).unwrap();
    std::os::unix::fs::symlink("nowhere", scene.path("dir").join(EVIL)).unwrap();
    scene.write("own.txt", "own");
    let commands: &[&[&str]] = &[
        &["sync"],
        &["shared-with-me"],
        &["ls", "shared:"],
        &["ls", "-l", "shared:"],
        &["tree", "shared:"],
        &["tree", top],
        &["ls", top],
        &["ls", "-l", &evil],
        &["ls", "-l", &file],
        &["stat", top],
        &["stat", &evil],
        &["stat", &file],
        &["shares"],
        &["shares", top],
        &["shares", &file],
        &["versions", &file],
        &["cp", &evil, "/copy"],
        &["tree"],
        &["mkdir", &format!("{evil}/new")],
        &["put", "own.txt", &evil],
        &["queue"],
        &["status"],
        &["import", "dir", &evil],
        &["export", "out", top],
        &["export", "out", top],
        &["get", &file, "taken"],
        &["mv", &file, &format!("{evil}/moved")],
        &["mv", &evil, "/mine"],
        &["cat", &missing],
        &["stat", &missing],
        &["mkdir", &evil],
        &["share", &evil, "bob", "read"],
        &["unshare", &evil, "bob"],
        &["shares", "decline", &evil],
        &["rm", &evil],
        &["rm", "-r", &evil],
        &["sync"],
        &["rejected"],
        &["block", "mall\u{202e}ory"],
        &["block", "--list"],
        &["unblock", "mall\u{202e}ory"],
    ];
    for command in commands {
        let ran = scene.on("r", command);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains(is_harmful), "{command:?}: {said:?}");
        let fake = said.lines().any(|line| line.starts_with("error: c"));
        assert!(!fake, "{command:?}: a name begins a line of its own: {said:?}");
    }
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_stays_json_and_tells_the_very_text() {
    let scene = Scene::with_server();
    scene.replica("r");
    let _client = mallory(&scene).await;
    scene.on("r", &["sync"]).expect(0);
    for command in [
        &["tree", "shared:"][..],
        &["stat", &format!("shared:mall\u{202e}ory/photos/{EVIL}")],
        &["ls", "shared:mall\u{202e}ory/photos"],
        &["shares"],
    ] {
        let ran = scene.run(["--json", "--replica", "r"].iter().chain(command)).expect(0);
        assert!(!ran.stdout.contains(is_harmful), "{command:?}: {:?}", ran.stdout);
        let text = ran.json().to_string();
        let quoted = json!(EVIL).to_string();
        let evil = quoted.trim_matches('"');
        assert!(text.contains(evil) || command == ["shares"], "{command:?}: {text}");
    }
}
