//! The calls in another language, in a process that makes the ones whose names it reads.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::measure::Measured;
use crate::{Failure, Times};

pub(crate) struct Elsewhere {
    process: Child,
    calls: ChildStdin,
    times: BufReader<ChildStdout>,
}

impl Elsewhere {
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let (calls, times) = (process.stdin.take(), process.stdout.take());
        let calls = calls.ok_or("no input")?;
        let times = BufReader::new(times.ok_or("no output")?);
        Ok(Self { process, calls, times })
    }

    /// Has the process end.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        let Self { mut process, calls, .. } = self;
        drop(calls);
        let status = process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the process failed: {status}").into()) }
    }
}

impl Measured for Elsewhere {
    fn round(&mut self, call: &str) -> Result<Times, Failure> {
        writeln!(self.calls, "{call}")?;
        let mut line = String::new();
        self.times.read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|error| format!("{call}: {error}: {line:?}").into())
    }
}
