//! What a request contains: header fields, cookies, the input of the judgement; and how a proxy in front describes another request.

pub(crate) mod chosen;
pub(crate) mod connect;
pub(crate) mod cookies;
pub(crate) mod credentials;
pub(crate) mod description;
pub(crate) mod headers;
pub(crate) mod question;
