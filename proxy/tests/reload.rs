//! Reloads: what takes effect, what stays, and that nobody notices.
