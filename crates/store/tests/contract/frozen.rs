//! A PostgreSQL that keeps its connections and says nothing any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use vfs_sync_store::testing::PostgresServer;
use vfs_sync_store::{MetadataStore, StoreError};

use crate::scene::at;

/// The way to a server, on which nothing moves while it is frozen.
async fn way(to: SocketAddr, frozen: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_in, far_out, frozen.clone()));
            tokio::spawn(pass(far_in, near_out, frozen.clone()));
        }
    });
    address
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_frozen_database_costs_each_call_less_than_ten_seconds() {
    let server = PostgresServer::start().unwrap();
    server.create_database("frozen").await.unwrap();
    let freeze = watch::Sender::new(false);
    let address = way(server.address(), freeze.subscribe()).await;
    let url = server.url(address, "frozen");
    let store: Arc<dyn MetadataStore> = vfs_sync_store::open(&url, at(0)).await.unwrap();
    store.ping().await.unwrap();
    freeze.send_replace(true);
    let began = Instant::now();
    let calls = (0..40).map(|_| async { store.identity().await.map(|_| ()) });
    for answer in futures::future::join_all(calls).await {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    freeze.send_replace(false);
    store.ping().await.unwrap();
}
