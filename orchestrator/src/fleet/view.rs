//! What a person may see of a cluster, by the cluster's own rules.
//!
//! The cache was read with the orchestrator's own account. A cluster with impersonation is asked whether the person may list a kind,
//! in all namespaces or in one, and the answer is valid for a minute. Without an answer nothing is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::kube::{Client, Fault};

use super::answers::{Known, Question};
use super::cluster::Cluster;
use super::held::Key;
use super::model::{ClusterId, Kind};
use super::person::{Person, Viewer};

/// How many access reviews run at a time per cluster while a person waits.
const ASKED_AT_ONCE: usize = 8;
/// How many clusters are asked at a time.
const CLUSTERS_AT_ONCE: usize = 32;
/// How many run at a time per cluster in the background: they must not delay people who wait.
const AGAIN_AT_ONCE: usize = 2;
/// The time limit for all access reviews of one cluster.
const PATIENCE: Duration = Duration::from_secs(5);
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What may be seen, by cluster.
#[derive(Default)]
pub struct Views {
    asked: BTreeMap<ClusterId, (Arc<Cluster>, View)>,
    /// Whether a person views: of a cluster that decides by person, and was not asked, nothing may be seen.
    of_person: bool,
}

/// What may be seen of one cluster, if not everything.
#[derive(Debug, Default)]
struct View {
    kinds: BTreeSet<Kind>,
    places: BTreeMap<Kind, BTreeSet<String>>,
    /// Why nothing may be seen.
    reason: Option<String>,
}

impl Views {
    /// Returns true if an object may be seen.
    pub(super) fn shows(&self, cluster: &Cluster, (kind, namespace, _): &Key) -> bool {
        match self.asked(cluster) {
            Some(view) => view.shows(*kind, namespace),
            None => self.is_whole(cluster),
        }
    }

    /// Returns true if all of a cluster may be seen. The cluster may be newer than the views, or decide by person only since then.
    pub(super) fn is_whole(&self, cluster: &Cluster) -> bool {
        let unasked = self.of_person && cluster.asks_as_person();
        !unasked && self.asked(cluster).is_none()
    }

    /// The view of this very cluster: another one may have its id by now.
    fn asked(&self, cluster: &Cluster) -> Option<&View> {
        let (asked, view) = self.asked.get(&cluster.id)?;
        std::ptr::eq(&raw const **asked, cluster).then_some(view)
    }

    /// Why nothing of a cluster may be seen.
    #[must_use]
    pub fn reason(&self, cluster: ClusterId) -> Option<&str> {
        self.asked.get(&cluster).and_then(|(_, view)| view.reason.as_deref())
    }
}

impl View {
    fn shows(&self, kind: Kind, namespace: &str) -> bool {
        self.kinds.contains(&kind) || self.places.get(&kind).is_some_and(|within| within.contains(namespace))
    }
}

/// What a viewer may see of these clusters.
pub(super) async fn of(clusters: &[Arc<Cluster>], viewer: &Viewer) -> Views {
    let Viewer::Person(person) = viewer else { return Views::default() };
    let deciding: Vec<Arc<Cluster>> = clusters.iter().filter(|cluster| cluster.asks_as_person()).cloned().collect();
    let views = deciding.into_iter().map(|cluster| async move {
        let view = match person {
            Ok(person) => view(&cluster, person).await,
            Err(reason) => View { reason: Some(reason.clone()), ..View::default() },
        };
        (cluster.id, (cluster, view))
    });
    let views: Vec<(ClusterId, (Arc<Cluster>, View))> =
        stream::iter(views).buffer_unordered(CLUSTERS_AT_ONCE).collect().await;
    Views { asked: views.into_iter().collect(), of_person: true }
}

/// Returns true if a viewer may see an object of this kind and namespace.
pub(super) async fn shows(cluster: &Cluster, viewer: &Viewer, kind: Kind, namespace: &str) -> bool {
    let Viewer::Person(person) = viewer else { return true };
    if !cluster.asks_as_person() {
        return true;
    }
    let (Ok(person), Some(client)) = (person, &cluster.client) else { return false };
    let asked = async {
        ask(cluster, client, person, kind, "").await.unwrap_or(false)
            || ask(cluster, client, person, kind, namespace).await.unwrap_or(false)
    };
    timeout(PATIENCE, asked).await.unwrap_or(false)
}

