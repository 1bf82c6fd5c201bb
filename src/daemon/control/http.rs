//! The endpoints of the HTTP port, and the form of every answer that says no.
//!
//! *Invariants*: every answer but `/metrics` is one JSON object; nothing here changes anything.

use super::status::Readiness;
use super::{Shared, metrics, status};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What there is, for whoever asks for something else.
const ENDPOINTS: [(&str, &str); 5] = [
    ("GET /health", "whether the process is alive"),
    (
        "GET /ready",
        "whether it takes more clients: 200, or 503 and why not; says if nothing can be stored",
    ),
    ("GET /version", "what runs here"),
    ("GET /status", "what it does, as JSON, shard by shard"),
    ("GET /metrics", "what it does, for Prometheus"),
];

/// The headers of every answer: it is what it says it is, it is of this moment, and it is no page.
const HEADERS: [(HeaderName, &str); 3] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// The HTTP port.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/status", get(async |State(shared): Shares| json_of(status::status(&shared))))
        .route("/metrics", get(metrics_text))
        .fallback(async |request: Request| not_found(&request, &ENDPOINTS))
        .method_not_allowed_fallback(async |request: Request| not_allowed(&request, &ENDPOINTS));
    finish(router, shared)
}

type Shares = State<Arc<Shared>>;

/// Gives a router what both ports have in common.
pub(super) fn finish(router: Router<Arc<Shared>>, shared: &Arc<Shared>) -> Router {
    router
        .layer(middleware::from_fn_with_state(Arc::clone(shared), common))
        .with_state(Arc::clone(shared))
}

async fn common(State(shared): Shares, request: Request, next: Next) -> Response {
    shared.counts.requests.fetch_add(1, Relaxed);
    let mut response = next.run(request).await;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        for (name, value) in HEADERS {
            response.headers_mut().insert(name, axum::http::HeaderValue::from_static(value));
        }
    }
    response
}

/// An answer that says no, in the words of the protocol's replies.
pub(super) fn refusal(code: StatusCode, error: &str, message: &str) -> Response {
    (code, json_of(refusal_body(code, error, message))).into_response()
}

/// There is nothing at this path; `endpoints` is what there is.
pub(super) fn not_found(request: &Request, endpoints: &[(&str, &str)]) -> Response {
    let code = StatusCode::NOT_FOUND;
    let message = format!("nothing is at {}; see endpoints", request.uri().path());
    let body = with_endpoints(refusal_body(code, "NOT_FOUND", &message), endpoints);
    (code, json_of(body)).into_response()
}

/// Not with this method; `endpoints` is what there is.
pub(super) fn not_allowed(request: &Request, endpoints: &[(&str, &str)]) -> Response {
    let code = StatusCode::METHOD_NOT_ALLOWED;
    let message = format!("{} takes GET, not {}", request.uri().path(), request.method());
    let body = with_endpoints(refusal_body(code, "METHOD_NOT_ALLOWED", &message), endpoints);
    (code, [(ALLOW, "GET, HEAD")], json_of(body)).into_response()
}

async fn health(State(shared): Shares) -> Response {
    let about = &shared.facts.about;
    json_of(json!({
        "status": "ok",
        "server": about.server,
        "version": about.version,
        "node": about.node,
        "uptime_s": shared.uptime().as_secs(),
    }))
}

async fn ready(State(shared): Shares) -> Response {
    let readiness = Readiness::read(&shared);
    match readiness.reason() {
        None => match shared.facts.outage() {
            None => json_of(json!({ "status": readiness.label() })),
            // It takes clients and serves them from memory; sending them elsewhere helps nobody.
            Some(outage) => json_of(json!({
                "status": readiness.label(),
                "storage": "degraded",
                "reason": outage.reason,
            })),
        },
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(RETRY_AFTER, "1")],
            json_of(json!({ "status": readiness.label(), "reason": reason })),
        )
            .into_response(),
    }
}

async fn version(State(shared): Shares) -> Response {
    let about = &shared.facts.about;
    json_of(json!({
        "server": about.server,
        "version": about.version,
        "protocol": "1.0",
        "node": about.node,
    }))
}

async fn metrics_text(State(shared): Shares) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&shared)).into_response()
}

fn json_of(value: Value) -> Response {
    axum::Json(value).into_response()
}

fn refusal_body(code: StatusCode, error: &str, message: &str) -> Value {
    json!({ "status": "error", "code": code.as_u16(), "error": error, "message": message })
}

fn with_endpoints(mut body: Value, endpoints: &[(&str, &str)]) -> Value {
    body["endpoints"] =
        endpoints.iter().map(|(path, does)| json!({ "path": path, "does": does })).collect();
    body
}
