//! The only place that reads the clock, and the formats of timestamps.

use serde::Serializer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The current time, cut to milliseconds, so that live values equal those read back from the database.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> OffsetDateTime {
    from_millis(millis(OffsetDateTime::now_utc()))
}

/// Milliseconds since 1970.
#[must_use]
pub fn millis(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The time so many milliseconds after 1970; 1970 itself where that is out of range.
#[must_use]
pub fn from_millis(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// As RFC 3339 in UTC: `2026-01-31T10:00:00Z`.
#[must_use]
pub fn text(moment: OffsetDateTime) -> String {
    moment.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}

/// Reads RFC 3339; `None` also for a time that has no form in UTC, as [`text`] needs it.
#[must_use]
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(time::UtcOffset::UTC)?;
    // RFC 3339 has no years before 0.
    (moment.year() >= 0).then_some(moment)
}

/// For `#[serde(serialize_with = "…")]`.
///
/// # Errors
/// Those of the serializer.
pub fn rfc3339<S: Serializer>(moment: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*moment))
}

/// The same, for an optional time.
///
/// # Errors
/// Those of the serializer.
pub fn optional_rfc3339<S: Serializer>(moment: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => rfc3339(moment, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_both_its_forms() {
        let moment = now();
        assert_eq!(from_millis(millis(moment)), moment);
        assert_eq!(parse(&text(moment)), Some(moment));
        assert_eq!(text(from_millis(0)), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn another_zone_is_the_same_moment() {
        let moment = parse("2026-01-31T10:00:00+02:00").unwrap();
        assert_eq!(text(moment), "2026-01-31T08:00:00Z");
    }

    #[test]
    fn a_moment_outside_the_years_0_to_9999_in_utc_is_none() {
        assert_eq!(parse("0000-01-01T00:00:00+01:00"), None);
        assert_eq!(text(parse("0000-01-01T00:00:00Z").unwrap()), "0000-01-01T00:00:00Z");
        assert_eq!(parse("9999-12-31T23:59:59-01:00"), None);
        assert_eq!(text(parse("9999-12-31T23:59:59Z").unwrap()), "9999-12-31T23:59:59Z");
    }
}
