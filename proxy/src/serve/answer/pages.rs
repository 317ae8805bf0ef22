//! The proxy's own pages: sign-in, signed-out, sessions, and one for every message.
//!
//! They contain no script, no inline style and nothing external, so that [`CONTENT_SECURITY_POLICY`] can forbid all of it.
//! The templates end in `.html`: askama escapes every value in them.

use askama::Template;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::domain::identity::ProviderKind;
use crate::domain::path::ReturnTo;
use crate::domain::paths;

/// For every page. Injected markup can neither run, nor load, nor post elsewhere, and no site can frame the buttons
/// (clickjacking). `form-action` also covers redirects in Chromium: so the way to the provider is a link, not a form.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                                           base-uri 'none'; frame-ancestors 'none'";

/// The content of the sign-in page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignInPage<'a> {
    /// The site's host name, as users know it.
    pub site: Option<&'a str>,
    /// The provider's display name, see [`provider_name`].
    pub provider: &'a str,
    /// Where the browser goes after the sign-in.
    pub return_to: &'a ReturnTo,
    /// A sentence above the button.
    pub notice: Option<&'a str>,
}

/// The content of the signed-out page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedOutPage<'a> {
    /// The site's host name, as users know it.
    pub site: Option<&'a str>,
    /// Where the user may still be signed in, see [`provider_name`].
    pub provider: &'a str,
    /// The provider's logout URL: the only link to another origin on any page; no browser can choose it.
    pub provider_logout: Option<&'a Url>,
}

/// The content of the page that lists a person's sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionsPage<'a> {
    /// The site's host name, as users know it.
    pub site: Option<&'a str>,
    /// Whose sessions they are: an email or a username.
    pub who: &'a str,
    /// The sessions, newest first.
    pub sessions: &'a [SessionRow],
    /// How many are shown, if there are more.
    pub only: Option<usize>,
    /// Whether other sessions than this one cannot be known.
    pub stateless: bool,
}

/// One session, as text.
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    /// The id to end it by.
    pub id: String,
    /// The browser's name, or empty.
    pub browser: String,
    /// The client's address at the sign-in.
    pub address: String,
    /// When it began.
    pub created: String,
    /// When it was last used.
    pub last_seen: String,
    /// Whether it is the session of this request.
    pub is_current: bool,
}

/// The content of a message page: an error or a refusal, and what to do next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessagePage<'a> {
    /// The site's host name, as users know it; `None` in open mode.
    pub site: Option<&'a str>,
    /// The error's code, for support: `not_allowed`.
    pub code: &'a str,
    /// The heading.
    pub title: &'a str,
    /// The message that a program gets too.
    pub sentence: &'a str,
    /// The reason, and what to do about it.
    pub explanation: Option<&'a str>,
    /// A list under "What to check".
    pub checks: &'a [&'a str],
    /// The signed-in user: an email or a username.
    pub signed_in_as: Option<&'a str>,
    /// The request's id, to find it in the log.
    pub request_id: Option<&'a str>,
    /// The offered actions; the first stands out.
    pub actions: &'a [Action<'a>],
}

/// An action on a message page. There are only these, so that no page can link to another origin or to a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    /// "Try again": a new sign-in that returns there.
    TryAgain(&'a ReturnTo),
    /// "Try again": reloads the page itself.
    Reload(&'a ReturnTo),
    /// "Sign in", then return there.
    SignIn(&'a ReturnTo),
    /// "Sign in as someone else", with the provider's account chooser, then return there.
    SignInAsSomeoneElse(&'a ReturnTo),
    /// "Sign out": a form, since links must not change state.
    SignOut,
    /// "Go to the start page".
    Start,
}

impl Action<'_> {
    /// The element's `id`, for tests and for custom style sheets.
    #[must_use]
    pub(crate) const fn id(&self) -> &'static str {
        match self {
            Self::TryAgain(_) | Self::Reload(_) => "try-again",
            Self::SignIn(_) => "sign-in",
            Self::SignInAsSomeoneElse(_) => "sign-in-as-someone-else",
            Self::SignOut => "sign-out",
            Self::Start => "start",
        }
    }

    const fn label(&self) -> &'static str {
        match self {
            Self::TryAgain(_) | Self::Reload(_) => "Try again",
            Self::SignIn(_) => "Sign in",
            Self::SignInAsSomeoneElse(_) => "Sign in as someone else",
            Self::SignOut => "Sign out",
            Self::Start => "Go to the start page",
        }
    }

    /// `None`: the action is a form that posts, not a link.
    fn href(&self) -> Option<String> {
        match self {
            Self::TryAgain(to) | Self::SignIn(to) => Some(login_href(to)),
            Self::SignInAsSomeoneElse(to) => Some(format!("{}&prompt=select_account", login_href(to))),
            Self::Reload(to) => Some(to.as_str().to_owned()),
            Self::Start => Some("/".to_owned()),
            Self::SignOut => None,
        }
    }
}

