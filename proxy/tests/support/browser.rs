//! The parts of a browser that matter here: it keeps cookies, and can sign in.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;

use super::{Answer, HOST, Proxy};

/// A browser with its own cookie jar.
pub struct Browser<'p> {
    proxy: &'p Proxy,
    jar: BTreeMap<String, String>,
}

impl<'p> Browser<'p> {
    pub fn of(proxy: &'p Proxy) -> Self {
        Self { proxy, jar: BTreeMap::new() }
    }

    /// A cookie's value.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.jar.get(name).map(String::as_str)
    }

    /// Puts a cookie into the jar.
    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.jar.insert(name.into(), value.into());
    }

    /// Names of all cookies.
    pub fn cookies(&self) -> Vec<&str> {
        self.jar.keys().map(String::as_str).collect()
    }

    /// The `Cookie` header that it would send.
    pub fn cookie_header(&self) -> String {
        self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Sends a request with the jar's cookies, and stores those that the response sets.
    pub async fn send(&mut self, request: http::request::Builder) -> Answer {
        self.send_body(request, Bytes::new()).await
    }

    /// The same with a body.
    pub async fn send_body(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let request = if self.jar.is_empty() { request } else { request.header("cookie", self.cookie_header()) };
        let answer = self.proxy.send_body(request, body).await;
        for set in answer.set_cookies() {
            let (name, rest) = set.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if set.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.into(), value.into());
            }
        }
        answer
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path)).await
    }

    /// `GET` of a page, as a browser sends it.
    pub async fn open(&mut self, path: &str) -> Answer {
        self.send(
            Request::get(path)
                .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "document"),
        )
        .await
    }

    /// `GET` of JSON, as a program sends it.
    pub async fn fetch(&mut self, path: &str) -> Answer {
        self.send(Request::get(path).header("accept", "application/json")).await
    }

    /// Deletes a cookie.
    pub fn drop_cookie(&mut self, name: &str) {
        self.jar.remove(name);
    }

    /// Names of the cookies of sign-ins in progress.
    pub fn attempts(&self) -> Vec<String> {
        self.jar.keys().filter(|name| name.contains("sidegate_login_")).cloned().collect()
    }

    /// The callback URL that the provider redirects to when `user` signs in there.
    pub async fn approved(&mut self, rd: &str, user: &str) -> String {
        let authorize = self.begin(rd).await;
        let callback = self.proxy.idp().approve(&authorize, user).expect("the provider refuses");
        path_of(&callback)
    }

    pub async fn post(&mut self, path: &str) -> Answer {
        self.send(Request::post(path)).await
    }

    /// Requests `login`, and returns the provider's URL that it redirects to.
    pub async fn begin(&mut self, rd: &str) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("rd", rd).finish();
        let answer = self.get(&format!("/api/v1/auth/login?{query}")).await;
        assert_eq!(answer.status, 302, "{answer:?}");
        answer.location()
    }

    /// Follows the provider's redirect to the callback.
    pub async fn follow_callback(&mut self, callback: &str) -> Answer {
        let path = callback.strip_prefix(&format!("http://{HOST}")).unwrap_or_else(|| panic!("{callback} is not ours"));
        self.open(path).await
    }

    /// Signs in at the provider as `user`, and returns the callback's response.
    pub async fn sign_in(&mut self, user: &str) -> Answer {
        let authorize = self.begin("/").await;
        let callback = self.proxy.idp().approve(&authorize, user).expect("the provider refuses");
        self.follow_callback(&callback).await
    }
}

/// Path and query of a URL.
pub fn path_of(address: &str) -> String {
    let url = url::Url::parse(address).unwrap();
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}
