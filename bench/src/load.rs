//! The load: a number of connections, each sending the next request as soon as it has the whole answer to the last one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::cpu::Processes;
use crate::http::{self, Frame};
use crate::options::Options;

/// Before each measurement: connections open, pools fill, caches warm.
const WARM_UP: Duration = Duration::from_millis(400);

/// Where the load goes, and what each answer must be.
pub(crate) struct Target {
    port: u16,
    /// Sent in turn, over all connections.
    requests: Rc<[Vec<u8>]>,
    turn: Rc<Cell<usize>>,
    body: usize,
}

impl Target {
    /// Requests with each of these cookies in turn.
    pub(crate) fn new(port: u16, cookies: &[String], body: usize) -> Self {
        let request = |cookie| http::browser_request(port, "/reports/quarterly?year=2&view=table", cookie);
        let requests = cookies.iter().map(|cookie| request(cookie)).collect();
        Self { port, requests, turn: Rc::default(), body }
    }
}

/// What one measurement saw.
pub(crate) struct Sample {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    pub(crate) ticks: Duration,
}

/// Loads a target for a while. An answer that is not 200 with the whole body ends it: a fast refusal is no result.
pub(crate) async fn run(target: &Target, processes: &Processes, options: &Options) -> anyhow::Result<Sample> {
    let (measuring, stopped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
    let local = LocalSet::new();
    let clock = async {
        let mut connections = JoinSet::new();
        for _ in 0..options.connections {
            let connection = Connection::open(target).await?;
            let (measuring, stopped, latencies) = (Rc::clone(&measuring), Rc::clone(&stopped), Rc::clone(&latencies));
            connections.spawn_local(async move { connection.drive(&measuring, &stopped, &latencies).await });
        }
        tokio::time::sleep(WARM_UP).await;
        let (before, began) = ((processes.used()?, processes.ticks()?), Instant::now());
        measuring.set(true);
        tokio::select! {
            () = tokio::time::sleep(options.measured()) => {}
            // None ends by itself but for a fault.
            Some(ended) = connections.join_next() => ended??,
        }
        measuring.set(false);
        let took = began.elapsed();
        let used = (processes.used()?.saturating_sub(before.0), processes.ticks()?.saturating_sub(before.1));
        stopped.set(true);
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        anyhow::Ok((took, used))
    };
    let (took, (cpu, ticks)) = local.run_until(clock).await?;
    let latencies = latencies.take();
    ensure!(!latencies.is_empty(), "no request was answered");
    Ok(Sample { latencies, took, cpu, ticks })
}

struct Connection {
    stream: TcpStream,
    requests: Rc<[Vec<u8>]>,
    turn: Rc<Cell<usize>>,
    body: usize,
    read: Vec<u8>,
}

impl Connection {
    async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", target.port)).await.context("no connection to a contender")?;
        stream.set_nodelay(true)?;
        let read = Vec::with_capacity(target.body + 16 * 1024);
        let (requests, turn) = (Rc::clone(&target.requests), Rc::clone(&target.turn));
        Ok(Self { stream, requests, turn, body: target.body, read })
    }

    async fn drive(
        mut self,
        measuring: &Cell<bool>,
        stopped: &Cell<bool>,
        latencies: &RefCell<Vec<Duration>>,
    ) -> anyhow::Result<()> {
        while !stopped.get() {
            let began = Instant::now();
            self.exchange().await?;
            if measuring.get() {
                latencies.borrow_mut().push(began.elapsed());
            }
        }
        Ok(())
    }

    async fn exchange(&mut self) -> anyhow::Result<()> {
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let request = self.requests.get(turn % self.requests.len()).context("nobody is signed in")?;
        self.stream.write_all(request).await?;
        self.read.clear();
        loop {
            let read = self.stream.read_buf(&mut self.read).await?;
            ensure!(read > 0, "a contender closed a connection under load");
            if let Some(frame) = Frame::parse(&self.read)? {
                ensure!(frame.status == 200, "an answer was {}, not 200", frame.status);
                ensure!(frame.body == self.body, "an answer had {} bytes, not {}", frame.body, self.body);
                if self.read.len() >= frame.length {
                    ensure!(self.read.len() == frame.length, "there were bytes after an answer's end");
                    return Ok(());
                }
            }
        }
    }
}