/// The provider's display name, in "Continue with …" and "signed in to …".
#[must_use]
pub(crate) const fn provider_name(provider: ProviderKind) -> &'static str {
    match provider {
        ProviderKind::Github => "GitHub",
        ProviderKind::Entra => "Microsoft",
        ProviderKind::Oidc => "your organisation's account",
    }
}

/// The sign-in page.
#[must_use]
pub(crate) fn sign_in(view: &SignInPage<'_>) -> String {
    rendered(&SignInTemplate { view, href: login_href(view.return_to) })
}

/// The page after signing out.
#[must_use]
pub(crate) fn signed_out(view: &SignedOutPage<'_>) -> String {
    rendered(&SignedOutTemplate { view })
}

/// The page that lists a person's sessions.
#[must_use]
pub(crate) fn sessions(view: &SessionsPage<'_>) -> String {
    rendered(&SessionsTemplate { view })
}

/// The page for an error or a refusal.
#[must_use]
pub(crate) fn message(view: &MessagePage<'_>) -> String {
    rendered(&MessageTemplate { view })
}

/// A file that the pages load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asset {
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: &'static [u8],
}

/// The file of that name; `None` for all others. Names are compared whole: no file is read from disk.
#[must_use]
pub(crate) fn asset(name: &str) -> Option<Asset> {
    let (content_type, body): (_, &[u8]) = match name {
        "sidegate.css" => ("text/css; charset=utf-8", include_bytes!("../../../assets/sidegate.css")),
        "icon.svg" => ("image/svg+xml", include_bytes!("../../../assets/icon.svg")),
        "gate-open.svg" => ("image/svg+xml", include_bytes!("../../../assets/gate-open.svg")),
        "gate-closed.svg" => ("image/svg+xml", include_bytes!("../../../assets/gate-closed.svg")),
        _ => return None,
    };
    Some(Asset { content_type, body })
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInTemplate<'a> {
    view: &'a SignInPage<'a>,
    href: String,
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOutTemplate<'a> {
    view: &'a SignedOutPage<'a>,
}

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsTemplate<'a> {
    view: &'a SessionsPage<'a>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessageTemplate<'a> {
    view: &'a MessagePage<'a>,
}

/// Writing to memory does not fail; if it ever does, the user gets a page and the log the reason.
fn rendered(page: &impl Template) -> String {
    page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a page could not be made");
        "<!doctype html><title>Error</title><p>This page could not be made. <a href=\"/\">Go to the start page</a>"
            .into()
    })
}

/// All but RFC 3986's unreserved characters and `/`: a query inside `rd` must not become one of `login`.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

