//! The native part of the Python package `vfs-sync`. Its Python part gives these calls their names,
//! types and errors; a [`NativeError`] has the JSON of the failure as its argument.

mod callback;
mod operation;

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vfs_sync_ffi::{
    Client, ClientOptions, ContentReader, ContentWriter, Error, PutOptions, Server, Subscription,
    TokenProvider,
};

use callback::{Calls, PyCall, Tokens};
use operation::{Operation, Output};

/// The number of bytes that are read before a look for Ctrl-C.
const UNINTERRUPTED: usize = 64 << 20;

pyo3::create_exception!(_native, NativeError, PyException, "A failure, as JSON.");

/// Converts a failure to an exception of Python's.
pub(crate) fn raised(error: Error) -> PyErr {
    NativeError::new_err(serde_json::to_string(&error).unwrap_or(error.message))
}

/// Opens a client over HTTP, or over a transport in Python, or over HTTP behind one.
#[pyfunction]
#[pyo3(signature = (options, token = None, transport = None))]
fn open(
    options: &str,
    token: Option<Py<PyAny>>,
    transport: Option<Py<PyAny>>,
) -> PyResult<Operation> {
    let options = ClientOptions::parse(options).map_err(raised)?;
    let tokens = token.map(|token| Box::new(Tokens::new(token)) as Box<dyn TokenProvider>);
    let server = match (tokens, transport) {
        (Some(tokens), Some(calls)) => Server::Around(tokens, Arc::new(Calls::new(calls))),
        (Some(tokens), None) => Server::Http(tokens),
        (None, Some(calls)) => Server::Foreign(Arc::new(Calls::new(calls))),
        (None, None) => {
            let missing = "neither token nor transport is given: one of them is needed";
            return Err(raised(Error::invalid(missing)));
        }
    };
    let opening = Client::open(options, server);
    Ok(Operation::new(async move { Ok(Output::Client(opening.await?)) }))
}

/// A client with its replica.
#[pyclass(frozen)]
struct NativeClient {
    inner: Client,
}

#[pymethods]
impl NativeClient {
    fn read(&self, py: Python<'_>, call: &str) -> PyResult<String> {
        py.detach(|| self.inner.read(call)).map_err(raised)
    }

    fn write(&self, call: &str) -> Operation {
        let writing = self.inner.write(call);
        Operation::new(async move { Ok(Output::Text(writing.await?)) })
    }

    fn run(&self, call: &str) -> Operation {
        let running = self.inner.run(call, None);
        Operation::new(async move { Ok(Output::Text(running.await?)) })
    }

    fn subscribe(&self, py: Python<'_>, stream: &str) -> PyResult<NativeSubscription> {
        let inner = py.detach(|| self.inner.subscribe(stream)).map_err(raised)?;
        Ok(NativeSubscription { inner })
    }

    fn violations(&self, take: bool) -> String {
        let violations = self.inner.violations();
        let all = if take { violations.take() } else { violations.list() };
        serde_json::to_string(&all).unwrap_or_default()
    }

    fn put(&self, options: &str, bytes: &[u8]) -> PyResult<Operation> {
        let options = PutOptions::parse(options).map_err(raised)?;
        let putting = self.inner.put(options, bytes.to_vec());
        Ok(Operation::new(async move { Ok(Output::Text(putting.await?.to_string())) }))
    }

    fn writer(&self, py: Python<'_>, options: &str) -> PyResult<NativeWriter> {
        let options = PutOptions::parse(options).map_err(raised)?;
        let inner = py.detach(|| self.inner.writer(options)).map_err(raised)?;
        Ok(NativeWriter { inner })
    }

    #[pyo3(signature = (item, version = None))]
    fn reader(&self, item: String, version: Option<String>) -> Operation {
        let opening = self.inner.reader(item, version, None);
        Operation::new(async move { Ok(Output::Reader(opening.await?)) })
    }

    fn advance_clock(&self, millis: i64) -> PyResult<()> {
        self.inner.advance_clock(millis).map_err(raised)
    }

    fn close(&self) -> Operation {
        let closing = self.inner.close();
        Operation::new(async move { closing.await.map(|()| Output::None) })
    }
}

/// A stream of values.
#[pyclass(frozen)]
struct NativeSubscription {
    inner: Subscription,
}

#[pymethods]
impl NativeSubscription {
    fn next(&self) -> Operation {
        let waiting = self.inner.next(None);
        Operation::new(async move { Ok(waiting.await?.map_or(Output::None, Output::Text)) })
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// A content that is read.
#[pyclass(frozen)]
struct NativeReader {
    inner: ContentReader,
}

#[pymethods]
impl NativeReader {
    #[getter]
    fn size(&self) -> u64 {
        self.inner.size()
    }

    #[getter]
    fn digest(&self) -> &str {
        self.inner.digest()
    }

    fn read(&self, at_most: usize) -> Operation {
        let reading = self.inner.read(at_most);
        Operation::new(async move { Ok(Output::Bytes(reading.await?)) })
    }

    fn read_rest(&self) -> Operation {
        let reading = self.inner.read_rest(None);
        Operation::new(async move { Ok(Output::Bytes(reading.await?)) })
    }

    /// Reads the next bytes on this thread: at most so many, or the rest.
    #[pyo3(signature = (at_most = None))]
    fn take<'py>(&self, py: Python<'py>, at_most: Option<u64>) -> PyResult<Bound<'py, PyBytes>> {
        let size = self.inner.left().map_err(raised)?.min(at_most.unwrap_or(u64::MAX));
        PyBytes::new_with(py, usize::try_from(size)?, |bytes| {
            for part in bytes.chunks_mut(UNINTERRUPTED) {
                py.detach(|| self.inner.fill(part)).map_err(raised)?;
                py.check_signals()?;
            }
            Ok(())
        })
    }
}

/// A content that is written.
#[pyclass(frozen)]
struct NativeWriter {
    inner: ContentWriter,
}

#[pymethods]
impl NativeWriter {
    fn write(&self, bytes: &[u8]) -> Operation {
        let writing = self.inner.write(bytes.to_vec());
        Operation::new(async move { writing.await.map(|()| Output::None) })
    }

    fn finish(&self) -> Operation {
        let finishing = self.inner.finish();
        Operation::new(async move { Ok(Output::Text(finishing.await?.to_string())) })
    }

    fn abort(&self) {
        self.inner.abort();
    }
}

/// Reads a path as the text of JSON options need it.
#[pyfunction]
fn path_text(path: PathBuf) -> PyResult<String> {
    let text = path.into_os_string().into_string();
    let wrong = |_| raised(Error::invalid("the path is not valid Unicode"));
    text.map_err(wrong)
}

/// The module `vfs_sync._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("NativeError", module.py().get_type::<NativeError>())?;
    module.add_class::<Operation>()?;
    module.add_class::<NativeClient>()?;
    module.add_class::<NativeSubscription>()?;
    module.add_class::<NativeReader>()?;
    module.add_class::<NativeWriter>()?;
    module.add_class::<PyCall>()?;
    module.add_function(wrap_pyfunction!(open, module)?)?;
    module.add_function(wrap_pyfunction!(path_text, module)?)
}
