//! Uploads of unannounced length that go on until the server refuses them, one after the other.

use std::convert::Infallible;

use bytes::Bytes;
use reqwest::{Body, StatusCode};
use serde_json::json;

use crate::Failure;
use crate::attack::{Target, first};
use crate::writer::Writer;

const UPLOADS: usize = 4;
/// The length at which an upload is broken off, should the server not refuse it before.
const LENGTH: usize = 256;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mallory = on.attacker("disk-quota")?;
    on.prepared().await;
    let one = async || loop {
        upload(&on, &mallory).await;
    };
    first((0..UPLOADS).map(|_| one())).await
}

/// Uploads until the server refuses, and abandons the stage.
async fn upload(on: &Target, mallory: &Writer) {
    let id = uuid::Uuid::now_v7();
    let stage = json!({"stagingId": format!("disk-{id}"), "blobId": format!("disk-{id}")});
    let staged = mallory.post("/v1/vfs/blobs/stage").json(&stage).send().await;
    let path = format!("/v1/vfs/blobs/stage/disk-{id}");
    let bytes = Bytes::from(vec![7; 1 << 20]);
    let parts = (0..=LENGTH).map(move |n| match n {
        LENGTH => Err(std::io::Error::other("broken off")),
        _ => Ok(bytes.clone()),
    });
    let put = mallory.http.put(format!("{}{path}/data", mallory.url)).bearer_auth(&mallory.token);
    let put = put.body(Body::wrap_stream(futures::stream::iter(parts))).send().await;
    let abandoned = mallory.post(&format!("{path}/abandon")).send().await;
    for answer in [staged, put, abandoned] {
        let status = answer.map(|answer| answer.status());
        on.count(status.as_ref().map_or("cut", StatusCode::as_str), 1);
    }
}
