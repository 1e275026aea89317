//! The native part of `@vfs-sync/testing`: a server in the process of the test.

use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::{Env, PromiseRaw};
use napi_derive::napi;
use tokio::sync::Mutex;
use vfs_sync_testkit::{MemoryStore, TestClock, TestServer};

/// A server on a free port of this machine, with its data in memory.
#[napi]
pub struct NativeServer {
    server: Arc<Mutex<TestServer>>,
    store: MemoryStore,
    backup: Arc<Mutex<Option<vfs_sync_testkit::MemorySnapshot>>>,
    url: String,
}

/// Starts a server.
#[napi(catch_unwind)]
pub fn start_server(env: &Env) -> napi::Result<PromiseRaw<'_, NativeServer>> {
    env.spawn_future(async {
        let store = MemoryStore::new(TestClock::running().now());
        let server = TestServer::builder().store(Arc::new(store.clone())).start().await;
        let url = server.url();
        let (server, backup) = (Arc::new(Mutex::new(server)), Arc::default());
        Ok(NativeServer { server, store, backup, url })
    })
}

#[napi]
impl NativeServer {
    /// Returns the server's address, the same after a restart.
    #[napi(getter, catch_unwind)]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Makes a token of a user.
    #[napi(catch_unwind)]
    pub fn token<'env>(
        &self,
        env: &'env Env,
        user: String,
        scope: Option<String>,
    ) -> napi::Result<PromiseRaw<'env, String>> {
        let server = Arc::clone(&self.server);
        if user.is_empty() || user.len() > 128 || user.contains(':') || user.trim() != user {
            return Err(napi::Error::from_reason(format!("{user:?} is no user id")));
        }
        env.spawn_future(async move {
            let server = server.lock().await;
            Ok(match scope {
                Some(scope) => server.token_with_scope(&user, &scope),
                None => server.token(&user),
            })
        })
    }

    /// Stops the server; its port refuses connections.
    #[napi(catch_unwind)]
    pub fn stop<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let server = Arc::clone(&self.server);
        env.spawn_future(async move {
            server.lock().await.stop().await;
            Ok(())
        })
    }

    /// Stops the server if it runs, and starts it with its data.
    #[napi(catch_unwind)]
    pub fn restart<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let server = Arc::clone(&self.server);
        env.spawn_future(async move {
            server.lock().await.restart().await;
            Ok(())
        })
    }

    /// Moves the server's clock, by at most a century.
    #[napi(catch_unwind)]
    pub fn advance_clock<'env>(
        &self,
        env: &'env Env,
        millis: i64,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        const CENTURY: i64 = 100 * 365 * 24 * 3_600_000;
        let server = Arc::clone(&self.server);
        let millis = millis.clamp(-CENTURY, CENTURY);
        env.spawn_future(async move {
            let server = server.lock().await;
            let by = Duration::from_millis(millis.unsigned_abs());
            if millis < 0 {
                server.clock().step_back(by);
            } else {
                server.clock().advance(by);
            }
            Ok(())
        })
    }

    /// Keeps a copy of the database, for `restore`.
    #[napi(catch_unwind)]
    pub fn back_up<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let (store, backup) = (self.store.clone(), Arc::clone(&self.backup));
        env.spawn_future(async move {
            *backup.lock().await = Some(store.snapshot());
            Ok(())
        })
    }

    /// Puts the last copy of the database back, as after a disaster.
    #[napi(catch_unwind)]
    pub fn restore<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let (store, backup) = (self.store.clone(), Arc::clone(&self.backup));
        env.spawn_future(async move {
            match &*backup.lock().await {
                Some(snapshot) => store.restore(snapshot),
                None => return Err(napi::Error::from_reason("there is no backup: make one")),
            }
            Ok(())
        })
    }
}