fn login_href(to: &ReturnTo) -> String {
    format!("{}?rd={}", paths::LOGIN, utf8_percent_encode(to.as_str(), QUERY_VALUE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = r#"<script>alert(1)</script>"'& onclick="x" style='y' javascript:z"#;

    fn to(path: &str) -> ReturnTo {
        ReturnTo::parse(path, &url::Url::parse("https://app.example.com/").unwrap())
    }

    /// Each page, with `text` wherever a caller can supply text, and all actions.
    fn pages_with(text: &str, path: &str) -> Vec<String> {
        let to = to(path);
        let actions = [
            Action::TryAgain(&to),
            Action::Reload(&to),
            Action::SignIn(&to),
            Action::SignInAsSomeoneElse(&to),
            Action::SignOut,
            Action::Start,
        ];
        vec![
            sign_in(&SignInPage { site: Some(text), provider: text, return_to: &to, notice: Some(text) }),
            signed_out(&SignedOutPage { site: Some(text), provider: text, provider_logout: None }),
            message(&MessagePage {
                site: Some(text),
                code: text,
                title: text,
                sentence: text,
                explanation: Some(text),
                checks: &[text, text],
                signed_in_as: Some(text),
                request_id: Some(text),
                actions: &actions,
            }),
            message(&MessagePage { code: text, title: text, sentence: text, ..MessagePage::default() }),
            sessions(&SessionsPage {
                site: Some(text),
                who: text,
                sessions: &[row(text, true), row(text, false)],
                only: Some(100),
                stateless: true,
            }),
        ]
    }

    fn row(text: &str, is_current: bool) -> SessionRow {
        let text = text.to_owned();
        let (id, browser, address) = ("0".repeat(32), text.clone(), text.clone());
        SessionRow { id, browser, address, created: text.clone(), last_seen: text, is_current }
    }

    /// The tags of a page, from `<` to `>`. An unescaped `>` inside a value would cut the tag short.
    fn tags(page: &str) -> Vec<&str> {
        page.split('<').skip(1).map(|rest| rest.split_once('>').expect("each tag ends").0).collect()
    }

    /// The values of an attribute, across all tags.
    fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
        let opening = format!(" {attribute}=\"");
        tags(page)
            .into_iter()
            .filter_map(|tag| Some(tag.split_once(&opening)?.1.split_once('"').expect("each value ends").0))
            .collect()
    }

    #[test]
    fn text_stays_text() {
        let shape = |page: &String| -> Vec<String> {
            tags(page).iter().map(|tag| tag.split([' ', '>']).next().unwrap_or_default().to_owned()).collect()
        };
        let (plain, hostile) = (pages_with("plain", "/x"), pages_with(HOSTILE, "/x"));
        for (plain, hostile) in plain.iter().zip(&hostile) {
            assert_eq!(shape(plain), shape(hostile), "the text made elements");
            assert!(!hostile.contains("<script"));
            assert!(hostile.contains("&#60;script&#62;"), "the text is gone, not escaped");
        }
    }

    #[test]
    fn nothing_needs_an_inline_style_or_script() {
        for page in pages_with(HOSTILE, "/x") {
            for tag in tags(&page) {
                let outside = tag.split('"').step_by(2).collect::<String>();
                assert!(!outside.contains(" style="), "{tag}");
                assert!(!outside.contains(" on"), "{tag}");
                assert!(!tag.starts_with("style") && !tag.starts_with("script"), "{tag}");
            }
        }
    }

    #[test]
    fn every_address_is_a_path_on_this_origin() {
        for path in ["/a?b=c&d=\"e'<f>#g", "//evil.example", "javascript:alert(1)", "/\\evil.example"] {
            for page in pages_with(HOSTILE, path) {
                let addresses: Vec<_> = ["href", "src", "action"].iter().flat_map(|name| values(&page, name)).collect();
                assert!(addresses.len() >= 3, "no addresses seen: {addresses:?}");
                for address in addresses {
                    assert!(address.starts_with('/') && !address.starts_with("//"), "{address}");
                }
            }
        }
    }

    #[test]
    fn every_file_that_a_page_names_is_there() {
        for page in pages_with("plain", "/x") {
            let loaded: Vec<_> = values(&page, "src").into_iter().chain(values(&page, "href")).collect();
            let files: Vec<_> =
                loaded.iter().filter_map(|path| path.strip_prefix(paths::ASSETS)?.strip_prefix('/')).collect();
            assert!(files.len() >= 3, "{files:?}");
            for name in files {
                assert!(asset(name).is_some_and(|file| !file.body.is_empty()), "{name}");
            }
        }
    }

    #[test]
    fn a_file_is_found_by_its_whole_name_only() {
        assert!(asset("sidegate.css").is_some_and(|file| file.content_type.starts_with("text/css")));
        for name in [
            "",
            ".",
            "..",
            "/",
            "sidegate",
            "Sidegate.css",
            "/sidegate.css",
            "./sidegate.css",
            "../assets/sidegate.css",
        ] {
            assert_eq!(asset(name), None, "{name:?}");
        }
        for name in ["sidegate.css/", "sidegate.css\0", "..%2fsidegate.css", "..\\sidegate.css", "../../Cargo.toml"] {
            assert_eq!(asset(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_return_path_reaches_login_whole() {
        let to = to("/a?rd=/x&prompt=none#top");
        let page = sign_in(&SignInPage { site: None, provider: "GitHub", return_to: &to, notice: None });
        let href = "/api/v1/auth/login?rd=/a%3Frd%3D/x%26prompt%3Dnone%23top";
        assert!(page.contains(&format!("id=\"sign-in\" href=\"{href}\"")), "{page}");
        assert_eq!(
            Action::SignInAsSomeoneElse(&to).href().as_deref(),
            Some(format!("{href}&prompt=select_account").as_str())
        );
        assert_eq!(Action::Reload(&to).href().as_deref(), Some(to.as_str()));
    }

    #[test]
    fn signing_out_is_a_post() {
        let page = message(&MessagePage { actions: &[Action::SignOut], ..MessagePage::default() });
        assert!(
            page.contains(r#"<form method="post" action="/api/v1/auth/logout"><button class="primary" id="sign-out""#)
        );
    }

    #[test]
    fn each_session_has_a_button_and_others_can_be_ended_only_where_there_are_some() {
        let page = |rows: &[SessionRow]| {
            sessions(&SessionsPage { site: None, who: "ann", sessions: rows, only: None, stateless: false })
        };
        let one = page(&[row("", true)]);
        assert!(one.contains("Unknown browser") && one.contains("This one") && !one.contains("end-others"), "{one}");
        let two = page(&[row("Firefox on Linux", false), row("x", true)]);
        let id = "0".repeat(32);
        assert_eq!(
            two.matches(&format!("<form method=\"post\" action=\"/api/v1/auth/sessions/{id}/end\">")).count(),
            2
        );
        assert_eq!(two.matches("action=\"/api/v1/auth/sessions/end-others\"").count(), 1);
        assert_eq!(two.matches("This one").count(), 1);
    }

    #[test]
    fn the_provider_is_linked_to_where_it_has_a_place_to_sign_out() {
        let place = Url::parse("https://idp.example/out?client_id=a&x=\"><script>").unwrap();
        let page = |provider_logout| signed_out(&SignedOutPage { site: None, provider: "Microsoft", provider_logout });
        let text = page(Some(&place));
        assert!(text.contains("href=\"https://idp.example/out?client_id=a&#38;x=%22%3E%3Cscript%3E\""), "{text}");
        assert!(text.contains("Sign out of Microsoft too"), "{text}");
        assert!(!page(None).contains("Sign out of"));
    }

    #[test]
    fn pages_can_be_distinguished() {
        let pages = pages_with("not_allowed", "/x");
        assert!(pages[0].contains(r#"<main data-page="sign-in">"#));
        assert!(pages[1].contains(r#"<main data-page="signed-out">"#));
        assert!(pages[2].contains(r#"<main data-page="message" data-code="not_allowed">"#));
        assert!(pages[4].contains(r#"<main data-page="sessions">"#));
        for page in pages {
            assert_eq!(page.matches("<h1>").count(), 1);
            assert!(page.contains("<html lang=\"en\">") && page.contains("<title>"));
        }
    }

    #[test]
    fn pages_are_small() {
        for page in pages_with(&"word ".repeat(40), "/some/path?with=a&query=too") {
            assert!(page.len() < 6 * 1024, "{} bytes", page.len());
        }
        assert!(asset("sidegate.css").is_some_and(|file| file.body.len() < 6 * 1024));
    }

    #[test]
    fn the_policy_allows_nothing_inline() {
        assert!(CONTENT_SECURITY_POLICY.starts_with("default-src 'none'; "));
        assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
        assert!(CONTENT_SECURITY_POLICY.contains("frame-ancestors 'none'"));
    }
}
