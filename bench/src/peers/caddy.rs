//! Caddy as a plain reverse proxy.

use std::fs;
use std::process::Command;

use super::{MISSING, Peer, Program, Setup, Started, browser, is_installed};
use crate::wire::Address;
use crate::{cpu, nginx};

pub(super) async fn start(setup: Setup<'_>) -> Started {
    if !is_installed("caddy", "version") {
        return Ok(Err(MISSING));
    }
    let (port, file) = (nginx::free_port()?, setup.folder.join("Caddyfile"));
    let tls = setup.certificate.map(|made| format!("  tls {} {}\n", made.chain.display(), made.key.display()));
    fs::write(
        &file,
        format!(
            "{{\n  admin off\n  auto_https off\n  persist_config off\n}}\n\
             {} {{\n  bind 127.0.0.1\n{}  reverse_proxy 127.0.0.1:{}\n}}\n",
            browser(port, setup.certificate)?.origin(),
            tls.unwrap_or_default(),
            setup.upstream
        ),
    )?;
    let mut command: Command = cpu::limited("caddy".as_ref(), setup.threads)?;
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    command.env("XDG_DATA_HOME", setup.folder).env("XDG_CONFIG_HOME", setup.folder);
    let program = Program::start("caddy", command, setup.folder, port).await?;
    Ok(Ok(Peer {
        name: "caddy",
        address: Address::new(port, setup.protocol, setup.certificate)?,
        pids: vec![program.process.id()],
        cookies: Vec::new(),
        _program: program,
        _provider: None,
    }))
}