/// Never more than was asked about: kinds or namespaces that appear meanwhile are not included.
async fn view(cluster: &Arc<Cluster>, person: &Person) -> View {
    let mut namespaces: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    for (kind, namespace, _) in cluster.objects().keys() {
        let of_kind = namespaces.entry(*kind).or_default();
        if !of_kind.contains(&**namespace) {
            of_kind.insert(namespace.to_string());
        }
    }
    let Some(client) = &cluster.client else { return View::default() };
    let deadline = Instant::now() + PATIENCE;
    let mut ageing = Vec::new();
    let kinds: Vec<Question> = namespaces.keys().map(|kind| (*kind, String::new())).collect();
    let (allowed, mut fault) = review(cluster, client, person, kinds, deadline, &mut ageing).await;
    let kinds: BTreeSet<Kind> = allowed.into_iter().map(|(kind, _)| kind).collect();
    let mut places: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    if fault.is_none() {
        let within = namespaces
            .iter()
            .filter(|(kind, _)| !kinds.contains(kind))
            .flat_map(|(kind, within)| within.iter().map(|namespace| (*kind, namespace.clone())))
            .collect();
        let (allowed, later) = review(cluster, client, person, within, deadline, &mut ageing).await;
        fault = later;
        for (kind, namespace) in allowed {
            places.entry(kind).or_default().insert(namespace);
        }
    }
    if !ageing.is_empty() && cluster.answers.ask_again(person) {
        tokio::spawn(refresh(Arc::clone(cluster), client.clone(), person.clone(), ageing));
    }
    let nothing = kinds.is_empty() && places.is_empty() && !namespaces.is_empty();
    let reason = nothing.then(|| match fault {
        Some(fault) => format!("{} may see nothing here: the cluster does not say what they may list ({fault})", person.user()),
        None => format!(
            "{} may list no object of Flux in any namespace of this cluster: its administrators grant that by a RoleBinding",
            person.user()
        ),
    });
    View { kinds, places, reason }
}

/// The questions answered with yes, and the first fault; collects those whose answers expire soon.
async fn review(
    cluster: &Cluster,
    client: &Client,
    person: &Person,
    questions: Vec<Question>,
    deadline: Instant,
    ageing: &mut Vec<Question>,
) -> (Vec<Question>, Option<Fault>) {
    let mut known = cluster.answers.of(person, questions, Instant::now());
    ageing.append(&mut known.ageing);
    if known.open.is_empty() {
        return (known.allowed, None);
    }
    let (later, fault) = review_all(cluster, client, person, known.open, deadline, ASKED_AT_ONCE).await;
    known.allowed.extend(later);
    (known.allowed, fault)
}

/// Refreshes answers before they expire. If that fails, the next view asks once more.
async fn refresh(cluster: Arc<Cluster>, client: Client, person: Person, questions: Vec<Question>) {
    let Ok(_permit) = cluster.refresh_permits.acquire().await else { return };
    // Some may have been answered while this waited for a permit.
    let Known { mut open, ageing, .. } = cluster.answers.of(&person, questions, Instant::now());
    open.extend(ageing);
    review_all(&cluster, &client, &person, open, Instant::now() + PATIENCE, AGAIN_AT_ONCE).await;
    cluster.answers.asked_again(&person);
}

async fn review_all(
    cluster: &Cluster,
    client: &Client,
    person: &Person,
    questions: Vec<Question>,
    deadline: Instant,
    at_once: usize,
) -> (Vec<Question>, Option<Fault>) {
    let client = &client.acting_as(person.headers());
    let asked = questions.into_iter().map(|(kind, namespace)| async move {
        let answer = tokio::time::timeout_at(deadline, review_access(cluster, client, person, kind, &namespace)).await;
        ((kind, namespace), answer.unwrap_or_else(|_| Err(Fault::late(PATIENCE.as_secs()))))
    });
    let mut answers = std::pin::pin!(stream::iter(asked).buffer_unordered(at_once));
    let (mut allowed, mut fault) = (Vec::new(), None);
    while let Some((question, answer)) = answers.next().await {
        match answer {
            Ok(true) => allowed.push(question),
            Ok(false) => {}
            Err(reason) => fault = fault.or(Some(reason)),
        }
    }
    (allowed, fault)
}

async fn ask(cluster: &Cluster, client: &Client, person: &Person, kind: Kind, namespace: &str) -> Result<bool, Fault> {
    match cluster.answers.known(person, kind, namespace, Instant::now()) {
        Some(known) => Ok(known),
        None => review_access(cluster, &client.acting_as(person.headers()), person, kind, namespace).await,
    }
}

/// Asks the cluster, with a client that impersonates the person. A cluster that is down is not asked: everybody would wait for it.
async fn review_access(
    cluster: &Cluster,
    client: &Client,
    person: &Person,
    kind: Kind,
    namespace: &str,
) -> Result<bool, Fault> {
    let Some(served) = cluster.served(kind) else { return Ok(false) };
    if let Some(outage) = cluster.outage() {
        return Err(outage);
    }
    // Taken before the request: an answer is never older than recorded.
    let asked = Instant::now();
    let attributes = Attributes { namespace, verb: "list", group: &served.group, resource: &served.plural };
    let review = Review {
        api_version: "authorization.k8s.io/v1",
        kind: "SelfSubjectAccessReview",
        spec: Spec { resource_attributes: attributes },
    };
    let answer: Reviewed = client.create(REVIEWS, &review).await?;
    let allowed = answer.status.allowed && !answer.status.denied;
    cluster.answers.keep(person, (kind, namespace.to_owned()), allowed, asked);
    Ok(allowed)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    resource_attributes: Attributes<'a>,
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    verb: &'static str,
    group: &'a str,
    resource: &'a str,
}

#[derive(Deserialize)]
struct Reviewed {
    status: ReviewStatus,
}

#[derive(Deserialize)]
struct ReviewStatus {
    allowed: bool,
    #[serde(default)]
    denied: bool,
}
