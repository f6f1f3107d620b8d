//! The HTTP side.
//!
//! | path | answer |
//! |---|---|
//! | `/healthcheck` | 200 `OK`; 503 while going down (500 in compat mode) |
//! | `/json` | a decision, request and answer in protobuf's JSON form |
//! | `/rules` | the rules in force, with file and line |
//!
//! Any other path is 404. Any method is taken, as by the reference.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tower::ServiceExt;

use super::{
    grpc::{Api, ApiError, JsonError},
    limits::Limits,
    listener::{Listener, Seat, Table, pause_after},
    request_body, turns_true,
};
use crate::{
    engine::rules::RuleSet, limiter::LimitError,
    proto::envoy::service::ratelimit::v3::rate_limit_response::Code,
};

/// `/json` requests decided at once; each may cost a few megabytes.
const MAX_AT_ONCE: usize = 8;
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What the handlers need.
pub(crate) struct Http {
    pub(crate) api: Arc<Api>,
    pub(crate) limits: Limits,
    /// Turns true when the process goes down.
    pub(crate) draining: watch::Receiver<bool>,
    /// How rules are shown.
    pub(crate) show_rules: fn(&RuleSet) -> Value,
}

#[derive(Clone)]
struct Handlers {
    http: Arc<Http>,
    /// Bytes of the bodies that are there or on their way.
    held: Arc<AtomicUsize>,
    decisions: Arc<Semaphore>,
    dumps: Arc<Semaphore>,
}

/// Serves until `closing` turns true and running requests are done.
pub(crate) async fn serve(listener: Listener, http: Arc<Http>, mut closing: watch::Receiver<bool>) {
    let Listener::Tcp(listener) = listener else {
        return tracing::error!("HTTP is not served on a Unix socket");
    };
    let table = Table::new(http.limits.max_connections);
    let router = router(Arc::clone(&http));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = turns_true(&mut closing) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let closing = closing.clone();
                let limits = http.limits;
                connections.spawn(connection(
                    stream,
                    router.clone(),
                    limits,
                    table.seat().await,
                    closing,
                ));
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<T>(
    io: T,
    router: Router,
    limits: Limits,
    seat: Seat,
    mut closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = Arc::new(seat);
    let answering = Arc::clone(&seat);
    let counted = ServiceExt::<hyper::Request<Incoming>>::map_response(router, move |response| {
        answering.note_calls(Instant::now(), 1);
        response
    });
    let service = TowerToHyperService::new(counted);
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // Counts while a connection is idle, too.
            .header_read_timeout(limits.handshake_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut leaving = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "HTTP connection failed");
                }
                return;
            }
            () = seat.taken() => return,
            () = turns_true(&mut closing), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn router(http: Arc<Http>) -> Router {
    let call_timeout = http.limits.call_timeout;
    let handlers = Handlers {
        http,
        held: Arc::default(),
        decisions: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        dumps: Arc::new(Semaphore::new(1)),
    };
    Router::new()
        .route("/healthcheck", any(health))
        .route("/json", any(json))
        .route("/rules", any(rules))
        .layer(middleware::from_fn(move |request, next| {
            with_deadline(call_timeout, request, next)
        }))
        .with_state(handlers)
}

async fn with_deadline(deadline: Duration, request: Request, next: Next) -> Response {
    match timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

async fn health(State(handlers): State<Handlers>) -> Response {
    if !*handlers.http.draining.borrow() {
        return "OK".into_response();
    }
    if handlers.http.api.compat {
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "going down").into_response()
    }
}

async fn json(State(handlers): State<Handlers>, request: Request) -> Response {
    let api = &handlers.http.api;
    let body = match request_body::read(request.into_body(), &handlers.held).await {
        Ok(body) => body,
        Err(error) => return unreadable(api, error.status(), &error.to_string()),
    };
    // Only now: a body that comes slowly must not keep a place from others.
    let Ok(_permit) = handlers.decisions.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match api.answer_json(body.bytes()).await {
        Ok((answer, code)) => (http_code(code), Json(answer)).into_response(),
        Err(JsonError::Unreadable(error)) => {
            unreadable(api, StatusCode::BAD_REQUEST, &error.to_string())
        }
        Err(JsonError::Api(error)) => failed(api, &error),
    }
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::OverLimit => StatusCode::TOO_MANY_REQUESTS,
        Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn unreadable(api: &Api, status: StatusCode, reason: &str) -> Response {
    if api.compat {
        bad_request()
    } else {
        problem(status, reason)
    }
}

fn failed(api: &Api, error: &ApiError) -> Response {
    let status = match error {
        _ if api.compat => return bad_request(),
        ApiError::Limit(LimitError::NoRules | LimitError::Store(_)) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ApiError::Request(_) | ApiError::Limit(_) => StatusCode::BAD_REQUEST,
    };
    problem(status, &error.to_string())
}

/// All that the reference says of any error.
fn bad_request() -> Response {
    (StatusCode::BAD_REQUEST, "Bad Request\n").into_response()
}

fn problem(status: StatusCode, reason: &str) -> Response {
    (status, Json(serde_json::json!({ "error": reason }))).into_response()
}

/// All rules may be much: one dump at a time, away from the event loop.
async fn rules(State(handlers): State<Handlers>) -> Response {
    let Some(rules) = handlers.http.api.limiter.rules() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &LimitError::NoRules.to_string(),
        );
    };
    let Ok(_permit) = handlers.dumps.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let show = handlers.http.show_rules;
    let shown = tokio::task::spawn_blocking(move || show(&rules).to_string()).await;
    match shown {
        Ok(text) => ([("content-type", "application/json")], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
