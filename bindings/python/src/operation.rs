//! A call that has begun: it is waited for, or calls back when it is done.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vfs_sync_ffi::{Client, ContentReader, Error, Result, Task};

use crate::{NativeClient, NativeReader, raised};

/// The time after which a wait looks for Ctrl-C.
const SIGNALS: Duration = Duration::from_millis(50);

/// The result of a call.
pub(crate) enum Output {
    None,
    Text(String),
    Bytes(Vec<u8>),
    Client(Client),
    Reader(ContentReader),
}

impl Output {
    fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::None => py.None(),
            Self::Text(text) => text.into_pyobject(py)?.into_any().unbind(),
            Self::Bytes(bytes) => PyBytes::new(py, &bytes).into_any().unbind(),
            Self::Client(inner) => Py::new(py, NativeClient { inner })?.into_any(),
            Self::Reader(inner) => Py::new(py, NativeReader { inner })?.into_any(),
        })
    }
}

/// Waits for a future with the interpreter released, and looks for signals meanwhile. A signal
/// cancels the future.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = channel();
    let task = vfs_sync_ffi::spawn(async move {
        // Nobody may wait any more.
        let _ = sender.send(future.await);
    });
    let _task = task.map_err(raised)?;
    let receiver = Mutex::new(receiver);
    loop {
        let done = py.detach(|| {
            receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(SIGNALS)
        });
        match done {
            Ok(done) => return done.map_err(raised),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => return Err(raised(Error::cancelled())),
        }
    }
}

/// A call that has begun.
#[pyclass(frozen)]
pub(crate) struct Operation {
    state: Mutex<State>,
}

enum State {
    Begun(BoxFuture<'static, Result<Output>>),
    Calling { _task: Task },
    Taken,
}

impl Operation {
    pub(crate) fn new(future: impl Future<Output = Result<Output>> + Send + 'static) -> Self {
        Self { state: Mutex::new(State::Begun(future.boxed())) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> PyResult<BoxFuture<'static, Result<Output>>> {
        match std::mem::replace(&mut *self.state(), State::Taken) {
            State::Begun(future) => Ok(future),
            _ => Err(raised(Error::invalid("the result was taken already"))),
        }
    }
}

#[pymethods]
impl Operation {
    /// Waits for the result.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let future = self.take()?;
        wait(py, future)?.into_py(py)
    }

    /// Calls `callback(result, error)` when the result is there, on a thread of the client.
    fn then(&self, callback: Py<PyAny>) -> PyResult<()> {
        let future = self.take()?;
        let task = vfs_sync_ffi::spawn(async move {
            let done = future.await;
            // The interpreter may make the thread wait: one for such work does.
            let call = move || {
                // None once the interpreter has ended.
                Python::try_attach(|py| {
                    let arguments = match done.map_err(raised).and_then(|done| done.into_py(py)) {
                        Ok(result) => (result, py.None()),
                        Err(error) => (py.None(), error.into_value(py).into_any()),
                    };
                    // The loop may be closed: then nobody waits.
                    let _ = callback.call1(py, arguments);
                })
            };
            let _ = tokio::task::spawn_blocking(call).await;
        });
        *self.state() = State::Calling { _task: task.map_err(raised)? };
        Ok(())
    }

    /// Cancels the call at its next await; a write happens all the same.
    fn cancel(&self) {
        *self.state() = State::Taken;
    }
}
