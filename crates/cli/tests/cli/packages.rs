//! What is shipped beside the program: the systemd unit, the Debian package, samples for proxies.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vfs_sync_store::testing::Authority;

use crate::live::Watch;
use crate::support::Scene;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Returns whether a program is there; says which test is skipped without it.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn has(program: &str, test: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
    if !found.status.success() {
        eprintln!("SKIPPED: {test}: {program} is not installed");
    }
    found.status.success()
}

#[test]
fn the_unit_confines_the_server() {
    if !has("systemd-analyze", "the confinement of the unit") {
        return;
    }
    let unit = root().join("packaging/vfs-sync.service");
    let checked = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=29"])
        .arg(&unit)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}\n{}", String::from_utf8_lossy(&checked.stderr));
    assert!(said.contains("Overall exposure level"), "{said}");
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn the_debian_package_is_installed_started_upgraded_and_removed() {
    let test = "the Debian package";
    if !["dpkg-deb", "unshare", "setpriv"].iter().all(|program| has(program, test)) {
        return;
    }
    let isolated = ["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    if !Command::new("unshare").args(isolated).output().unwrap().status.success() {
        eprintln!("SKIPPED: {test}: this takes root, and mounts of its own");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let package = directory.path().join("vfs-sync.deb");
    let made = Command::new(root().join("scripts/package-deb"))
        .args([Path::new(env!("CARGO_BIN_EXE_vfs-sync")), &package])
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let work = directory.path().join("copy");
    std::fs::create_dir(&work).unwrap();
    let tried = Command::new("unshare")
        .args(["-m", "bash"])
        .arg(root().join("crates/cli/tests/cli/packages/try-deb.sh"))
        .args([&package, Path::new("/lib/systemd/system/vfs-sync.service"), &work])
        .output()
        .unwrap();
    let [said, failed] = [&tried.stdout, &tried.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(tried.status.success() && said.ends_with("tried\n"), "{said}\n{failed}");
}

/// A proxy with its shipped sample, which is ended when this is dropped.
struct Proxy {
    child: Child,
    url: String,
}

impl Proxy {
    /// Starts nginx at `port` of this machine, before `server`.
    fn nginx(scene: &Scene, authority: &Authority, server: &str, port: u16) -> Self {
        let pair = authority.signed("proxy", "IP:127.0.0.1").unwrap();
        let site = sample(
            "nginx.conf",
            &[
                ("server 127.0.0.1:7070;", format!("server {server};")),
                ("listen 443 ssl http2;", format!("listen 127.0.0.1:{port} ssl http2;")),
                ("/etc/ssl/files.example.com.pem", pair.certificate.display().to_string()),
                ("/etc/ssl/files.example.com.key", pair.key.display().to_string()),
            ],
        );
        let config = format!(
            "daemon off; pid nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; \
             fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n{site}}}\n"
        );
        scene.write("proxy/nginx.conf", config);
        let mut command = Command::new("nginx");
        command.args(["-c", "nginx.conf", "-p"]).arg(scene.path("proxy"));
        Self::start(command, port)
    }

    /// Starts Caddy at `port` of this machine, before `server`.
    fn caddy(scene: &Scene, authority: &Authority, server: &str, port: u16) -> Self {
        let pair = authority.signed("proxy", "IP:127.0.0.1").unwrap();
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let own = format!("https://127.0.0.1:{port} {{\n\ttls {certificate} {key}");
        let site = sample(
            "Caddyfile",
            &[
                ("files.example.com {", own),
                ("reverse_proxy 127.0.0.1:7070", format!("reverse_proxy {server}")),
            ],
        );
        // Without them it takes port 80, and opens a port for its administration.
        let options = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n";
        scene.write("proxy/Caddyfile", format!("{options}{site}"));
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "Caddyfile"]).current_dir(scene.path("proxy"));
        command.env("HOME", scene.path("proxy"));
        for variable in ["XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(variable);
        }
        Self::start(command, port)
    }

    fn start(mut command: Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut proxy = Self { child, url: format!("https://127.0.0.1:{port}") };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if proxy.child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                proxy.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("{command:?} does not start: {said}");
            }
            std::thread::yield_now();
        }
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        crate::support::signal(&self.child, "TERM");
        let _ = self.child.wait();
    }
}

/// Returns a shipped sample with each text replaced by the one of the test.
pub(crate) fn sample(name: &str, texts: &[(&str, String)]) -> String {
    let mut sample = std::fs::read_to_string(root().join("packaging").join(name)).unwrap();
    for (from, to) in texts {
        assert!(sample.contains(from), "{name} has no {from}");
        // Comments have the names too.
        let at = sample.rfind(from).unwrap();
        sample.replace_range(at..at + from.len(), to);
    }
    sample
}

#[test]
fn replicas_synchronise_live_through_the_sample_of_nginx() {
    if has("nginx", "the sample of nginx") {
        replicas_synchronise_live_through(Proxy::nginx);
    }
}

#[test]
fn replicas_synchronise_live_through_the_sample_of_caddy() {
    if has("caddy", "the sample of Caddy") {
        replicas_synchronise_live_through(Proxy::caddy);
    }
}

fn replicas_synchronise_live_through(start: fn(&Scene, &Authority, &str, u16) -> Proxy) {
    let authority = Authority::new().unwrap();
    let mut scene = Scene::offline();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let public = format!("https://127.0.0.1:{port}");
    scene.start_server_with(
        "127.0.0.1:0",
        &[("VFS_SYNC_PUBLIC_URL", &public), ("VFS_SYNC_PROXIES", "127.0.0.1")],
    );
    let server = scene.url().strip_prefix("http://").unwrap().to_owned();
    let proxy = start(&scene, &authority, &server, port);
    scene.trust(&authority.root());
    for replica in ["a", "b"] {
        std::fs::write(scene.path("token"), scene.token("alice")).unwrap();
        scene.on(replica, &["init", "--server", &proxy.url, "--token-file", "token"]).expect(0);
    }
    let mut watch = Watch::of(&scene, "b");
    watch.wait_until_live();
    let large: Vec<u8> =
        (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    scene.write("large", &large);
    scene.on("a", &["put", "large", "/large"]).expect(0);
    scene.on("a", &["sync"]).expect(0);
    watch.wait_for_path("appeared", "/large");
    watch.stop();
    scene.on("b", &["get", "/large", "back"]).expect(0);
    assert!(std::fs::read(scene.path("back")).unwrap() == large, "other bytes came back");
}
