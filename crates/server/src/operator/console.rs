//! The operator's console: a page of the operator's listener, its sessions, and the calls that it
//! makes beside those of `vfs-sync admin`.
//!
//! The page is three kinds of files that are in the program: HTML, a style sheet, and modules. Each
//! call of the page is one of the API for operators; its cookie stands for the token that was pasted at
//! the sign-in ([`guard`], [`session`]). No process keeps anything of a session.

pub(crate) mod examination;
mod files;
mod guard;
pub(crate) mod lookup;
pub(crate) mod overview;
pub(crate) mod problems;
pub(crate) mod search;
pub(crate) mod session;
pub(crate) mod stages;
mod vitals;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;

use crate::state::App;

pub(crate) use guard::guard;
pub(crate) use session::SESSIONS;

/// Builds the routes of the page's files, which need no token.
pub(crate) fn pages(app: &App) -> Router<App> {
    Router::new()
        .route("/console", get(files::to_the_page))
        .route("/console/", get(files::page))
        .route("/console/{*file}", get(files::file))
        .layer(from_fn_with_state(app.clone(), guard::guard_files))
}
