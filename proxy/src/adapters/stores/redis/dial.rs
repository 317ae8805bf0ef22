//! Connections to a node, to a cluster or for a channel, each made within the deadline.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline, RedisConnectionInfo,
    RedisError, RedisResult, TlsCertificates, Value,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::settings::{Host, Layout, RedisPlace, RedisSettings};
use crate::adapters::certs;
use crate::domain::secret::Secret;

/// How often the cluster's client may retry within one call: after a redirection, and after reading the new map.
const CLUSTER_RETRIES: u32 = 3;

/// Makes connections.
pub(super) struct Dialer {
    pub(super) place: RedisPlace,
    pub(super) timeout: Duration,
    tls: Option<TlsConnector>,
    cluster: Option<ClusterClient>,
}

/// A connection for commands, cheap to clone.
#[derive(Clone)]
pub(super) enum Conn {
    /// To one node.
    Node(NodeConn),
    /// To a cluster.
    Cluster(ClusterConnection),
}

/// A connection to one node.
#[derive(Clone)]
pub(super) struct NodeConn {
    connection: MultiplexedConnection,
    /// How many bytes arrived since the last command was answered.
    unanswered: Arc<AtomicUsize>,
}

/// How many bytes may arrive at a listener before a message is complete: enough for thousands of ours.
const UNRECEIVED_MOST: usize = 1 << 20;
/// How many bytes may arrive before a command is answered: enough for all answers that are under way. Another program can put half a
/// gigabyte under a session's key, all of which would be buffered here.
const UNANSWERED_MOST: usize = 16 << 20;

/// How long what was sent to a node of a cluster may remain unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MOST: Duration = Duration::from_secs(5);

/// A stream that fails when one message or answer is too large.
struct Counted {
    stream: Box<dyn Stream>,
    arrived: Arc<AtomicUsize>,
    most: usize,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let arrived = buf.filled().len() - before;
        if self.arrived.fetch_add(arrived, Ordering::Relaxed) + arrived > self.most {
            // A kind after which the connection is of no further use.
            let why = format!("more than {} bytes came at once, which nothing of ours takes", self.most);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a connection is made over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dialer {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, String> {
        let place = settings.place.clone();
        let tls = if place.tls {
            let config = certs::client_config(&settings.roots, &[]).map_err(|error| error.to_string())?;
            Some(TlsConnector::from(Arc::new(config)))
        } else {
            None
        };
        let cluster = match place.layout {
            Layout::Cluster => Some(cluster(settings).map_err(|error| error.to_string())?),
            Layout::Single | Layout::Sentinel { .. } => None,
        };
        Ok(Self { place, timeout: settings.timeout, tls, cluster })
    }

    /// Connects to a node as the user in the URL.
    pub(super) async fn node(&self, host: &Host) -> RedisResult<Conn> {
        self.node_as(host, &self.as_user()).await
    }

    /// Connects to a sentinel.
    pub(super) async fn sentinel(&self, host: &Host, password: Option<&Secret>) -> RedisResult<Conn> {
        let mut user = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = password {
            user = user.set_password(password.expose());
        }
        self.node_as(host, &user).await
    }

    async fn node_as(&self, host: &Host, user: &RedisConnectionInfo) -> RedisResult<Conn> {
        within(self.timeout, async { node_over(self.stream(host).await?, user).await }).await
    }

    /// Opens a connection that receives what is published at a node.
    ///
    /// Also returns the number of bytes that arrived since the last message, which the listener resets to 0 with each message: anyone who
    /// may publish can publish half a gigabyte at once, all of which would be buffered here.
    pub(super) async fn listener(&self, host: &Host) -> RedisResult<(PubSub, Arc<AtomicUsize>)> {
        let unreceived = Arc::new(AtomicUsize::new(0));
        let listen = async {
            let (stream, arrived) = (self.stream(host).await?, Arc::clone(&unreceived));
            let stream = Counted { stream, arrived, most: UNRECEIVED_MOST };
            PubSub::new(&self.as_user(), stream).await
        };
        Ok((within(self.timeout, listen).await?, unreceived))
    }

    /// Connects to the cluster.
    pub(super) async fn cluster(&self) -> RedisResult<Conn> {
        let Some(client) = &self.cluster else { return Err(io::Error::other("this is no cluster").into()) };
        // Several nodes may have to be tried before one responds.
        within(self.timeout * 4, client.get_async_connection()).await.map(Conn::Cluster)
    }

    fn as_user(&self) -> RedisConnectionInfo {
        let mut user = RedisConnectionInfo::default().set_db(self.place.database).set_skip_set_lib_name();
        if let Some(name) = &self.place.user {
            user = user.set_username(name);
        }
        if let Some(password) = &self.place.password {
            user = user.set_password(password.expose());
        }
        user
    }

    async fn stream(&self, host: &Host) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.name.clone()).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }
}

/// Connects to a node over a stream.
pub(super) async fn node_over(stream: Box<dyn Stream>, user: &RedisConnectionInfo) -> RedisResult<Conn> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let unanswered = Arc::new(AtomicUsize::new(0));
    let stream = Counted { stream, arrived: Arc::clone(&unanswered), most: UNANSWERED_MOST };
    let (connection, driver) = MultiplexedConnection::new_with_config(user, stream, config).await?;
    tokio::spawn(driver);
    Ok(Conn::Node(NodeConn { connection, unanswered }))
}

/// The sockets of a cluster's client. It gives up none by itself where a master's packets are dropped silently: the kernel does, if it may.
fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED_MOST);
    settings
}

