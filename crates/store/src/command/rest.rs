//! Changes that narrow views: what a decision leaves is decided and written in chunks.

use super::Decides;
use super::push::propagate;
use crate::error::Result;
use crate::topics::{Decision, Topics};

/// Writes a decision, and decides and writes what it left, chunk by chunk.
pub(crate) async fn carry_out<C: Decides, T: Topics>(
    command: &C,
    tx: &mut T,
    mut decision: Decision,
) -> Result<()> {
    let rest = decision.changes.rest.take();
    command.write(tx, &decision).await?;
    drop(decision);
    let Some(mut rest) = rest else { return Ok(()) };
    while let Some(chunk) = rest.next_chunk() {
        let Decision { mut changes, feeds } = propagate(tx, chunk, rest.now()).await?;
        tx.write_changes(&changes, &feeds).await?;
        if let Some(left) = changes.rest.take() {
            rest.add(*left);
        }
    }
    Ok(())
}
