//! Large responses with a length, whose bytes pass from one socket to the other within the kernel: every byte, in its place, to the end or to
//! the break, and the same time limits as for any other.

use std::time::{Duration, Instant};

use http::{Request, Version};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixListener};

use crate::support::client::full;
use crate::support::wire::read_until;
use crate::support::{Client, HOST, PATIENCE, Proxy, Upstream, until};

/// Longer responses pass through pipes.
const LARGE: usize = 256 * 1024;

const MIB: usize = 1024 * 1024;

/// A body of this length. Two of different lengths differ everywhere, and a piece of one in another place.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at ^ length).wrapping_mul(0x9E37_79B1) >> 13) as u8).collect()
}

/// Responds to `/LENGTH` with so many bytes. `/LENGTH/odd` sends them in many pieces, `/LENGTH/breaks` ends before the last tenth, `/LENGTH/stalls`
/// sends half and then nothing.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let path = text.split(' ').nth(1).unwrap();
        let (length, how) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let body = body(length.parse().unwrap());
        let sent = match how {
            "breaks" => body.len() / 10 * 9,
            "stalls" => body.len() / 2,
            _ => body.len(),
        };
        let mut outcome =
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await;
        for piece in body[..sent].chunks(if how == "odd" { 10_007 } else { MIB }) {
            outcome = outcome.and(stream.write_all(piece).await);
            if how == "odd" {
                tokio::task::yield_now().await;
            }
        }
        match how {
            _ if outcome.is_err() => return,
            "breaks" => return,
            "stalls" => std::future::pending().await,
            _ => {}
        }
    }
}

async fn upstream() -> Upstream {
    Upstream::raw(serve).await
}

/// Asks for a path by a connection whose kernel holds little of what is not read.
async fn ask(proxy: &Proxy, path: &str, fields: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(proxy.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut read = vec![0; length];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut read)).await.expect("it does not come").unwrap();
    read
}

/// What still comes until the connection is closed.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _or_reset = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("it stays open");
    read
}

