//! The archive for a bug report reveals nothing of the user.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::Scene;

/// Everything that is secret: each would be found as it is in the archive's plain bytes.
const CANARIES: [&str; 9] = [
    "canary-folder",
    "canary file",
    "canary-content",
    "canary-device",
    "canary-live",
    "canary-queued",
    "canary-refused",
    "canarymeta",
    "carol-the-canary",
];

fn plain_bytes(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(file).unwrap();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_report_has_no_name_content_token_or_address() {
    let mut scene = Scene::with_server();
    scene.replica_of("carol-the-canary");
    let user = "carol-the-canary";
    scene.write("d/canary-folder/canary file", "canary-content");
    scene.on(user, &["import", "d"]).expect(0);
    scene.on(user, &["sync"]).expect(0);
    scene.write("canary-live/x", "x");
    scene.on(user, &["up", "--once", "canary-live", "/canary-folder"]).expect(0);
    std::process::Command::new("mkfifo")
        .arg(scene.path("canary-live/canary-pipe"))
        .status()
        .unwrap();
    scene.on(user, &["up", "--once"]).expect(5);
    // Something rejected, something queued.
    scene.write("canary-refused", "bytes");
    scene.on(user, &["put", "canary-refused", "/canary-refused"]).expect(0);
    std::fs::remove_dir_all(scene.path(&format!("{user}/contents"))).unwrap();
    scene.on(user, &["sync"]);
    scene.on(user, &["doctor", "--retry"]).expect(1);
    scene.on(user, &["mkdir", "/canary-queued"]).expect(0);
    let token = scene.read("carol-the-canary.token");
    scene.stop_server();
    scene.on(user, &["sync"]).expect(4);
    let settings = scene.path(&format!("{user}/settings.json"));
    let text = std::fs::read_to_string(&settings).unwrap();
    let text = text.replace("\"device\": \"", "\"device\": \"canary-device ");
    std::fs::write(&settings, text).unwrap();
    scene.on(user, &["doctor", "--bundle", "report.tar.gz"]).expect(1).says("report.tar.gz");

    let file = scene.path("report.tar.gz");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = plain_bytes(&file);
    let signature = token.rsplit('.').next().unwrap().to_owned();
    let payload = token.split('.').nth(1).unwrap().to_owned();
    let port = scene.url().rsplit(':').next().unwrap().to_owned();
    let dir = scene.dir.path().to_string_lossy().into_owned();
    let more = [token, signature, payload, port, dir, "canary-pipe".to_owned()];
    for secret in CANARIES.iter().map(|one| (*one).to_owned()).chain(more) {
        assert!(!has(&bytes, &secret), "{secret} is in the report");
    }
    assert!(!has(&bytes, "canary"), "{}", String::from_utf8_lossy(&bytes));
    for there in
        ["checks.json", "state.json", "retry/before.json", "configuration.json", "live.json"]
    {
        assert!(has(&bytes, there), "{there} is missing");
    }
    for kept in ["network.tcp", "specialFile", "item_upsert", "writeIdFloor", "Connection refused"]
    {
        assert!(has(&bytes, kept), "{kept} is not in the report");
    }
    // A file that is there is not replaced.
    let before = std::fs::read(&file).unwrap();
    scene.on(user, &["doctor", "--bundle", "report.tar.gz"]).expect(1).says("choose another name");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    std::os::unix::fs::symlink("nowhere", scene.path("link")).unwrap();
    scene.on(user, &["doctor", "--bundle", "link"]).expect(1).says("choose another name");
    // The digests of two reports have nothing in common.
    scene.on(user, &["doctor", "--bundle", "second.tar.gz"]).expect(1);
    let second = plain_bytes(&scene.path("second.tar.gz"));
    let digest = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let at = text.find("digest:").unwrap();
        text[at..at + 23].to_owned()
    };
    assert!(!has(&second, &digest(&bytes)));
}

#[test]
fn a_device_without_a_replica_has_a_report_too() {
    let scene = Scene::offline();
    scene.on("none", &["doctor", "--bundle", "report.tar.gz"]).expect(1);
    assert!(has(&plain_bytes(&scene.path("report.tar.gz")), "replica.settings"));
    scene.on("none", &["doctor", "--bundle", "no/such/folder"]).expect(1).says("cannot write");
}
