//! What a request says of itself: its header fields, cookies, and what is asked of the judgement; and what a proxy in front says of another.

pub(crate) mod chosen;
pub(crate) mod connect;
pub(crate) mod cookies;
pub(crate) mod credentials;
pub(crate) mod description;
pub(crate) mod headers;
pub(crate) mod question;
