//! More connections than the server accepts, without a request or a token.

use std::convert::Infallible;

use bytes::Bytes;

use crate::Failure;
use crate::attack::Target;

const CONNECTIONS: usize = 4_200;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    on.prepared().await;
    Ok(on.hold(CONNECTIONS, Bytes::new()).await)
}
