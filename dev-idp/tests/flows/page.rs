//! The page that picks a user, driven as a browser does.

use dev_idp::DevIdp;
use url::Url;

use crate::client::{CALLBACK, authorize_url, get, idp, param, post};

fn endpoint(idp: &DevIdp) -> String {
    format!("{}/oidc/authorize", idp.origin())
}

fn fields(url: &str) -> Vec<(String, String)> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

/// Presses a button of the page for `url`.
async fn press(idp: &DevIdp, url: &str, button: (&str, &str)) -> crate::client::Answer {
    let fields = fields(url);
    let mut form: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    form.push(button);
    post(&format!("{}/decision", endpoint(idp)), &form, &[]).await
}

#[tokio::test]
async fn the_page_has_a_button_for_each_user_and_escapes_what_it_shows() {
    let idp = idp().await;
    let url = authorize_url(&endpoint(&idp), "openid", &[("state", "\"><script>")]);
    let page = get(&url, &[]).await;
    assert_eq!(page.status, 200);
    for user in ["ann", "bob", "carol", "eve", "zoe"] {
        assert!(page.body.contains(&format!("data-user=\"{user}\"")), "{user}");
    }
    assert!(!page.body.contains("data-user=\"pat\""));
    assert!(!page.body.contains("<script>") && !page.body.contains("Zoë <b>"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
}

#[tokio::test]
async fn picking_a_user_goes_back_with_code_and_state() {
    let idp = idp().await;
    let url = authorize_url(&endpoint(&idp), "openid", &[]);
    let answer = press(&idp, &url, ("user", "ann")).await;
    assert_eq!(answer.status, 302);
    assert!(answer.location().as_str().starts_with(CALLBACK));
    assert!(param(&answer.location(), "code").is_some());
    assert_eq!(param(&answer.location(), "state").as_deref(), Some("st/a te"));
    let cancelled = press(&idp, &url, ("cancel", "1")).await;
    assert_eq!(param(&cancelled.location(), "error").as_deref(), Some("access_denied"));
    assert_eq!(cancelled.header("set-cookie"), None);
    assert_eq!(press(&idp, &url, ("user", "nobody")).await.status, 400);
}

#[tokio::test]
async fn a_remembered_user_signs_in_silently_unless_the_client_wants_to_ask() {
    let idp = idp().await;
    let url = authorize_url(&endpoint(&idp), "openid", &[]);
    let picked = press(&idp, &url, ("user", "ann")).await;
    let cookie = picked.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let silent = get(&url, &[("Cookie", &cookie)]).await;
    assert_eq!(silent.status, 302);
    assert!(param(&silent.location(), "code").is_some());
    for prompt in ["select_account", "login", "consent"] {
        let url = authorize_url(&endpoint(&idp), "openid", &[("prompt", prompt)]);
        assert_eq!(get(&url, &[("Cookie", &cookie)]).await.status, 200, "{prompt}");
    }
    let never = authorize_url(&endpoint(&idp), "openid", &[("prompt", "none")]);
    assert!(param(&get(&never, &[("Cookie", &cookie)]).await.location(), "code").is_some());
    assert_eq!(param(&get(&never, &[]).await.location(), "error").as_deref(), Some("login_required"));
}

#[tokio::test]
async fn a_parameter_given_twice_is_refused() {
    let idp = idp().await;
    let url = format!("{}&redirect_uri=http://evil.example/", authorize_url(&endpoint(&idp), "openid", &[]));
    let answer = get(&url, &[]).await;
    assert_eq!((answer.status, answer.header("location")), (400, None));
}
