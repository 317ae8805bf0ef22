//! A client that sends Envoy's check requests (`envoy.service.auth.v3.Authorization/Check`), with every field that Envoy sends.

use std::collections::HashMap;
use std::net::SocketAddr;

use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::{HOST, PATIENCE, Proxy};

#[derive(Clone, PartialEq, Message)]
pub struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attributes {
    #[prost(message, optional, tag = "1")]
    pub source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    pub destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    pub request: Option<Asked>,
    #[prost(map = "string, string", tag = "10")]
    pub context_extensions: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    #[prost(string, tag = "4")]
    pub principal: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Address {
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<Socket>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Socket {
    #[prost(int32, tag = "1")]
    pub protocol: i32,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint32, tag = "3")]
    pub port_value: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Asked {
    #[prost(message, optional, tag = "2")]
    pub http: Option<Http>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Http {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(map = "string, string", tag = "3")]
    pub headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    pub path: String,
    #[prost(string, tag = "5")]
    pub host: String,
    #[prost(string, tag = "6")]
    pub scheme: String,
    #[prost(string, tag = "7")]
    pub query: String,
    #[prost(string, tag = "8")]
    pub fragment: String,
    #[prost(int64, tag = "9")]
    pub size: i64,
    #[prost(string, tag = "10")]
    pub protocol: String,
    #[prost(string, tag = "11")]
    pub body: String,
    #[prost(bytes = "vec", tag = "12")]
    pub raw_body: Vec<u8>,
    #[prost(message, optional, tag = "13")]
    pub header_map: Option<HeaderMap>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    pub headers: Vec<HeaderValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeaderValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    pub ok: Option<Ok>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Denied {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderOption>,
    #[prost(string, tag = "3")]
    pub body: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ok {
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub response_headers_to_add: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    #[prost(message, optional, tag = "2")]
    pub append: Option<bool>,
    #[prost(int32, tag = "3")]
    pub append_action: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A check about a `GET` from `192.0.2.7`, as Envoy describes it.
pub fn asking(path: &str, fields: &[(&str, &str)]) -> CheckRequest {
    let mut headers: HashMap<String, String> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for (name, value) in [(":method", "GET"), (":path", path), (":authority", HOST), (":scheme", "http")] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let http = Http {
        id: "1234".into(),
        method: "GET".into(),
        headers,
        path: path.into(),
        host: HOST.into(),
        scheme: "http".into(),
        protocol: "HTTP/1.1".into(),
        size: -1,
        ..Http::default()
    };
    let own = Peer { address: Some(Address { socket_address: Some(socket("10.9.9.9", 8080)) }), ..Peer::default() };
    let attributes = Attributes {
        destination: Some(own),
        request: Some(Asked { http: Some(http) }),
        context_extensions: HashMap::from([("a".into(), "b".into())]),
        ..Attributes::default()
    };
    CheckRequest { attributes: Some(attributes) }.from("192.0.2.7")
}

fn socket(address: &str, port: u32) -> Socket {
    Socket { protocol: 0, address: address.into(), port_value: port }
}

impl CheckRequest {
    pub fn http(&mut self) -> &mut Http {
        self.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap()
    }

    /// The same, with a change.
    pub fn with(mut self, change: impl FnOnce(&mut Http)) -> Self {
        change(self.http());
        self
    }

    /// The same, with another method.
    pub fn by(self, method: &str) -> Self {
        self.with(|http| {
            http.method = method.into();
            http.headers.insert(":method".into(), method.into());
        })
    }

    /// The same for another host.
    pub fn at(self, host: &str) -> Self {
        self.with(|http| {
            http.host = host.into();
            http.headers.insert(":authority".into(), host.into());
        })
    }

    /// The same, from another address.
    pub fn from(mut self, address: &str) -> Self {
        let peer = Peer { address: Some(Address { socket_address: Some(socket(address, 40_000)) }), ..Peer::default() };
        self.attributes.as_mut().unwrap().source = Some(peer);
        self
    }

    /// The same, with raw header fields (`encode_raw_headers`).
    pub fn raw(self, more: &[(&str, &str)]) -> Self {
        self.with(|http| {
            let said: Vec<(String, String)> = http.headers.drain().collect();
            let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let headers = said.into_iter().chain(more).map(|(key, value)| HeaderValue {
                key,
                value: String::new(),
                raw_value: value.into_bytes(),
            });
            http.header_map = Some(HeaderMap { headers: headers.collect() });
        })
    }
}

impl CheckResponse {
    /// The status that the client sees.
    pub fn status(&self) -> u16 {
        let code = self.status.as_ref().map_or(-1, |status| status.code);
        assert_eq!(code == 0, self.ok.is_some(), "{self:?}");
        assert_ne!(self.ok.is_some(), self.denied.is_some(), "{self:?}");
        match &self.denied {
            Some(denied) => u16::try_from(denied.status.as_ref().unwrap().code).unwrap(),
            None => 200,
        }
    }

    fn options(&self) -> &[HeaderOption] {
        match (&self.ok, &self.denied) {
            (Some(ok), _) => &ok.headers,
            (None, Some(denied)) => &denied.headers,
            (None, None) => &[],
        }
    }

    /// All values of a field that is set.
    pub fn all(&self, name: &str) -> Vec<String> {
        let of = |option: &HeaderOption| {
            let header = option.header.as_ref().unwrap();
            (header.key == name).then(|| header.value.clone())
        };
        self.options().iter().filter_map(of).collect()
    }

    /// The single value of a field; empty if it is not set.
    pub fn header(&self, name: &str) -> String {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {self:?}", all.len());
        all.into_iter().next().unwrap_or_default()
    }

    pub fn sets(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub fn removes(&self, name: &str) -> bool {
        self.ok.as_ref().is_some_and(|ok| ok.headers_to_remove.iter().any(|gone| gone == name))
    }

    pub fn body(&self) -> &str {
        &self.denied.as_ref().unwrap().body
    }

    /// The fields that the application gets of such a request: set first, then removed, as in Envoy.
    pub fn applied(&self, sent: &[(&str, &str)]) -> HashMap<String, String> {
        let ok = self.ok.as_ref().unwrap_or_else(|| panic!("not let in: {self:?}"));
        let mut fields: HashMap<String, String> =
            sent.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for option in &ok.headers {
            let header = option.header.clone().unwrap();
            assert_eq!(option.append.unwrap(), option.append_action == 0, "both words say the same");
            match fields.get_mut(&header.key) {
                Some(value) if option.append == Some(true) => *value = format!("{value},{}", header.value),
                _ => {
                    fields.insert(header.key, header.value);
                }
            }
        }
        for name in &ok.headers_to_remove {
            fields.remove(name);
        }
        fields
    }
}

/// A connection to `EXT_AUTHZ_ADDR`.
pub struct Envoy {
    pub channel: Channel,
}

/// The address of that listener.
pub fn address(proxy: &Proxy) -> SocketAddr {
    proxy.listens["ext_authz"].as_str().expect("there is no such listener").parse().unwrap()
}

impl Envoy {
    pub async fn of(proxy: &Proxy) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", address(proxy))).unwrap();
        Self { channel: endpoint.connect().await.unwrap() }
    }

    /// Sends a check.
    pub async fn check(&self, asked: CheckRequest) -> CheckResponse {
        self.try_check(asked).await.unwrap()
    }

    pub async fn try_check(&self, asked: CheckRequest) -> Result<CheckResponse, tonic::Status> {
        self.call(CHECK, asked).await
    }

    /// One call of any kind.
    pub async fn call<Q, A>(&self, path: &'static str, message: Q) -> Result<A, tonic::Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let call = async {
            grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let path = http::uri::PathAndQuery::from_static(path);
            let answer = grpc.unary(tonic::Request::new(message), path, ProstCodec::<Q, A>::default()).await?;
            Ok(answer.into_inner())
        };
        tokio::time::timeout(PATIENCE, call).await.expect("no answer in time")
    }
}
