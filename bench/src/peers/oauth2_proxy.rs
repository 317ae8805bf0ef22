//! oauth2-proxy, with sessions in cookies, its default.

use std::process::Command;

use super::{MISSING, Peer, Program, Setup, Started, browser, is_installed};
use crate::options::Protocol;
use crate::people::{CLIENT_ID, CLIENT_SECRET, Door};
use crate::wire::Address;
use crate::{cpu, nginx, people};

/// The key for sealing its cookies; the first 32 bytes are used.
const SECRET: &str = "a-secret-of-the-bench-and-no-more";

pub(super) async fn start(setup: Setup<'_>) -> Started {
    if !is_installed("oauth2-proxy", "--version") {
        return Ok(Err(MISSING));
    }
    if setup.protocol == Protocol::Http2 {
        return Ok(Err("does not speak HTTP/2 with browsers"));
    }
    let port = nginx::free_port()?;
    let browser = browser(port, setup.certificate)?;
    let redirect_url = format!("{}/oauth2/callback", browser.origin());
    let provider = people::provider(&redirect_url, setup.people).await?;
    let mut command: Command = cpu::limited("oauth2-proxy".as_ref(), setup.threads)?;
    command
        .arg("--provider=oidc")
        .arg(format!("--oidc-issuer-url={}/oidc", provider.origin()))
        .arg(format!("--client-id={CLIENT_ID}"))
        .arg(format!("--client-secret={CLIENT_SECRET}"))
        .arg(format!("--cookie-secret={}", SECRET.get(..32).unwrap_or_default()))
        .arg(format!("--redirect-url={redirect_url}"))
        .arg(format!("--upstream=http://127.0.0.1:{}", setup.upstream))
        .arg(format!("--cookie-secure={}", setup.certificate.is_some()))
        .args(["--email-domain=example.com", "--code-challenge-method=S256"])
        .args(["--request-logging=false", "--auth-logging=false", "--standard-logging=false"]);
    match setup.certificate {
        Some(certificate) => command
            .args(["--http-address=", &format!("--https-address=127.0.0.1:{port}")])
            .arg(format!("--tls-cert-file={}", certificate.chain.display()))
            .arg(format!("--tls-key-file={}", certificate.key.display())),
        None => command.arg(format!("--http-address=127.0.0.1:{port}")),
    };
    let program = Program::start("oauth2-proxy", command, setup.folder, port).await?;
    let door = Door { browser, login: "/oauth2/start?rd=%2F", cookie: "_oauth2_proxy" };
    let cookies = door.sign_all_in(&provider, setup.people).await?;
    Ok(Ok(Peer {
        name: "oauth2-proxy",
        address: Address::new(port, setup.protocol, setup.certificate)?,
        pids: vec![program.process.id()],
        cookies,
        _program: program,
        _provider: Some(provider),
    }))
}
