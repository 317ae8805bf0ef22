//! Certificate files into a TLS config, and again when they change.
