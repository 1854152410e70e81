//! The admin HTTP: what each address answers. Every answer but the metrics is JSON, errors too.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State as Shared,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{Health, LowSpace, Registry, State, Troubles, families, logs::Dropped};

/// What Prometheus calls the text format of [`Registry::render`].
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers read.
pub(crate) struct Admin {
    pub(crate) registry: Registry,
    pub(crate) health: Arc<Health>,
    pub(crate) log_lines_dropped: Option<Dropped>,
}

pub(crate) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .fallback(no_such_address)
        .method_not_allowed_fallback(wrong_method)
        .with_state(admin)
}

async fn metrics(Shared(admin): Shared<Arc<Admin>>) -> Response {
    let ready = u8::from(admin.health.is_ready());
    admin
        .registry
        .gauge(families::READY, &[])
        .set(f64::from(ready));
    if let Some(dropped) = &admin.log_lines_dropped {
        admin
            .registry
            .counter(families::LOG_LINES_DROPPED, &[])
            .absolute(dropped.get());
    }
    (
        [(header::CONTENT_TYPE, METRICS_TYPE)],
        admin.registry.render(),
    )
        .into_response()
}

/// Everything about the node's health; 200 whenever it can be told.
async fn health(Shared(admin): Shared<Arc<Admin>>) -> Json<Value> {
    Json(report(&admin.health))
}

async fn live(Shared(admin): Shared<Arc<Admin>>) -> Response {
    verdict(&admin.health, admin.health.is_live())
}

async fn ready(Shared(admin): Shared<Arc<Admin>>) -> Response {
    verdict(&admin.health, admin.health.is_ready())
}

fn verdict(health: &Health, good: bool) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report(health))).into_response()
}

fn report(health: &Health) -> Value {
    let Troubles { damage, low_space } = health.troubles();
    json!({
        "state": health.state().as_str(),
        "live": health.is_live(),
        "ready": health.is_ready(),
        "reason": reason(health, low_space.as_ref()),
        "cores": health.cores(),
        "cores_stalled": health.stalled(),
        "degraded": damage.is_some() || low_space.is_some(),
        "damage": damage.map(|damage| json!({
            "places": damage.places,
            "file": damage.file,
            "position": damage.position,
        })),
        "low_space": low_space.map(|low| json!({
            "directory": low.directory,
            "free_bytes": low.free_bytes,
            "min_free_bytes": low.min_free_bytes,
            "resume_bytes": low.resume_bytes,
        })),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// Why the node isn't ready, or takes no produce, in words; null when it does both.
fn reason(health: &Health, low_space: Option<&LowSpace>) -> Option<String> {
    let stalled = health.stalled();
    match health.state() {
        _ if !stalled.is_empty() => Some(format!("cores {stalled:?} give no sign of life")),
        State::Starting => Some("starting".to_owned()),
        State::Recovering => Some("reading what is on disk".to_owned()),
        State::Draining => Some("stopping: finishing what is under way".to_owned()),
        State::Ready => low_space.map(|low| {
            format!(
                "produce is refused: {} has {} bytes free, and storage.min_free_bytes={} must stay free; it is taken again at {}: delete topics, shorten retention, or make room",
                low.directory, low.free_bytes, low.min_free_bytes, low.resume_bytes
            )
        }),
    }
}

async fn no_such_address(uri: Uri) -> Response {
    let message = format!(
        "no such address: {}; there are /metrics, /health, /health/live and /health/ready",
        uri.path()
    );
    error(StatusCode::NOT_FOUND, "not_found", &message)
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} takes GET, not {method}", uri.path());
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        &message,
    )
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (
        status,
        Json(json!({ "error": { "code": code, "message": message } })),
    )
        .into_response()
}
