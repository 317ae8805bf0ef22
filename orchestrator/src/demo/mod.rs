//! A simulated Kubernetes API on loopback: clusters with Flux objects that move through plausible states.
//!
//! It implements enough of Kubernetes for the client code to work with it: discovery, paged lists, watches with bookmarks and
//! `410 Gone`, merge patches, dry-run apply, events, applied objects with pods and logs, impersonation and access reviews. It obeys
//! Flux's annotations and `spec.suspend`, and can be set to show faults.
#![expect(
    clippy::indexing_slicing,
    reason = "of JSON: reading what is not there gives null, and objects have the form in which they are made here"
)]

mod access;
mod answer;
mod api;
mod faults;
mod kinds;
mod life;
mod query;
mod records;
mod seed;
mod status;
mod things;
mod workloads;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::secret::Secret;
use crate::serve::{self, Limits};

pub use access::Binding;
pub use faults::Faults;
pub use world::World;

/// The clusters of `--demo`.
pub const DEMO_CLUSTERS: [&str; 3] = ["production-eu", "production-us", "staging"];

/// The size of the simulation, and its speed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The clusters, by name.
    pub clusters: Vec<String>,
    /// How many objects each has; without a number, a few that a person can look through.
    pub objects: Option<usize>,
    /// The duration of a step; a reconciliation takes several. Zero: nothing happens spontaneously, and reconciliations take 10 ms a
    /// step.
    pub pace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clusters: DEMO_CLUSTERS.map(str::to_owned).to_vec(),
            objects: None,
            pace: Duration::from_millis(400),
        }
    }
}

/// The running simulation; it ends on drop.
pub struct Demo {
    addr: SocketAddr,
    token: Arc<str>,
    clusters: Vec<Arc<World>>,
    ending: CancellationToken,
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl Demo {
    /// Starts the simulation.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let token: Arc<str> = format!("demo-{:032x}", fastrand::u128(..)).into();
        let ending = CancellationToken::new();
        let clusters: Vec<Arc<World>> = options
            .clusters
            .iter()
            .enumerate()
            .map(|(index, name)| Arc::new(World::new(name, seed::objects(name, index, options.objects))))
            .collect();
        for world in &clusters {
            let life = life::live(Arc::clone(world), options.pace);
            let ending = ending.clone();
            tokio::spawn(async move { ending.run_until_cancelled(life).await });
        }
        let routes = api::routes(clusters.clone(), Arc::clone(&token));
        let limits = Limits { connections: 16_384, drain: Duration::ZERO, ..Limits::default() };
        tokio::spawn(serve::run(listener, routes, limits, ending.clone().cancelled_owned()));
        Ok(Self { addr, token, clusters, ending })
    }

    /// The names and kubeconfigs of the clusters.
    #[must_use]
    pub fn kubeconfigs(&self) -> Vec<(String, Secret)> {
        self.clusters.iter().map(|world| (world.name().to_owned(), self.kubeconfig(world.name()))).collect()
    }

    /// The kubeconfig of a cluster of this name.
    #[must_use]
    pub fn kubeconfig(&self, name: &str) -> Secret {
        let Self { addr, token, .. } = self;
        Secret::new(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {name}\nclusters:\n- name: {name}\n  cluster:\n    server: \
             http://{addr}/clusters/{name}\nusers:\n- name: demo\n  user:\n    token: {token}\ncontexts:\n- name: \
             {name}\n  context:\n    cluster: {name}\n    user: demo\n"
        ))
    }

    /// Allows `people` users, from `person-00` on, to see one namespace each in clusters of many objects, and `everybody` to see all.
    pub fn allow_viewers(&self, people: usize) {
        let binding = |subject: String, namespace: Option<String>| Binding {
            subject,
            namespace,
            verbs: vec!["get", "list"],
            resources: vec!["*"],
        };
        for world in &self.clusters {
            world.bind(binding("everybody".to_owned(), None));
            for person in 0..people {
                world.bind(binding(format!("person-{person:02}"), Some(seed::namespace(person))));
            }
        }
    }

    /// A cluster, to inspect it, to change it, or to set faults.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<World>> {
        self.clusters.iter().find(|world| world.name() == name)
    }
}
