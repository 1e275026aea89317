//! Standard input whose reads a signal can interrupt: a plain read may wait for ever.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

const CHUNK: usize = 256 * 1024;
/// The delay until a signal is noticed while no input arrives.
const NOTICED: Duration = Duration::from_millis(50);

/// A reader of standard input, on a separate thread, until the input ends or `stop` is cancelled.
pub(crate) struct Stdin {
    chunks: Receiver<io::Result<Vec<u8>>>,
    rest: io::Cursor<Vec<u8>>,
    stop: CancellationToken,
}

impl Stdin {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        let (give, chunks) = sync_channel(1);
        // The thread ends with the input, or with the process.
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = match input.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let over = !matches!(read, Ok(1..));
                let given = give.send(read.map(|count| {
                    chunk.truncate(count);
                    chunk
                }));
                if over || given.is_err() {
                    return;
                }
            }
        });
        Self { chunks, rest: io::Cursor::default(), stop }
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.is_cancelled() {
                return Err(io::Error::other("interrupted"));
            }
            let count = self.rest.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.chunks.recv_timeout(NOTICED) {
                Ok(chunk) => match chunk? {
                    chunk if chunk.is_empty() => return Ok(0),
                    chunk => self.rest = io::Cursor::new(chunk),
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
    }
}
