//! The endpoints under `/api/v1/auth`, one file an endpoint group.

pub mod pages;
