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
mod traces;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, registry};

use crate::args::{Admin, Cli, Command};
use crate::error::{Failure, Kind};
use crate::output::Output;
use crate::traces::Traces;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(Failure::io("cannot start")).and_then(|runtime| {
        let traces = traces(&cli.command, runtime.handle())?;
        log(&cli.command, output.json, traces.as_ref());
        let done = runtime.block_on(async {
            let stop = shutdown::on_signals(output)?;
            commands::run(cli, output, stop).await
        });
        if let Some(traces) = traces {
            traces.finish();
        }
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
fn log(command: &Command, json: bool, traces: Option<&Traces>) {
    let default = match command {
        Command::Serve(_) => "info",
        Command::Admin(Admin::Doctor(doctor)) if doctor.fix => "audit=info",
        Command::Sync(sync) if sync.watch => "vfs_sync_client=warn",
        _ => "off",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    match traces {
        // The filter of all: what no line shows costs nothing.
        None => registry().with(filter).with(lines(json)).init(),
        Some(traces) => {
            let spans = Targets::new().with_target(vfs_sync_server::TRACES, tracing::Level::TRACE);
            let recorder = traces.recorder().with_filter(spans);
            registry().with(lines(json).with_filter(filter)).with(recorder).init();
        }
    }
}

/// Returns the layer that writes the lines of the log.
fn lines<S>(json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    if json {
        fmt::layer().json().with_writer(output::json_log).boxed()
    } else {
        fmt::layer().with_ansi(false).with_writer(output::log).boxed()
    }
}

/// Begins to send traces, if the command is to.
fn traces(command: &Command, runtime: &tokio::runtime::Handle) -> error::Result<Option<Traces>> {
    match command {
        Command::Serve(serve) => {
            serve.otlp_endpoint.as_ref().map(|endpoint| Traces::to(endpoint, runtime)).transpose()
        }
        _ => Ok(None),
    }
}
