//! The pages for people, embedded in the program.

mod assets;
mod home;

use axum::Router;
use axum::routing::get;

pub(crate) fn routes() -> Router {
    Router::new().route("/", get(home::show)).route("/assets/{name}", get(assets::show))
}
