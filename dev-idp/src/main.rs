//! The `dev-idp` program: the command line, what it prints, signals and exit codes.

#![warn(clippy::print_stderr, reason = "what is said goes through the queue of lines")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use dev_idp::{DevIdp, Options, lines};
use tokio::signal::unix::{SignalKind, signal};

/// How long `health` waits for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// A development identity provider: GitHub's, Entra's and OpenID Connect's endpoints with demo users.
///
/// Anybody who can reach it signs in as anybody: never use it for anything but development.
#[derive(Parser)]
#[command(name = "dev-idp", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running dev-idp whether it is well: exit code 0 or 1.
    Health {
        #[command(flatten)]
        listen: Listen,
    },
}

#[derive(Args)]
struct Listen {
    /// The address to listen on.
    #[arg(long, value_name = "ADDR", env = "DEV_IDP_LISTEN_ADDR", default_value = "127.0.0.1:9400")]
    listen: SocketAddr,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    listen: Listen,
    /// The client id that is accepted.
    #[arg(long, value_name = "ID", env = "DEV_IDP_CLIENT_ID", default_value = "sidegate-dev")]
    client_id: String,
    /// The client secret that is accepted.
    #[arg(
        long,
        value_name = "SECRET",
        env = "DEV_IDP_CLIENT_SECRET",
        default_value = "sidegate-dev-secret",
        hide_env_values = true
    )]
    client_secret: String,
    /// A redirect URL that is allowed, exactly as written; may be repeated (in the variable: separated by commas).
    #[arg(
        long = "redirect-url",
        value_name = "URL",
        env = "DEV_IDP_REDIRECT_URL",
        value_delimiter = ',',
        default_value = "http://localhost:8080/api/v1/auth/callback"
    )]
    redirect_urls: Vec<String>,
    /// The origin to name in documents and tokens, where it is not the loopback name that was asked.
    #[arg(long, value_name = "URL", env = "DEV_IDP_PUBLIC_URL")]
    public_url: Option<String>,
    /// Answer POST /_control/…, by which tests make the provider fail and lie.
    #[arg(long)]
    allow_control: bool,
}

/// Prints a line to standard error.
macro_rules! say {
    ($($text:tt)*) => {
        lines::say(&format!($($text)*))
    };
}

fn main() -> ExitCode {
    lines::install_panic_hook();
    let code = match Cli::try_parse() {
        Ok(cli) => execute(cli),
        Err(error) => usage(&error),
    };
    lines::flush();
    ExitCode::from(code)
}

/// Prints clap's message: an error in the command line, or the requested help.
fn usage(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        lines::say(&error.render().to_string());
    } else {
        // Ignores a closed output: the user has seen the help.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(1)
}

fn execute(cli: Cli) -> u8 {
    let done = match cli.command {
        Some(Command::Health { listen }) => health(listen.listen),
        None => serve(cli.serve),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            say!("dev-idp: {error:#}");
            1
        }
    }
}

#[tokio::main]
async fn serve(settings: Serve) -> anyhow::Result<()> {
    let listen = settings.listen.listen;
    // Before any output: a signal sent at the first line must find its handler.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let idp = DevIdp::start(Options {
        listen,
        client_id: settings.client_id,
        client_secret: settings.client_secret,
        redirect_urls: settings.redirect_urls,
        public_url: settings.public_url.filter(|url| !url.is_empty()),
        allow_control: settings.allow_control,
        ..Options::default()
    })
    .await?;
    greet(&idp, settings.allow_control);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    idp.shutdown().await;
    Ok(())
}

fn greet(idp: &DevIdp, allow_control: bool) {
    say!("WARNING: dev-idp is for development only. It asks for no password: anybody who can reach it");
    say!("         signs in as anybody.");
    if !idp.addr().ip().is_loopback() {
        say!("************************************************************************************************");
        say!("* {} IS NOT A LOOPBACK ADDRESS: other machines may reach it. Whatever trusts this", idp.addr());
        say!("* provider is open to all of them. Set DEV_IDP_LISTEN_ADDR=127.0.0.1:9400, or publish the");
        say!("* container's port on the host's loopback only.");
        say!("************************************************************************************************");
    }
    if allow_control {
        say!("WARNING: --allow-control: anybody who can reach it can make it fail and lie.");
    }
    say!("Demo users:");
    for user in idp.users() {
        say!("  {:<8} {}: {}", user.id, user.name, user.remark);
    }
    say!("dev-idp listening on http://{}", idp.addr());
}

/// Plain HTTP by hand: a container without a shell has no other client.
fn health(listen: SocketAddr) -> anyhow::Result<()> {
    let target = dev_idp::reachable(listen);
    let asked = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&target, HEALTH_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
        stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(1024).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().with_context(|| format!("cannot ask {target}: is dev-idp running there?"))?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("what listens on {target} does not answer as dev-idp does");
    }
    Ok(())
}
