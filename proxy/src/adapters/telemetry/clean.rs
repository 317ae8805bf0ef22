//! The only way in which external text gets into a log line.

use std::fmt;

/// How many characters of a text are shown.
const LIMIT: usize = 256;

/// External text (an email, a host, a provider's reason), safe to print in one line: invisible characters (control characters, line ends,
/// escape sequences, marks that change the direction of writing) are escaped as in `\n` and `\u{202e}`, a backslash is doubled so that an
/// escape cannot be forged, and everything beyond 256 characters is cut.
#[derive(Clone, Copy, Debug)]
pub struct Clean<'a>(pub &'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        let mut chars = self.0.chars();
        for c in chars.by_ref().take(LIMIT) {
            match c {
                '\'' | '"' => f.write_char(c)?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        if chars.next().is_some() { f.write_char('\u{2026}') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["ann@example.com", "Zo\u{eb} O'Hara \"zo\"", "\u{65e5}\u{672c}", ""] {
            assert_eq!(Clean(text).to_string(), text);
        }
    }

    #[test]
    fn nothing_invisible_comes_through() {
        assert_eq!(Clean("a\r\nERROR b").to_string(), r"a\r\nERROR b");
        assert_eq!(Clean("\u{1b}[31mred").to_string(), r"\u{1b}[31mred");
        assert_eq!(Clean("\u{9b}31m\u{7f}\0").to_string(), r"\u{9b}31m\u{7f}\0");
        assert_eq!(Clean("a\u{202e}b\u{2066}\u{200f}").to_string(), r"a\u{202e}b\u{2066}\u{200f}");
        assert_eq!(Clean("a\u{2028}b\u{200b}\u{feff}").to_string(), r"a\u{2028}b\u{200b}\u{feff}");
        assert_eq!(Clean(r"a\n").to_string(), r"a\\n", "an escape cannot be forged");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(Clean(&"a".repeat(256)).to_string(), "a".repeat(256));
        assert_eq!(Clean(&"a".repeat(257)).to_string(), "a".repeat(256) + "\u{2026}");
    }

    proptest! {
        #[test]
        fn a_line_stays_one_line(text in any::<String>()) {
            let clean = Clean(&text).to_string();
            let invisible = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
            prop_assert!(!clean.contains(invisible), "{:?}", clean);
            prop_assert!(clean.chars().count() <= 256 * 10 + 1);
        }
    }
}
