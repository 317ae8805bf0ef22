//! Real proxies in front of Sidegate, each with the configuration that we ship, and clients of a site behind one.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream as Blocking};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener as Listener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::wire::{self, read_until};
use super::{Answer, PATIENCE, Proxy, path_of, until};

/// The hosts of the application and of the sign-in in the shipped configurations.
pub const APP: &str = "app.example.com";
pub const AUTH: &str = "auth.example.com";

/// The folder of the shipped configurations.
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/forward-auth")
}

/// The proxy in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Caddy,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// Whether it can run here. Where CI is set it must, except those that `make test` does not install.
    #[expect(clippy::disallowed_methods, reason = "whether it is CI is for the environment to say")]
    pub fn is_installed(self) -> bool {
        let mut version = Command::new(self.program());
        let version = version.arg(if self == Self::Caddy { "version" } else { "-v" });
        let found = version.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        let must = std::env::var_os("CI").is_some() && self != Self::Caddy;
        assert!(found || !must, "{} is missing: run scripts/install-test-tools", self.program());
        if !found {
            eprintln!("SKIPPED the tests with {}: it is missing", self.program());
        }
        found
    }
}

/// A running proxy in front; stopped on drop.
pub struct Front {
    kind: Kind,
    child: Child,
    pub address: SocketAddr,
    folder: TempDir,
    roots: Arc<ClientConfig>,
}

