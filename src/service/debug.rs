//! For people who look into a running process, on a listener of its own that
//! is bound to this machine unless told otherwise.
//!
//! | path | answer |
//! |---|---|
//! | `/rlconfig` | the rules in force, a line each, as the reference shows them |
//! | `/stats` | the reference's statistics, a line each |
//! | `/debug/pprof/profile` | where processor time goes, in pprof's format, with `--debug-profile`; `?seconds=N`, 10 by default, at most 60 |
//! | `/log-level` | from which level on is logged; `POST` changes it ([`log_level`]) |
//!
//! Any other path lists these. Another listener shows the reference's
//! statistics as Prometheus reads them: [`prometheus`].

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse, Response},
    routing::any,
};

use serde::Deserialize;

use super::{http, limits::Limits, log_level, page::Page};
use crate::telemetry::profile;

/// What there is to see.
pub(crate) struct Debug {
    /// The rules in force.
    pub(crate) rules: Page,
    /// The reference's statistics.
    pub(crate) stats: Page,
    /// Whether processor time may be looked at: that costs some.
    pub(crate) profile: bool,
}

const PROFILE_SECONDS: u64 = 10;
const MOST_PROFILE_SECONDS: u64 = 60;

const TEXT: &str = "text/plain; charset=utf-8";

const PATHS: &str = "\
/debug/pprof/profile: CPU profiling endpoint
/log-level: from which level on is logged; POST trace, debug, info, warn or error to change it
/rlconfig: print out the currently loaded configuration for debugging
/stats: print out stats
";

/// What the debug listener answers.
pub(crate) fn router(debug: Debug, limits: &Limits) -> Router {
    let call_timeout = limits.call_timeout;
    Router::new()
        .route("/rlconfig", any(rules))
        .route("/stats", any(stats))
        .layer(middleware::from_fn(move |request, next| {
            http::with_deadline(call_timeout, request, next)
        }))
        .route("/debug/pprof/profile", any(profile))
        .fallback(|| async { text(Bytes::from_static(PATHS.as_bytes())) })
        .with_state(Arc::new(debug))
        .merge(log_level::routes())
}

/// What a listener for Prometheus answers, at `path`.
pub(crate) fn prometheus(page: Page, path: &str, limits: &Limits) -> Router {
    let call_timeout = limits.call_timeout;
    Router::new()
        .route(path, any(metrics))
        .layer(middleware::from_fn(move |request, next| {
            http::with_deadline(call_timeout, request, next)
        }))
        .with_state(Arc::new(page))
}

async fn metrics(State(page): State<Arc<Page>>) -> Response {
    http::exposition(&page).await
}

#[derive(Deserialize)]
struct Asked {
    seconds: Option<u64>,
}

async fn profile(State(debug): State<Arc<Debug>>, Query(asked): Query<Asked>) -> Response {
    if !debug.profile {
        let reason = "profiles are off: start with --debug-profile\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    let seconds = asked.seconds.unwrap_or(PROFILE_SECONDS);
    let time = Duration::from_secs(seconds.clamp(1, MOST_PROFILE_SECONDS));
    match profile::take(time).await {
        Ok(profile) => ([(CONTENT_TYPE, "application/octet-stream")], profile).into_response(),
        Err(error) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
    }
}

async fn rules(State(debug): State<Arc<Debug>>) -> Response {
    shown(&debug.rules).await
}

async fn stats(State(debug): State<Arc<Debug>>) -> Response {
    shown(&debug.stats).await
}

async fn shown(page: &Page) -> Response {
    match page.get().await {
        Some(shown) => text(shown),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn text(text: Bytes) -> Response {
    ([(CONTENT_TYPE, TEXT)], text).into_response()
}
