//! Simulates the controllers of a cluster: they work on request, and now and then spontaneously.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;
use crate::fleet::Kind;

use super::status;
use super::world::{Key, World};

/// How often, in steps, something happens spontaneously.
const BY_ITSELF: u64 = 5;
/// An annotation that makes an object's controller fail each time, with the annotation's text.
pub(super) const FAILS_WITH: &str = "demo.sidegate/fails-with";

/// The stage of a controller's work on an object; steps until the next stage.
#[derive(Clone, Copy)]
enum Stage {
    Asked,
    Working { steps: u8, by_itself: bool },
}

/// Runs until dropped.
pub(super) async fn live(world: Arc<World>, pace: Duration) {
    let by_itself = !pace.is_zero();
    let mut ticks = interval(if by_itself { pace } else { Duration::from_millis(10) });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut at_work: BTreeMap<Key, Stage> = BTreeMap::new();
    let mut step: u64 = fastrand::u64(..BY_ITSELF);
    loop {
        ticks.tick().await;
        step += 1;
        for key in world.take_asked() {
            at_work.entry(key).or_insert(Stage::Asked);
        }
        if by_itself && step.is_multiple_of(BY_ITSELF) {
            let keys = world.keys();
            if let Some(key) = fastrand::choice(&keys) {
                at_work.entry(key.clone()).or_insert(Stage::Working { steps: 0, by_itself: true });
                begin(&world, key);
            }
        }
        at_work =
            at_work.into_iter().filter_map(|(key, stage)| Some((key.clone(), advance(&world, &key, stage)?))).collect();
    }
}

fn advance(world: &World, key: &Key, stage: Stage) -> Option<Stage> {
    match stage {
        Stage::Asked => begin(world, key).then_some(Stage::Working { steps: 0, by_itself: false }),
        Stage::Working { steps, by_itself } if steps < 3 => Some(Stage::Working { steps: steps + 1, by_itself }),
        Stage::Working { by_itself, .. } => {
            finish(world, key, by_itself);
            None
        }
    }
}

/// Starts work on an object; false if there is nothing to do because it is suspended or has no status.
fn begin(world: &World, key: &Key) -> bool {
    let Some(object) = world.find(key) else { return false };
    if is_idle(key.0, &object) {
        return false;
    }
    let mut object = object.as_ref().clone();
    status::begin(&mut object, &now());
    world.put(key.clone(), object);
    true
}

/// Returns true for objects that no controller works on, or none that reports a status.
fn is_idle(kind: Kind, object: &Value) -> bool {
    let silent = matches!(kind, Kind::Alert | Kind::Provider | Kind::ExternalArtifact);
    silent || object["spec"]["suspend"] == true || object["spec"]["type"] == "oci"
}

fn finish(world: &World, key: &Key, by_itself: bool) {
    let Some(object) = world.find(key) else { return };
    if is_idle(key.0, &object) {
        return;
    }
    let mut object = object.as_ref().clone();
    if let Some(message) = object["metadata"]["annotations"][FAILS_WITH].as_str().map(str::to_owned) {
        status::fail(&mut object, &now(), failure_reason(key.0), &message);
        world.put(key.clone(), object);
        world.add_event(key, true, failure_reason(key.0), &message);
        return;
    }
    if by_itself && fastrand::u8(..100) < 8 {
        let message = failure_message(key.0);
        status::fail(&mut object, &now(), failure_reason(key.0), message);
        world.put(key.clone(), object);
        world.add_event(key, true, failure_reason(key.0), message);
        return;
    }
    let before = revision(&object, key.0);
    let next = next_revision(world, key, &object, before.as_deref(), by_itself);
    status::succeed(key.0, &mut object, &now(), &next);
    let (reason, message) = status::success(key.0, &object, &next);
    world.put(key.clone(), object);
    world.add_event(key, false, reason, &message);
    if before.as_deref() != Some(&next) {
        for dependant in world.keys().into_iter().filter(|other| comes_from(world, other, key)) {
            world.ask(dependant);
        }
    }
}

fn now() -> String {
    clock::text(clock::now())
}