fn cluster(settings: &RedisSettings) -> RedisResult<ClusterClient> {
    let place = &settings.place;
    let node = |host: &Host| -> RedisResult<ConnectionInfo> {
        let (host, port) = (host.name.clone(), host.port);
        let addr = if place.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        addr.into_connection_info()
    };
    let nodes = place.hosts.iter().map(node).collect::<RedisResult<Vec<_>>>()?;
    let mut builder = ClusterClientBuilder::new(nodes)
        .connection_timeout(settings.timeout)
        .response_timeout(settings.timeout * 2)
        .overall_response_timeout(None)
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(10)
        .max_retry_wait(50)
        .tcp_settings(tcp_settings());
    if place.tls {
        builder = builder.certs(TlsCertificates { client_tls: None, root_cert: Some(roots(settings)) });
    }
    if let Some(user) = &place.user {
        builder = builder.username(user);
    }
    if let Some(password) = &place.password {
        builder = builder.password(password.expose());
    }
    builder.build()
}

/// The system's roots and ours in PEM, the format that the cluster's client takes.
fn roots(settings: &RedisSettings) -> Vec<u8> {
    let native = rustls_native_certs::load_native_certs().certs;
    let pem = native.iter().chain(&settings.roots).map(|root| {
        let text = base64::engine::general_purpose::STANDARD.encode(root);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    });
    pem.collect::<String>().into_bytes()
}

impl Conn {
    /// Runs a command on the node that has its keys.
    pub(super) async fn run(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let value = match self {
            Self::Node(node) => {
                let answer = node.connection.req_packed_command(cmd).await;
                node.unanswered.store(0, Ordering::Relaxed);
                answer?
            }
            Self::Cluster(connection) => connection.req_packed_command(cmd).await?,
        };
        value.extract_error()
    }

    /// Runs commands in order on one connection: in a cluster to the master with the slot of `key`. Fails if the server refuses one of them,
    /// though not for another program's value under its key: that answer is nil.
    pub(super) async fn run_all(&mut self, key: &str, pipeline: Pipeline) -> RedisResult<Vec<Value>> {
        accepted(self.send_all(key, pipeline).await?)
    }

    /// The same, and then waits for replicas; also returns whether one of them confirmed it. A server that refuses to wait has no confirmation
    /// to give, but it has done what came before.
    pub(super) async fn run_all_and_wait(
        &mut self,
        key: &str,
        mut pipeline: Pipeline,
        replicas: usize,
        wait: Duration,
    ) -> RedisResult<(Vec<Value>, bool)> {
        pipeline.cmd("WAIT").arg(replicas).arg(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let mut answers = self.send_all(key, pipeline).await?;
        let is_confirmed = matches!(answers.pop(), Some(Value::Int(count)) if count >= 1);
        Ok((accepted(answers)?, is_confirmed))
    }

    async fn send_all(&mut self, key: &str, pipeline: Pipeline) -> RedisResult<Vec<Value>> {
        let count = pipeline.len();
        match self {
            Self::Node(node) => {
                let answers = node.connection.req_packed_commands(&pipeline, 0, count).await;
                node.unanswered.store(0, Ordering::Relaxed);
                answers
            }
            Self::Cluster(connection) => {
                let master = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                connection.route_pipeline(pipeline, 0, count, master).await
            }
        }
    }
}

/// The answers, if the server refused no command.
fn accepted(answers: Vec<Value>) -> RedisResult<Vec<Value>> {
    let accepted = |answer: Value| match answer.extract_error() {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(Value::Nil),
        answer => answer,
    };
    answers.into_iter().map(accepted).collect()
}

/// Waits until the deadline at most.
pub(super) async fn within<T>(most: Duration, call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(most, call).await.unwrap_or_else(|_| Err(late()))
}

/// The error for a missed deadline.
pub(super) fn late() -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// A connection to a server that sends each text of these lengths in answer to one command.
    async fn conn_to(lengths: Vec<usize>) -> Conn {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(answer_with(far, lengths));
        let user = RedisConnectionInfo::default().set_skip_set_lib_name();
        node_over(Box::new(near), &user).await.unwrap()
    }

    async fn answer_with(mut far: DuplexStream, lengths: Vec<usize>) {
        let mut command = vec![0; 1024];
        for length in lengths {
            if !far.read(&mut command).await.is_ok_and(|count| count > 0) {
                return;
            }
            let mut text = format!("${length}\r\n").into_bytes();
            text.resize(text.len() + length, b'x');
            text.extend(b"\r\n");
            if far.write_all(&text).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_ends_the_connection_and_is_not_read_to_its_end() {
        let mut conn = conn_to(vec![UNANSWERED_MOST + 1]).await;
        let error = conn.run(&redis::cmd("PING")).await.unwrap_err();
        assert!(error.is_connection_dropped() && error.to_string().contains("came at once"), "{error}");
        assert!(conn.run(&redis::cmd("PING")).await.is_err());
    }

    #[tokio::test]
    async fn many_answers_may_be_larger_together() {
        let length = UNANSWERED_MOST / 3;
        let mut conn = conn_to(vec![length; 8]).await;
        for _ in 0..4 {
            let answer = conn.run(&redis::cmd("PING")).await.unwrap();
            assert!(matches!(answer, Value::BulkString(text) if text.len() == length));
            let mut pipeline = Pipeline::new();
            pipeline.cmd("PING");
            assert_eq!(conn.run_all("key", pipeline).await.unwrap().len(), 1);
        }
    }
}
