//! TLS to the provider: whose certificates are believed.

use std::net::Ipv4Addr;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A development provider behind TLS, at `https://localhost:{port}`, and the root to believe it by.
async fn behind_tls() -> (DevIdp, String, CertificateDer<'static>) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let root = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![root.clone()], key)
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let options = Options { public_url: Some(origin.clone()), ..Options::default() };
    let idp = DevIdp::start(options).await.unwrap();
    let (acceptor, target) = (TlsAcceptor::from(Arc::new(config)), idp.addr());
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
    (idp, origin, root)
}

#[tokio::test]
async fn a_further_root_is_believed_and_a_stranger_is_not() {
    let (idp, origin, root) = behind_tls().await;
    let settings = oidc::settings(&origin);

    let provider = connect(&settings, &[root]).unwrap();
    provider.refresh(now()).await;
    let bench = Bench { idp, provider, now: now() };
    assert_eq!(bench.sign_in("ann").await.unwrap().id, "oidc-ann");

    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let wary = connect(&settings, &[other.cert.der().clone()]).unwrap();
    wary.refresh(now()).await;
    let trouble = wary.trouble().unwrap();
    assert!(trouble.contains("localhost cannot be reached") && trouble.contains("certificate"), "{trouble}");
}
