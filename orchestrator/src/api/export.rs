//! Exports the activity log as a file, read and sent page by page.

use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use serde_json::error::Error as JsonError;

use crate::clock;
use crate::store::{Activity, Filter, Store, StoreError};

/// How many rows are read at once.
const PAGE: u32 = 500;
const COLUMNS: &str = "id,at,actor,actor_id,actor_email,action,cluster,cluster_name,kind,namespace,name,outcome,message,\
                       request_id\r\n";

/// The format of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Json,
}

impl Format {
    pub(super) const fn ending(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json => "application/json",
        }
    }
}

/// Why an export is cut off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("the log could not be read on")]
    Store(#[from] StoreError),
    #[error("an activity could not be written as JSON")]
    Json(#[from] JsonError),
}

enum Place {
    Beginning,
    After,
    Ended,
}

/// Streams the file in pieces; between two pieces no database connection is held.
pub(super) fn rows(store: Store, filter: Filter, format: Format) -> impl Stream<Item = Result<Bytes, ExportError>> {
    let beginning = (store, filter, Place::Beginning);
    stream::try_unfold(beginning, move |(store, mut filter, place)| async move {
        let beginning = match place {
            Place::Ended => return Ok(None),
            Place::Beginning => true,
            Place::After => false,
        };
        let page = store.activities(&filter, PAGE, 0).await?;
        let last = page.len() < PAGE as usize;
        let piece = match format {
            Format::Csv => csv(&page, beginning),
            Format::Json => json(&page, beginning, last)?,
        };
        filter.after = page.last().map(Activity::mark);
        let place = if last { Place::Ended } else { Place::After };
        Ok(Some((Bytes::from(piece), (store, filter, place))))
    })
}

fn json(page: &[Activity], beginning: bool, last: bool) -> Result<String, JsonError> {
    let mut piece = String::new();
    for (index, activity) in page.iter().enumerate() {
        piece.push_str(if beginning && index == 0 { "[\n" } else { ",\n" });
        piece.push_str(&serde_json::to_string(activity)?);
    }
    if last {
        piece.push_str(if beginning && page.is_empty() { "[]\n" } else { "\n]\n" });
    }
    Ok(piece)
}

fn csv(page: &[Activity], beginning: bool) -> String {
    let mut piece = String::from(if beginning { COLUMNS } else { "" });
    for activity in page {
        let at = clock::text(activity.at);
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        let cells = [
            &activity.id,
            &at,
            &activity.actor,
            &activity.actor_id,
            &activity.actor_email,
            &activity.action,
            &optional(&activity.cluster),
            &optional(&activity.cluster_name),
            &optional(&activity.kind),
            &optional(&activity.namespace),
            &optional(&activity.name),
            activity.outcome.word(),
            &activity.message,
            &activity.request_id,
        ]
        .map(cell);
        piece.push_str(&cells.join(","));
        piece.push_str("\r\n");
    }
    piece
}

/// Quotes a cell (RFC 4180), and prevents a spreadsheet from reading it as a formula, which could leak the sheet's content.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { "'" } else { "" };
    if guard.is_empty() && !text.contains(['"', ',', '\r', '\n']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_and_never_a_formula() {
        for (text, written) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("-1", "\"'-1\""),
            ("+1", "\"'+1\""),
            ("\t=1", "\"'\t=1\""),
        ] {
            assert_eq!(cell(text), written);
        }
    }

    #[test]
    fn json_is_one_array_whatever_the_pages() {
        assert_eq!(json(&[], true, true).unwrap(), "[]\n");
        assert_eq!(json(&[], false, true).unwrap(), "\n]\n");
    }
}
