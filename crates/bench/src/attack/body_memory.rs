//! Bodies of pushes that are complete but for their last bytes: each is held in memory.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::Target;

const CONNECTIONS: usize = 64;
const BODY: usize = 4 << 20;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mallory = on.attacker("body-memory")?;
    on.prepared().await;
    let mut start = format!(
        "POST /v1/vfs/crdt/push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {BODY}\r\n\r\n",
        mallory.token
    )
    .into_bytes();
    start.resize(start.len() + BODY - 4_096, b' ');
    Ok(on.hold(CONNECTIONS, start.into()).await)
}
