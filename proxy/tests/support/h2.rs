//! HTTP/2 frame by frame, for what no library would send.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Mutex as AsyncMutex;

use super::HOST;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// What was received on a connection.
#[derive(Clone, Debug, Default)]
pub struct ReceivedFrames {
    /// Streams with a response head.
    pub answered: Vec<u32>,
    /// Streams that were reset.
    pub reset: Vec<u32>,
    /// Bytes of data.
    pub data: usize,
    pub goes_away: bool,
    pub closed: bool,
}

/// A connection whose frames the test writes; pings and settings are answered automatically.
#[derive(Clone)]
pub struct H2 {
    writer: Arc<AsyncMutex<OwnedWriteHalf>>,
    received: Arc<Mutex<ReceivedFrames>>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut out = Vec::new();
        // A length in seven bits, then in groups of seven.
        match text.len() {
            short @ 0..127 => out.push(u8::try_from(short).unwrap()),
            long => {
                out.push(127);
                let mut left = long - 127;
                while left >= 128 {
                    out.push(u8::try_from(left % 128).unwrap() | 128);
                    left /= 128;
                }
                out.push(u8::try_from(left).unwrap());
            }
        }
        out.extend_from_slice(text.as_bytes());
        out
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// The fields of a request.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [(":method", method), (":scheme", "http"), (":authority", HOST), (":path", path)];
    fields(&[&own, more].concat())
}

/// The client's preface, with this window for each response stream.
pub fn preface(stream_window: u32) -> Vec<u8> {
    let window = [&[0, 4], &stream_window.to_be_bytes()[..]].concat();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &window)].concat()
}

impl H2 {
    pub async fn connect(address: SocketAddr, stream_window: u32) -> Self {
        let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
        writer.write_all(&preface(stream_window)).await.unwrap();
        let own = Self { writer: Arc::new(AsyncMutex::new(writer)), received: Arc::default() };
        let (answering, received) = (own.clone(), Arc::clone(&own.received));
        tokio::spawn(async move {
            loop {
                let mut head = [0; 9];
                if reader.read_exact(&mut head).await.is_err() {
                    break;
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let mut payload = vec![0; length];
                if reader.read_exact(&mut payload).await.is_err() {
                    break;
                }
                match (head[3], head[4]) {
                    (HEADERS, _) => received.lock().unwrap().answered.push(stream),
                    (RST_STREAM, _) => received.lock().unwrap().reset.push(stream),
                    (DATA, _) => received.lock().unwrap().data += length,
                    (GOAWAY, _) => received.lock().unwrap().goes_away = true,
                    (PING, 0) => answering.send(&frame(PING, ACK, 0, &payload)).await,
                    (SETTINGS, 0) => answering.send(&frame(SETTINGS, ACK, 0, &[])).await,
                    _ => {}
                }
            }
            received.lock().unwrap().closed = true;
        });
        own
    }

    /// Sends bytes; does nothing if the other side has closed.
    pub async fn send(&self, bytes: &[u8]) {
        let _ = self.writer.lock().await.write_all(bytes).await;
    }

    /// Sends a `GET` on a stream, without a body.
    pub async fn get(&self, stream: u32, path: &str, more: &[(&str, &str)]) {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", path, more))).await;
    }

    /// Sends a window update for a stream (0: the connection).
    pub async fn widen(&self, stream: u32, bytes: u32) {
        self.send(&frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())).await;
    }

    pub async fn ping(&self) {
        self.send(&frame(PING, 0, 0, b"12345678")).await;
    }

    pub fn received(&self) -> ReceivedFrames {
        self.received.lock().unwrap().clone()
    }
}
