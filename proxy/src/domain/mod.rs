//! Floor 0, the domain: values only; no I/O, no clock, no async, no HTTP library.

pub mod browser;
pub mod caller;
pub mod certificate;
pub mod claims;
pub mod grant;
pub mod identity;
pub mod judge;
pub mod login;
pub mod path;
pub mod paths;
pub mod policy;
pub mod principal;
pub mod readings;
pub mod rules;
pub mod secret;
pub mod session;
pub mod time;
