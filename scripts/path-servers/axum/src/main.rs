//! A guarded and an open place, by axum's router and by tower-http's files: `path-server ROUTER_PORT FILES_PORT FOLDER`.

use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_http::services::ServeDir;

async fn admin() -> &'static str {
    "served: admin\n"
}

async fn public() -> &'static str {
    "served: public\n"
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: path-server ROUTER_PORT FILES_PORT FOLDER");
    let router_port = TcpListener::bind((Ipv4Addr::LOCALHOST, next()?.parse()?)).await?;
    let files_port = TcpListener::bind((Ipv4Addr::LOCALHOST, next()?.parse()?)).await?;
    let router = Router::new()
        .route("/admin", get(admin))
        .route("/admin/", get(admin))
        .route("/admin/{*rest}", get(admin))
        .route("/public", get(public))
        .route("/public/", get(public))
        .route("/public/{*rest}", get(public));
    let files = Router::new().fallback_service(ServeDir::new(next()?));
    tokio::try_join!(axum::serve(router_port, router), axum::serve(files_port, files))?;
    Ok(())
}