/// A port that was just free, below the system's ephemeral ports.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Front {
    /// Starts it with the files that we ship; only ports are replaced.
    pub async fn start(kind: Kind, sidegate: SocketAddr, app: SocketAddr) -> Self {
        Self::start_changed(kind, sidegate, app, |_, text| text).await
    }

    /// The same, with files edited by `change`, which gets their names and text.
    pub async fn start_changed(
        kind: Kind,
        sidegate: SocketAddr,
        app: SocketAddr,
        change: impl Fn(&str, String) -> String,
    ) -> Self {
        let (folder, port, plain) = (TempDir::new().unwrap(), free_port(), free_port());
        for entry in std::fs::read_dir(shipped().join(kind.program())).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let mut text = change(&name, text)
                .replace("127.0.0.1:8080", &sidegate.to_string())
                .replace("127.0.0.1:3000", &app.to_string());
            for (shipped, here) in [
                ("listen 443 ", format!("listen 127.0.0.1:{port} ")),
                ("listen 80 ", format!("listen 127.0.0.1:{plain} ")),
                ("bind :443 ", format!("bind 127.0.0.1:{port} ")),
                ("bind :80\n", format!("bind 127.0.0.1:{plain}\n")),
                ("https_port 443", format!("https_port {port}")),
                ("http_port 80", format!("http_port {plain}")),
            ] {
                text = text.replace(shipped, &here);
            }
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([APP.to_owned(), AUTH.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("site.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let roots = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let output = std::fs::File::create(folder.path().join("output")).unwrap();
        let child = command(kind, folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut front = Self { kind, child: child.unwrap(), address, folder, roots };
        until(&format!("{kind:?} starts"), async || {
            let ended = front.child.try_wait().unwrap();
            assert!(ended.is_none(), "{kind:?} ended with {ended:?}: {}", front.output());
            Blocking::connect(address).is_ok()
        })
        .await;
        front
    }

    /// Its output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    /// A connection with TLS.
    pub async fn connect(&self, host: &'static str) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.roots));
        connector.connect(ServerName::try_from(host).unwrap(), stream).await.unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            eprintln!("the end of what {:?} said:\n{}", self.kind, &output[output.len().saturating_sub(3000)..]);
        }
        // Killing nginx's master would leave its workers behind.
        let quits = self.kind == Kind::Nginx
            && command(self.kind, self.folder.path()).args(["-s", "stop"]).stderr(Stdio::null()).status().is_ok();
        if !quits {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn command(kind: Kind, folder: &Path) -> Command {
    let mut command = Command::new(kind.program());
    match kind {
        Kind::Nginx => {
            // The shipped file belongs in the `http` block of an nginx; this provides one.
            let main = "daemon off; worker_processes 1; pid nginx.pid; error_log stderr info;\n\
                        events { worker_connections 256; }\n\
                        http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; \
                        scgi_temp_path s; include sidegate.conf; }\n";
            // Only its owner can access the folder, so workers of another user could not write into it.
            let user = if std::fs::metadata(folder).is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0) {
                "user root;\n"
            } else {
                ""
            };
            std::fs::write(folder.join("nginx.conf"), format!("{user}{main}")).unwrap();
            command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
        }
        Kind::Haproxy => {
            command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
        }
        Kind::Caddy => {
            command.current_dir(folder).args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
            command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
        }
    }
    command
}

/// An application that keeps the head of each request, and echoes WebSocket data.
pub struct App {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl App {
    pub async fn start() -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Self { address, heads, task }
    }

    /// The heads of all requests so far, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The last head.
    pub fn last(&self) -> String {
        self.heads().pop().expect("nothing reached the application")
    }

    /// A field of the last head.
    pub fn field(&self, name: &str) -> Option<String> {
        let head = self.last();
        let values: Vec<&str> =
            head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim)).collect();
        assert!(values.len() <= 1, "{name} is there {} times: {head}", values.len());
        values.first().map(|value| (*value).to_owned())
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&read).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    kept.lock().unwrap().push(head.clone());
    if head.contains("\r\nupgrade: websocket\r\n") {
        let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome";
        stream.write_all(accepted.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        return;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len() + 5);
    stream.write_all(&[answer.as_bytes(), b"app: ", &body].concat()).await.unwrap();
}

/// A client of the site behind the proxy in front, with a cookie jar per host.
pub struct Visitor<'f> {
    front: &'f Front,
    jar: BTreeMap<(String, String), String>,
}

impl<'f> Visitor<'f> {
    pub fn of(front: &'f Front) -> Self {
        Self { front, jar: BTreeMap::new() }
    }

    /// The `Cookie` header for a host.
    pub fn cookies(&self, host: &str) -> String {
        let sent = self.jar.iter().filter(|((domain, _), _)| domain == host || domain == "example.com");
        sent.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub fn set_cookie(&mut self, domain: &str, name: &str, value: &str) {
        self.jar.insert((domain.into(), name.into()), value.into());
    }

    pub async fn send(&mut self, host: &'static str, request: http::request::Builder, body: &str) -> Answer {
        let mut request = request.header("host", host);
        let cookies = self.cookies(host);
        if !cookies.is_empty() {
            request = request.header("cookie", cookies);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let exchange = async { wire::exchange(self.front.connect(host).await, request).await.unwrap() };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("no answer in time");
        for set in answer.set_cookies() {
            let (name, rest) = set.split_once('=').unwrap();
            let domain = set.split("; ").find_map(|part| part.strip_prefix("Domain=")).unwrap_or(host);
            let key = (domain.to_owned(), name.to_owned());
            if set.contains("Max-Age=0") {
                self.jar.remove(&key);
            } else {
                self.jar.insert(key, rest.split(';').next().unwrap().into());
            }
        }
        answer
    }

    /// `GET` as a script sends it.
    pub async fn get(&mut self, host: &'static str, path: &str) -> Answer {
        self.send(host, Request::get(path).header("accept", "application/json"), "").await
    }

    /// `GET` of a page, as a browser sends it.
    pub async fn open(&mut self, host: &'static str, path: &str) -> Answer {
        let request = Request::get(path)
            .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document");
        self.send(host, request, "").await
    }

    /// Opens a page of the application, signs in, and returns the URL that it comes back to.
    pub async fn sign_in(&mut self, sidegate: &Proxy, path: &str, user: &str) -> String {
        let away = self.open(APP, path).await;
        assert_eq!(away.status.as_u16(), 302, "{away:?}");
        let login = away.location();
        assert!(login.starts_with(&format!("https://{AUTH}/api/v1/auth/login?rd=")), "{login}");
        let authorize = self.open(AUTH, &path_of(&login)).await.location();
        let callback = sidegate.idp().approve(&authorize, user).expect("the provider refuses");
        assert!(callback.starts_with(&format!("https://{AUTH}/")), "{callback}");
        let back = self.open(AUTH, &path_of(&callback)).await;
        assert_eq!(back.status.as_u16(), 302, "{back:?}");
        back.location()
    }

    /// Requests a WebSocket, and returns the stream with the response's head.
    pub async fn websocket(&mut self, origin: &str) -> (TlsStream<TcpStream>, String) {
        let mut stream = self.front.connect(APP).await;
        let head = format!(
            "GET /ws?a=b HTTP/1.1\r\nHost: {APP}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {origin}\r\nCookie: {}\r\n\r\n",
            self.cookies(APP)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        (stream, answer)
    }
}
