//! Apache with mod_auth_openidc, with sessions in shared memory, its default.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{MISSING, Peer, Program, START_LIMIT, Setup, Started, browser, is_installed};
use crate::options::Protocol;
use crate::people::{CLIENT_ID, CLIENT_SECRET, Door};
use crate::wire::Address;
use crate::{cpu, nginx, people};

/// Where Debian installs modules.
const MODULES: &str = "/usr/lib/apache2/modules";
const LOADED: [&str; 6] = ["mpm_event", "authn_core", "authz_core", "authz_user", "proxy", "proxy_http"];
const CALLBACK: &str = "/openid-connect/callback";
/// The most entries per person in shared memory: the session, and entries that prevent replays of a sign-in.
const ENTRIES_EACH: usize = 4;
/// Connections that each process serves at a time.
const THREADS: usize = 128;

pub(super) async fn start(setup: Setup<'_>) -> Started {
    if !is_installed("apache2", "-v") || !Path::new(MODULES).join("mod_auth_openidc.so").is_file() {
        return Ok(Err(MISSING));
    }
    let folder = setup.folder.join("apache");
    fs::create_dir(&folder)?;
    let port = nginx::free_port()?;
    let browser = browser(port, setup.certificate)?;
    let provider = people::provider(&format!("{}{CALLBACK}", browser.origin()), setup.people).await?;
    let file = folder.join("apache.conf");
    fs::write(&file, configuration(&folder, port, &browser.origin(), &provider.origin(), setup))?;
    let mut command = cpu::limited(Path::new("apache2"), setup.threads)?;
    command.args(["-D", "FOREGROUND", "-f"]).arg(&file);
    let mut program = Program::start("apache", command, setup.folder, port).await?;
    let mut stop = Command::new("apache2");
    stop.args(["-k", "stop", "-f"]).arg(&file);
    program.stop = Some(stop);
    let pids = children(program.process.id(), setup.threads).await?;
    let door = Door { browser, login: "/", cookie: "mod_auth_openidc_session" };
    let log = || fs::read_to_string(folder.join("error.log")).unwrap_or_default();
    let cookies = door.sign_all_in(&provider, setup.people).await.with_context(log)?;
    Ok(Ok(Peer {
        name: "apache",
        address: Address::new(port, setup.protocol, setup.certificate)?,
        pids,
        cookies,
        _program: program,
        _provider: Some(provider),
    }))
}

/// The worker processes.
async fn children(parent: u32, expected: usize) -> anyhow::Result<Vec<u32>> {
    let began = Instant::now();
    loop {
        let children = cpu::children(parent)?;
        if children.len() == expected {
            return Ok(children);
        }
        ensure!(began.elapsed() < START_LIMIT, "Apache has {} processes, not {expected}", children.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A fixed number of processes, equal to the threads elsewhere; no access log; kept-alive connections on both sides.
fn configuration(folder: &Path, port: u16, origin: &str, provider: &str, setup: Setup<'_>) -> String {
    let mut text = String::new();
    let mut modules = LOADED.to_vec();
    let mut more = String::new();
    if let Some(certificate) = setup.certificate {
        modules.extend(["socache_shmcb", "ssl"]);
        let (chain, key) = (certificate.chain.display(), certificate.key.display());
        more = format!("SSLEngine on\nSSLCertificateFile {chain}\nSSLCertificateKeyFile {key}\n");
    }
    if setup.protocol == Protocol::Http2 {
        modules.push("http2");
        more.push_str("Protocols h2 http/1.1\n");
    }
    for module in modules {
        let _infallible = writeln!(text, "LoadModule {module}_module {MODULES}/mod_{module}.so");
    }
    if setup.people > 1 {
        // By default it has room for only some hundreds, and drops the oldest sessions.
        let _infallible = writeln!(more, "OIDCCacheShmMax {}", ENTRIES_EACH * setup.people + 500);
    }
    let (folder, processes, all) = (folder.display(), setup.threads, setup.threads * THREADS);
    let _infallible = write!(
        text,
        "LoadModule auth_openidc_module {MODULES}/mod_auth_openidc.so\n\
         ServerName 127.0.0.1\nListen 127.0.0.1:{port}\n\
         DefaultRuntimeDir {folder}\nPidFile {folder}/apache.pid\nErrorLog {folder}/error.log\n\
         User www-data\nGroup www-data\n\
         StartServers {processes}\nServerLimit {processes}\nThreadLimit {THREADS}\nThreadsPerChild {THREADS}\n\
         MaxRequestWorkers {all}\nMinSpareThreads 1\nMaxSpareThreads {all}\nMaxConnectionsPerChild 0\n\
         KeepAlive On\nKeepAliveTimeout 75\nMaxKeepAliveRequests 0\n\
         {more}\
         OIDCProviderMetadataURL {provider}/oidc/.well-known/openid-configuration\n\
         OIDCClientID {CLIENT_ID}\nOIDCClientSecret {CLIENT_SECRET}\n\
         OIDCRedirectURI {origin}{CALLBACK}\nOIDCCryptoPassphrase a-secret-of-the-bench-and-no-more\n\
         OIDCScope \"openid profile email\"\nOIDCPKCEMethod S256\n\
         ProxyPass {CALLBACK} !\nProxyPass / http://127.0.0.1:{}/\n\
         <Location />\nAuthType openid-connect\nRequire valid-user\n</Location>\n",
        setup.upstream
    );
    text
}
