//! `demo`.

use tokio_util::sync::CancellationToken;

use crate::args::Demo;
use crate::error::{Failure, Result};
use crate::output::Output;

pub(crate) async fn run(_: Demo, _: Output, _: CancellationToken) -> Result<()> {
    Err(Failure::failed("not there yet"))
}
