//! A real Chromium, driven like a person would: it opens pages, clicks, and reads.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tempfile::TempDir;

use crate::http;
use crate::programs::{PATIENCE, Program, target};

const FLAGS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,1100",
];

const JSON: &str = "Content-Type: application/json\r\n";

/// One browser with its own profile; it ends with the test, even if the test fails.
pub(crate) struct Browser {
    client: Client,
    driver: Program,
    port: u16,
    // After the driver: Chromium writes to it until it has ended.
    _profile: TempDir,
}

impl Browser {
    /// Opens a browser. If there is none on this machine, this fails where `CI` is set, and elsewhere prints that the test is
    /// skipped.
    pub(crate) async fn open() -> Option<Self> {
        if !["chromium", "chromedriver"].into_iter().all(is_there) {
            let reason = "chromium and chromedriver are missing: run scripts/install-test-tools";
            assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{reason}");
            // Not with eprintln!, whose output is hidden for tests that pass.
            let _ = writeln!(std::io::stderr(), "SKIPPED a browser test: {reason}");
            return None;
        }
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let driver = Program::spawn("chromedriver", command);
        let port = driver.wait_for("started successfully on port ").trim_end_matches('.').parse().unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": flags }));
        capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Some(Self { client, driver, port, _profile: profile })
    }

    pub(crate) async fn goto(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    pub(crate) async fn back(&self) {
        self.client.back().await.unwrap();
    }

    pub(crate) async fn url(&self) -> String {
        self.client.current_url().await.unwrap().into()
    }

    /// Waits until `selector` is on the page; returns its text.
    pub(crate) async fn sees(&self, selector: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.element(selector).await.text().await {
                Ok(text) => return text,
                // The element may belong to a page that has been left since.
                Err(error) => {
                    assert!(error.is_stale_element_reference() && Instant::now() < deadline, "{selector}: {error}")
                }
            }
        }
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.element(selector).await.click().await.unwrap();
    }

    /// Waits until the element at `selector` contains `text`; returns all of its text.
    pub(crate) async fn reads(&self, selector: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The element may have been redrawn since it was found.
            let found = self.element(selector).await.text().await.unwrap_or_default();
            if found.contains(text) {
                return found;
            }
            assert!(Instant::now() < deadline, "{selector} does not say \"{text}\" but \"{found}\"");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Replaces the content of a field.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let field = self.element(selector).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses keys, wherever the focus is.
    pub(crate) async fn press(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// From now on the page itself records when a text appears in the first element that matches a selector.
    pub(crate) async fn record_when(&self, selector: &str, text: &str) {
        let script = "const [selector, text] = arguments; window.noted = null;
            const look = () => {
                const found = document.querySelector(selector);
                if (found && !found.closest('[hidden]') && found.textContent.includes(text))
                    window.noted ??= performance.timeOrigin + performance.now();
            };
            new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
            look();";
        self.client.execute(script, vec![json!(selector), json!(text)]).await.unwrap();
    }

    /// That time, in milliseconds since 1970 by this machine's clock: not when the driver noticed.
    pub(crate) async fn noted(&self) -> f64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(moment) = self.client.execute("return window.noted", vec![]).await.unwrap().as_f64() {
                return moment;
            }
            assert!(Instant::now() < deadline, "what was waited for never came into the page");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// From now on the page itself keeps the longest deadline that it gives to a request.
    pub(crate) async fn record_deadlines(&self) {
        let script = "const timeout = AbortSignal.timeout.bind(AbortSignal); window.longest = 0;
            AbortSignal.timeout = (wait) => {
                window.longest = Math.max(window.longest, wait);
                return timeout(wait);
            };";
        self.client.execute(script, vec![]).await.unwrap();
    }

    /// That deadline, in milliseconds.
    pub(crate) async fn longest_deadline(&self) -> u64 {
        self.client.execute("return window.longest", vec![]).await.unwrap().as_u64().unwrap()
    }

    /// Makes the window as wide as a phone; the page uses the part of it that a phone would.
    pub(crate) fn resize_to_phone(&self) {
        let session = self.client.session_creation_response().unwrap().session_id().to_owned();
        let path = format!("/session/{session}/goog/cdp/execute");
        let screen = json!({ "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": screen }).to_string();
        let answer = http::exchange(self.port, "POST", &path, JSON, &command).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// How many pixels of the page are hidden without scrolling sideways.
    pub(crate) async fn beyond_the_side(&self) -> i64 {
        let script = "const page = document.documentElement; return page.scrollWidth - page.clientWidth";
        self.client.execute(script, vec![]).await.unwrap().as_i64().unwrap()
    }

    /// The status code of the page.
    pub(crate) async fn status(&self) -> u64 {
        let script = "return performance.getEntriesByType('navigation')[0].responseStatus";
        self.client.execute(script, vec![]).await.unwrap().as_u64().unwrap()
    }

    /// The browser's session with the proxy, as in a `Cookie` field.
    pub(crate) async fn session(&self) -> Option<String> {
        let cookies = self.client.get_all_cookies().await.unwrap();
        let session = cookies.into_iter().find(|cookie| cookie.name() == "session_token")?;
        Some(format!("{}={}", session.name(), session.value()))
    }

    /// Opens another tab and switches to it; returns the handle of the previous one.
    pub(crate) async fn new_tab(&self) -> Tab {
        let before = Tab(self.client.window().await.unwrap());
        let opened = self.client.new_window(true).await.unwrap();
        self.client.switch_to_window(opened.handle).await.unwrap();
        before
    }

    /// Switches to `tab`; returns the handle of the previous one.
    pub(crate) async fn switch_to(&self, tab: Tab) -> Tab {
        let before = Tab(self.client.window().await.unwrap());
        self.client.switch_to_window(tab.0).await.unwrap();
        before
    }

    /// Saves a screenshot in `target/e2e-screens/`, for inspection, and checks that the page obeys its own policy: what the policy
    /// blocks is not drawn, which is easy to miss.
    pub(crate) async fn picture(&self, name: &str) {
        let folder = target().join("e2e-screens");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), self.client.screenshot().await.unwrap()).unwrap();
        let complaints = self.console();
        assert!(!complaints.contains("Content Security Policy"), "{name}: {complaints}");
    }

    async fn element(&self, selector: &str) -> Element {
        match self.client.wait().at_most(PATIENCE).for_element(Locator::Css(selector)).await {
            Ok(element) => element,
            Err(error) => {
                let page = self.client.source().await.unwrap_or_default();
                panic!("{selector} does not appear at {} ({error}):\n{page}", self.url().await)
            }
        }
    }

    /// What Chromium wrote to its console since the last time.
    fn console(&self) -> String {
        let session = self.client.session_creation_response().unwrap().session_id();
        let path = format!("/session/{session}/se/log");
        let log = http::exchange(self.port, "POST", &path, JSON, r#"{"type":"browser"}"#).unwrap();
        assert_eq!(log.status, 200, "the driver does not give its log: {}", log.body);
        log.body
    }
}

/// A tab of the browser.
pub(crate) struct Tab(fantoccini::wd::WindowHandle);

impl Drop for Browser {
    fn drop(&mut self) {
        // On shutdown the driver ends its Chromium first; if killed, it would leave it behind.
        let _answer = http::exchange(self.port, "GET", "/shutdown", "", "");
        let _killed_then = self.driver.ends_in_time();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
