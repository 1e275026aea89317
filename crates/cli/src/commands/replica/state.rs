//! The replica's state as a file: `state export`, `state hydrate`.

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::json;
use vfs_sync_client::StateExport;
use vfs_sync_core::client::state;

use crate::args::{Global, State};
use crate::error::{Failure, Result};
use crate::escape::{Escaped, EscapingJsonText};
use crate::output::{Output, count_text, raw};
use crate::replica;

pub(in crate::commands) fn state(global: &Global, command: State, output: Output) -> Result<()> {
    match command {
        State::Export { file, redact } => export(global, file.as_deref(), redact, output),
        State::Hydrate { file, init } => {
            let json = std::fs::read(&file)
                .map_err(Failure::io(format!("cannot read {}", file.display())))?;
            // Checked before there is a client that could report it.
            let client_id = state::client_id(&json).map_err(vfs_sync_client::report_violation)?;
            let outcome = replica::hydrate(global, &init, client_id, &json[..])?;
            output.say(format_args!(
                "restored {} items and {} queued operations",
                count_text(outcome.items),
                count_text(outcome.queued)
            ))?;
            output.json(&json!({ "items": outcome.items, "queued": outcome.queued }))
        }
    }
}

fn export(global: &Global, file: Option<&Path>, redact: bool, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let options = StateExport { redact };
    let Some(file) = file else {
        // Whoever reads it may be a terminal, behind a pipe too; to a program it is the same.
        let mut out = io::BufWriter::new(EscapingJsonText::new(raw()));
        client.export_state(options, &mut out)?;
        return out.flush().map_err(Failure::output);
    };
    let what = || format!("cannot write {}", file.display());
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::NamedTempFile::new_in(parent).map_err(Failure::io(what()))?;
    let mut writer = io::BufWriter::new(temporary);
    client.export_state(options, &mut writer)?;
    let temporary = writer.into_inner().map_err(|error| Failure::io(what())(error.into_error()))?;
    temporary.as_file().sync_all().map_err(Failure::io(what()))?;
    temporary.persist_noclobber(file).map_err(|error| {
        Failure::io(what())(error.error)
            .hint("existing files are not replaced: choose another name")
    })?;
    output.say(format_args!("written to {}", Escaped(&file.to_string_lossy())))?;
    output.json(&json!({ "file": file.to_string_lossy(), "redacted": redact }))
}
