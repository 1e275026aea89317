//! A replica belongs to its user: with a token of somebody else nothing is sent, fetched or replaced,
//! by any call, also where the token changes in the middle.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use vfs_sync_client::core::id::UserId;
use vfs_sync_client::core::item::Name;
use vfs_sync_client::{
    ChangeEvent, ClientConfig, ClientError, HttpConfig, HttpTransport, SyncClient, Transport,
    TransportError,
};
use vfs_sync_testkit::TestServer;

use crate::support::{Replaceable, export, put};

fn client_at(url: String, user: &str, token: &Replaceable, config: ClientConfig) -> SyncClient {
    let http = HttpTransport::new(HttpConfig::new(url), token.clone()).unwrap();
    SyncClient::builder(Arc::new(http))
        .config(config)
        .in_memory(UserId::new(user).unwrap())
        .unwrap()
}

fn names(client: &SyncClient) -> Vec<String> {
    let children = client.children(None).unwrap();
    let mut names: Vec<String> = children.into_iter().map(|child| child.name).collect();
    names.sort();
    names
}

/// Both users, if that is what an error says.
fn users(error: &ClientError) -> Option<(String, Option<String>)> {
    match error {
        ClientError::Transport(TransportError::WrongUser { expected, actual }) => {
            Some((expected.to_string(), actual.as_ref().map(ToString::to_string)))
        }
        _ => None,
    }
}

fn carols_not_daves() -> Option<(String, Option<String>)> {
    Some(("carol".into(), Some("dave".into())))
}

#[tokio::test]
async fn a_token_of_another_user_sends_fetches_and_replaces_nothing() {
    let server = TestServer::start().await;
    let token = Replaceable::new(server.token("carol"));
    let carol = client_at(server.url(), "carol", &token, ClientConfig::default());
    let dave = server.device("dave");
    put(&dave, "dave's", b"his");
    dave.sync().await.unwrap();
    let other = server.device("carol");
    let seen = put(&other, "public", &[7; 400_000]);
    other.sync().await.unwrap();
    for queued in [false, true] {
        token.set(server.token("carol"));
        carol.sync().await.unwrap();
        if queued {
            put(&carol, "diary", b"secret");
            put(&carol, "large", &vec![8; 20_000_000]);
        }
        let before = export(&carol);
        token.set(server.token("dave"));
        assert_eq!(users(&carol.sync().await.unwrap_err()), carols_not_daves(), "{queued}");
        if queued {
            assert_eq!(users(&carol.flush().await.unwrap_err()), carols_not_daves());
        }
        assert_eq!(users(&carol.pull().await.unwrap_err()), carols_not_daves());
        assert_eq!(users(&carol.rematerialise().await.unwrap_err()), carols_not_daves());
        assert_eq!(users(&carol.server_state().await.unwrap_err()), carols_not_daves());
        assert_eq!(users(&carol.contents().versions(&seen).await.unwrap_err()), carols_not_daves());
        if !queued {
            assert_eq!(users(&carol.contents().read(&seen).await.unwrap_err()), carols_not_daves());
            let passed = carol.contents().read_uncached(std::slice::from_ref(&seen)).await;
            assert_eq!(users(passed[0].as_ref().unwrap_err()), carols_not_daves());
        }
        assert_eq!(export(&carol), before, "nothing was replaced");
        let stopped = carol.status().unwrap().stopped.unwrap();
        assert_eq!(stopped.signature, "wrong_user");
    }
    dave.sync().await.unwrap();
    assert_eq!(names(&dave), ["dave's"]);
    token.set(server.token("carol"));
    carol.sync().await.unwrap();
    assert_eq!(carol.status().unwrap().stopped, None);
    other.sync().await.unwrap();
    assert_eq!(names(&other), ["diary", "large", "public"]);
}

#[tokio::test]
async fn background_work_stops_when_the_token_becomes_another_users() {
    let server = TestServer::start().await;
    let token = Replaceable::new(server.token("carol"));
    let config = ClientConfig { interval: Duration::from_millis(50), ..ClientConfig::default() };
    let carol = client_at(server.url(), "carol", &token, config);
    let mut changes = carol.subscribe();
    carol.start_background().unwrap();
    put(&carol, "before", b"b");
    let appeared =
        async { while !matches!(changes.recv().await.unwrap(), ChangeEvent::Changed(_)) {} };
    tokio::time::timeout(Duration::from_secs(20), appeared).await.unwrap();
    token.set(server.token("dave"));
    put(&carol, "after", b"secret");
    let stopped = async {
        loop {
            if let ChangeEvent::Stopped(reason) = changes.recv().await.unwrap() {
                return reason;
            }
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(20), stopped).await.unwrap();
    assert_eq!(reason.signature, "wrong_user");
    assert!(reason.message.contains("dave") && reason.message.contains("carol"), "{reason:?}");
    let dave = server.device("dave");
    dave.sync().await.unwrap();
    assert_eq!(names(&dave), [""; 0]);
    token.set(server.token("carol"));
    carol.start_background().unwrap();
    let other = server.device("carol");
    for _ in 0..200 {
        other.sync().await.unwrap();
        if names(&other).len() == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", names(&other));
}

/// A server of an earlier version: it does not look at the user that a request is meant for and names
/// none. Gives its URL and the requests that it got, each as its first line.
async fn earlier_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let got = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let line = text.lines().next().unwrap_or_default().to_owned();
                told.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
                let body = if line.contains("/limits") {
                    serde_json::to_string(&vfs_sync_client::core::limits::Limits::default())
                        .unwrap()
                } else {
                    r#"{"items":[],"nextCursor":null,"hasMore":false,"lastReconciledWriteIds":{}}"#
                        .to_owned()
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, got)
}

#[tokio::test]
async fn an_earlier_server_is_given_nothing_unless_the_token_says_that_it_is_the_users() {
    let minting = TestServer::start().await;
    let (url, got) = earlier_server().await;
    let requests = || got.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
    let token = Replaceable::new(minting.token("dave"));
    let carol = client_at(url, "carol", &token, ClientConfig::default());
    carol.create_folder(None, Name::new("private").unwrap()).unwrap();
    let before = export(&carol);
    for (wrong, actual) in [(minting.token("dave"), Some("dave")), ("opaque".into(), None)] {
        token.set(wrong);
        let expected = Some(("carol".to_owned(), actual.map(str::to_owned)));
        let error = carol.sync().await.unwrap_err();
        assert_eq!(users(&error), expected);
        let says = error.to_string();
        assert_eq!(says.contains("upgraded"), actual.is_none(), "{says}");
        assert_eq!(users(&carol.pull().await.unwrap_err()), expected);
        let requests: Vec<String> = requests();
        assert!(requests.iter().all(|line| line.starts_with("GET ")), "{requests:?}");
        assert_eq!(export(&carol), before);
    }
    token.set(minting.token("carol"));
    carol.pull().await.unwrap();
}

#[tokio::test]
async fn a_transport_is_one_users() {
    let server = TestServer::start().await;
    let transport: Arc<dyn Transport> = server.transport("carol");
    let client = |user: &str| {
        let user = UserId::new(user).unwrap();
        SyncClient::builder(Arc::clone(&transport)).in_memory(user)
    };
    client("carol").unwrap();
    client("carol").unwrap();
    assert!(matches!(client("dave"), Err(ClientError::Invalid(_))));
}
