//! `/log-level`: from which level on is logged, and a change of it.
//!
//! | request | answer |
//! |---|---|
//! | `GET` | `{"level":"info"}` |
//! | `POST`, the level as its body or as `?level=debug` | the same, with the new one |

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, RawQuery},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::http::problem;
use crate::telemetry::logging;

/// A level's name is short.
const MAX_BODY_BYTES: usize = 64;

/// To be merged into a listener that only the operator reaches.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/log-level", get(show).post(change))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

async fn show() -> Response {
    match logging::level() {
        Some(level) => {
            let level = level.as_str().to_ascii_lowercase();
            Json(serde_json::json!({ "level": level })).into_response()
        }
        None => not_started(),
    }
}

async fn change(RawQuery(query): RawQuery, body: String) -> Response {
    let asked = query
        .as_deref()
        .and_then(|query| query.strip_prefix("level="));
    let level = match logging::parse_level(asked.unwrap_or(body.trim())) {
        Ok(level) => level,
        Err(names) => return problem(StatusCode::BAD_REQUEST, &format!("no level: {names}")),
    };
    let Ok(()) = logging::set_level(level) else {
        return not_started();
    };
    tracing::warn!(%level, "the log level was changed");
    show().await
}

fn not_started() -> Response {
    let reason = logging::NotStarted.to_string();
    problem(StatusCode::SERVICE_UNAVAILABLE, &reason)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: &str, path: &str, body: &'static str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from(body)).unwrap();
        let response = routes().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Logging is the process's own: one test says all.
    #[tokio::test]
    async fn the_level_is_told_and_changed() {
        let before = ask("GET", "/log-level", "").await;
        assert_eq!(before.0, 503, "{before:?}");
        let _logging = logging::start(tracing::Level::ERROR, logging::Format::Text);
        let level = |name: &str| (200, format!(r#"{{"level":"{name}"}}"#));
        assert_eq!(ask("GET", "/log-level", "").await, level("error"));
        assert!(!tracing::enabled!(tracing::Level::WARN));
        assert_eq!(ask("POST", "/log-level", "Warning\n").await, level("warn"));
        assert!(tracing::enabled!(tracing::Level::WARN));
        assert!(!tracing::enabled!(tracing::Level::INFO));
        let by_query = ask("POST", "/log-level?level=error", "").await;
        assert_eq!(by_query, level("error"));
        assert!(!tracing::enabled!(tracing::Level::WARN));
        for (path, body, status) in [
            ("/log-level", "loud", 400),
            ("/log-level?level=loud", "info", 400),
            (
                "/log-level",
                "a level with a name that is far too long for any level that there is",
                413,
            ),
        ] {
            assert_eq!(ask("POST", path, body).await.0, status, "{path} {body}");
        }
        assert_eq!(ask("GET", "/log-level", "").await, level("error"));
        assert_eq!(ask("PUT", "/log-level", "info").await.0, 405);
    }
}
