//! All contenders of a run, started over the same upstream, and measured in turns.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::cpu::{Others, Processes};
use crate::load::{self, Shape, Target};
use crate::nginx::{Nginx, Proxying};
use crate::options::{Options, Protocol, Store};
use crate::peers::{self, Peer};
use crate::program;
use crate::redis::RedisServer;
use crate::report::{Contender, Round};
use crate::sidegate::{self, CONNECTIONS, Setup, Sidegate};
use crate::wire::{Address, Certificate};

/// How much of a log is shown on an error.
const LOG_LINES: usize = 3;

/// The contenders, Sidegate first and nginx last. Dropping it stops all of them.
pub(crate) struct Lineup {
    pub(crate) entrants: Vec<Entrant>,
    sidegates: Vec<Sidegate>,
    _peers: Vec<Peer>,
    _nginx: [Nginx; 2],
    redis: Option<RedisServer>,
    _folder: TempDir,
}

/// One contender, the target of its load, and the processes whose CPU time counts.
pub(crate) struct Entrant {
    pub(crate) contender: Contender,
    pub(crate) target: Target,
    pub(crate) processes: Processes,
    /// Where it writes its log, if it has one.
    log: Option<PathBuf>,
}

impl Lineup {
    pub(crate) async fn start(options: &Options) -> anyhow::Result<Self> {
        let (protocol, threads, body) = (options.protocol, options.turns.threads, options.body);
        let folder = tempfile::tempdir().context("no temporary folder could be made")?;
        let certificate = match protocol {
            Protocol::Http1 => None,
            Protocol::Tls | Protocol::Http2 => Some(Certificate::make(folder.path())?),
        };
        let certificate = certificate.as_ref();
        let upstream = Nginx::upstream(folder.path(), body)?;
        let (redis, store) = store(options.store).await?;
        let mut sidegates = Vec::new();
        for (name, program, rules) in programs(options)? {
            let setup = Setup {
                upstream: upstream.port(),
                threads,
                folder: folder.path(),
                rules,
                people: options.people,
                store: store.clone(),
                session_memory: options.session_memory,
                connections: CONNECTIONS,
                anew: options.first_requests && !matches!(options.store, Store::Memory),
                certificate,
                protocol,
            };
            sidegates.push(Sidegate::start(name, &program, setup).await?);
        }
        let mut entrants = Vec::new();
        for sidegate in &sidegates {
            let target = Target::new(sidegate.address().clone(), protocol, sidegate.cookies(), body)?;
            let entrant = Entrant::new(sidegate.name(), target, &[sidegate.pid()]);
            entrants.push(Entrant { log: Some(sidegate.log().to_owned()), ..entrant });
        }
        // Contenders without sessions get the same bytes.
        let cookies = sidegates.first().map(Sidegate::cookies).unwrap_or_default();
        let setup = peers::Setup {
            folder: folder.path(),
            upstream: upstream.port(),
            threads,
            people: options.people,
            protocol,
            certificate,
        };
        let peers = if options.turns.peers { peers::start(setup, upstream.other_ports()).await? } else { Vec::new() };
        for peer in &peers {
            let cookies = if peer.cookies.is_empty() { cookies } else { &peer.cookies };
            let target = Target::new(peer.address.clone(), protocol, cookies, body)?;
            entrants.push(Entrant::new(peer.name, target, &peer.pids));
        }
        let (upstream_port, connections) = (upstream.port(), options.connections * options.streams);
        let proxying = Proxying { upstream: upstream_port, workers: threads, connections, protocol, certificate };
        let proxy = Nginx::proxy(folder.path(), &proxying)?;
        let address = Address::new(proxy.port(), protocol, certificate)?;
        let target = Target::new(address, protocol, cookies, body)?;
        entrants.push(Entrant::new("nginx", target, &proxy.workers(threads).await?));
        let _nginx = [proxy, upstream];
        Ok(Self { entrants, sidegates, _peers: peers, _nginx, redis, _folder: folder })
    }

