//! The Flux orchestrator: an upstream that leaves authentication to the proxy in front of it.
//!
//! ```text
//! main -> config -> start -> serve -> routes -> api | web
//!                                               api -> fleet -> kube
//!                                               api -> store
//! routes -> entrance, which every request passes first
//! ```
//!
//! `api` serves programs, one file per resource; `web` serves people. `fleet` knows the clusters and their Flux objects, live;
//! `kube` talks to Kubernetes; `store` keeps what must survive a restart. The identity comes from `identity`, which reads the
//! headers that the proxy set. Nothing here authenticates users: that is why `config` refuses an address that others could
//! reach without passing the proxy.

pub mod api;
pub mod clock;
pub mod config;
pub mod demo;
pub mod entrance;
pub(crate) mod files;
pub mod fleet;
pub mod health;
pub mod identity;
pub(crate) mod kube;
pub mod lines;
pub mod metrics;
pub mod secret;
pub mod serve;
pub mod start;
pub mod store;
pub mod upkeep;
pub mod web;

/// A target of `fuzz/`: parses any bytes as a kubeconfig.
#[cfg(any(test, feature = "fuzzing"))]
pub use kube::kubeconfigs as fuzz_kubeconfigs;

use axum::Router;

use api::App;
use axum::middleware;
use entrance::Entrance;

/// All routes of the orchestrator, behind its entrance.
pub fn routes(app: App, entrance: Entrance) -> Router {
    let inside = Router::new().merge(web::routes()).merge(api::routes(app)).fallback(web::not_found);
    inside.layer(middleware::from_fn_with_state(entrance, entrance::check))
}
