//! TLS that ends at the proxy.
