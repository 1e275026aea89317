//! Calls from the client to Python: for a token, and to a transport. Each runs on a thread for
//! blocking work.

use std::sync::Arc;

use async_trait::async_trait;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use vfs_sync_ffi::{ForeignAnswer, ForeignCall, ForeignTransport, TokenProvider};

use crate::operation::wait;

const ENDED: &str = "the interpreter has ended";

/// Calls Python on a thread for blocking work.
async fn python<T: Send + 'static>(
    call: impl FnOnce(Python<'_>) -> PyResult<T> + Send + 'static,
) -> Result<T, String> {
    let called = tokio::task::spawn_blocking(move || {
        Python::try_attach(|py| call(py).map_err(|error| error.value(py).to_string()))
    });
    match called.await {
        Ok(Some(done)) => done,
        Ok(None) => Err(ENDED.into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The tokens of an application in Python.
pub(crate) struct Tokens(Arc<Py<PyAny>>);

impl Tokens {
    pub(crate) fn new(callback: Py<PyAny>) -> Self {
        Self(Arc::new(callback))
    }
}

#[async_trait]
impl TokenProvider for Tokens {
    async fn token(&self, refresh: bool) -> Result<String, String> {
        let callback = Arc::clone(&self.0);
        python(move |py| callback.call1(py, (refresh,))?.extract(py)).await
    }
}

/// A call to a transport in Python.
#[pyclass(frozen)]
pub(crate) struct PyCall {
    call: ForeignCall,
}

#[pymethods]
impl PyCall {
    #[getter]
    fn kind(&self) -> String {
        self.call.kind()
    }

    #[getter]
    fn body(&self) -> String {
        self.call.body()
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.call.data().map(|bytes| PyBytes::new(py, &bytes))
    }

    fn forward<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(u16, String, Option<Bound<'py, PyBytes>>)> {
        let ForeignAnswer { status, body, data, .. } = wait(py, self.call.forward())?;
        Ok((status, body, data.map(|bytes| PyBytes::new(py, &bytes))))
    }
}

/// A transport in Python.
pub(crate) struct Calls(Arc<Py<PyAny>>);

impl Calls {
    pub(crate) fn new(callback: Py<PyAny>) -> Self {
        Self(Arc::new(callback))
    }
}

type Answer = (u16, String, Option<PyBackedBytes>, Option<f64>);

#[async_trait]
impl ForeignTransport for Calls {
    async fn call(&self, call: ForeignCall) -> Result<ForeignAnswer, String> {
        let callback = Arc::clone(&self.0);
        let (status, body, data, retry_after): Answer =
            python(move |py| callback.call1(py, (PyCall { call },))?.extract(py)).await?;
        Ok(ForeignAnswer { status, body, data: data.map(|data| data.to_vec().into()), retry_after })
    }
}
