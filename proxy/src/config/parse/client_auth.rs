//! Client certificates: `TLS_CLIENT_CA_FILE`, `TLS_CLIENT_AUTH`, and rules that refer to them although none are requested.

use super::keys;
use crate::adapters::certs::ClientAuth;
use crate::config::options::{TLS_CERT_FILE, TLS_CLIENT_AUTH, TLS_CLIENT_CA_FILE};
use crate::config::reading::Reading;
use crate::domain::rules::{Entry, Rule};

/// Which client certificates are requested. Any error in it is noted.
pub(super) fn read(reading: &mut Reading, rules: &[Rule]) -> Option<ClientAuth> {
    let required = match reading.text(TLS_CLIENT_AUTH).map(|text| text.to_ascii_lowercase()).as_deref() {
        Some("required") | None => true,
        Some("optional") => false,
        Some(_) => {
            reading.fault(TLS_CLIENT_AUTH, "must be `required` or `optional`");
            true
        }
    };
    if !reading.is_set(TLS_CLIENT_CA_FILE) {
        if reading.is_set(TLS_CLIENT_AUTH) {
            reading.fault(
                TLS_CLIENT_CA_FILE,
                "is not set, but TLS_CLIENT_AUTH is: clients are asked for certificates of its authorities",
            );
        }
        // Without TLS no client could be asked.
        if reading.is_set_and_empty(TLS_CLIENT_CA_FILE) && reading.is_set(TLS_CERT_FILE) {
            reading.warn(
                "TLS_CLIENT_CA_FILE is set and empty, so no client is asked for a certificate: name a file, or do not set it",
            );
        }
        refuse_rules(reading, rules);
        return None;
    }
    let before = reading.faults.len();
    let roots = keys::roots(reading, TLS_CLIENT_CA_FILE);
    if !reading.is_set(TLS_CERT_FILE) {
        reading.fault(
            TLS_CLIENT_CA_FILE,
            "asks clients for certificates, which TLS_CERT_FILE and TLS_KEY_FILE do: without TLS there are none",
        );
    }
    (reading.faults.len() == before && !roots.is_empty()).then_some(ClientAuth { roots, required })
}

/// A rule for certificates that are never requested would silently admit nobody, or fewer users than written.
fn refuse_rules(reading: &mut Reading, rules: &[Rule]) {
    let named = |rule: &&Rule| rule.entries().any(Entry::is_certificate);
    if let Some(rule) = rules.iter().find(named) {
        let problem = format!(
            "is not set, but the rule `{}` (line {}) names a client certificate: without it no client is asked for one",
            rule.name, rule.line
        );
        reading.fault(TLS_CLIENT_CA_FILE, problem);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::trial::{GITHUB, sources};
    use crate::config::{Faults, Loaded, load};

    /// Loads with a certificate, its key and an authority, as far as `names` says.
    fn loads(names: &[&str], more: &[(&str, &str)], rules: &str) -> Result<Loaded, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let issued = rcgen::generate_simple_self_signed(["app.example.com".to_owned()]).unwrap();
        fs::write(at("crt"), issued.cert.pem()).unwrap();
        fs::write(at("key"), issued.signing_key.serialize_pem()).unwrap();
        fs::write(at("s.toml"), rules).unwrap();
        let files = [("TLS_CERT_FILE", at("crt")), ("TLS_KEY_FILE", at("key")), ("TLS_CLIENT_CA_FILE", at("crt"))];
        let env: Vec<(&str, &str)> =
            files.iter().filter(|(name, _)| names.contains(name)).map(|(name, path)| (*name, path.as_str())).collect();
        load(&sources(&["--config", &at("s.toml")], &[GITHUB, &env, more]))
    }

    const TLS: [&str; 2] = ["TLS_CERT_FILE", "TLS_KEY_FILE"];
    const ALL: [&str; 3] = ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"];
    const RULE: &str = "\n[[routes]]\nname = \"lab\"\nallow = \"signed-in\"\nrequire = [\"cert:CN=laptop-7\"]";

    #[test]
    fn certificates_are_asked_for_as_it_is_written() {
        let asked = |more: &[(&str, &str)]| {
            let loaded = loads(&ALL, more, RULE).unwrap_or_else(|faults| panic!("{faults}"));
            loaded.settings.client_auth.map(|auth| (auth.roots.len(), auth.required))
        };
        assert_eq!(asked(&[]), Some((1, true)));
        assert_eq!(asked(&[("TLS_CLIENT_AUTH", "optional")]), Some((1, false)));
        assert_eq!(asked(&[("TLS_CLIENT_AUTH", "Required")]), Some((1, true)));
        assert!(loads(&TLS, &[], "").unwrap().settings.client_auth.is_none());
    }

    #[test]
    fn a_file_that_is_set_and_empty_turns_certificates_off_with_a_warning() {
        const EMPTY: &[(&str, &str)] = &[("TLS_CLIENT_CA_FILE", " ")];
        let empty_in_file = "tls_client_ca_file = \"\"";
        for (names, more, file, asks, warns) in [
            (&TLS[..], EMPTY, "", false, true),
            (&TLS, &[], empty_in_file, false, true),
            (&TLS, &[], "", false, false),
            (&[], EMPTY, "", false, false),
            (&ALL, &[], empty_in_file, true, false),
        ] {
            let loaded = loads(names, more, file).unwrap_or_else(|faults| panic!("{faults}"));
            let warnings = loaded.warnings.join("\n");
            assert_eq!(loaded.settings.client_auth.is_some(), asks, "{names:?} {more:?} {file}");
            assert_eq!(warnings.contains("TLS_CLIENT_CA_FILE is set and empty"), warns, "{names:?} {more:?} {file}");
        }
    }

    #[test]
    fn what_would_ask_nobody_is_a_fault() {
        for (names, more, rules, says) in [
            (&["TLS_CLIENT_CA_FILE"][..], &[][..], "", "TLS_CLIENT_CA_FILE: asks clients for certificates"),
            (&TLS, &[("TLS_CLIENT_AUTH", "required")], "", "TLS_CLIENT_CA_FILE: is not set, but TLS_CLIENT_AUTH is"),
            (&TLS, &[], RULE, "the rule `lab` (line 2) names a client certificate"),
            (&ALL, &[("TLS_CLIENT_AUTH", "off")], "", "TLS_CLIENT_AUTH: must be `required` or `optional`"),
            (&ALL, &[], "[[routes]]\nrequire = [\"cert:O=acme\"]", "no name of a client certificate"),
            (&ALL, &[], "[[routes]]\nallow = [\"certs:any\"]", "did you mean `cert:`?"),
        ] {
            let faults = loads(names, more, rules).err().unwrap_or_else(|| panic!("no fault: {says}")).to_string();
            assert!(faults.contains(says) && faults.lines().count() == 1, "{faults}");
        }
    }
}
