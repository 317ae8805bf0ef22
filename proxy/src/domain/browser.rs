//! Describes a browser in words: `Firefox on Linux`.

use super::session::Device;

/// The marks of browsers, the most specific first: nearly all of them also contain Chrome's and Safari's.
const BROWSERS: [(&str, &str); 13] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
];

/// The marks of systems, the most specific first: Android's name contains Linux too.
const SYSTEMS: [(&str, &str); 9] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
];

/// What a browser's name may contain beside [`BROWSERS`]; anything else makes it another program, which is not called a browser.
const BESIDE: [&str; 5] = ["AppleWebKit/", "Gecko/", "Safari/", "Mobile/", "Mobile"];

/// Describes a `User-Agent` that is certainly one of the common browsers; `None` for everything else (programs, robots, views inside other
/// applications, a truncated text), which is best shown as it is.
#[must_use]
pub fn in_words(user_agent: &str) -> Option<String> {
    if user_agent.len() + 4 > Device::BROWSER_MOST {
        return None;
    }
    let rest = user_agent.strip_prefix("Mozilla/5.0 (")?;
    let (system, rest) = rest.split_once(')')?;
    // Views inside other applications on Android, and robots that use a browser's name.
    if system.ends_with("; wv") || system.contains("compatible") {
        return None;
    }
    let rest = rest.replace("(KHTML, like Gecko)", "");
    let known = |word: &str| BROWSERS.iter().any(|(mark, _)| word.starts_with(mark)) || is_beside(word);
    if !rest.split_whitespace().all(known) {
        return None;
    }
    let names = |mark: &str| rest.split_whitespace().any(|word| word.starts_with(mark));
    let (_, browser) = BROWSERS.iter().find(|(mark, _)| names(mark))?;
    Some(match SYSTEMS.iter().find(|(mark, _)| system.contains(mark)) {
        Some((_, system)) => format!("{browser} on {system}"),
        None => (*browser).to_owned(),
    })
}

fn is_beside(word: &str) -> bool {
    BESIDE.iter().any(|mark| if mark.ends_with('/') { word.starts_with(mark) } else { word == *mark })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_called_by_their_names() {
        for (text, words) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0", "Firefox on Linux"),
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:142.0) Gecko/20100101 Firefox/142.0", "Firefox on Windows"),
            ("Mozilla/5.0 (Android 15; Mobile; rv:142.0) Gecko/142.0 Firefox/142.0", "Firefox on Android"),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
                "Chrome on macOS",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
                "Chrome on ChromeOS",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0.1 Mobile/15E148 Safari/604.1",
                "Chrome on iPad",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
                "Samsung Internet on Android",
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/140.0.0.0 Safari/537.36",
                "Chrome on Linux",
            ),
        ] {
            assert_eq!(in_words(text).as_deref(), Some(words), "{text}");
        }
    }

    #[test]
    fn what_is_not_surely_a_browser_is_not_called_one() {
        for text in [
            "",
            "curl/8.5.0",
            "Mozilla/5.0",
            "Mozilla/5.0 (",
            "Mozilla/5.0 (X11; Linux x86_64)",
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Electron/38.0.0 Safari/537.36",
            "Mozilla/5.0 (Linux; Android 15; Pixel; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/140.0.0.0 Mobile Safari/537.36",
            "Mozilla/5.0 (X11; Linux) Firefox/1 <script>",
        ] {
            assert_eq!(in_words(text), None, "{text}");
        }
        let long = "Mozilla/5.0 (Linux; Android 14; A VERY LONG NAME OF A DEVICE OF A MAKER OF LONG NAMES) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36 EdgA/140.0";
        assert_eq!(
            in_words(long.get(..Device::BROWSER_MOST).unwrap()),
            None,
            "what was cut may have named another browser"
        );
    }
}
