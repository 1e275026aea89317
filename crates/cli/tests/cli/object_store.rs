//! The server's object store as the environment configures it: errors are found at its start.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::Scene;
use vfs_sync_blobs::S3Config;
use vfs_sync_blobs::testing::{as_reader, new_s3_place};

fn place() -> S3Config {
    tokio::runtime::Runtime::new().unwrap().block_on(new_s3_place()).unwrap()
}

fn serve(scene: &Scene, place: &S3Config) -> Command {
    let mut command = scene.command();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    command
        .args(["--json", "serve", "--listen", "127.0.0.1:0", "--data", "server"])
        .env("RUST_LOG", "off")
        .env("VFS_BLOB_S3_BUCKET", &place.bucket)
        .env("VFS_BLOB_S3_KEY_PREFIX", &place.key_prefix)
        .env("VFS_BLOB_S3_ENDPOINT", place.endpoint.as_ref().unwrap())
        .env("VFS_BLOB_S3_REGION", &place.region)
        .env("VFS_BLOB_S3_FORCE_PATH_STYLE", "true")
        .stdin(Stdio::null());
    command
}

fn with_key(mut command: Command, place: &S3Config) -> Command {
    let (id, secret) = place.key.as_ref().unwrap();
    command.env("VFS_BLOB_S3_ACCESS_KEY_ID", id).env("VFS_BLOB_S3_SECRET_ACCESS_KEY", secret);
    command
}

#[track_caller]
fn refused(mut command: Command, code: i32, texts: &[&str]) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty(), "it never listens");
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in {said}");
    }
}

#[test]
#[ignore = "needs an S3 server"]
fn a_store_that_cannot_be_used_is_named_before_the_server_listens() {
    let (scene, good) = (Scene::offline(), place());
    let with = |name: &str, value: &str| {
        let mut command = with_key(serve(&scene, &good), &good);
        command.env(name, value);
        command
    };
    for (name, value) in [
        ("VFS_BLOB_S3_BUCKET", "a/b"),
        ("VFS_BLOB_S3_KEY_PREFIX", "../up"),
        ("VFS_BLOB_S3_ENDPOINT", "nowhere"),
        ("VFS_BLOB_S3_REGION", "eu west"),
        ("VFS_BLOB_S3_FORCE_PATH_STYLE", "perhaps"),
        ("VFS_BLOB_S3_SECRET_ACCESS_KEY", ""),
    ] {
        refused(with(name, value), 2, &[name, "docs/blobs.md"]);
    }
    let wrong_secret = with("VFS_BLOB_S3_SECRET_ACCESS_KEY", "wrong");
    refused(wrong_secret, 1, &["SignatureDoesNotMatch", "check VFS_BLOB_S3_ACCESS_KEY_ID"]);
    let nobody = with("VFS_BLOB_S3_ACCESS_KEY_ID", "nobody");
    refused(nobody, 1, &["InvalidAccessKeyId", "VFS_BLOB_S3_ACCESS_KEY_ID"]);
    let dead = with("VFS_BLOB_S3_ENDPOINT", "http://127.0.0.1:9");
    refused(dead, 1, &["ServiceUnavailable", "VFS_BLOB_S3_ENDPOINT"]);
    // A key that may read alone: the probe writes, too.
    let reader = as_reader(&good);
    refused(
        with_key(serve(&scene, &good), &reader),
        1,
        &["AccessDenied", "write, read and delete"],
    );

    let mut directory = scene.command();
    scene.write("file", "no directory");
    directory.args(["serve", "--listen", "127.0.0.1:0", "--data", "file"]).stdin(Stdio::null());
    refused(directory, 1, &["file"]);
}

#[test]
#[ignore = "needs an S3 server"]
fn without_a_key_of_its_own_the_usual_one_counts() {
    let (scene, good) = (Scene::offline(), place());
    let (id, secret) = good.key.as_ref().unwrap();
    let mut command = serve(&scene, &good);
    command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listens = line.contains("listening");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(listens, "{line:?}");

    // The key that the variables name comes first.
    let mut command = with_key(serve(&scene, &good), &good);
    command.env("VFS_BLOB_S3_SECRET_ACCESS_KEY", "wrong");
    command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
    refused(command, 1, &["SignatureDoesNotMatch"]);
}
