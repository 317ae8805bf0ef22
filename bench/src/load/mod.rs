//! The load: a number of connections, each sending the next request once it has the whole last response, or at a fixed pace.

mod http1;
mod http2;
mod pace;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::{JoinSet, LocalSet};

pub(crate) use http1::Client;
pub(crate) use http2::{Session, exchange};

use crate::cpu::{Processes, Used};
use crate::http;
use crate::load::pace::Pace;
use crate::options::Protocol;
use crate::wire::Address;

/// Before each measurement, so that connections open, pools fill and caches warm up.
const WARM_UP: Duration = Duration::from_millis(400);
/// The requested path.
const PATH: &str = "/reports/quarterly?year=2&view=table";
/// The path for slow clients: its response is larger than the buffers between them and the proxy.
pub(crate) const LARGE: &str = "/large";
/// If there are slow clients, one in this many is.
const SLOW: usize = 10;

/// The form of the load.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    /// Requests at a time on each connection; more than one by HTTP/2 only.
    pub(crate) streams: usize,
    /// Requests a second in total; without it as many as are answered.
    pub(crate) rate: Option<u32>,
    /// Whether each request uses a new connection.
    pub(crate) fresh: bool,
    /// Whether one client in ten reads a large response a few bytes at a time, beside all others.
    pub(crate) slow: bool,
    /// How many requests are sent in total; without it as many as there is time for.
    pub(crate) requests: Option<usize>,
    pub(crate) measured: Duration,
}

/// The target of the load, and the expected response.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: Address,
    /// Sent in turn, over all connections.
    requests: Requests,
    turn: Arc<AtomicUsize>,
    pub(crate) body: usize,
    /// A session for other requests.
    cookie: String,
}

#[derive(Clone)]
enum Requests {
    Http1(Arc<[Vec<u8>]>),
    Http2(Arc<[::http::Request<()>]>),
}

impl Target {
    /// Requests with each of these cookies in turn.
    pub(crate) fn new(address: Address, protocol: Protocol, cookies: &[String], body: usize) -> anyhow::Result<Self> {
        let requests = match protocol {
            Protocol::Http1 | Protocol::Tls => {
                Requests::Http1(cookies.iter().map(|cookie| http::browser_request(&address, PATH, cookie)).collect())
            }
            Protocol::Http2 => {
                let requests = cookies.iter().map(|cookie| http::browser_request_2(&address, PATH, cookie));
                Requests::Http2(requests.collect::<Result<_, _>>()?)
            }
        };
        let cookie = cookies.first().cloned().unwrap_or_default();
        Ok(Self { address, requests, turn: Arc::default(), body, cookie })
    }

    /// The same over HTTP/1.1, with one session.
    pub(crate) fn by_http1(&self) -> anyhow::Result<Self> {
        let cookies = std::slice::from_ref(&self.cookie);
        Self::new(self.address.with_protocol(Protocol::Tls), Protocol::Tls, cookies, self.body)
    }

    /// The next of `requests`.
    fn next<'r, T>(&self, requests: &'r [T]) -> anyhow::Result<&'r T> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        requests.get(turn % requests.len().max(1)).context("nobody is signed in")
    }
}

/// The result of one measurement.
pub(crate) struct Sample {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    pub(crate) ticks: Duration,
}

/// State that all connections of a load share.
struct State {
    measuring: Cell<bool>,
    stopped: Cell<bool>,
    latencies: RefCell<Vec<Duration>>,
    pace: Option<Pace>,
    /// How many requests are still to be sent.
    left: Cell<usize>,
}

impl State {
    /// When the next request is due: now, or by the pace; `None`: the load ends.
    async fn due(&self) -> Option<Instant> {
        let due = match &self.pace {
            Some(pace) => pace.next().await?,
            None => Instant::now(),
        };
        let left = self.left.get().checked_sub(1)?;
        self.left.set(left);
        (!self.stopped.get()).then_some(due)
    }

    /// Records a complete response to a request that was due at `due`.
    fn answered(&self, due: Instant) {
        if self.measuring.get() {
            self.latencies.borrow_mut().push(due.elapsed());
        }
    }
}

/// Loads a target for a while. A response that is not 200 with the whole body ends it: a fast refusal is not a result.
pub(crate) async fn run(target: &Target, processes: &Processes, shape: Shape) -> anyhow::Result<Sample> {
    let state = Rc::new(State {
        measuring: Cell::new(shape.requests.is_some()),
        stopped: Cell::new(false),
        latencies: RefCell::new(Vec::with_capacity(1 << 20)),
        pace: shape.rate.map(Pace::start),
        left: Cell::new(shape.requests.unwrap_or(usize::MAX)),
    });
    let local = LocalSet::new();
    let clock = async {
        let (mut connections, mut slow) = (JoinSet::new(), JoinSet::new());
        let mut meter = Meter::start(processes)?;
        match &target.requests {
            Requests::Http1(requests) => http1::start(target, requests, shape, &state, &mut connections).await?,
            Requests::Http2(requests) => http2::start(target, requests, shape, &state, &mut connections).await?,
        }
        if shape.requests.is_some() {
            all(&mut connections).await?;
            return meter.read();
        }
        if shape.slow {
            for _ in 0..shape.connections.div_ceil(SLOW) {
                let address = target.address.clone();
                let request = http::browser_request(&address, LARGE, &target.cookie);
                slow.spawn_local(async move { http1::read_slowly(&address, &request).await });
            }
        }
        tokio::time::sleep(WARM_UP).await;
        meter = Meter::start(processes)?;
        state.measuring.set(true);
        tokio::select! {
            () = tokio::time::sleep(shape.measured) => {}
            // Tasks end by themselves only on an error.
            Some(ended) = connections.join_next() => ended??,
            Some(ended) = slow.join_next() => ended??,
        }
        state.measuring.set(false);
        let read = meter.read()?;
        state.stopped.set(true);
        if let Some(pace) = &state.pace {
            pace.stop();
        }
        all(&mut connections).await?;
        // Errors that came too late to be noticed above count too; clients that are still reading are dropped.
        while let Some(ended) = slow.try_join_next() {
            ended??;
        }
        anyhow::Ok(read)
    };
    let [took, cpu, ticks] = local.run_until(clock).await?;
    let latencies = state.latencies.take();
    ensure!(!latencies.is_empty(), "no request was answered");
    Ok(Sample { latencies, took, cpu, ticks })
}

/// Waits until all have ended; one error is an error of all.
async fn all(connections: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

/// Measures elapsed time, and the CPU time of processes meanwhile.
struct Meter<'a> {
    processes: &'a Processes,
    began: Instant,
    used: Used,
    ticks: Duration,
}

impl<'a> Meter<'a> {
    fn start(processes: &'a Processes) -> anyhow::Result<Self> {
        Ok(Self { processes, used: processes.used()?, ticks: processes.ticks()?, began: Instant::now() })
    }

    /// The time since the start, the CPU time of the processes, and the same in ticks.
    fn read(&self) -> anyhow::Result<[Duration; 3]> {
        let took = self.began.elapsed();
        let used = self.processes.used()?.since(&self.used);
        Ok([took, used, self.processes.ticks()?.saturating_sub(self.ticks)])
    }
}
