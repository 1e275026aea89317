//! Clients of tus that exist, which lose their connection and resume.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use vfs_sync_blobs::BlobStore;
use vfs_sync_blobs::testing::{new_s3_place, weed_program};
use vfs_sync_testkit::TestServer;

/// A way to a server that breaks off: each of the first connections after so many bytes.
async fn cutting(target: SocketAddr, times: u32, after: usize) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cuts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&cuts);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let cuts = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let up = async {
                    let (mut passed, mut buffer) = (0, vec![0; 64 * 1024]);
                    loop {
                        let read = from_client.read(&mut buffer).await.unwrap_or(0);
                        if read == 0 || to_server.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                        passed += read;
                        if passed > after && cuts.fetch_add(1, Ordering::SeqCst) < times {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = up => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
            });
        }
    });
    (address, cuts)
}

/// The Python beside SeaweedFS, which `scripts/test` installs `tuspy` into too.
fn python() -> PathBuf {
    let weed = weed_program().expect("SeaweedFS, which scripts/test installs with tuspy");
    let python = weed.canonicalize().unwrap().with_file_name("python3");
    assert!(python.exists(), "{python:?} is missing: scripts/test sets it up");
    python
}

async fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn tuspy_loses_its_connection_and_resumes(server: TestServer) {
    let target: SocketAddr = server.url().strip_prefix("http://").unwrap().parse().unwrap();
    let (address, cuts) = cutting(target, 4, 1_000_000).await;
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http/clients/tuspy.py");
    let token = server.token("alice");
    let endpoint = format!("http://{address}/v1/vfs/blobs/uploads");
    let http = reqwest::Client::new();
    for name in ["plain", "checked"] {
        let bytes: Vec<u8> = (0..12_345_678_u32).map(|at| (at % 251) as u8).collect();
        let (file, storage) =
            (directory.path().join(name), directory.path().join(format!("{name}.urls")));
        std::fs::write(&file, &bytes).unwrap();
        for (mode, offset) in [("stop", "5000000"), ("finish", "12345678")] {
            let arguments = [
                script.to_str().unwrap(),
                &endpoint,
                &token,
                file.to_str().unwrap(),
                storage.to_str().unwrap(),
                name,
                mode,
            ];
            assert_eq!(run(&python(), &arguments).await, offset);
        }
        let url = format!("{}/v1/vfs/blobs/{name}", server.url());
        let read = http.get(url).bearer_auth(&token).send().await.unwrap();
        assert_eq!(read.headers()["content-type"], "application/x-test");
        assert!(read.bytes().await.unwrap() == bytes);
    }
    assert!(cuts.load(Ordering::SeqCst) >= 4, "connections were cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tuspy"]
async fn tuspy_uploads_to_a_directory() {
    tuspy_loses_its_connection_and_resumes(TestServer::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an S3 server"]
async fn tuspy_uploads_to_s3() {
    let place = new_s3_place().await.unwrap();
    let blobs = vfs_sync_blobs::ObjectBlobs::s3(&place).unwrap();
    blobs.probe().await.unwrap();
    let server = TestServer::builder().blobs(Arc::new(blobs)).start().await;
    tuspy_loses_its_connection_and_resumes(server).await;
}
