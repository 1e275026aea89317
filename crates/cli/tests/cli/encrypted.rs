//! A server that encrypts its connections itself.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use vfs_sync_store::testing::Authority;

use crate::support::Scene;

/// Starts a server with the certificate that is at `tls.crt` and `tls.key` in the scene.
fn serve(scene: &mut Scene) {
    let (certificate, key) = (scene.path("tls.crt"), scene.path("tls.key"));
    scene.start_server_with(
        "127.0.0.1:0",
        &[
            ("VFS_SYNC_TLS_CERT", certificate.to_str().unwrap()),
            ("VFS_SYNC_TLS_KEY", key.to_str().unwrap()),
        ],
    );
}

/// Puts a certificate in place, each file at once.
fn install(scene: &Scene, authority: &Authority, name: &str) {
    let pair = authority.signed(name, "IP:127.0.0.1").unwrap();
    for (from, to) in [(&pair.key, "tls.key"), (&pair.certificate, "tls.crt")] {
        let (new, to) = (scene.path("new"), scene.path(to));
        std::fs::copy(from, &new).unwrap();
        std::fs::rename(&new, &to).unwrap();
    }
}

/// A client that trusts the authority, over connections of its own.
fn client(authority: &Authority) -> reqwest::ClientBuilder {
    let root = std::fs::read(authority.root()).unwrap();
    let root = reqwest::Certificate::from_pem(&root).unwrap();
    reqwest::Client::builder().tls_certs_only([root]).timeout(Duration::from_secs(20))
}

async fn healthy(client: reqwest::ClientBuilder, url: &str) -> bool {
    let answer = client.build().unwrap().get(format!("{url}/healthz")).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_encrypts_and_reads_its_certificate_again_when_it_changes() {
    let (first, second) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut scene = Scene::offline();
    install(&scene, &first, "one");
    serve(&mut scene);
    let url = scene.url().to_owned();
    assert!(url.starts_with("https://"), "{url}");
    assert!(healthy(client(&first), &url).await);
    assert!(healthy(client(&first).http1_only(), &url).await);
    assert!(!healthy(client(&second), &url).await);
    let kept = client(&first).build().unwrap();
    let version = kept.get(format!("{url}/healthz")).send().await.unwrap().version();
    assert_eq!(version, reqwest::Version::HTTP_2);

    // A key that is not the certificate's changes nothing.
    let pair = second.signed("alone", "IP:127.0.0.1").unwrap();
    std::fs::copy(&pair.key, scene.path("tls.key")).unwrap();
    install(&scene, &second, "two");
    let until = Instant::now() + Duration::from_secs(60);
    while !healthy(client(&second), &url).await {
        assert!(Instant::now() < until, "the new certificate is not used");
        assert!(healthy(client(&first), &url).await || healthy(client(&second), &url).await);
    }
    assert!(!healthy(client(&first), &url).await);
    // Connections that are open stay open.
    let answer = kept.get(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[test]
fn replicas_synchronise_over_an_encrypted_connection() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut scene = Scene::offline();
    install(&scene, &authority, "server");
    serve(&mut scene);
    std::fs::write(scene.path("token"), scene.token("alice")).unwrap();
    let on = |trusted: &Path, replica: &str, args: &[&str]| {
        let mut command = scene.command();
        command.env("SSL_CERT_FILE", trusted).args(["--replica", replica]).args(args);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|out| String::from_utf8(out).unwrap());
        (output.status.code().unwrap(), text.concat())
    };
    let root = authority.root();
    let init = ["init", "--server", scene.url(), "--token-file", "token"];
    for replica in ["a", "b"] {
        assert_eq!(on(&root, replica, &init).0, 0);
    }
    std::fs::write(scene.path("file"), "said in private").unwrap();
    assert_eq!(on(&root, "a", &["put", "file", "/file"]).0, 0);
    assert_eq!(on(&root, "a", &["sync"]).0, 0);
    assert_eq!(on(&root, "b", &["sync"]).0, 0);
    assert_eq!(on(&root, "b", &["cat", "/file"]), (0, "said in private".into()));
    let (code, text) = on(&stranger.root(), "b", &["sync"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("certificate"), "{text}");
}

#[test]
fn a_peer_that_does_not_encrypt_is_told_to() {
    let authority = Authority::new().unwrap();
    let mut scene = Scene::offline();
    install(&scene, &authority, "server");
    serve(&mut scene);
    let address = scene.url().strip_prefix("https://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], "https_required");
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_and_nothing_is_served() {
    let authority = Authority::new().unwrap();
    let scene = Scene::offline();
    let pair = authority.signed("one", "IP:127.0.0.1").unwrap();
    let other = authority.signed("two", "IP:127.0.0.1").unwrap();
    let (certificate, key) = (pair.certificate.to_str().unwrap(), pair.key.to_str().unwrap());
    let serve = |tls: &[&str]| {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data", "server"];
        scene.run(serve.iter().chain(tls))
    };
    serve(&["--tls-cert", certificate]).expect(2).says("--tls-key");
    serve(&["--tls-key", key]).expect(2).says("--tls-cert");
    serve(&["--tls-cert", "/nowhere", "--tls-key", key]).expect(2).says("cannot read /nowhere");
    serve(&["--tls-cert", key, "--tls-key", key]).expect(2).says("has no certificate");
    serve(&["--tls-cert", certificate, "--tls-key", certificate]).expect(2).says("cannot read");
    serve(&["--tls-cert", certificate, "--tls-key", other.key.to_str().unwrap()])
        .expect(2)
        .says("cannot be used together");
    assert!(!scene.path("server").exists());
}
