//! The admin listener: lives, readiness, metrics, and their limits.
