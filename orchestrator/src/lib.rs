//! The Flux orchestrator: an upstream that leaves authentication to the proxy in front of it.
//!
//! ```text
//! main -> config -> serve -> routes -> api | web -> identity
//! ```
//!
//! `api` answers programs, one file a resource; `web` answers people. Both learn who is asking from `identity`,
//! which reads the headers that the proxy wrote. Nothing here decides who may come in: that is why `config` refuses
//! an address that others could reach without passing the proxy.

pub mod api;
pub mod clock;
pub mod config;
pub mod demo;
pub mod fleet;
pub mod health;
pub mod identity;
pub(crate) mod kube;
pub mod secret;
pub mod serve;
pub mod store;
pub mod web;

use axum::Router;

/// Every address that the orchestrator answers.
pub fn routes() -> Router {
    Router::new().merge(web::routes()).merge(api::routes()).fallback(web::not_found)
}
