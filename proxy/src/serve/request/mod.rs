//! What a request says of itself: its header fields, cookies, and what is asked of the judgement.

pub(crate) mod chosen;
pub(crate) mod cookies;
pub(crate) mod headers;
pub(crate) mod question;
