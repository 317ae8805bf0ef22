//! Reads a request's query so that no other parser can read another value.

use crate::domain::path::ReturnTo;
use crate::serve::app::Snapshot;

/// Where `rd` points after a sign-in; `/` if it is missing, repeated or unsafe.
pub(crate) fn wanted(query: Option<&str>, snapshot: &Snapshot) -> ReturnTo {
    snapshot.return_to(&parameter(query, "rd").ok().flatten().unwrap_or_default())
}

/// The one value of a query parameter: `None` if it is missing, an error if it is repeated.
pub(crate) fn parameter(query: Option<&str>, wanted: &str) -> Result<Option<String>, Twice> {
    let mut values =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter(|(name, _)| name == wanted);
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|(_, value)| value.into_owned())),
        (_, Some(_)) => Err(Twice),
    }
}

/// A repeated parameter: two parsers could take different values.
pub(crate) struct Twice;
