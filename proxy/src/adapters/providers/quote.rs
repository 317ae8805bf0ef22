//! Makes external text safe for a log line.

/// The longest quotation, in characters.
const LONGEST: usize = 200;

/// `text`, cut to 200 characters, with control and invisible characters escaped, so that it cannot forge a line of the log.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(LONGEST).flat_map(shown).collect();
    if text.chars().nth(LONGEST).is_some() {
        quoted.push('…');
    }
    quoted
}

fn shown(c: char) -> impl Iterator<Item = char> {
    let plain = matches!(c, '"' | '\'' | '\\').then_some(c);
    let escaped = plain.is_none().then(|| c.escape_debug()).into_iter().flatten();
    plain.into_iter().chain(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_short_and_one_line() {
        assert_eq!(quote("it's \"so\"\r\nERROR \u{1b}[31m \u{202e}"), "it's \"so\"\\r\\nERROR \\u{1b}[31m \\u{202e}");
        assert_eq!(quote(&"x".repeat(10_000)).chars().count(), LONGEST + 1);
        assert_eq!(quote("Zoë"), "Zoë");
    }
}
