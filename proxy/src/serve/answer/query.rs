//! Reading a request's query, of which nobody may read another value than we do.

use crate::domain::path::ReturnTo;
use crate::serve::app::Snapshot;

/// Where `rd` leads to after a sign-in; `/` where it is missing, there twice, or not safe.
pub(crate) fn wanted(query: Option<&str>, snapshot: &Snapshot) -> ReturnTo {
    snapshot.return_to(&parameter(query, "rd").ok().flatten().unwrap_or_default())
}

/// The one value of a query parameter: `None` where it is missing, an error where it is there twice.
pub(crate) fn parameter(query: Option<&str>, wanted: &str) -> Result<Option<String>, Twice> {
    let mut values =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter(|(name, _)| name == wanted);
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|(_, value)| value.into_owned())),
        (_, Some(_)) => Err(Twice),
    }
}

/// A parameter that is there twice: two readers could take different ones.
pub(crate) struct Twice;
