//! gRPC through the proxy, with a real client and a real server: every kind of call, with trailers, deadlines and cancellation.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::support::client::Out;
use crate::support::proxy::Plan;
use crate::support::{HOST, PATIENCE, Proxy, Upstream, until};
use crate::tls::Issued;

#[derive(Clone, PartialEq, Message)]
struct Note {
    #[prost(string, tag = "1")]
    text: String,
}

fn note(text: impl Into<String>) -> Note {
    Note { text: text.into() }
}

type Codec = ProstCodec<Note, Note>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

/// A function as a service.
struct Serve<Q, A, E>(Arc<dyn Fn(Q) -> Boxed<Result<A, E>> + Send + Sync>);

impl<Q, A, E> Serve<Q, A, E> {
    fn by(answer: impl Fn(Q) -> Boxed<Result<A, E>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }
}

impl<Q, A, E> tower_service::Service<Q> for Serve<Q, A, E> {
    type Response = A;
    type Error = E;
    type Future = Boxed<Result<A, E>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: Q) -> Self::Future {
        (self.0)(asked)
    }
}

/// What the server has received.
#[derive(Default)]
struct Seen {
    metadata: Mutex<Vec<MetadataMap>>,
    /// Calls that the client cancelled.
    dropped: Mutex<usize>,
}

struct Dropped(Arc<Seen>);

impl Drop for Dropped {
    fn drop(&mut self) {
        *self.0.dropped.lock().unwrap() += 1;
    }
}

/// A server that speaks HTTP/2 only: `Say` answers once, `Sum` reads many, `Count` answers many times, `Talk` does both, `Wait` never ends,
/// `Fail` fails.
async fn server() -> (Upstream, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let kept = Arc::clone(&seen);
    let upstream = Upstream::streaming(move |request: Request<Incoming>| {
        let seen = Arc::clone(&kept);
        async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            let path = request.uri().path().to_owned();
            seen.metadata.lock().unwrap().push(MetadataMap::from_headers(request.headers().clone()));
            let answer: Response<tonic::body::Body> = match path.as_str() {
                "/notes.Notes/Say" => {
                    let say = |asked: tonic::Request<Note>| -> Boxed<Result<tonic::Response<Note>, Status>> {
                        Box::pin(async move {
                            let mut answer = tonic::Response::new(note(format!("{}!", asked.into_inner().text)));
                            answer.metadata_mut().insert("x-head", MetadataValue::from_static("1"));
                            Ok(answer)
                        })
                    };
                    grpc.unary(Serve::by(say), request).await
                }
                "/notes.Notes/Fail" => {
                    let fail = |_: tonic::Request<Note>| -> Boxed<Result<tonic::Response<Note>, Status>> {
                        let mut status =
                            Status::with_details(Code::FailedPrecondition, "not so: 100 %", vec![1, 2].into());
                        status.metadata_mut().insert("x-why", MetadataValue::from_static("because"));
                        Box::pin(std::future::ready(Err(status)))
                    };
                    grpc.unary(Serve::by(fail), request).await
                }
                "/notes.Notes/Wait" => {
                    let wait = move |_: tonic::Request<Note>| -> Boxed<Result<tonic::Response<Note>, Status>> {
                        let dropped = Dropped(Arc::clone(&seen));
                        Box::pin(async move {
                            let _dropped = dropped;
                            std::future::pending().await
                        })
                    };
                    grpc.unary(Serve::by(wait), request).await
                }
                "/notes.Notes/Sum" => {
                    let sum = |asked: tonic::Request<Streaming<Note>>| -> Boxed<Result<tonic::Response<Note>, Status>> {
                        Box::pin(async move {
                            let (mut notes, mut all) = (asked.into_inner(), 0);
                            while let Some(one) = notes.next().await {
                                all += one?.text.len();
                            }
                            Ok(tonic::Response::new(note(all.to_string())))
                        })
                    };
                    grpc.client_streaming(Serve::by(sum), request).await
                }
                "/notes.Notes/Count" => {
                    let count = move |asked: tonic::Request<Note>| -> Boxed<Result<tonic::Response<Notes>, Status>> {
                        let dropped = Dropped(Arc::clone(&seen));
                        let most: u32 = asked.into_inner().text.parse().unwrap();
                        let notes = stream::iter(0..most).map(move |at| {
                            let _held = &dropped;
                            Ok(note(format!("{at}:{}", "x".repeat(10_000))))
                        });
                        let notes = notes.chain(stream::iter([Err(Status::data_loss("that is all"))]));
                        Box::pin(std::future::ready(Ok(tonic::Response::new(Box::pin(notes) as Notes))))
                    };
                    grpc.server_streaming(Serve::by(count), request).await
                }
                _ => {
                    let talk =
                        |asked: tonic::Request<Streaming<Note>>| -> Boxed<Result<tonic::Response<Notes>, Status>> {
                            let back = asked.into_inner().map(|one| one.map(|one| note(format!("re: {}", one.text))));
                            Box::pin(std::future::ready(Ok(tonic::Response::new(Box::pin(back) as Notes))))
                        };
                    grpc.streaming(Serve::by(talk), request).await
                }
            };
            answer
                .map(|body| -> Out { body.map_err(|error| -> Infallible { panic!("{error}") }).boxed_unsync_as_out() })
        }
    })
    .await;
    (upstream, seen)
}

