//! Floor 3, the way of a request.

pub mod admin;
pub mod settings;
