//! Floor 3, the way of a request.

pub mod auth;
pub mod settings;
