//! The HTTP side.
//!
//! | path | answer |
//! |---|---|
//! | `/healthcheck` | 200 `OK`; 503 while going down and until the store has been reached (500 in compat mode); `?detail` tells of the rules, too (not in compat mode) |
//! | `/livez` | 200 `OK` as long as there is an answer at all, whatever the store does |
//! | `/json` | a decision, request and answer in protobuf's JSON form |
//! | `/rules` | the rules in force, with file and line, and what became of tries to load others |
//! | `/metrics` | all metrics, as Prometheus reads them |
//! | `/store` | how the store is: figures, and what is wrong with it |
//!
//! Any other path is 404. Any method is taken, as by the reference.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use http_body_util::BodyExt as _;
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    grpc::{Api, ApiError, JsonError},
    health::Readiness,
    limits::Limits,
    listener::{Listener, SEND_BUFFER, Seat, Table},
    page::Page,
    patient_io::PatientIo,
    spans,
    tls::Tls,
    turns_true,
};
use crate::{
    engine::rules::RuleSet,
    limiter::LimitError,
    proto::envoy::service::ratelimit::v3::rate_limit_response::Code,
    rulebook::Rulebook,
    telemetry::metrics::families,
    trace::{Span, Traced},
};

/// Bytes of a `/json` body.
const MAX_BODY_BYTES: usize = 1 << 20;
/// `/json` requests decided at once; each may cost a few megabytes.
const MAX_AT_ONCE: usize = 8;
/// Bytes of all `/json` bodies that are held: a client that is slow holds
/// what it has sent, not a place.
const MAX_HELD_BYTES: usize = 16 << 20;
/// From a `/json` request's head to the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How often a connection is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Bytes of a request's name that are sent back.
const MAX_REQUEST_ID: usize = 128;

/// What the handlers need.
pub(crate) struct Http {
    pub(crate) api: Arc<Api>,
    /// What has to be there before calls are welcome, rules among it.
    pub(crate) readiness: Readiness,
    pub(crate) limits: Limits,
    /// Turns true when the process goes down.
    pub(crate) draining: watch::Receiver<bool>,
    /// How rules are shown.
    pub(crate) show_rules: fn(&RuleSet) -> Value,
    /// All metrics.
    pub(crate) metrics: Page,
}

/// Rules, and what they look like. It does not keep them.
type Dump = (Weak<RuleSet>, Bytes);

#[derive(Clone)]
struct Handlers {
    http: Arc<Http>,
    decisions: Arc<Semaphore>,
    held_bytes: Arc<Semaphore>,
    dumps: Arc<Semaphore>,
    /// The last one, and of which rules; clients that do not read it share it.
    dump: Arc<Mutex<Option<Dump>>>,
}

/// Serves `router` until `closing` turns true and running requests are done.
pub(crate) async fn serve(
    listener: Listener,
    tls: Option<Arc<Tls>>,
    table: Arc<Table>,
    router: Router,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
    let Listener::Tcp(listener) = listener else {
        return tracing::error!("HTTP is not served on a Unix socket");
    };
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
                // Of an answer that nobody reads the system holds as much.
                if let Err(error) = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER) {
                    tracing::debug!(%error, "a connection ended early");
                    continue;
                }
                let closing = closing.clone();
                connections.spawn(begin(
                    stream,
                    tls.clone(),
                    router.clone(),
                    limits,
                    table.seat().await,
                    closing,
                ));
            }
            Err(error) => {
                if !table.recover_from(&error, &closing).await {
                    break;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn begin<T>(
    io: T,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: Limits,
    seat: Seat,
    closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else {
        return connection(io, router, limits, seat, closing).await;
    };
    let deadline = Instant::now() + limits.handshake_timeout;
    if let Ok(io) = tls.accept(io, &seat, deadline).await {
        connection(io, router, limits, seat, closing).await;
    }
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
    let io = PatientIo::new(io);
    let unread = io.unread();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        seat.note_calls(Instant::now(), 1);
        router.call(request)
    });
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // Counts while a connection is idle, too.
            .header_read_timeout(limits.handshake_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            // What lies unread is held: metrics are large.
            _ = tick.tick() => {
                if unread.since().is_some_and(|since| since.elapsed() >= limits.call_timeout) {
                    return tracing::debug!("an HTTP client does not read its answer");
                }
            }
            () = turns_true(&mut closing), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What the HTTP side answers.
pub(crate) fn router(http: Arc<Http>) -> Router {
    let call_timeout = http.limits.call_timeout;
    let compat = http.api.compat;
    let handlers = Handlers {
        http,
        decisions: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        held_bytes: Arc::new(Semaphore::new(MAX_HELD_BYTES)),
        dumps: Arc::new(Semaphore::new(1)),
        dump: Arc::default(),
    };
    let router = Router::new()
        .route("/healthcheck", any(health))
        .route("/livez", any(alive))
        .route("/json", any(json))
        .route("/rules", any(rules))
        .route("/store", any(store))
        .route("/metrics", any(metrics))
        .layer(middleware::from_fn(move |request, next| {
            with_deadline(call_timeout, request, next)
        }))
        .with_state(handlers);
    if compat {
        return router;
    }
    router
        .fallback(nowhere)
        .layer(middleware::from_fn(name_request))
}

/// A request that takes longer than `deadline` is told so.
pub(crate) async fn with_deadline(deadline: Duration, request: Request, next: Next) -> Response {
    match timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "it took too long"),
    }
}