/// The library's body is not `Sync`; the response of the test's upstream must be.
trait AsOut {
    fn boxed_unsync_as_out(self) -> Out;
}

impl<B> AsOut for B
where
    B: http_body::Body<Data = bytes::Bytes, Error = Infallible> + Send + 'static,
{
    fn boxed_unsync_as_out(self) -> Out {
        let body = Arc::new(Mutex::new(Box::pin(self)));
        let frames = stream::poll_fn(move |cx| body.lock().unwrap().as_mut().poll_frame(cx));
        http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(frames))
    }
}

fn to_http2(plan: Plan, upstream: &Upstream) -> Plan {
    plan.env("UPSTREAM_URL", format!("h2c://{}", upstream.address))
}

async fn plaintext_channel(proxy: &Proxy) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address)).unwrap();
    endpoint.origin(format!("http://{HOST}").parse().unwrap()).connect().await.unwrap()
}

async fn by_tls(proxy: &Proxy, issued: Arc<Issued>) -> Channel {
    let address = proxy.address;
    let connect = Serve::by(move |_: Uri| -> Boxed<std::io::Result<_>> {
        let issued = Arc::clone(&issued);
        Box::pin(async move { Ok(TokioIo::new(issued.handshake(TcpStream::connect(address).await?).await)) })
    });
    let endpoint = Endpoint::from_shared(format!("https://{HOST}")).unwrap();
    endpoint.connect_with_connector(connect).await.unwrap()
}

async fn grpc(channel: &Channel) -> tonic::client::Grpc<Channel> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    grpc
}

fn at(method: &str) -> PathAndQuery {
    format!("/notes.Notes/{method}").parse().unwrap()
}

async fn unary(channel: &Channel, method: &str, asked: tonic::Request<Note>) -> Result<tonic::Response<Note>, Status> {
    let mut grpc = grpc(channel).await;
    tokio::time::timeout(PATIENCE, grpc.unary(asked, at(method), Codec::default())).await.expect("no answer in time")
}

async fn next(notes: &mut Streaming<Note>) -> Option<Result<Note, Status>> {
    tokio::time::timeout(PATIENCE, notes.next()).await.expect("nothing came in time")
}

/// Every kind of call.
async fn call_in_every_way(channel: &Channel) {
    let said = unary(channel, "Say", tonic::Request::new(note("hello"))).await.unwrap();
    assert_eq!(
        (said.get_ref().text.as_str(), said.metadata().get("x-head").unwrap().to_str().unwrap()),
        ("hello!", "1")
    );
    assert_eq!(said.metadata().get("grpc-status").unwrap(), "0", "the status comes in the trailers");

    let failed = unary(channel, "Fail", tonic::Request::new(note(""))).await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.message(), failed.details()),
        (Code::FailedPrecondition, "not so: 100 %", &[1, 2][..])
    );
    assert_eq!(failed.metadata().get("x-why").unwrap(), "because");

    let (mut grpc, most) = (grpc(channel).await, 300_000);
    let many = stream::iter((0..most / 1000).map(|_| note("x".repeat(1000))));
    let summed = grpc.client_streaming(tonic::Request::new(many), at("Sum"), Codec::default());
    let summed = tokio::time::timeout(PATIENCE, summed).await.expect("no answer in time").unwrap();
    assert_eq!(summed.into_inner().text, most.to_string());

    grpc.ready().await.unwrap();
    let counted = grpc.server_streaming(tonic::Request::new(note("200")), at("Count"), Codec::default()).await.unwrap();
    let mut counted = counted.into_inner();
    for at in 0..200 {
        assert!(next(&mut counted).await.unwrap().unwrap().text.starts_with(&format!("{at}:")));
    }
    let end = next(&mut counted).await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::DataLoss, "that is all"));

    let (say, mut said) = mpsc::channel::<Note>(1);
    let saying = stream::poll_fn(move |cx| said.poll_recv(cx));
    grpc.ready().await.unwrap();
    let talk = grpc.streaming(tonic::Request::new(saying), at("Talk"), Codec::default());
    let (first, talk) = tokio::join!(say.send(note("0")), talk);
    first.unwrap();
    let mut talk = talk.unwrap().into_inner();
    for at in 0..20 {
        assert_eq!(next(&mut talk).await.unwrap().unwrap().text, format!("re: {at}"), "each before the next is sent");
        say.send(note((at + 1).to_string())).await.unwrap();
    }
    drop(say);
    assert_eq!(next(&mut talk).await.unwrap().unwrap().text, "re: 20");
    assert!(next(&mut talk).await.is_none(), "it ends well");
}

