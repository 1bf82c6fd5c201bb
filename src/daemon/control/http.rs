//! The endpoints of the HTTP port, and the form of every answer that says no.
//!
//! A browser is an open door to loopback: any page may have it send requests here, and a page whose
//! name its DNS points here (DNS rebinding) may even read the answers. So a listener on loopback
//! answers only to the names of this machine, and every listener only to the pages that it lets in.
//!
//! *Invariants*: every answer but `/metrics` is one JSON object; nothing here changes anything;
//! nothing is done for a request before `Host` and `Origin` are checked.
//!
//! *Panics*: a host is cut at a character boundary that was just searched for.

use super::status::Readiness;
use super::{Shared, health, metrics, status};
use crate::protocol::origin::{self, Origin, Origins};
use crate::protocol::views::Time;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    HeaderMap, ORIGIN, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Says how the page that caused a request is related to the site that it goes to.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// How much of a foreign host's name is repeated: as much as a name can be long, and a port.
const HOST_ECHO_BYTES_MAX: usize = 260;

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
    finish(router.layer(middleware::from_fn_with_state(Arc::clone(shared), guard)), shared)
}

async fn guard(State(shared): Shares, request: Request, next: Next) -> Response {
    let origins = (shared.origins.http)();
    let port = shared.facts.about.http;
    let foreign_host = match port.ip().to_canonical().is_loopback() {
        true => forbidden_host(&request, port, &origins),
        false => None,
    };
    if let Some(refusal) = foreign_host.or_else(|| forbidden_origin(request.headers(), &origins)) {
        return refusal;
    }
    // A page that is let in by name may read the answer, too; `*` alone would show this node to every
    // website that somebody behind the same firewall visits.
    let reader = request.headers().get(ORIGIN).cloned();
    let reader = reader.filter(|origin| origin.to_str().is_ok_and(|origin| origins.name(origin)));
    let mut response = next.run(request).await;
    if let Some(origin) = reader {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// The refusal of a request that was sent to a name that is not this machine's. (What names no host
/// is no browser.)
fn forbidden_host(request: &Request, port: SocketAddr, origins: &Origins) -> Option<Response> {
    let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes).chain(named);
    let is_foreign =
        |host: &&[u8]| !std::str::from_utf8(host).is_ok_and(|host| origins.allow_host(host));
    let host = String::from_utf8_lossy(hosts.find(is_foreign)?);
    let shown = &host[..host.floor_char_boundary(HOST_ECHO_BYTES_MAX)];
    let mut message = format!(
        "this port answers to localhost and loopback addresses, not to the host `{shown}`; ask for \
         http://{} instead",
        port
    );
    let origin = format!("http://{shown}");
    if Origin::parse(&origin).is_ok() {
        message += &format!(", or add `{origin}` to the server's `allowed_origins`");
    }
    Some(refusal(StatusCode::FORBIDDEN, "HOST_FORBIDDEN", &message))
}

/// The refusal of a request that comes from a web page that is not let in.
pub(super) fn forbidden_origin(headers: &HeaderMap, origins: &Origins) -> Option<Response> {
    let (code, word) = (StatusCode::FORBIDDEN, "ORIGIN_FORBIDDEN");
    let mut has_origin = false;
    for origin in headers.get_all(ORIGIN) {
        has_origin = true;
        // An origin that is not text is that of no page.
        let origin = origin.to_str().unwrap_or_default();
        if !origins.allows(origin) {
            return Some(refusal(code, word, &origin::refusal(origin)));
        }
    }
    let is_cross_site = headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site");
    if is_cross_site && !has_origin && !origins.rules().contains(&Origin::Any) {
        let message = "another website sent the browser here; type the address into it by itself";
        return Some(refusal(code, word, message));
    }
    None
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
    let mut body = json!({ "status": readiness.label() });
    let degradations = shared.facts.health().degradations();
    if !degradations.is_empty() {
        body["degraded"] = health::rows(&degradations);
    }
    if let Some(reason) = readiness.reason() {
        body["reason"] = reason.into();
        let code = StatusCode::SERVICE_UNAVAILABLE;
        return (code, [(RETRY_AFTER, "1")], json_of(body)).into_response();
    }
    if let Some(outage) = shared.facts.outage() {
        // It takes clients and serves them from memory; sending them elsewhere helps nobody.
        body["storage"] = "degraded".into();
        body["since"] = json!(Time(outage.since.wall_us));
        body["reason"] = (*outage.reason).into();
        body["reason_at"] = json!(Time(outage.reason_at.wall_us));
    }
    json_of(body)
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
