//! Reads the names in a client's certificate from its DER: the Common Name and the subject alternative names.

use rustls::pki_types::CertificateDer;

use super::validity::{Validity, element};
use crate::domain::certificate::{CertificateName, ClientCertificate, NameKind};
use crate::domain::time::Timestamp;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The names in a verified client certificate; `None`: its format is not supported, and it counts as none.
#[must_use]
pub fn client_certificate(certificate: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let not_after = u64::try_from(Validity::of(certificate)?.not_after).ok()?;
    Some(ClientCertificate::new(names(certificate)?, Timestamp::from_secs(not_after)))
}

/// `tbsCertificate.subject` and its extension `subjectAltName` (RFC 5280 §4.1.2.6, §4.2.1.6).
fn names(certificate: &[u8]) -> Option<Vec<CertificateName>> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    // Skip the serial number, the signature algorithm, the issuer, the validity.
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, rest) = element(rest, tag)?;
    }
    let (subject, rest) = element(rest, SEQUENCE)?;
    let (_key, mut rest) = element(rest, SEQUENCE)?;
    let mut names: Vec<CertificateName> = common_name(subject)?.into_iter().collect();
    while !rest.is_empty() {
        if let Some((extensions, _)) = element(rest, EXTENSIONS) {
            let (extensions, _) = element(extensions, SEQUENCE)?;
            names.extend(alternative_names(extensions)?);
            break;
        }
        rest = skip(rest)?;
    }
    Some(names)
}

/// The only Common Name; none if there are several, since the choice would be ambiguous.
fn common_name(mut subject: &[u8]) -> Option<Option<CertificateName>> {
    let mut found = Vec::new();
    while !subject.is_empty() {
        let (mut set, after) = element(subject, SET)?;
        subject = after;
        while !set.is_empty() {
            let (attribute, after) = element(set, SEQUENCE)?;
            set = after;
            let (kind, value) = element(attribute, OID)?;
            if kind == COMMON_NAME {
                found.push(value);
            }
        }
    }
    let [value] = found.as_slice() else { return Some(None) };
    let text = [UTF8, PRINTABLE, IA5].into_iter().find_map(|tag| element(value, tag)).map(|(text, _)| text);
    Some(text.and_then(|text| name(NameKind::CommonName, text)))
}

fn alternative_names(mut extensions: &[u8]) -> Option<Vec<CertificateName>> {
    let mut names = Vec::new();
    while !extensions.is_empty() {
        let (extension, after) = element(extensions, SEQUENCE)?;
        extensions = after;
        let (kind, mut rest) = element(extension, OID)?;
        if kind != SUBJECT_ALTERNATIVE_NAME {
            continue;
        }
        if let Some((_critical, after)) = element(rest, BOOLEAN) {
            rest = after;
        }
        let (value, _) = element(rest, OCTETS)?;
        let (mut all, _) = element(value, SEQUENCE)?;
        while !all.is_empty() {
            let known = [(0x81, NameKind::Email), (0x82, NameKind::Dns), (0x86, NameKind::Uri)];
            let one = known.into_iter().find_map(|(tag, kind)| Some((kind, element(all, tag)?.0)));
            names.extend(one.filter(|(_, text)| text.is_ascii()).and_then(|(kind, text)| name(kind, text)));
            all = skip(all)?;
        }
    }
    Some(names)
}

fn name(kind: NameKind, text: &[u8]) -> Option<CertificateName> {
    CertificateName::new(kind, std::str::from_utf8(text).ok()?)
}

/// Skips the first element, whatever it is.
fn skip(input: &[u8]) -> Option<&[u8]> {
    element(input, *input.first()?).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn issued(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn names_in(change: impl FnOnce(&mut CertificateParams)) -> Vec<String> {
        client_certificate(&issued(change)).unwrap().names()[1..].to_vec()
    }

    fn ia5(text: &str) -> Ia5String {
        Ia5String::try_from(text).unwrap()
    }

    #[test]
    fn a_certificate_says_its_common_name_and_its_alternative_names() {
        let all = names_in(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "CN=root");
            params.distinguished_name.push(DnType::CommonName, "Zo\u{eb}'s laptop");
            params.subject_alt_names = vec![
                SanType::DnsName(ia5("Laptop-7.example.com")),
                SanType::IpAddress([10, 0, 0, 1].into()),
                SanType::URI(ia5("spiffe://example.org/laptop-7")),
                SanType::Rfc822Name(ia5("ann@example.com")),
            ];
        });
        assert_eq!(
            all,
            [
                "CN=Zo\u{eb}'s laptop",
                "DNS=laptop-7.example.com",
                "URI=spiffe://example.org/laptop-7",
                "EMAIL=ann@example.com"
            ]
        );
        assert!(names_in(|_| ()).is_empty());
        let end = client_certificate(&issued(|_| ())).unwrap();
        assert!(
            end.is_valid(Timestamp::from_secs(1_893_455_999)) && !end.is_valid(Timestamp::from_secs(1_893_456_001))
        );
    }

    #[test]
    fn a_name_that_could_be_read_in_two_ways_is_none() {
        let with = |value: DnValue| names_in(|params| params.distinguished_name.push(DnType::CommonName, value));
        assert_eq!(with(DnValue::PrintableString("ann".try_into().unwrap())), ["CN=ann"]);
        assert!(with(DnValue::Utf8String("ann\0.example.com".into())).is_empty());
        assert!(with(DnValue::Utf8String(String::new())).is_empty());
        assert!(
            with(DnValue::BmpString("ann".try_into().unwrap())).is_empty(),
            "only forms that are text as it stands"
        );
        // An attribute of another kind that looks like one.
        let other = names_in(|params| {
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "a");
            params.distinguished_name.push(DnType::CommonName, "b");
        });
        assert!(other.is_empty(), "several Common Names: {other:?}");
    }

    static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let change = |params: &mut CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, "ann");
            params.subject_alt_names = vec![SanType::DnsName(ia5("a.example"))];
        };
        issued(change).to_vec()
    });

    proptest! {
        // A client's certificate is parsed without a panic, even truncated or changed.
        #[test]
        fn nothing_that_a_client_sends_is_a_panic(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
            let mut der = SOUND.clone();
            let _ = client_certificate(&CertificateDer::from(der[..cut.min(der.len())].to_vec()));
            if let Some(place) = der.get_mut(at) {
                *place = byte;
            }
            let _ = client_certificate(&CertificateDer::from(der));
        }
    }
}