    /// Measures all in turns, so that a slow spell of the machine affects each of them, and prints each round. Returns the share of
    /// the machine that other programs used meanwhile: results from a busy machine mean little.
    pub(crate) async fn measure(
        &mut self,
        options: &Options,
        mut say: impl FnMut(usize, &Contender, &Round) -> io::Result<()>,
    ) -> anyhow::Result<f64> {
        if options.people > 1 && !options.first_requests {
            // Each session is used once before: this measures sessions in use.
            let once = Shape { requests: Some(options.people), ..options.shape() };
            for entrant in &self.entrants {
                entrant.round(once).await?;
            }
        }
        let mut others = [Duration::ZERO; 2];
        for number in 1..=options.turns.rounds {
            if options.first_requests && number > 1 {
                self.restart(options).await?;
            }
            let watched = Others::watch()?;
            for entrant in &mut self.entrants {
                let round = entrant.round(options.shape()).await.with_context(|| format!("round {number}"))?;
                say(number, &entrant.contender, &round)?;
                entrant.contender.rounds.push(round);
            }
            let [used, took] = watched.used()?;
            others = [others[0] + used, others[1] + took];
        }
        Ok(Others::share(others))
    }

    /// The same with new processes, where everyone has just signed in.
    async fn restart(&mut self, options: &Options) -> anyhow::Result<()> {
        let mut new = Self::start(options).await?;
        for (old, new) in self.entrants.iter_mut().zip(&mut new.entrants) {
            new.contender.rounds = std::mem::take(&mut old.contender.rounds);
        }
        std::mem::replace(self, new).stop().await
    }

    /// Stops them, and waits until they have ended, so that their CPU time no longer counts.
    async fn stop(self) -> anyhow::Result<()> {
        for sidegate in self.sidegates {
            sidegate.stop().await?;
        }
        if let Some(redis) = self.redis {
            redis.stop().await?;
        }
        Ok(())
    }

    pub(crate) fn contenders(&self) -> Vec<&Contender> {
        self.entrants.iter().map(|entrant| &entrant.contender).collect()
    }
}

impl Entrant {
    fn new(name: &str, target: Target, pids: &[u32]) -> Self {
        Self { contender: Contender::new(name), target, processes: Processes::of(pids), log: None }
    }

    /// Its name, and the end of its log, for an error.
    fn account(&self) -> String {
        let log = self.log.as_ref().and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
        let lines: String = end.iter().rev().map(|line| format!("\n  {line}")).collect();
        let name = self.contender.name();
        if lines.is_empty() { name.to_owned() } else { format!("{name}, whose log ends:{lines}\n") }
    }

    /// Measures it once.
    pub(crate) async fn round(&self, shape: Shape) -> anyhow::Result<Round> {
        let sample = load::run(&self.target, &self.processes, shape).await;
        Ok(Round::of(sample.with_context(|| self.account())?))
    }
}

async fn store(store: Store) -> anyhow::Result<(Option<RedisServer>, sidegate::Store)> {
    Ok(match store {
        Store::Memory => (None, sidegate::Store::Memory),
        Store::Jwt => (None, sidegate::Store::Jwt),
        Store::Redis => {
            let redis =
                RedisServer::start().await?.context("there is no redis-server: apt-get install redis-server")?;
            let url = redis.url();
            (Some(redis), sidegate::Store::Redis(url))
        }
    })
}

/// The proxies to measure, the first one compared with the others: name, program, and number of rules.
fn programs(options: &Options) -> anyhow::Result<Vec<(String, PathBuf, usize)>> {
    let program = program(options.turns.sidegate.as_deref())?;
    let mut programs = vec![("sidegate".to_owned(), program.clone(), 0)];
    programs.extend(options.against.clone().map(|other| ("other".to_owned(), other, 0)));
    programs.extend(options.rules.iter().map(|rules| (format!("{rules} rules"), program.clone(), *rules)));
    Ok(programs)
}
