//! HAProxy, passing requests on and no more: another yardstick beside nginx.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::nginx;
use crate::wire::Certificate;

/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running proxy; dropping it stops it.
pub(crate) struct Haproxy {
    process: Child,
    port: u16,
}

impl Haproxy {
    /// Starts one; `None` where the program is not installed.
    pub(crate) async fn start(
        folder: &Path,
        upstream: u16,
        threads: usize,
        certificate: Option<&Certificate>,
    ) -> anyhow::Result<Option<Self>> {
        let (port, file) = (nginx::free_port()?, folder.join("haproxy.cfg"));
        fs::write(&file, configuration(port, upstream, threads, certificate))?;
        let output = fs::File::create(folder.join("haproxy.output"))?;
        let process = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .kill_on_drop(true)
            .spawn();
        let mut process = match process {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            process => process?,
        };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let is_over = process.try_wait()?.is_some() || began.elapsed() > START_LIMIT;
            ensure!(!is_over, "HAProxy does not start: {}", fs::read_to_string(folder.join("haproxy.output"))?.trim());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(Self { process, port }))
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }
}

/// Kept-alive connections on both sides, of which any may carry any request; no log.
fn configuration(port: u16, upstream: u16, threads: usize, certificate: Option<&Certificate>) -> String {
    let tls = certificate.map(|certificate| format!(" ssl crt {} alpn h2,http/1.1", certificate.together.display()));
    let tls = tls.unwrap_or_default();
    format!(
        "global\n  nbthread {threads}\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout client 75s\n  timeout server 60s\n  timeout connect 5s\n  http-reuse always\n\
         frontend clients\n  bind 127.0.0.1:{port}{tls}\n  default_backend app\n\
         backend app\n  server upstream 127.0.0.1:{upstream}\n"
    )
}
