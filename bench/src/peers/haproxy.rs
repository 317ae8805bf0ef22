//! HAProxy as a plain reverse proxy: another baseline beside nginx.

use std::fs;
use std::path::Path;

use super::{MISSING, Peer, Program, Setup, Started, is_installed};
use crate::wire::Address;
use crate::{cpu, nginx};

pub(super) async fn start(setup: Setup<'_>) -> Started {
    if !is_installed("haproxy", "-v") {
        return Ok(Err(MISSING));
    }
    let (port, file) = (nginx::free_port()?, setup.folder.join("haproxy.cfg"));
    fs::write(&file, configuration(port, setup))?;
    let mut command = cpu::limited(Path::new("haproxy"), setup.threads)?;
    command.args(["-db", "-q", "-f"]).arg(&file);
    let program = Program::start("haproxy", command, setup.folder, port).await?;
    Ok(Ok(Peer {
        name: "haproxy",
        address: Address::new(port, setup.protocol, setup.certificate)?,
        pids: vec![program.process.id()],
        cookies: Vec::new(),
        _program: program,
        _provider: None,
    }))
}

/// Kept-alive connections on both sides, each usable for any request; no log.
fn configuration(port: u16, setup: Setup<'_>) -> String {
    let Setup { upstream, threads, certificate, .. } = setup;
    let tls = certificate.map(|certificate| format!(" ssl crt {} alpn h2,http/1.1", certificate.together.display()));
    let tls = tls.unwrap_or_default();
    format!(
        "global\n  nbthread {threads}\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout client 75s\n  timeout server 60s\n  timeout connect 5s\n  http-reuse always\n\
         frontend clients\n  bind 127.0.0.1:{port}{tls}\n  default_backend app\n\
         backend app\n  server upstream 127.0.0.1:{upstream}\n"
    )
}
