//! nginx: as the upstream, and as the proxy to compare with.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::cpu;
use crate::load::LARGE;
use crate::options::Protocol;
use crate::wire::Certificate;

const MISSING: &str = "nginx is missing: apt-get install nginx (it need not run as a service)";

/// The time limit for starting nginx.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Larger bodies come from a file.
const MOST_IN_MEMORY: usize = 512 * 1024;
/// How many ports the upstream has beside the first.
const OTHER_PORTS: usize = 4;
/// The size of the response for slow clients, in bytes.
const LARGE_BODY: usize = 4 * 1024 * 1024;

/// The settings of nginx as a proxy.
pub(crate) struct Proxying<'a> {
    pub(crate) upstream: u16,
    pub(crate) workers: usize,
    /// The most requests that clients have open at a time: so many connections go to the upstream.
    pub(crate) connections: usize,
    pub(crate) protocol: Protocol,
    /// With a certificate, nginx terminates TLS.
    pub(crate) certificate: Option<&'a Certificate>,
}

/// A running nginx with a configuration of its own; dropping it stops it.
pub(crate) struct Nginx {
    master: Child,
    port: u16,
    /// Further ports of the upstream.
    others: Vec<u16>,
    folder: PathBuf,
}

/// The version from `nginx -v`.
pub(crate) fn version() -> anyhow::Result<String> {
    let output = Command::new("nginx").arg("-v").output().context(MISSING)?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("nginx version: ").to_owned())
}

impl Nginx {
    /// The upstream: answers every request with `body` bytes, from memory, or from a file in the kernel's cache if they are many;
    /// slow clients get a large response.
    pub(crate) fn upstream(folder: &Path, body: usize) -> anyhow::Result<Self> {
        let folder = folder.join("upstream");
        fs::create_dir(&folder)?;
        fs::write(folder.join("large.txt"), vec![b'x'; LARGE_BODY])?;
        let answer = if body > MOST_IN_MEMORY {
            fs::write(folder.join("body.txt"), vec![b'x'; body])?;
            "try_files /body.txt =404;".to_owned()
        } else {
            // nginx accepts no configuration token over 4 KiB, so a long body is built from a variable.
            format!("return 200 \"{}{}\";", "${piece}".repeat(body / 1024), "x".repeat(body % 1024))
        };
        let site = format!(
            "set $piece \"{}\"; sendfile on; root {}; default_type text/plain; \
             location / {{ {answer} }} location = {LARGE} {{ try_files /large.txt =404; }}",
            "x".repeat(1024),
            folder.display(),
        );
        // Some clients open connections by the thousand: closed ones keep ports occupied for a while, and later clients of the same
        // upstream port wait.
        let others = (0..OTHER_PORTS).map(|_| free_port()).collect::<Result<Vec<u16>, _>>()?;
        let listens: String = others.iter().map(|port| format!("listen 127.0.0.1:{port}; ")).collect();
        let site = listens + &site;
        let mut upstream = Self::start(
            &folder,
            &Site { workers: 1, limited: false, connections: 4096, before: "", listen: "", site: &site },
        )?;
        upstream.others = others;
        Ok(upstream)
    }

    /// The proxy: `proxy_pass` with kept-alive connections to the upstream, and nothing else; with TLS if a certificate is given.
    pub(crate) fn proxy(folder: &Path, proxying: &Proxying<'_>) -> anyhow::Result<Self> {
        let &Proxying { upstream, workers, connections, protocol, certificate } = proxying;
        let idle = connections.max(64);
        let before = format!(
            "upstream app {{ server 127.0.0.1:{upstream}; keepalive {idle}; keepalive_requests 1000000000; }}\n"
        );
        let mut site =
            "location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }"
                .to_owned();
        let mut listen = "";
        if let Some(certificate) = certificate {
            listen = " ssl";
            let _infallible = write!(
                site,
                "ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {};",
                certificate.chain.display(),
                certificate.key.display()
            );
            match protocol {
                Protocol::Http2 if release(&version()?) >= Some([1, 25, 1]) => site.push_str(" http2 on;"),
                Protocol::Http2 => listen = " ssl http2",
                Protocol::Http1 | Protocol::Tls => {}
            }
        }
        let folder = folder.join("proxy");
        fs::create_dir(&folder)?;
        // Each client's connection may need one to the upstream.
        let connections = (2 * connections + 1000).max(4096);
        Self::start(&folder, &Site { workers, limited: true, connections, before: &before, listen, site: &site })
    }

    fn start(folder: &Path, site: &Site<'_>) -> anyhow::Result<Self> {
        let port = free_port()?;
        fs::write(folder.join("nginx.conf"), configuration(folder, port, site)?)?;
        let output = fs::File::create(folder.join("output"))?;
        let program = Path::new("nginx");
        let command = if site.limited { cpu::limited(program, site.workers)? } else { Command::new(program) };
        let master =
            on(folder, command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().context(MISSING)?;
        let mut nginx = Self { master, port, others: Vec::new(), folder: folder.to_owned() };
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

    /// Further ports of the upstream, not used by others.
    pub(crate) fn other_ports(&self) -> &[u16] {
        &self.others
    }

    /// The worker processes.
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
        let stopped = on(&self.folder, Command::new("nginx")).args(["-s", "stop"]).stderr(Stdio::null()).status();
        if stopped.is_ok_and(|status| status.success()) {
            let _ended = self.master.wait();
        }
    }
}

/// The command, for the nginx of this folder.
fn on(folder: &Path, mut command: Command) -> Command {
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "error.log"]);
    command
}

/// The parts of a configuration that differ.
struct Site<'a> {
    workers: usize,
    /// Whether it may use only as many processors as it has workers.
    limited: bool,
    /// The connections per worker, including those to the upstream.
    connections: usize,
    /// Goes before the server block.
    before: &'a str,
    /// The parameters of `listen` after the address.
    listen: &'a str,
    site: &'a str,
}

fn configuration(folder: &Path, port: u16, site: &Site<'_>) -> Result<String, std::io::Error> {
    let Site { workers, connections, before, listen, site, .. } = site;
    let mut text = String::new();
    if fs::metadata(folder)?.uid() == 0 {
        // The folder belongs to root; workers of another user could not write into it.
        text.push_str("user root;\n");
    }
    let _infallible = write!(
        text,
        "daemon off;\n\
         worker_processes {workers};\n\
         pid nginx.pid;\n\
         error_log error.log warn;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{\n\
         access_log off;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         keepalive_timeout 75s;\n\
         keepalive_requests 1000000000;\n\
         {before}\
         server {{ listen 127.0.0.1:{port}{listen}; {site} }}\n\
         }}\n"
    );
    Ok(text)
}

/// The numbers in `nginx/1.22.1 (Ubuntu)`.
fn release(version: &str) -> Option<[u32; 3]> {
    let numbers = version.strip_prefix("nginx/")?.split(' ').next()?;
    let numbers: Vec<u32> = numbers.split('.').map_while(|number| number.parse().ok()).collect();
    numbers.try_into().ok()
}

/// A free port, each another. The kernel hands out none below 32768, so no connection of the load gets it meanwhile.
pub(crate) fn free_port() -> std::io::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let number = std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(number % 20_000).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(std::io::Error::other("of 1000 ports none is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(release("nginx/1.22.1"), Some([1, 22, 1]));
        assert!(release("nginx/1.26.0 (Ubuntu)") >= Some([1, 25, 1]));
        assert!(release("nginx/1.9.15") < Some([1, 25, 1]));
    }
}
