//! Where the database is, and the keys that seal its kubeconfigs.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;
use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::store::{KEY_LEN, Key, Location};

/// The default, relative to the directory that the program is started in.
pub(super) const FILE_DEFAULT: &str = "./data/orchestrator.db";

/// Parses `DATABASE_URL`; without it the default file is used, or memory for a demonstration.
pub(super) fn location(url: Option<&Secret>, demo: bool, faults: &mut Vec<String>) -> Option<Location> {
    let Some(url) = url else {
        return Some(if demo { Location::Memory } else { Location::Sqlite(FILE_DEFAULT.into()) });
    };
    let found = parse(url);
    if found.is_none() {
        faults.push(
            "DATABASE_URL: not the URL of a database; for example postgres://user:password@host:5432/orchestrator or \
             sqlite:///var/lib/orchestrator/orchestrator.db"
                .into(),
        );
    }
    found
}

fn parse(url: &Secret) -> Option<Location> {
    let text = url.expose().trim();
    if let Some(path) = text.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let path = percent_decode_str(path).decode_utf8().ok()?;
        // What follows ? would silently become part of the name.
        let sound = !path.is_empty() && !path.contains(['?', '#', '\0']);
        return sound
            .then(|| if path == ":memory:" { Location::Memory } else { Location::Sqlite(path.as_ref().into()) });
    }
    // A plain path, like the default.
    if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
        return (!text.contains('\0')).then(|| Location::Sqlite(text.into()));
    }
    let parsed = Url::parse(text).ok()?;
    matches!(parsed.scheme(), "postgres" | "postgresql").then(|| Location::Postgres(Secret::new(text.to_owned())))
}

/// Parses `ENCRYPTION_KEY`: the first key seals, all of them open.
pub(super) fn keys(list: Option<&Secret>, faults: &mut Vec<String>) -> Vec<Key> {
    let Some(list) = list else { return Vec::new() };
    let keys: Option<Vec<Key>> = list.expose().split(',').map(|word| key(word.trim())).collect();
    keys.unwrap_or_else(|| {
        faults.push(format!(
            "ENCRYPTION_KEY: each key, with commas between, must be {KEY_LEN} bytes in base64 or hex; for example the \
             output of `openssl rand -base64 {KEY_LEN}`"
        ));
        Vec::new()
    })
}

fn key(word: &str) -> Option<Key> {
    let hex = (word.len() == 2 * KEY_LEN).then(|| from_hex(word)).flatten();
    let bytes = hex.or_else(|| from_base64(word))?;
    Key::new(&bytes)
}

fn from_hex(word: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = word.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let digits: Zeroizing<Vec<u8>> = Zeroizing::new(digits.collect::<Option<_>>()?);
    Some(Zeroizing::new(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()))
}

fn from_base64(word: &str) -> Option<Zeroizing<Vec<u8>>> {
    let alphabet = if word.contains(['-', '_']) { base64::alphabet::URL_SAFE } else { base64::alphabet::STANDARD };
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet, lenient).decode(word).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    fn located(url: &str) -> Option<Location> {
        location(Some(&Secret::new(url.into())), false, &mut Vec::new())
    }

    fn key_count(list: &str) -> Result<usize, String> {
        let mut faults = Vec::new();
        let keys = keys(Some(&Secret::new(list.into())), &mut faults);
        if faults.is_empty() { Ok(keys.len()) } else { Err(faults.join("\n")) }
    }

    #[test]
    fn nothing_set_is_a_file_and_a_demonstration_leaves_none() {
        let mut faults = Vec::new();
        assert!(
            matches!(location(None, false, &mut faults), Some(Location::Sqlite(path)) if path == Path::new(FILE_DEFAULT))
        );
        assert!(matches!(location(None, true, &mut faults), Some(Location::Memory)));
    }

    #[test]
    fn urls_of_both_databases_are_known_and_no_others() {
        for url in ["postgres://u:p@h/db", "postgresql:///db?host=/run/postgresql"] {
            assert!(matches!(located(url), Some(Location::Postgres(_))), "{url}");
        }
        for (url, path) in [
            ("sqlite:///a/b.db", "/a/b.db"),
            ("sqlite:c.db", "c.db"),
            ("sqlite://d%20e.db", "d e.db"),
            (FILE_DEFAULT, FILE_DEFAULT),
            ("/a/b.db", "/a/b.db"),
        ] {
            assert!(matches!(located(url), Some(Location::Sqlite(found)) if found == Path::new(path)), "{url}");
        }
        for url in ["mysql://h/db", "orchestrator.db", "sqlite:", "sqlite:a.db?mode=ro", "postgres"] {
            assert!(located(url).is_none(), "{url}");
        }
    }

    #[test]
    fn a_key_is_32_bytes_of_base64_or_hex() {
        let bytes = [251_u8; KEY_LEN];
        let hex = "fb".repeat(KEY_LEN);
        let words = [STANDARD.encode(bytes), URL_SAFE.encode(bytes), hex.to_uppercase(), hex];
        for word in &words {
            assert_eq!(key(word).unwrap().bytes(), bytes, "{word}");
        }
        assert_eq!(key(words[0].trim_end_matches('=')).unwrap().bytes(), bytes);
        assert_eq!(key_count(&words.join(", ")), Ok(4));
    }

    #[test]
    fn a_wrong_key_is_a_fault_that_does_not_quote_it() {
        for list in ["", "hunter2hunter2", &STANDARD.encode([1; 31]), &format!("{},", STANDARD.encode([1; KEY_LEN]))] {
            let fault = key_count(list).unwrap_err();
            assert!(fault.contains("openssl rand"), "{fault}");
            assert!(list.is_empty() || !fault.contains(list), "{fault}");
        }
    }
}
