//! Reads a certificate's validity from its DER.

use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, Time};

/// From how many days before its expiry a certificate is reported.
const WARN_DAYS: i64 = 14;
const DAY: i64 = 86_400;

/// A certificate's period of validity, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    /// Reads `tbsCertificate.validity` (RFC 5280 §4.1): of a server's own certificate `rustls` checks only the key.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        const SEQUENCE: u8 = 0x30;
        const INTEGER: u8 = 0x02;
        const VERSION: u8 = 0xa0;

        let (certificate, _) = element(certificate, SEQUENCE)?;
        let (mut rest, _) = element(certificate, SEQUENCE)?;
        if let Some((_, after)) = element(rest, VERSION) {
            rest = after;
        }
        // Skip the serial number, the signature algorithm, the issuer.
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            (_, rest) = element(rest, tag)?;
        }
        let (validity, _) = element(rest, SEQUENCE)?;
        let (not_before, rest) = moment(validity)?;
        let (not_after, _) = moment(rest)?;
        Some(Self { not_before, not_after })
    }

    pub(super) fn trouble(self, now: i64) -> Option<String> {
        let left = self.not_after.saturating_sub(now);
        if left < 0 {
            Some(format!("expired on {}", date(self.not_after)))
        } else if now < self.not_before {
            Some(format!("is not valid before {}", date(self.not_before)))
        } else {
            match left / DAY {
                0 => Some(format!("expires within a day, on {}", date(self.not_after))),
                1 => Some("expires in 1 day".to_owned()),
                days @ 2..=WARN_DAYS => Some(format!("expires in {days} days")),
                _ => None,
            }
        }
    }
}

fn date(secs: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(secs).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Takes one DER element with this tag from the start of `input`: returns its content, and the rest.
pub(super) fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&short, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (len, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().try_fold(0_usize, |len, &byte| Some(len.checked_mul(256)? + usize::from(byte)))?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

/// Takes one `Time` (RFC 5280 §4.1.2.5: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, always UTC) from the start of `input`.
fn moment(input: &[u8]) -> Option<(i64, &[u8])> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;

    let (year, digits, rest) = if let Some((text, rest)) = element(input, UTC_TIME) {
        let (year, digits) = text.split_first_chunk::<2>()?;
        let year = i32::from(number(*year)?);
        (if year < 50 { 2000 + year } else { 1900 + year }, digits, rest)
    } else {
        let (text, rest) = element(input, GENERALIZED_TIME)?;
        let (century, digits) = text.split_first_chunk::<2>()?;
        let (year, digits) = digits.split_first_chunk::<2>()?;
        (i32::from(number(*century)?) * 100 + i32::from(number(*year)?), digits, rest)
    };
    let &[m1, m2, d1, d2, h1, h2, i1, i2, s1, s2, b'Z'] = digits else { return None };
    let month = Month::try_from(number([m1, m2])?).ok()?;
    let date = Date::from_calendar_date(year, month, number([d1, d2])?).ok()?;
    let time = Time::from_hms(number([h1, h2])?, number([i1, i2])?, number([s1, s2])?).ok()?;
    Some((date.with_time(time).assume_utc().unix_timestamp(), rest))
}

fn number(digits: [u8; 2]) -> Option<u8> {
    let [tens, ones] = digits;
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn issued() -> Vec<u8> {
        let mut params = CertificateParams::new(["one.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2051, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn validity_is_read_in_both_spellings_of_time() {
        // Up to 2049 a year has two digits (RFC 5280 §4.1.2.5), from 2050 on four.
        assert_eq!(
            Validity::of(&issued()),
            Some(Validity { not_before: 1_767_225_600, not_after: 2_556_144_000 }),
            "2026-01-01 and 2051-01-01"
        );
    }

    #[test]
    fn a_certificate_is_a_trouble_from_two_weeks_before_its_end() {
        let validity = Validity { not_before: 1_767_225_600, not_after: 1_780_272_000 };
        let at = |left: i64| validity.trouble(validity.not_after - left);
        assert_eq!(at(15 * DAY), None);
        assert_eq!(at(15 * DAY - 1).unwrap(), "expires in 14 days");
        assert_eq!(at(3 * DAY).unwrap(), "expires in 3 days");
        assert_eq!(at(DAY).unwrap(), "expires in 1 day");
        assert_eq!(at(60).unwrap(), "expires within a day, on 2026-06-01T00:00:00Z");
        assert_eq!(at(-1).unwrap(), "expired on 2026-06-01T00:00:00Z");
        assert_eq!(validity.trouble(1_767_225_599).unwrap(), "is not valid before 2026-01-01T00:00:00Z");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_of_certificates_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Validity::of(&bytes);
            let mut headed = vec![0x30, 0x82, 1, 0, 0x30, 0x81, 250, 2, 1, 1, 0x30, 0, 0x30, 0, 0x30, 30];
            headed.extend(&bytes);
            let _ = Validity::of(&headed);
            let _ = moment(&[&[0x17, 13], bytes.as_slice()].concat());
        }

        #[test]
        fn a_damaged_certificate_never_makes_it_panic(at in 0_usize..300, byte in any::<u8>(), cut in 0_usize..400) {
            let mut der = issued();
            let at = at % der.len();
            der[at] = byte;
            der.truncate(cut);
            let _ = Validity::of(&der);
        }
    }
}
