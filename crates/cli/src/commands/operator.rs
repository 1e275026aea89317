//! For who runs a server: `serve`, `token`, `migrate`, `admin`.

use tokio_util::sync::CancellationToken;

use crate::args::{Database, Serve, Token};
use crate::error::{Failure, Result};
use crate::output::Output;

pub(super) async fn serve(_: Serve, _: Output, _: CancellationToken) -> Result<()> {
    Err(Failure::failed("not there yet"))
}

pub(super) fn token(_: Token, _: Output) -> Result<()> {
    Err(Failure::failed("not there yet"))
}

pub(super) async fn new_epoch(_: Database, _: Output) -> Result<()> {
    Err(Failure::failed("not there yet"))
}

pub(super) async fn migrate(_: Database, _: Output) -> Result<()> {
    Err(Failure::failed("not there yet"))
}
