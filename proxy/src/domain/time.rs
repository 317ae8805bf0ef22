//! Timestamps, passed as arguments to the code that needs the time.

use std::ops::Add;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The timestamp `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The timestamp `secs` seconds after the Unix epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Parses an RFC 3339 timestamp, not before the epoch.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC, to the second: `2026-01-02T03:04:05Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        i64::try_from(self.secs())
            .ok()
            .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
            .and_then(|moment| moment.format(&Rfc3339).ok())
            .unwrap_or_default()
    }

    /// RFC 3339 in UTC, to the millisecond: `2026-01-02T03:04:05.090Z`.
    #[must_use]
    pub fn rfc3339_millis(self) -> String {
        let whole = self.rfc3339();
        format!("{}.{:03}Z", whole.trim_end_matches('Z'), self.millis() % 1000)
    }
}

impl Timestamp {
    /// For people, in UTC, to the minute: `2 January 2026, 03:04 UTC`.
    #[must_use]
    pub fn in_words(self) -> String {
        i64::try_from(self.secs()).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok()).map_or_else(
            String::new,
            |moment| {
                let (day, month, year) = (moment.day(), moment.month(), moment.year());
                format!("{day} {month} {year}, {:02}:{:02} UTC", moment.hour(), moment.minute())
            },
        )
    }

    /// For people, the age at `now`: `5 minutes ago`.
    #[must_use]
    pub fn ago(self, now: Self) -> String {
        let minutes = now.since(self).as_secs() / 60;
        let (count, unit) = match minutes {
            0 => return "just now".to_owned(),
            1..60 => (minutes, "minute"),
            60..2880 => (minutes / 60, "hour"),
            2880.. => (minutes / 1440, "day"),
        };
        format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        let millis = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc3339_in_utc() {
        assert_eq!(Timestamp::from_secs(1_767_323_045).rfc3339(), "2026-01-02T03:04:05Z");
        let moment = Timestamp::from_millis(1_767_323_045_090);
        assert_eq!(moment.rfc3339_millis(), "2026-01-02T03:04:05.090Z");
        assert_eq!(Timestamp::parse(&moment.rfc3339_millis()), Some(moment));
    }

    #[test]
    fn shows_people_when_it_was() {
        let moment = Timestamp::from_secs(1_767_323_045);
        assert_eq!(moment.in_words(), "2 January 2026, 03:04 UTC");
        for (later, words) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (3599, "59 minutes ago"),
            (3600, "1 hour ago"),
            (47 * 3600, "47 hours ago"),
            (48 * 3600, "2 days ago"),
        ] {
            assert_eq!(moment.ago(moment + Duration::from_secs(later)), words);
        }
        assert_eq!((moment + Duration::from_secs(600)).ago(moment), "just now");
    }

    #[test]
    fn a_later_moment_is_never_less_than_zero_after() {
        let (early, late) = (Timestamp::from_secs(1), Timestamp::from_secs(3));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
