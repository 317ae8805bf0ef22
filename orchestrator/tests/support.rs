//! A served orchestrator, and raw HTTP to speak to it.

use std::net::SocketAddr;

use orchestrator::api::App;
use orchestrator::entrance::Entrance;
use orchestrator::fleet::{Fleet, Tuning};
use orchestrator::routes;
use orchestrator::serve::{self, Limits};
use orchestrator::store::{Location, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// An orchestrator without clusters, which keeps nothing.
pub(crate) async fn app() -> App {
    let store = Store::open(&Location::Memory, &[]).await.unwrap();
    App::new(Fleet::start(Tuning::default()), store, CancellationToken::new(), false)
}

pub(crate) struct Orchestrator {
    pub(crate) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Orchestrator {
    pub(crate) async fn start() -> Self {
        Self::start_with(routes(app().await, Entrance::default()), Limits::default()).await
    }

    pub(crate) async fn start_with(routes: axum::Router, limits: Limits) -> Self {
        let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve::run(listener, routes, limits, async {
            let _ = stopped.await;
        }));
        Self { addr, stop, served }
    }

    /// Asks for the end; the task that is given back completes once all is drained.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.stop.send(()).unwrap();
        self.served
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// One request, with headers as lines; the whole answer as text.
    pub(crate) async fn ask(&self, request: &str, headers: &[&str]) -> Answer {
        let mut stream = self.connect().await;
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    }
}

pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads until the connection closes.
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut answer = Self { head: head.to_owned(), body: body.to_owned() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = joined(body);
        }
        answer
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What is in the chunks of a body that came whole.
fn joined(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (len, rest) = body.split_once("\r\n").expect("the body broke off");
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            return text;
        }
        text.push_str(&rest[..len]);
        body = rest[len..].strip_prefix("\r\n").unwrap();
    }
}
