//! The command-line runner of the simulator.

mod run;

use std::process::ExitCode;

use clap::Parser as _;

use run::args::{Args, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Replay(args) => run::replay(&args),
        Command::Shrink(args) => run::shrink(&args),
    }
}
