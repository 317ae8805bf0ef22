//! The parts of a test, so that it reads as sentences: a proxy, a browser, an upstream, a provider.

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

/// The host of the public origin in these tests; the proxy itself listens on a port of chance.
pub const HOST: &str = "app.localhost";

/// A path for everybody, one for nobody, one for a group; all else is for who is on the list.
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

/// After this a test that waits has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A figure of a process's memory, in KiB: `VmRSS` for what is resident, `VmHWM` for the most there was.
pub fn memory(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until `condition` holds, looking often; fails with `what` after [`PATIENCE`].
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
