//! The whole service over one database and simulated clusters, and a client that holds every answer to the document.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator::api::App;
use orchestrator::demo::{Demo, Options, World};
use orchestrator::entrance::Entrance;
use orchestrator::fleet::{Fleet, Tuning};
use orchestrator::serve::Limits;
use orchestrator::store::Store;
use orchestrator::{routes, start};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::databases::Database;
use crate::openapi::Document;
use crate::support::{Answer, Orchestrator};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const ANN: [&str; 4] = [
    "X-Forwarded-User: ann",
    "X-Forwarded-Email: ann@example.com",
    "X-Forwarded-User-Id: 1001",
    "X-Request-Id: request-7",
];

/// A service, its store and its simulated clusters, in which nothing happens by itself.
pub(crate) struct Service {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) store: Store,
    pub(crate) demo: Demo,
    ending: CancellationToken,
    document: Document,
    /// Its own, with nobody else to keep it.
    _database: Option<Database>,
}

impl Service {
    pub(crate) async fn start(database: &Database) -> Self {
        let demo = Demo::start(Options { pace: Duration::ZERO, ..Options::default() }).await.unwrap();
        Self::with(database.open().await, demo).await
    }

    /// Over a database of its own.
    pub(crate) async fn alone() -> Self {
        let database = Database::sqlite();
        let service = Self::start(&database).await;
        Self { _database: Some(database), ..service }
    }

    pub(crate) async fn with(store: Store, demo: Demo) -> Self {
        let fleet = Fleet::start(Tuning::default());
        start::load(&store, &fleet, false, false).await.unwrap();
        let ending = CancellationToken::new();
        let app = App::new(fleet, store.clone(), ending.clone(), false);
        let orchestrator = Orchestrator::start_with(routes(app, Entrance::default()), Limits::default()).await;
        let document = Document(orchestrator.ask("GET /api/v1/openapi.json", &[]).await.json());
        Self { orchestrator, store, demo, ending, document, _database: None }
    }

    /// One that was started elsewhere.
    pub(crate) fn of(orchestrator: Orchestrator, store: Store, demo: Demo, document: Value) -> Self {
        Self {
            orchestrator,
            store,
            demo,
            ending: CancellationToken::new(),
            document: Document(document),
            _database: None,
        }
    }

    /// As a signal does: event streams end, then the server does.
    pub(crate) fn end(self) -> (JoinHandle<()>, Demo) {
        self.ending.cancel();
        (self.orchestrator.end(), self.demo)
    }

    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    pub(crate) fn world(&self, name: &str) -> &Arc<World> {
        self.demo.cluster(name).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None, &[]).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// As Ann.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(body);
        self.call(method, path, body.as_ref(), &ANN).await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>, headers: &[&str]) -> (u16, Value) {
        let target = format!("/api/v1/{path}");
        let answer = self.raw(method, &target, body, headers).await;
        let json = if answer.body.is_empty() { Value::Null } else { answer.json() };
        self.document.hold(method, &target, answer.status(), &json);
        (answer.status(), json)
    }

    pub(crate) async fn raw(&self, method: &str, target: &str, body: Option<&Value>, headers: &[&str]) -> Answer {
        let mut stream = self.orchestrator.connect().await;
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        headers.iter().for_each(|line| write!(request, "{line}\r\n").unwrap());
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()).unwrap();
        }
        request.push_str("\r\n");
        request.push_str(body.as_deref().unwrap_or_default());
        stream.write_all(request.as_bytes()).await.unwrap();
        timeout(PATIENCE, Answer::read(&mut stream)).await.unwrap()
    }

    /// Registers a simulated cluster as Ann; gives back its id.
    pub(crate) async fn register(&self, name: &str) -> String {
        let (status, cluster) = self.send("POST", "clusters", self.registration(name)).await;
        assert_eq!(status, 201, "{cluster}");
        cluster["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn registration(&self, name: &str) -> Value {
        json!({"name": name, "kubeconfig": self.demo.kubeconfig(name).expose()})
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} stays {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn listen(&self, headers: &[&str]) -> Events {
        let mut stream = self.orchestrator.connect().await;
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Events::of(stream).await
    }
}

/// An event stream as it comes.
pub(crate) struct Events {
    pub(crate) status: u16,
    lines: Lines<BufReader<OwnedReadHalf>>,
    _writing: tokio::net::tcp::OwnedWriteHalf,
}

impl Events {
    async fn of(stream: TcpStream) -> Self {
        let (reading, writing) = stream.into_split();
        let mut lines = BufReader::new(reading).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, lines, _writing: writing }
    }

    /// The next line that begins so; `None` at the end.
    pub(crate) async fn line(&mut self, beginning: &str) -> Option<String> {
        let read = async {
            loop {
                // A connection that is cut instead of ended is an end too.
                let line = self.lines.next_line().await.ok().flatten()?;
                if let Some(rest) = line.strip_prefix(beginning) {
                    return Some(rest.to_owned());
                }
            }
        };
        timeout(PATIENCE, read).await.expect("no event was sent")
    }

    /// The data of the next event with this name that is as wanted.
    pub(crate) async fn next(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.line("event: ").await.expect("the stream ended");
            assert!(Instant::now() < deadline, "no {name} was sent that is as wanted");
            let data = serde_json::from_str(&self.line("data: ").await.unwrap()).unwrap();
            if event == name && wanted(&data) {
                return data;
            }
        }
    }
}
