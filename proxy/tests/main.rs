//! End-to-end tests of the real program, over real sockets. One module per topic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_errors_doc,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking, and print what they measured"
)]

mod admin;
mod audit_file;
mod backchannel_logout;
mod big_bodies;
mod client_certificates;
mod config;
mod documentation;
mod downstream;
mod errors;
mod ext_authz;
mod forward_auth;
mod grpc;
mod holding;
mod hostile_answers;
mod hostile_http;
mod http2_upstream;
mod identity_headers;
mod impersonation;
mod imports;
mod jwt_sessions;
mod kubernetes;
mod large_answers;
mod lasting;
mod layers;
mod listeners;
mod log;
mod logout;
mod machines;
mod oidc_provider;
mod operator;
mod other_proxies;
mod own_sessions;
mod pages;
mod policy;
mod reasons;
mod redis_store;
mod reload;
mod renewal;
mod request_path;
mod resting;
mod rolling_restart;
mod rules;
mod sessions;
mod shutdown;
mod sign_in;
mod simulate;
mod streaming;
mod support;
mod tls;
mod upstream_identity;
mod upstreams;
mod verify;
mod websocket;
mod websocket_http2;
