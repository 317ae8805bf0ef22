//! TLS to the provider: which certificates are trusted.

use std::net::Ipv4Addr;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A development provider behind TLS, at `https://localhost:{port}`, and the root that signed its certificate.
async fn behind_tls() -> (DevIdp, String, CertificateDer<'static>) {
    named("localhost").await
}

/// The same with another name.
async fn named(name: &str) -> (DevIdp, String, CertificateDer<'static>) {
    let front = Front::of(name).await;
    let (origin, root) = (format!("https://{}", front.authority), front.root.clone());
    let options = Options { public_url: Some(origin.clone()), ..Options::default() };
    let idp = DevIdp::start(options).await.unwrap();
    front.lead_to(idp.addr());
    (idp, origin, root)
}

/// A TLS front for a server without TLS.
struct Front {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// Its name and port.
    authority: String,
    root: CertificateDer<'static>,
}

impl Front {
    async fn of(name: &str) -> Self {
        let certified = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let root = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], key)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let authority = format!("{name}:{}", listener.local_addr().unwrap().port());
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), authority, root }
    }

    fn lead_to(self, target: std::net::SocketAddr) {
        let Self { listener, acceptor, .. } = self;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut within = acceptor.accept(stream).await?;
                    let mut behind = TcpStream::connect(target).await?;
                    tokio::io::copy_bidirectional(&mut within, &mut behind).await
                });
            }
        });
    }
}

#[tokio::test]
async fn a_further_root_is_believed_and_a_stranger_is_not() {
    let (idp, origin, root) = behind_tls().await;
    let settings = oidc::settings(&origin);

    let provider = connect(&settings, &[root], None).unwrap();
    provider.refresh(now()).await;
    let bench = Bench { idp, provider, now: now() };
    assert_eq!(bench.sign_in("ann").await.unwrap().id, "oidc-ann");

    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let wary = connect(&settings, &[other.cert.der().clone()], None).unwrap();
    wary.refresh(now()).await;
    let trouble = wary.trouble().unwrap();
    assert!(
        trouble.contains("localhost:") && trouble.contains("cannot be reached") && trouble.contains("certificate"),
        "{trouble}"
    );
}

/// An HTTP proxy that resolves every name to this machine, requires a password, and records its requests.
async fn proxy() -> (std::net::SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::default());
    let notes: Arc<std::sync::Mutex<Vec<String>>> = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let notes = Arc::clone(&notes);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                notes.lock().unwrap().push(target.clone());
                // ann:hush@
                if !head.to_lowercase().contains("proxy-authorization: basic yw5uomh1c2ha\r\n") {
                    return stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                }
                let port = target.rsplit(':').next().unwrap().parse().unwrap();
                let mut behind = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut stream, &mut behind).await.map(drop)
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn the_way_to_the_provider_goes_through_the_proxy_but_for_exceptions_and_loopback() {
    let (idp, origin, root) = named("idp.test").await;
    let (address, asked) = proxy().await;
    let target = origin.strip_prefix("https://").unwrap();
    let way = |credentials: &str, no: &str| {
        Some(super::super::WayOut::new(&format!("http://{credentials}{address}"), no).unwrap())
    };
    let refreshed = async |origin: &str, root: &CertificateDer<'static>, way| {
        let provider = connect(&oidc::settings(origin), std::slice::from_ref(root), way).unwrap();
        provider.refresh(now()).await;
        provider
    };

    let provider = refreshed(&origin, &root, way("ann:hush%40@", "other.test")).await;
    assert_eq!(provider.trouble(), None);
    let bench = Bench { idp, provider, now: now() };
    assert_eq!(bench.sign_in("ann").await.unwrap().id, "oidc-ann");
    assert!(asked.lock().unwrap().iter().all(|asked| asked == target), "{asked:?}");

    let trouble = refreshed(&origin, &root, way("ann:wrong@", "")).await.trouble().unwrap();
    let shown = format!("through the proxy {address}");
    assert!(trouble.contains(&shown) && trouble.contains("proxy authorization required"), "{trouble}");
    assert!(!trouble.contains("wrong"), "{trouble}");

    let count = asked.lock().unwrap().len();
    for no in ["idp.test", ".test", "a.example, TEST", "*"] {
        let trouble = refreshed(&origin, &root, way("ann:hush%40@", no)).await.trouble().unwrap();
        assert!(
            trouble.contains("idp.test:") && trouble.contains("cannot be reached") && !trouble.contains("proxy"),
            "{no}: {trouble}"
        );
    }
    let (_idp, local, root) = behind_tls().await;
    assert_eq!(refreshed(&local, &root, way("ann:hush%40@", "")).await.trouble(), None, "loopback");
    assert_eq!(asked.lock().unwrap().len(), count, "what is excepted goes straight");
}

#[tokio::test]
async fn the_proxy_itself_may_be_reached_by_https() {
    let (_idp, origin, root) = named("idp.test").await;
    let (address, asked) = proxy().await;
    let front = Front::of("localhost").await;
    let (proxy_root, authority) = (front.root.clone(), front.authority.clone());
    front.lead_to(address);
    let trouble = async |roots: &[CertificateDer<'static>]| {
        let way = super::super::WayOut::new(&format!("https://ann:hush%40@{authority}"), "").unwrap();
        let provider = connect(&oidc::settings(&origin), roots, Some(way)).unwrap();
        provider.refresh(now()).await;
        provider.trouble()
    };
    assert_eq!(trouble(&[root.clone(), proxy_root]).await, None);
    assert!(!asked.lock().unwrap().is_empty());
    let why = trouble(&[root]).await.unwrap();
    assert!(why.contains(&format!("through the proxy {authority}")) && why.contains("certificate"), "{why}");
}
