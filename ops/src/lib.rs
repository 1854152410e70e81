//! What operators see and touch: logs, metrics, health, admin HTTP.

#![forbid(unsafe_code)]
