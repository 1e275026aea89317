//! The vfs-sync server: routes, authentication, metrics.
//!
//! A [`Server`] receives its stores, its keys, a listener and a future that ends it. It opens
//! nothing by itself, and keeps nothing in memory that another instance would need.
//!
//! ```no_run
//! use std::sync::Arc;
//! use vfs_sync_server::{Server, auth::{AuthConfig, Authenticator}};
//!
//! # async fn run(
//! #     store: Arc<dyn vfs_sync_store::MetadataStore>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let blobs = Arc::new(vfs_sync_blobs::ObjectBlobs::directory("data/blobs")?);
//! let config = AuthConfig::from_lookup(|name| std::env::var(name).ok())?;
//! let server = Server::builder(store, blobs, Authenticator::load(&config).await?).build();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8787").await?;
//! server.serve(listener, None, async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await;
//! # Ok(())
//! # }
//! ```

mod admission;
pub mod auth;
mod background;
mod blobs;
mod config;
mod environment;
mod error;
mod http;
mod live;
mod operator;
mod router;
mod routes;
mod serve;
mod state;

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vfs_sync_blobs::BlobStore;
use vfs_sync_store::MetadataStore;

use auth::Authenticator;
use background::{deletion, devices, maintenance, sampling};
use operator::admin;
use state::App;

pub use crate::http::address::AddressRange;
pub use axum::body::Body;
pub use config::{Rate, Rates, ServerConfig};
pub use environment::{Environment, SystemEnvironment};
pub use operator::traces::TRACES;
pub use router::openapi::OPENAPI;
pub use serve::service::Service;
pub use serve::tls::{Certificate, CertificateError};
pub use vfs_sync_store::MetadataQuota;

/// A server that is ready to serve.
pub struct Server {
    app: App,
    certificate: Option<Certificate>,
}

/// A builder of a [`Server`].
pub struct ServerBuilder {
    store: Arc<dyn MetadataStore>,
    blobs: Arc<dyn BlobStore>,
    auth: Authenticator,
    environment: Arc<dyn Environment>,
    config: ServerConfig,
    certificate: Option<Certificate>,
}

impl ServerBuilder {
    /// Encrypts the connections of clients; the operator's listener stays unencrypted.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Takes the time and new ids from `environment` instead of the machine.
    #[must_use]
    pub fn environment(mut self, environment: Arc<dyn Environment>) -> Self {
        self.environment = environment;
        self
    }

    /// Replaces the default limits, time-outs and retention.
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Builds the server with the given parts.
    #[must_use]
    pub fn build(self) -> Server {
        let app = App::new(self.store, self.blobs, self.auth, self.environment, self.config);
        Server { app, certificate: self.certificate }
    }
}

impl Server {
    /// Starts building a server over these stores that authenticates by `auth`.
    #[must_use]
    pub fn builder(
        store: Arc<dyn MetadataStore>,
        blobs: Arc<dyn BlobStore>,
        auth: Authenticator,
    ) -> ServerBuilder {
        let (environment, config) = (Arc::new(SystemEnvironment), ServerConfig::default());
        ServerBuilder { store, blobs, auth, environment, config, certificate: None }
    }

    /// Converts the server to a [`Service`], which answers requests without a socket.
    #[must_use]
    pub fn into_service(self) -> Service {
        Service::new(self.app)
    }

    /// Serves until `shutdown` ends, then lets the requests in progress finish, for at most
    /// [`ServerConfig::drain_timeout`].
    ///
    /// `admin` is the operator's listener: `/metrics`, `/healthz` and `/readyz` without
    /// authentication, so it must not be reachable from outside, and the API for operators.
    pub async fn serve(
        self,
        listener: TcpListener,
        admin: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) {
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let pruning = tokio::spawn(maintenance::prune_regularly(self.app.clone(), stop.clone()));
        let sweeping = tokio::spawn(maintenance::sweep_regularly(self.app.clone(), stop.clone()));
        let deleting = tokio::spawn(deletion::delete_regularly(self.app.clone(), stop.clone()));
        let hinting = tokio::spawn(live::keep_up(self.app.clone(), stop.clone()));
        let admitting = tokio::spawn(admission::keep_up(self.app.clone(), stop.clone()));
        let noting = tokio::spawn(devices::keep_up(self.app.clone(), stop.clone()));
        let bounds = serve::Bounds::of(&self.app.config);
        let operator = admin.map(|listener| {
            let router = admin::router(&self.app);
            tokio::spawn(admin::keep_up(stop.clone()));
            tokio::spawn(sampling::keep_up(self.app.clone(), stop.clone()));
            tokio::spawn(serve::serve(listener, None, router, bounds, stop.clone()))
        });
        if let Some(certificate) = &self.certificate {
            tokio::spawn(certificate.clone().keep_up(stop.clone()));
        }
        let router = router::router(&self.app);
        let public = serve::serve(listener, self.certificate, router, bounds, stop.clone());
        let mut public = std::pin::pin!(public);
        tokio::select! {
            () = shutdown => {
                self.app.live.close();
                stop.cancel();
                public.await;
            }
            () = &mut public => stop.cancel(),
        }
        if let Some(operator) = operator {
            let _ = operator.await;
        }
        let _ = pruning.await;
        let _ = deleting.await;
        let _ = sweeping.await;
        let _ = hinting.await;
        let _ = admitting.await;
        let _ = noting.await;
    }
}
