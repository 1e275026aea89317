//! `vfs-sync`: the server, the client and the tools, in one binary.

mod args;
mod commands;
mod error;
mod escape;
mod machine;
mod output;
mod path;
mod replica;
mod report;
mod server;
mod shutdown;
mod stdin;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::{Admin, Cli, Command};
use crate::error::{Failure, Kind};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    log(&cli.command, output.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(Failure::io("cannot start")).and_then(|runtime| {
        let done = runtime.block_on(async {
            let stop = shutdown::on_signals(output)?;
            commands::run(cli, output, stop).await
        });
        // A blocking call that hangs, such as a disk that is gone, must not hold the exit.
        runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.kind != Kind::BrokenPipe {
                output.failure(&failure);
            }
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Prints a command-line error; `--help` and `--version` are no failures.
fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let json = std::env::args_os().any(|argument| argument == "--json");
    if !asked && json {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::usage(message).hint("see vfs-sync --help");
        Output { json: true, quiet: false }.failure(&failure);
    } else if error.print().is_err() {
        return ExitCode::from(Kind::BrokenPipe.exit_code());
    }
    if asked { ExitCode::SUCCESS } else { ExitCode::from(Kind::Usage.exit_code()) }
}

/// Sets up logging: `serve`, `sync --watch` and repairs by `admin doctor` log by default; other commands only if `RUST_LOG` is
/// set, because they report everything relevant themselves.
fn log(command: &Command, json: bool) {
    use tracing_subscriber::EnvFilter;
    let default = match command {
        Command::Serve(_) => "info",
        Command::Admin(Admin::Doctor(doctor)) if doctor.fix => "audit=info",
        Command::Sync(sync) if sync.watch => "vfs_sync_client=warn",
        _ => "off",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    if json {
        builder.json().with_writer(output::json_log).init();
    } else {
        builder.with_ansi(false).with_writer(output::log).init();
    }
}