#[tokio::test]
async fn every_kind_of_call_passes_in_the_clear_and_by_tls() {
    let (upstream, _) = server().await;
    let proxy = to_http2(Proxy::open(&upstream), &upstream).start().await;
    call_in_every_way(&plaintext_channel(&proxy).await).await;
    let issued = Arc::new(Issued::new());
    let proxy = issued.shown_by(to_http2(Proxy::open(&upstream), &upstream)).start().await;
    call_in_every_way(&by_tls(&proxy, issued).await).await;
}

#[tokio::test]
async fn a_named_upstream_gets_calls_as_well() {
    let (upstream, _) = server().await;
    let rules = format!(
        "[[upstreams]]\nname = \"notes\"\nurls = [\"h2c://{}\"]\n\n[[routes]]\npath = \"/notes.Notes/**\"\nallow = \"public\"\nupstream = \"notes\"",
        upstream.address
    );
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &rules).start().await;
    call_in_every_way(&plaintext_channel(&proxy).await).await;
}

#[tokio::test]
async fn a_call_needs_a_session_and_carries_who_it_is() {
    let (upstream, seen) = server().await;
    let proxy = to_http2(Proxy::with_sign_in("github", &upstream).await, &upstream).start().await;
    let channel = plaintext_channel(&proxy).await;
    let nobody = unary(&channel, "Say", tonic::Request::new(note("hello"))).await.unwrap_err();
    assert_eq!((nobody.code(), nobody.message()), (Code::Unauthenticated, "Authentication required"));
    assert!(seen.metadata.lock().unwrap().is_empty(), "nothing of it reached the server");
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    let mut asked = tonic::Request::new(note("hello"));
    asked.metadata_mut().insert("cookie", cookie.parse().unwrap());
    asked.metadata_mut().insert("x-forwarded-user", MetadataValue::from_static("root"));
    asked.metadata_mut().insert("x-own", MetadataValue::from_static("kept"));
    asked.metadata_mut().insert_bin("x-own-bin", MetadataValue::from_bytes(&[0, 255]));
    asked.set_timeout(Duration::from_secs(30));
    unary(&channel, "Say", asked).await.unwrap();
    let seen = seen.metadata.lock().unwrap().pop().unwrap();
    for (name, value) in
        [("x-forwarded-user", "ann"), ("x-own", "kept"), ("te", "trailers"), ("content-type", "application/grpc")]
    {
        assert_eq!(seen.get(name).unwrap(), value, "{name}");
    }
    assert_eq!(seen.get_bin("x-own-bin").unwrap().to_bytes().unwrap().as_ref(), [0, 255]);
    assert_eq!(seen.get("grpc-timeout").unwrap(), "30000000u", "a deadline goes on");
    assert!(seen.get("cookie").is_none(), "our cookies do not");
}

