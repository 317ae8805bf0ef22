//! The building blocks of tests: a proxy, a browser, an upstream, a provider.

pub mod browser;
pub mod client;
pub mod envoy;
pub mod front;
pub mod h2;
pub mod proxy;
pub mod redis;
pub mod upstream;
pub mod wire;

pub use browser::{Browser, path_of};
pub use client::{Client, Out};
pub use proxy::{Plan, Proxy};
pub use redis::Redis;
pub use upstream::Upstream;
pub use wire::Answer;

use std::time::Duration;

/// The host of the public origin in these tests; the proxy itself listens on a random port.
pub const HOST: &str = "app.localhost";

/// A path for everyone, one for no one, one for a group; all else is for users on the list.
pub const RULES: &str = r#"
[[routes]]
name = "assets"
path = "/assets/**"
allow = "public"

[[routes]]
name = "closed"
path = "/closed/**"
allow = "nobody"

[[routes]]
name = "team"
path = "/team/**"
allow = ["group:acme/platform"]
"#;

/// The time limit for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A memory figure of a process, in KiB: `VmRSS` is resident memory, `VmHWM` its peak.
pub fn memory(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until `condition` holds, polling often; fails with `what` after [`PATIENCE`].
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
