//! Requests take turns, whichever connection they come on.

use std::io::Read as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scene::Scene;

const REQUEST: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
const MANY: usize = 200;

/// Server and callers share one thread.
#[tokio::test]
async fn many_requests_that_wait_on_one_connection_leave_turns_to_others() {
    let scene = Scene::new().await;
    let address = scene.server.url().strip_prefix("http://").unwrap().to_owned();
    let mut busy = TcpStream::connect(&address).await.unwrap();
    let mut other = TcpStream::connect(&address).await.unwrap();
    busy.write_all(REQUEST.repeat(MANY).as_bytes()).await.unwrap();
    other.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = [0; 1_024];
    assert!(other.read(&mut answer).await.unwrap() > 0);
    let mut busy = busy.into_std().unwrap();
    let (mut came, mut buffer) = (Vec::new(), [0; 4_096]);
    while let Ok(count) = busy.read(&mut buffer) {
        assert!(count > 0, "the connection is open");
        came.extend_from_slice(&buffer[..count]);
    }
    let answers = String::from_utf8_lossy(&came).matches("HTTP/1.1 200").count();
    assert!(answers < MANY / 2, "{answers} were answered before the other one");
}
