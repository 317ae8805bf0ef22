//! The `dev-idp` program: a development identity provider on loopback.

fn main() {}
