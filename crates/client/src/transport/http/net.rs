//! Requests over the network: reqwest's, or, in a browser, those of the page's `fetch`.

#[cfg(target_family = "wasm")]
mod fetch;
#[cfg(target_family = "wasm")]
pub(super) use fetch::{Body, Client, Error, RequestBuilder, Response, Url, client, compressed};
#[cfg(target_family = "wasm")]
pub use fetch::{Fetch, FetchRequest, FetchResponse, PageFetch};

#[cfg(not(target_family = "wasm"))]
mod machine {
    use http::HeaderMap;
    pub(in super::super) use reqwest::{Body, Client, Error, RequestBuilder, Response, Url};

    use super::super::HttpConfig;

    /// Creates a client that sends `headers` with each request.
    pub(in super::super) fn client(
        config: &HttpConfig,
        headers: HeaderMap,
    ) -> Result<Client, String> {
        Client::builder()
            .default_headers(headers)
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.idle_timeout)
            .tcp_nodelay(true)
            // A token goes to nobody but the server that it is for.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("vfs-sync/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())
    }

    /// Compresses a body, which fails only for want of memory; then the body goes as it is.
    pub(in super::super) fn compressed(body: &[u8]) -> Option<Vec<u8>> {
        zstd::encode_all(body, 1).ok()
    }
}
#[cfg(not(target_family = "wasm"))]
pub(super) use machine::{Body, Client, Error, RequestBuilder, Response, Url, client, compressed};