fn revision(object: &Value, kind: Kind) -> Option<String> {
    let pointer = match kind {
        Kind::Kustomization => "/status/lastAppliedRevision",
        Kind::HelmRelease => "/status/lastAttemptedRevision",
        Kind::GitRepository
        | Kind::OciRepository
        | Kind::HelmRepository
        | Kind::HelmChart
        | Kind::Bucket
        | Kind::ExternalArtifact => "/status/artifact/revision",
        Kind::FluxInstance | Kind::ResourceSet => "/status/lastAppliedRevision",
        Kind::ImageRepository
        | Kind::ImagePolicy
        | Kind::ImageUpdateAutomation
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider => return None,
    };
    object.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn next_revision(world: &World, key: &Key, object: &Value, before: Option<&str>, by_itself: bool) -> String {
    if let Some(source) = source(key, object).and_then(|source| world.find(&source).map(|object| (source.0, object)))
        && key.0 != Kind::HelmChart
        && let Some(revision) = revision(&source.1, source.0)
    {
        return revision.split('@').next().filter(|_| key.0 == Kind::HelmRelease).unwrap_or(&revision).to_owned();
    }
    match (before, by_itself && fastrand::u8(..100) < 40) {
        (Some(before), false) => before.to_owned(),
        (before, _) => new_revision(key.0, before.unwrap_or_default()),
    }
}

/// A new revision in the format of this kind of source.
pub(super) fn new_revision(kind: Kind, before: &str) -> String {
    let hex = |digits: usize| -> String { (0..digits).map(|_| fastrand::digit(16)).collect() };
    match kind {
        Kind::GitRepository => format!("{}@sha1:{}", before.split('@').next().unwrap_or("main"), hex(40)),
        Kind::OciRepository => format!("{}@sha256:{}", before.split('@').next().unwrap_or("latest"), hex(64)),
        Kind::HelmRepository | Kind::Bucket => format!("sha256:{}", hex(64)),
        Kind::HelmChart | Kind::HelmRelease => {
            let (minor, patch) = before.rsplit_once('.').unwrap_or(("1.0", "0"));
            format!("{minor}.{}", patch.parse::<u32>().unwrap_or(0) + 1)
        }
        Kind::Kustomization
        | Kind::ExternalArtifact
        | Kind::ImageRepository
        | Kind::ImagePolicy
        | Kind::ImageUpdateAutomation
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider
        | Kind::FluxInstance
        | Kind::ResourceSet => before.to_owned(),
    }
}

fn comes_from(world: &World, dependant: &Key, source_key: &Key) -> bool {
    world.find(dependant).and_then(|object| source(dependant, &object)).is_some_and(|found| found == *source_key)
}

/// The source of an object.
fn source((kind, namespace, name): &Key, object: &Value) -> Option<Key> {
    if *kind == Kind::HelmRelease && object.pointer("/spec/chart").is_some() {
        let within = object.pointer("/spec/chart/spec/sourceRef/namespace").and_then(Value::as_str);
        return Some((Kind::HelmChart, within.unwrap_or(namespace).to_owned(), format!("{namespace}-{name}")));
    }
    let reference = object.pointer("/spec/sourceRef").or_else(|| object.pointer("/spec/chartRef"))?;
    let kind = reference["kind"].as_str()?.parse().ok()?;
    let within = reference["namespace"].as_str().unwrap_or(namespace);
    Some((kind, within.to_owned(), reference["name"].as_str()?.to_owned()))
}

fn failure_reason(kind: Kind) -> &'static str {
    match kind {
        Kind::Kustomization => "HealthCheckFailed",
        Kind::HelmRelease => "UpgradeFailed",
        Kind::GitRepository => "GitOperationFailed",
        Kind::OciRepository => "OCIArtifactPullFailed",
        Kind::HelmRepository => "IndexationFailed",
        Kind::HelmChart => "ChartPullError",
        Kind::Bucket => "BucketOperationFailed",
        Kind::ImageRepository => "ReadOperationFailed",
        Kind::ImageUpdateAutomation => "GitOperationFailed",
        Kind::ExternalArtifact
        | Kind::ImagePolicy
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider
        | Kind::FluxInstance
        | Kind::ResourceSet => "ReconciliationFailed",
    }
}

fn failure_message(kind: Kind) -> &'static str {
    match kind {
        Kind::Kustomization => "timeout waiting for: [Deployment/apps/backend status: 'InProgress']",
        Kind::HelmRelease => "Helm upgrade failed: context deadline exceeded",
        Kind::GitRepository => "failed to checkout and determine revision: unable to clone: connection reset by peer",
        Kind::OciRepository => "failed to determine artifact digest: GET manifest: TOOMANYREQUESTS",
        Kind::HelmRepository => "failed to fetch Helm repository index: 502 Bad Gateway",
        Kind::HelmChart => "failed to download chart for remote reference: 502 Bad Gateway",
        Kind::Bucket => "failed to list objects: Access Denied",
        Kind::ImageRepository => "scan failed: GET tags: TOOMANYREQUESTS",
        Kind::ImageUpdateAutomation => "failed to push to remote: authorization failed",
        Kind::ExternalArtifact
        | Kind::ImagePolicy
        | Kind::Receiver
        | Kind::Alert
        | Kind::Provider
        | Kind::FluxInstance
        | Kind::ResourceSet => "the server was unable to return a response in the time allotted",
    }
}
