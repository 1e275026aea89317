//! A server that answers requests without a socket.

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::background::maintenance;
use crate::http::answer;
use crate::router::router;
use crate::state::App;

/// A [`crate::Server`] without its listeners: an embedding application, or a test that controls
/// time and network, passes requests to it. Clones are cheap and share one server.
///
/// Dropping a request before its answer has the effect of a cut connection. All work runs on the
/// runtime that polls the request, unless a store has threads of its own.
#[derive(Clone)]
pub struct Service {
    app: App,
    router: Router,
}

impl Service {
    pub(crate) fn new(app: App) -> Self {
        let router = router(&app);
        Self { app, router }
    }

    /// Answers a request as over the network, but without the limits on connections. The target is
    /// a path with its query, or a whole URL of which only path and query count.
    pub async fn call<B: Into<Body>>(&self, request: Request<B>) -> Response<Body> {
        let version = request.version();
        let answer = self.router.clone().oneshot(request.map(Into::into)).await;
        answer::hold(answer.unwrap_or_else(|never| match never {}), version, None)
    }

    /// Removes expired rows, as a server does by itself at every
    /// [`crate::ServerConfig::prune_interval`]. Failures are logged, and retried by the next call.
    pub async fn prune(&self) {
        maintenance::prune(&self.app, &CancellationToken::new()).await;
    }

    /// Notes which devices called, ends expired stages and removes unneeded bytes from the object
    /// store, as a server does by itself at every [`crate::ServerConfig::sweep_interval`]. Failures are logged, and retried by
    /// the next call.
    pub async fn sweep(&self) {
        if let Err(error) = self.app.sightings.write(&*self.app.store).await {
            tracing::debug!(%error, "the calls of devices cannot be written");
        }
        maintenance::sweep(&self.app, &CancellationToken::new()).await;
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}