async fn health(State(handlers): State<Handlers>, uri: Uri) -> Response {
    let (http, compat) = (&handlers.http, handlers.http.api.compat);
    let why = if *http.draining.borrow() {
        Some("going down")
    } else {
        http.readiness.missing()
    };
    let status = match why {
        None => StatusCode::OK,
        Some(_) if compat => StatusCode::INTERNAL_SERVER_ERROR,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    if uri.query() == Some("detail") && !compat {
        let loads = loads(&http.readiness.rulebook);
        let detail = json!({"healthy": why.is_none(), "why": why, "loads": loads});
        return (status, Json(detail)).into_response();
    }
    match why {
        None => "OK".into_response(),
        Some(_) if compat => status.into_response(),
        Some(why) => (status, why).into_response(),
    }
}

/// What became of tries to load rules.
fn loads(rulebook: &Rulebook) -> Value {
    let loads = rulebook.loads();
    json!({
        "successes": loads.successes,
        "failures": loads.failures,
        "trouble": loads.trouble.as_deref(),
        "loaded_at": loads.loaded_at.map(|at| at.to_string()),
        "domains": loads.domains,
        "rules": loads.rules,
    })
}

/// For whoever would start this process anew: that helps a process that
/// hangs, and none whose store is away.
async fn alive() -> &'static str {
    "OK"
}

/// How the store is: figures, and what is wrong with it.
async fn store(State(handlers): State<Handlers>) -> Response {
    let limiter = &handlers.http.api.limiter;
    let mut shown = limiter.store().to_json();
    shown["decided_without"] = json!(limiter.ladder().stats());
    Json(shown).into_response()
}

async fn metrics(State(handlers): State<Handlers>) -> Response {
    exposition(&handlers.http.metrics).await
}

