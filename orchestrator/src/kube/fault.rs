//! Why a request to a Kubernetes API failed, in words for people.

use std::error::Error;
use std::io;

use rustls::AlertDescription;

use super::body::BodyFault;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// No usable response came, or the server has an internal error.
    #[error("{0}")]
    Unreachable(String),
    /// The credentials are invalid or insufficient.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// Another client changed the object in the meantime.
    #[error("{0}")]
    Conflict(String),
    /// The server does not understand, or does not allow, the request.
    #[error("{0}")]
    Refused(String),
    /// The version that a watch wanted to resume from is no longer available.
    #[error("{0}")]
    Gone(String),
}

impl Fault {
    /// Maps a status code and message to a fault.
    pub(crate) fn of_status(code: u16, message: &str) -> Self {
        let detail = || if message.is_empty() { String::new() } else { format!(": {}", words(message)) };
        match code {
            401 => Self::Forbidden("the cluster does not accept the credentials (401)".to_owned()),
            403 => Self::Forbidden(format!("the cluster does not allow it (403){}", detail())),
            404 => Self::NotFound(format!("the cluster does not have it (404){}", detail())),
            409 => Self::Conflict(format!("somebody else changed it meanwhile (409){}", detail())),
            410 => Self::Gone(format!("the cluster has forgotten that version (410){}", detail())),
            429 | 500..=599 => Self::Unreachable(format!("the cluster answered {code}{}", detail())),
            _ => Self::Refused(format!("the cluster refuses it ({code}){}", detail())),
        }
    }

    /// No response within this many seconds.
    pub(crate) fn late(seconds: u64) -> Self {
        Self::Unreachable(format!("the cluster did not answer within {seconds} s"))
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error {
            return Self::of_status(status.code, &status.message);
        }
        if let kube::Error::SerdeError(_) = &error {
            return Self::Unreachable("the answer is not what a Kubernetes API answers".to_owned());
        }
        let cause = deepest(&error);
        if let Some(alert) = certificate_alert(cause) {
            let alert = alert.as_str().unwrap_or("its alert has no name");
            return Self::Forbidden(format!(
                "the cluster does not accept the client certificate, or wants one ({alert})"
            ));
        }
        Self::Unreachable(reason(cause))
    }
}

// The outer errors only say that a request failed; the innermost has the cause. Depth is bounded, in case of a cycle.
fn deepest(error: &kube::Error) -> &(dyn Error + 'static) {
    let mut cause: &(dyn Error + 'static) = error;
    if let kube::Error::Service(inner) = error {
        cause = inner.as_ref();
    }
    for _ in 0..16 {
        match cause.source() {
            Some(source) if !cause.is::<BodyFault>() => cause = source,
            Some(_) | None => break,
        }
    }
    cause
}

/// The cluster rejected our certificate: it sends a TLS alert right after the handshake.
fn certificate_alert(cause: &(dyn Error + 'static)) -> Option<AlertDescription> {
    use AlertDescription as A;
    let Some(rustls::Error::AlertReceived(alert)) = tls_error(cause) else { return None };
    let about_certificate = [
        A::CertificateRequired,
        A::BadCertificate,
        A::UnsupportedCertificate,
        A::CertificateRevoked,
        A::CertificateExpired,
        A::CertificateUnknown,
        A::UnknownCA,
        // The signature does not match: the certificate is from another authority with the same name.
        A::DecryptError,
        A::AccessDenied,
    ];
    about_certificate.contains(alert).then_some(*alert)
}

fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| cause.downcast_ref())
}

/// What is wrong with the cluster's certificate, and a remedy; the library's own text is for programmers.
fn server_certificate(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as C;
    let rustls::Error::InvalidCertificate(cause) = error else { return None };
    Some(if matches!(cause, C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. }) {
        "the cluster's certificate is not valid now: it has expired, or one of the clocks is wrong"
    } else if matches!(cause, C::NotValidForName | C::NotValidForNameContext { .. }) {
        "the cluster's certificate is for other names than the server's: use one of its names, or set tls-server-name"
    } else if matches!(cause, C::UnknownIssuer | C::BadSignature) {
        "the cluster's certificate is not signed by the authority in certificate-authority-data"
    } else if format!("{cause:?}").contains("CaUsedAsEndEntity") {
        "the cluster shows a certificate authority's own certificate: give it a server certificate that the authority signed"
    } else {
        "the cluster's certificate is not one that a server may show"
    })
}

fn reason(cause: &(dyn Error + 'static)) -> String {
    if let Some(fault) = cause.downcast_ref::<BodyFault>() {
        return fault.to_string();
    }
    if let Some(words) = tls_error(cause).and_then(server_certificate) {
        return words.to_owned();
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "nothing listens at the cluster's address".to_owned(),
        Some(io::ErrorKind::TimedOut) => "the cluster's address does not answer".to_owned(),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {
            "the cluster closed the connection".to_owned()
        }
        Some(_) | None => format!("the cluster cannot be reached: {}", words(&cause.to_string())),
    }
}

// Text from the cluster: made one line, and cut.
fn words(text: &str) -> String {
    text.chars().take(300).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_what_the_cluster_says_in_one_short_line() {
        let fault = Fault::of_status(403, &format!("user\n\u{1b}[31m{}", "x".repeat(1000)));
        let Fault::Forbidden(text) = fault else { panic!("{fault:?}") };
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    }

    #[test]
    fn a_refusal_without_words_says_its_number_once() {
        for code in [400, 403, 404, 409, 410, 418, 500] {
            let text = Fault::of_status(code, "").to_string();
            assert_eq!(text.matches(&code.to_string()).count(), 1, "{text}");
            assert!(!text.ends_with(": ") && !text.contains("is not there"), "{text}");
        }
        assert!(Fault::of_status(404, "apps \"x\" not found").to_string().ends_with("(404): apps \"x\" not found"));
    }

    #[test]
    fn a_certificate_that_is_not_accepted_is_explained_without_the_librarys_words() {
        use rustls::CertificateError as C;
        for (cause, expected) in
            [(C::UnknownIssuer, "certificate-authority-data"), (C::Expired, "expired"), (C::NotValidForName, "names")]
        {
            let words = server_certificate(&rustls::Error::InvalidCertificate(cause)).unwrap();
            assert!(words.contains(expected) && words.contains("certificate"), "{words}");
        }
    }

    #[test]
    fn a_server_in_trouble_is_no_refusal() {
        for code in [429, 500, 503, 504] {
            assert!(matches!(Fault::of_status(code, ""), Fault::Unreachable(_)), "{code}");
        }
        assert!(matches!(Fault::of_status(422, "no"), Fault::Refused(_)));
    }
}
