//! nginx: as the upstream, and as the proxy to compare with.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::cpu;

const MISSING: &str = "nginx is missing: apt-get install nginx (it need not run as a service)";

/// How long nginx may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running nginx with a configuration of its own; dropping it stops it.
pub(crate) struct Nginx {
    master: Child,
    port: u16,
    folder: PathBuf,
}

/// What `nginx -v` says.
pub(crate) fn version() -> anyhow::Result<String> {
    let output = Command::new("nginx").arg("-v").output().context(MISSING)?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("nginx version: ").to_owned())
}

impl Nginx {
    /// The upstream: every request is answered with `body` bytes, from memory.
    pub(crate) fn upstream(folder: &Path, body: usize) -> anyhow::Result<Self> {
        // nginx takes no word of the configuration beyond 4 KiB, so a long body is put together from a variable.
        let mut text = "${piece}".repeat(body / 1024);
        text.push_str(&"x".repeat(body % 1024));
        let site = format!(
            "set $piece \"{}\"; location / {{ default_type text/plain; return 200 \"{text}\"; }}",
            "x".repeat(1024)
        );
        Self::start(&folder.join("upstream"), 1, "", &site)
    }

    /// The proxy: `proxy_pass` with kept-alive connections to the upstream, and nothing else.
    pub(crate) fn proxy(folder: &Path, upstream: u16, workers: usize) -> anyhow::Result<Self> {
        let pool =
            format!("upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}\n");
        let site = "location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
        Self::start(&folder.join("proxy"), workers, &pool, site)
    }

    fn start(folder: &Path, workers: usize, before: &str, site: &str) -> anyhow::Result<Self> {
        fs::create_dir(folder)?;
        let port = free_port()?;
        fs::write(folder.join("nginx.conf"), configuration(folder, port, workers, before, site)?)?;
        let output = fs::File::create(folder.join("output"))?;
        let master =
            nginx(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().context(MISSING)?;
        let mut nginx = Self { master, port, folder: folder.to_owned() };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if nginx.master.try_wait()?.is_some() || began.elapsed() > START_LIMIT {
                bail!("nginx does not start: {}", fs::read_to_string(folder.join("output"))?.trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nginx)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The processes that do the work.
    pub(crate) async fn workers(&self, expected: usize) -> anyhow::Result<Vec<u32>> {
        let began = Instant::now();
        loop {
            let workers = cpu::children(self.master.id())?;
            if workers.len() == expected {
                return Ok(workers);
            }
            ensure!(began.elapsed() < START_LIMIT, "nginx has {} workers, not {expected}", workers.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killing the master would leave its workers behind.
        let stopped = nginx(&self.folder).args(["-s", "stop"]).stderr(Stdio::null()).status();
        if stopped.is_ok_and(|status| status.success()) {
            let _ended = self.master.wait();
        }
    }
}

fn nginx(folder: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "error.log"]);
    command
}

fn configuration(folder: &Path, port: u16, workers: usize, before: &str, site: &str) -> Result<String, std::io::Error> {
    let mut text = String::new();
    if fs::metadata(folder)?.uid() == 0 {
        // The folder is root's own; workers of another user could not write into it.
        text.push_str("user root;\n");
    }
    let _infallible = write!(
        text,
        "daemon off;\n\
         worker_processes {workers};\n\
         pid nginx.pid;\n\
         error_log error.log warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         access_log off;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         keepalive_timeout 75s;\n\
         keepalive_requests 1000000000;\n\
         {before}\
         server {{ listen 127.0.0.1:{port}; {site} }}\n\
         }}\n"
    );
    Ok(text)
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