/// Metrics as an answer.
pub(crate) async fn exposition(page: &Page) -> Response {
    match page.get().await {
        Some(text) => ([("content-type", families::CONTENT_TYPE)], text).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn json(State(handlers): State<Handlers>, request: Request) -> Response {
    let tracer = handlers.http.api.tracer.as_ref();
    let mut span = tracer.and_then(|tracer| spans::json(tracer, &request));
    let response = answer_json(&handlers, request, span.as_ref().map(Span::traced)).await;
    if let Some(span) = &mut span {
        spans::json_ended(span, response.status());
    }
    response
}

async fn answer_json(handlers: &Handlers, request: Request, trace: Option<&Traced>) -> Response {
    let api = &handlers.http.api;
    let (body, _held) = match timeout(BODY_TIMEOUT, read(request, &handlers.held_bytes)).await {
        Ok(Ok(body)) => body,
        Ok(Err((status, reason))) => return unreadable(api, status, &reason),
        Err(_) => return unreadable(api, StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
    };
    let Ok(_permit) = handlers.decisions.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match api.answer_json(&body, trace).await {
        Ok((answer, code)) => (http_code(code), Json(answer)).into_response(),
        Err(JsonError::Unreadable(error)) => {
            unreadable(api, StatusCode::BAD_REQUEST, &error.to_string())
        }
        Err(JsonError::Api(error)) => failed(api, &error),
    }
}

/// The whole body, and the permits for its bytes.
async fn read(
    request: Request,
    held_bytes: &Semaphore,
) -> Result<(Vec<u8>, SemaphorePermit<'_>), (StatusCode, String)> {
    let busy = || {
        let reason = "too many bodies are being read".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, reason)
    };
    let mut held = held_bytes.try_acquire_many(0).map_err(|_| busy())?;
    let mut read = vec![];
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if read.len() + data.len() > MAX_BODY_BYTES {
            let reason = format!("a body of more than {MAX_BODY_BYTES} bytes is too large");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        held.merge(held_bytes.try_acquire_many(bytes).map_err(|_| busy())?);
        read.extend_from_slice(&data);
    }
    Ok((read, held))
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
        ApiError::Limit(LimitError::TooLate) => StatusCode::GATEWAY_TIMEOUT,
        ApiError::Request(_) | ApiError::Limit(_) => StatusCode::BAD_REQUEST,
    };
    problem(status, &error.to_string())
}

/// All that the reference says of any error.
fn bad_request() -> Response {
    (StatusCode::BAD_REQUEST, "Bad Request\n").into_response()
}

pub(super) fn problem(status: StatusCode, reason: &str) -> Response {
    (status, Json(error_json(status, reason))).into_response()
}

/// Errors all look alike: a code that is the status' name, and a message.
fn error_json(status: StatusCode, reason: &str) -> Value {
    let name = status.canonical_reason().unwrap_or("error");
    let code = name.to_ascii_lowercase().replace([' ', '-'], "_");
    json!({"error": {"code": code, "message": reason}})
}

async fn nowhere() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing at this path")
}

/// Every answer names its request: as the client does, or by a number of ours.
async fn name_request(request: Request, next: Next) -> Response {
    const NAME: &str = "x-request-id";
    let given = request.headers().get(NAME);
    let given = given.filter(|id| id.len() <= MAX_REQUEST_ID && id.to_str().is_ok());
    let id = given.cloned().unwrap_or_else(|| {
        let number = format!("{:032x}", rand::random::<u128>());
        HeaderValue::try_from(number).unwrap_or_else(|_| HeaderValue::from_static("0"))
    });
    let mut response = next.run(request).await;
    response.headers_mut().insert(NAME, id);
    response
}

/// All rules may be much: one dump at a time, away from the event loop.
async fn rules(State(handlers): State<Handlers>) -> Response {
    let loads = loads(&handlers.http.readiness.rulebook);
    let Some(rules) = handlers.http.api.limiter.rules() else {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut error = error_json(status, &LimitError::NoRules.to_string());
        error["loads"] = loads;
        return (status, Json(error)).into_response();
    };
    let Ok(_permit) = handlers.dumps.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let kept = handlers.kept_dump(&rules);
    let show = handlers.http.show_rules;
    let text = match kept {
        Some(text) => text,
        None => {
            let of = Arc::clone(&rules);
            let shown = tokio::task::spawn_blocking(move || show(&of).to_string()).await;
            match shown {
                Ok(text) => handlers.keep_dump(&rules, Bytes::from(text)),
                Err(error) => {
                    return problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
                }
            }
        }
    };
    with_loads(&loads, &text)
}

/// One more key in front of an object's first. The text itself is shared, not
/// copied: it may be long, and asked for by many.
fn with_loads(loads: &Value, object: &Bytes) -> Response {
    let first = Bytes::from(format!(r#"{{"loads":{loads},"#));
    let rest = object.slice(object.len().min(1)..);
    let length = first.len() + rest.len();
    let parts = [first, rest].map(Ok::<_, Infallible>);
    let body = Body::from_stream(futures_util::stream::iter(parts));
    let json = HeaderValue::from_static("application/json");
    let headers = [
        (header::CONTENT_TYPE, json),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    (headers, body).into_response()
}

// === impl Handlers ===

impl Handlers {
    fn kept_dump(&self, rules: &Arc<RuleSet>) -> Option<Bytes> {
        let kept = self.dump.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, text) = kept.as_ref()?;
        // What it is of lives on as an address, so no other rules have that.
        (of.as_ptr() == Arc::as_ptr(rules)).then(|| text.clone())
    }

    fn keep_dump(&self, rules: &Arc<RuleSet>, text: Bytes) -> Bytes {
        let mut kept = self.dump.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((Arc::downgrade(rules), text.clone()));
        text
    }
}