#[tokio::test]
async fn a_deadline_or_a_client_that_goes_ends_the_call_at_the_server() {
    let (upstream, seen) = server().await;
    let proxy = to_http2(Proxy::open(&upstream), &upstream).start().await;
    let channel = plaintext_channel(&proxy).await;
    let dropped = || *seen.dropped.lock().unwrap();
    // Before any response.
    let began = Instant::now();
    let mut asked = tonic::Request::new(note(""));
    asked.set_timeout(Duration::from_millis(300));
    let late = unary(&channel, "Wait", asked).await.unwrap_err();
    assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&late.code()), "{late:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    until("the call that waits is given up", async || dropped() == 1).await;
    // In the middle of an endless response.
    let mut grpc = grpc(&channel).await;
    let endless = tonic::Request::new(note(u32::MAX.to_string()));
    let mut counted = grpc.server_streaming(endless, at("Count"), Codec::default()).await.unwrap().into_inner();
    next(&mut counted).await.unwrap().unwrap();
    assert_eq!(dropped(), 1);
    drop(counted);
    until("the answer is given up", async || dropped() == 2).await;
    // The connections stay usable.
    unary(&channel, "Say", tonic::Request::new(note("x"))).await.unwrap();
}

#[tokio::test]
async fn grpc_web_passes_untouched() {
    let frame = [0, 0, 0, 0, 7, 10, 5, b'h', b'e', b'l', b'l', b'o'];
    let trailers = b"\x80\0\0\0\x0fgrpc-status:0\r\n";
    let whole = [&frame[..], trailers].concat();
    let answered = whole.clone();
    let upstream = Upstream::answering(move |received| {
        let kind = received.headers["content-type"].clone();
        Response::builder().header("content-type", kind).body(answered.clone().into()).unwrap()
    })
    .await;
    let proxy = Proxy::open(&upstream).start().await;
    for kind in ["application/grpc-web+proto", "application/grpc-web-text"] {
        let asked = Request::post("/notes.Notes/Say")
            .header("content-type", kind)
            .header("x-grpc-web", "1")
            .header("accept", kind)
            .header("grpc-timeout", "5S");
        let answer = proxy.send_body(asked, frame.to_vec()).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type").as_str()), (200, kind));
        assert_eq!(answer.body, whole);
        let received = upstream.last();
        assert_eq!((received.header("x-grpc-web").as_str(), received.header("grpc-timeout").as_str()), ("1", "5S"));
        assert_eq!(received.body, frame.to_vec());
    }
    let signed = Proxy::start(&upstream).await;
    let refused = Request::post("/notes.Notes/Say").header("content-type", "application/grpc-web+proto");
    let refused = signed.send_body(refused, frame.to_vec()).await;
    assert_eq!((refused.status.as_u16(), refused.header("grpc-status").as_str()), (401, ""));
}

#[tokio::test]
async fn a_refused_call_gets_an_http_status_and_a_grpc_status() {
    let (upstream, seen) = server().await;
    let rules = "[[routes]]\npath = \"/notes.Notes/Say\"\nallow = [\"ann\"]\n[[routes]]\nallow = \"signed-in\"\n";
    let plan = Proxy::with_sign_in("github", &upstream).await.file("SIDEGATE_CONFIG", "sidegate.toml", rules);
    let gone = Upstream::start().await.address;
    let proxy = plan.env("UPSTREAM_URL", format!("h2c://{gone}")).start().await;
    let channel = plaintext_channel(&proxy).await;
    let cookies = [
        ("", 401),
        (&proxy.signed_in_as("bob").await.cookie_header(), 403),
        (&proxy.signed_in_as("ann").await.cookie_header(), 502),
    ];
    for (cookie, status) in cookies {
        let mut asked = tonic::Request::new(note("hello"));
        asked.metadata_mut().insert("cookie", cookie.parse().unwrap());
        let refused = unary(&channel, "Say", asked).await.unwrap_err();
        let request =
            Request::post("/notes.Notes/Say").header("content-type", "application/grpc+proto").header("cookie", cookie);
        let answer = proxy.send_body(request, vec![0; 5]).await;
        let (code, number, message) = match status {
            401 => (Code::Unauthenticated, "16", "Authentication required"),
            403 => (Code::PermissionDenied, "7", "You are not authorized"),
            _ => (Code::Unavailable, "14", "The application cannot be reached"),
        };
        assert_eq!((refused.code(), refused.message()), (code, message));
        assert_eq!(
            (answer.status.as_u16(), answer.header("grpc-status").as_str(), answer.header("grpc-message").as_str()),
            (status, number, message)
        );
        assert_eq!(answer.json()["message"], message, "the answer of every other client comes with it");
    }
    // Other clients get no gRPC status.
    let plain =
        proxy.send_body(Request::post("/notes.Notes/Say").header("content-type", "application/json"), "{}").await;
    assert_eq!((plain.status.as_u16(), plain.header("grpc-status").as_str()), (401, ""));
    assert!(seen.metadata.lock().unwrap().is_empty(), "nothing of it reached the server");
}