/// How many ends of pipes a process has open.
fn pipes(proxy: &Proxy) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
    let targets = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_comes_in_its_place_on_a_connection_that_goes_on() {
    let upstream = upstream().await;
    let proxy = Proxy::start(&upstream).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::of(version, proxy.address).await;
        for length in [LARGE - 1, LARGE, LARGE + 1, 0, 300_007, MIB, 1, 5 * MIB + 3, 12, LARGE + 77] {
            for path in [format!("/{length}"), format!("/{length}/odd")] {
                let request = Request::get(&path).header("cookie", &cookie);
                let answer = client.send_without_limit(request, full("")).await.unwrap();
                assert_eq!(answer.status(), 200);
                let come = answer.into_body().collect().await.unwrap().to_bytes();
                assert!(come == body(length), "{version:?} {path}: {} bytes came", come.len());
            }
        }
    }
    assert!(upstream.connections() <= 2, "the connections to the upstream were used again: {}", upstream.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_behind_a_socket_file_is_no_different() {
    let upstream = upstream().await;
    let plan = Proxy::open(&upstream);
    let file = plan.folder().join("app.sock");
    let listener = UnixListener::bind(&file).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let proxy = plan.env("UPSTREAM_URL", format!("unix:{}", file.display())).start().await;
    let mut client = Client::http1(proxy.address).await;
    for length in [LARGE + 1, 3 * MIB + 5] {
        let answer = client.send_without_limit(Request::get(format!("/{length}/odd")), full("")).await.unwrap();
        assert!(answer.into_body().collect().await.unwrap().to_bytes() == body(length), "{length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_requests_sent_together_keep_their_order_and_their_bytes() {
    let upstream = upstream().await;
    let proxy = Proxy::open(&upstream).start().await;
    let lengths = [MIB, 10, LARGE + 1, 2 * MIB + 1, 0, 300_001, 7];
    let requests: String = lengths.map(|length| format!("GET /{length} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).concat();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    for length in lengths {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(read_exactly(&mut stream, length).await == body(length), "the answer of {length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_64_pipes_at_most_and_none_when_the_answers_have_ended() {
    let upstream = upstream().await;
    let proxy = Proxy::open(&upstream).start().await;
    let before = pipes(&proxy);
    let mut streams = Vec::new();
    for _ in 0..80 {
        let mut stream = ask(&proxy, "/4194304", "").await;
        read_until(&mut stream, "\r\n\r\n").await;
        streams.push(stream);
    }
    until("64 of them pass through pipes", async || pipes(&proxy) == before + 2 * 64).await;
    drop(streams.split_off(70));
    let expected = body(4 * MIB);
    for mut stream in streams.split_off(60) {
        assert!(read_exactly(&mut stream, 4 * MIB).await == expected, "without a pipe it comes as well");
    }
    for stream in &mut streams[..5] {
        assert!(read_exactly(stream, 4 * MIB).await == expected);
    }
    drop(streams);
    until("the pipes are gone", async || pipes(&proxy) == before).await;
    let mut client = Client::http1(proxy.address).await;
    let answer = client.send_without_limit(Request::get("/4194304"), full("")).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == expected);
    until("the last pipe is gone, and the connection is still open", async || pipes(&proxy) == before).await;
    assert_eq!(client.get("/5").await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_came_before_a_break_comes_and_does_not_look_whole() {
    let upstream = upstream().await;
    let proxy = Proxy::open(&upstream).start().await;
    for path in ["/1000000/breaks", "/5000000/breaks"] {
        let length: usize = path.split('/').nth(1).unwrap().parse().unwrap();
        let mut stream = ask(&proxy, path, "").await;
        read_until(&mut stream, "\r\n\r\n").await;
        let come = rest(&mut stream).await;
        assert!(come == body(length)[..length / 10 * 9], "{path}: {} bytes came", come.len());
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_off() {
    let upstream = upstream().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "1s").start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(format!("GET /2000000/stalls HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    assert!(read_exactly(&mut stream, 1_000_000).await == body(2_000_000)[..1_000_000]);
    let since = Instant::now();
    assert_eq!(rest(&mut stream).await, b"");
    assert!((Duration::from_millis(700)..Duration::from_secs(5)).contains(&since.elapsed()), "{:?}", since.elapsed());
    proxy.logs("an answer was cut off: it moved no byte for 1s (TIMEOUT_BODY)").await;
}

#[tokio::test]
async fn a_slow_reader_is_waited_for_and_one_that_takes_nothing_is_not() {
    let upstream = upstream().await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "2s").start().await;
    let mut slow = ask(&proxy, "/1500000", "").await;
    read_until(&mut slow, "\r\n\r\n").await;
    let mut silent = ask(&proxy, "/8000000", "").await;
    let (began, mut come) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(6) {
        come.extend(read_exactly(&mut slow, 12_000).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    come.extend(read_exactly(&mut slow, 1_500_000 - come.len()).await);
    assert!(come == body(1_500_000), "every byte has come");
    proxy.logs("a connection ended").await;
    assert!(rest(&mut silent).await.len() < 8_000_000);
    assert!(!proxy.log().contains("an answer was cut off"), "it was the client who was waited for: {}", proxy.log());
}

#[tokio::test]
async fn a_sign_out_breaks_it_off_while_its_reader_rests() {
    let upstream = upstream().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let before = pipes(&proxy);
    let mut stream = ask(&proxy, "/60000000", &format!("Cookie: {}\r\n", ann.cookie_header())).await;
    read_until(&mut stream, "\r\n\r\n").await;
    assert!(read_exactly(&mut stream, 200_000).await == body(60_000_000)[..200_000]);
    assert!(ann.post("/api/v1/auth/logout").await.status.is_success());
    proxy.logs("an answer was broken off: its session ended").await;
    until("its pipe is gone", async || pipes(&proxy) == before).await;
    assert!(rest(&mut stream).await.len() < 50_000_000, "what was in the kernel, and no more");
}
