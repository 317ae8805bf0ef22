//! The initial objects of a simulated cluster.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::fleet::Kind;

use super::kinds;
use super::life::{FAILS_WITH, new_revision};
use super::status;
use super::world::Key;

/// The initial objects: a few that a person can look through, or `many`.
pub(super) fn objects(cluster: &str, index: usize, many: Option<usize>) -> Vec<(Key, Value)> {
    let mut seed = Seed { objects: Vec::new(), days: i64::try_from(index).unwrap_or(0) % 90 + 30 };
    match many {
        Some(many) => seed.many(cluster, many),
        None => seed.few(cluster),
    }
    seed.objects
}

/// The namespace of an object in a large cluster, by its number.
pub(super) fn namespace(number: usize) -> String {
    format!("team-{}", number % 20)
}

struct Seed {
    objects: Vec<(Key, Value)>,
    days: i64,
}

impl Seed {
    fn few(&mut self, cluster: &str) {
        let main = "main@sha1:";
        self.source(
            Kind::GitRepository,
            "flux-system",
            "flux-system",
            json!({"url": "ssh://git@git.example.com/platform/fleet", "ref": {"branch": "main"}}),
            main,
        );
        self.source(
            Kind::GitRepository,
            "shop",
            "shop",
            json!({"url": "https://git.example.com/shop/deploy", "ref": {"branch": "main"}}),
            main,
        );
        self.source(
            Kind::OciRepository,
            "flux-system",
            "podinfo",
            json!({"url": "oci://registry.example.com/charts/podinfo", "ref": {"semver": "6.x"}}),
            "6.9.2@sha256:",
        );
        self.source(
            Kind::HelmRepository,
            "flux-system",
            "jetstack",
            json!({"url": "https://charts.example.com/jetstack"}),
            "",
        );
        self.source(
            Kind::HelmRepository,
            "flux-system",
            "ingress-nginx",
            json!({"url": "https://charts.example.com/ingress-nginx"}),
            "",
        );
        self.source(
            Kind::HelmRepository,
            "monitoring",
            "prometheus-community",
            json!({"url": "https://charts.example.com/prometheus"}),
            "",
        );
        self.source(
            Kind::HelmRepository,
            "flux-system",
            "registry",
            json!({"type": "oci", "url": "oci://registry.example.com/charts"}),
            "",
        );
        self.source(
            Kind::Bucket,
            "monitoring",
            "dashboards",
            json!({"endpoint": "s3.example.com", "bucketName": "dashboards"}),
            "",
        );

        let fleet = (Kind::GitRepository, "flux-system");
        let shop = (Kind::GitRepository, "shop");
        self.kustomization(
            "flux-system",
            "flux-system",
            fleet,
            "flux-system",
            &[],
            &[
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", "infra-controllers"),
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", "infra-configs"),
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", "apps"),
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", "monitoring"),
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", "tenants"),
                ("v1", "Namespace", "", "flux-system"),
                ("apps/v1", "Deployment", "flux-system", "source-controller"),
                ("apps/v1", "Deployment", "flux-system", "kustomize-controller"),
                ("apps/v1", "Deployment", "flux-system", "helm-controller"),
                ("apps/v1", "Deployment", "flux-system", "notification-controller"),
            ],
        );
        self.kustomization(
            "flux-system",
            "infra-controllers",
            fleet,
            "flux-system",
            &[],
            &[
                ("helm.toolkit.fluxcd.io/v2", "HelmRelease", "cert-manager", "cert-manager"),
                ("helm.toolkit.fluxcd.io/v2", "HelmRelease", "ingress-nginx", "ingress-nginx"),
                ("source.toolkit.fluxcd.io/v1", "HelmRepository", "flux-system", "jetstack"),
                ("source.toolkit.fluxcd.io/v1", "HelmRepository", "flux-system", "ingress-nginx"),
                ("v1", "Namespace", "", "cert-manager"),
                ("v1", "Namespace", "", "ingress-nginx"),
            ],
        );
        self.kustomization(
            "flux-system",
            "infra-configs",
            fleet,
            "flux-system",
            &["infra-controllers"],
            &[
                ("cert-manager.io/v1", "ClusterIssuer", "", "letsencrypt"),
                ("networking.k8s.io/v1", "NetworkPolicy", "ingress-nginx", "default-deny"),
            ],
        );
        self.kustomization(
            "flux-system",
            "apps",
            fleet,
            "flux-system",
            &["infra-configs"],
            &[
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "shop", "shop-backend"),
                ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "shop", "shop-frontend"),
                ("source.toolkit.fluxcd.io/v1", "GitRepository", "shop", "shop"),
                ("helm.toolkit.fluxcd.io/v2", "HelmRelease", "podinfo", "podinfo"),
                ("v1", "Namespace", "", "shop"),
            ],
        );
        self.kustomization(
            "flux-system",
            "monitoring",
            fleet,
            "flux-system",
            &["infra-controllers"],
            &[
                ("helm.toolkit.fluxcd.io/v2", "HelmRelease", "monitoring", "kube-prometheus-stack"),
                ("source.toolkit.fluxcd.io/v1", "HelmRepository", "monitoring", "prometheus-community"),
                ("v1", "Namespace", "", "monitoring"),
            ],
        );
        self.kustomization(
            "flux-system",
            "tenants",
            fleet,
            "flux-system",
            &["infra-configs"],
            &[("v1", "Namespace", "", "team-a"), ("rbac.authorization.k8s.io/v1", "RoleBinding", "team-a", "team-a")],
        );
        self.kustomization(
            "shop",
            "shop-backend",
            shop,
            "shop",
            &[],
            &[
                ("apps/v1", "Deployment", "shop", "backend"),
                ("v1", "Service", "shop", "backend"),
                ("v1", "ConfigMap", "shop", "backend"),
                ("autoscaling/v2", "HorizontalPodAutoscaler", "shop", "backend"),
            ],
        );
        self.kustomization(
            "shop",
            "shop-frontend",
            shop,
            "shop",
            &["shop-backend"],
            &[
                ("apps/v1", "Deployment", "shop", "frontend"),
                ("v1", "Service", "shop", "frontend"),
                ("networking.k8s.io/v1", "Ingress", "shop", "frontend"),
            ],
        );
        self.kustomization(
            "monitoring",
            "dashboards",
            (Kind::Bucket, "monitoring"),
            "dashboards",
            &[],
            &[
                ("v1", "ConfigMap", "monitoring", "dashboard-cluster"),
                ("v1", "ConfigMap", "monitoring", "dashboard-shop"),
            ],
        );

        self.release("cert-manager", "cert-manager", ("flux-system", "jetstack"), "1.18.2");
        self.release("ingress-nginx", "ingress-nginx", ("flux-system", "ingress-nginx"), "4.13.0");
        self.release("monitoring", "kube-prometheus-stack", ("monitoring", "prometheus-community"), "77.5.0");
        self.release("monitoring", "loki", ("monitoring", "prometheus-community"), "6.40.0");
        self.release_by_reference("podinfo", "podinfo", "podinfo", "6.9.2");

        self.beside();

        self.change("tenants", |object| object["spec"]["suspend"] = true.into());
        // Changed by hand, without a note of `kubectl apply`.
        self.change("dashboards", |object| {
            if object["kind"] == "Kustomization" {
                object["spec"]["interval"] = "1h0m0s".into();
            }
        });
        if cluster != "production-eu" {
            self.fail_always("loki", "UpgradeFailed", "Helm upgrade failed: values don't meet the specifications of the schema: loki.schemaConfig is required");
        }
        if cluster == "staging" {
            self.fail_always(
                "shop-frontend",
                "BuildFailed",
                "kustomize build failed: accumulating resources: open ingress.yaml: no such file or directory",
            );
        }
    }

    /// The kinds that few clusters have: images, notifications, and the installer of Flux itself.
    fn beside(&mut self) {
        let image = "registry.example.com/shop/backend";
        let digest = new_revision(Kind::Bucket, "");
        self.plain(Kind::ImageRepository, "backend", json!({"image": image, "interval": "5m0s"}), |status| {
            status["lastScanResult"] = json!({"tagCount": 42, "latestTags": ["3.4.1", "3.4.0"]});
        });
        let policy = json!({"imageRepositoryRef": {"name": "backend"}, "policy": {"semver": {"range": "3.x"}}});
        self.plain(Kind::ImagePolicy, "backend", policy, |status| {
            status["latestRef"] = json!({"name": image, "tag": "3.4.1"});
        });
        let update = json!({"interval": "30m0s", "sourceRef": {"kind": "GitRepository", "name": "flux-system"},
                            "git": {"commit": {"author": {"name": "flux", "email": "flux@example.com"}}, "push": {"branch": "main"}}});
        self.plain(Kind::ImageUpdateAutomation, "flux-system", update, |_| {});
        let receiver = json!({"type": "github", "events": ["push"], "secretRef": {"name": "receiver"},
                              "resources": [{"kind": "GitRepository", "name": "flux-system"}]});
        self.plain(Kind::Receiver, "github", receiver, |status| status["webhookPath"] = "/hook/0a1b2c".into());
        let provider = json!({"type": "slack", "channel": "on-call", "secretRef": {"name": "slack"}});
        let silent = self.object(Kind::Provider, "flux-system", "slack", provider);
        self.put(Kind::Provider, "flux-system", "slack", without_status(silent));
        let alert = json!({"providerRef": {"name": "slack"}, "eventSeverity": "error",
                           "eventSources": [{"kind": "Kustomization", "name": "*"}]});
        let silent = self.object(Kind::Alert, "flux-system", "on-call", alert);
        self.put(Kind::Alert, "flux-system", "on-call", without_status(silent));
        let made = json!({"sourceRef": {"apiVersion": "source.extensions.fluxcd.io/v1beta1", "kind": "ArtifactGenerator", "name": "shop"}});
        self.plain(Kind::ExternalArtifact, "shop-rendered", made, |status| {
            status["artifact"] = json!({"revision": format!("latest@{digest}"), "digest": digest, "size": 9216});
        });
        let instance = json!({"distribution": {"version": "2.7.x", "registry": "ghcr.io/fluxcd"},
                              "components": ["source-controller", "kustomize-controller", "helm-controller", "notification-controller"]});
        self.plain(Kind::FluxInstance, "flux", instance, |status| {
            status["lastAppliedRevision"] = format!("v2.7.2@{digest}").into();
        });
        let set = json!({"inputs": [{"team": "a"}], "resourcesTemplate": "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team-<< inputs.team >>\n"});
        self.plain(Kind::ResourceSet, "teams", set, |status| {
            status["lastAppliedRevision"] = digest.clone().into();
            status["inventory"]["entries"] = json!([{"id": "_team-a__Namespace", "v": "v1"}]);
        });
    }

    /// A healthy object in `flux-system`.
    fn plain(&mut self, kind: Kind, name: &str, spec: Value, more: impl FnOnce(&mut Value)) {
        let mut object = self.object(kind, "flux-system", name, spec);
        more(&mut object["status"]);
        let pointer =
            if kind == Kind::ExternalArtifact { "/status/artifact/revision" } else { "/status/lastAppliedRevision" };
        let revision = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        status::succeed(kind, &mut object, &self.past(1), &revision);
        self.put(kind, "flux-system", name, object);
    }

    fn many(&mut self, cluster: &str, many: usize) {
        for number in 0..many {
            let namespace = self::namespace(number);
            let name = format!("{cluster}-{number:04}");
            match number % 10 {
                0 => self.source(
                    Kind::GitRepository,
                    &namespace,
                    &name,
                    json!({"url": format!("https://git.example.com/{namespace}/{name}"), "ref": {"branch": "main"}}),
                    "main@sha1:",
                ),
                1 => self.source(
                    Kind::HelmRepository,
                    &namespace,
                    &name,
                    json!({"url": format!("https://charts.example.com/{name}")}),
                    "",
                ),
                2 | 3 => self.release_by_reference(&namespace, &name, &format!("{cluster}-0000"), "1.2.3"),
                4 => self.source(
                    Kind::HelmChart,
                    &namespace,
                    &name,
                    json!({"chart": name, "version": "1.x", "sourceRef": {"kind": "HelmRepository", "name": name}}),
                    "1.2.3",
                ),
                5 => self.source(
                    Kind::OciRepository,
                    &namespace,
                    &name,
                    json!({"url": format!("oci://registry.example.com/{namespace}/{name}")}),
                    "latest@sha256:",
                ),
                _ => {
                    let applied: Vec<String> = (0..20).map(|part| format!("{name}-{part:02}")).collect();
                    let inventory: Vec<_> = applied
                        .iter()
                        .enumerate()
                        .map(|(part, name)| match part % 4 {
                            0 => ("apps/v1", "Deployment", namespace.as_str(), name.as_str()),
                            1 => ("v1", "Service", namespace.as_str(), name.as_str()),
                            2 => ("v1", "ConfigMap", namespace.as_str(), name.as_str()),
                            _ => ("networking.k8s.io/v1", "Ingress", namespace.as_str(), name.as_str()),
                        })
                        .collect();
                    let source = format!("{cluster}-{:04}", number / 10 * 10);
                    let within = self::namespace(number / 10 * 10);
                    self.kustomization(&namespace, &name, (Kind::GitRepository, &within), &source, &[], &inventory);
                }
            }
        }
    }

    fn source(&mut self, kind: Kind, namespace: &str, name: &str, mut spec: Value, before: &str) {
        spec["interval"] = "5m0s".into();
        let mut object = self.object(kind, namespace, name, spec);
        if object["spec"]["type"] != "oci" {
            let revision = if kind == Kind::HelmChart { before.to_owned() } else { new_revision(kind, before) };
            object["status"]["artifact"] = json!({
                "digest": new_revision(Kind::Bucket, ""), "size": 18432,
                "path": format!("{}/{namespace}/{name}/latest.tar.gz", kind.name().to_lowercase()),
                "url": format!("http://source-controller.flux-system.svc.cluster.local./{}/{namespace}/{name}/latest.tar.gz", kind.name().to_lowercase()),
            });
            status::succeed(kind, &mut object, &self.past(1), &revision);
        }
        self.put(kind, namespace, name, object);
    }

    fn kustomization(
        &mut self,
        namespace: &str,
        name: &str,
        (source, within): (Kind, &str),
        source_name: &str,
        depends_on: &[&str],
        inventory: &[(&str, &str, &str, &str)],
    ) {
        let mut spec = json!({
            "interval": "10m0s", "path": format!("./{name}"), "prune": true, "wait": true, "timeout": "5m0s",
            "sourceRef": {"kind": source.name(), "name": source_name, "namespace": within},
        });
        if !depends_on.is_empty() {
            spec["dependsOn"] = depends_on.iter().map(|name| json!({"name": name})).collect();
        }
        let revision = self
            .objects
            .iter()
            .find(|((kind, at, name), _)| (*kind, at.as_str(), name.as_str()) == (source, within, source_name))
            .and_then(|(_, object)| object["status"]["artifact"]["revision"].as_str())
            .unwrap_or("main@sha1:0000000000000000000000000000000000000000")
            .to_owned();
        let mut object = self.object(Kind::Kustomization, namespace, name, spec);
        object["status"]["inventory"]["entries"] = inventory
            .iter()
            .map(|(api_version, kind, namespace, name)| {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                json!({"id": format!("{namespace}_{name}_{group}_{kind}"), "v": version})
            })
            .collect();
        if matches!(source, Kind::GitRepository) {
            let earlier = new_revision(source, &revision);
            status::succeed(Kind::Kustomization, &mut object, &self.past(26), &earlier);
        }
        status::succeed(Kind::Kustomization, &mut object, &self.past(1), &revision);
        self.put(Kind::Kustomization, namespace, name, object);
    }

    fn release(&mut self, namespace: &str, name: &str, (within, repository): (&str, &str), version: &str) {
        let chart = json!({"chart": name, "version": version, "sourceRef": {"kind": "HelmRepository", "name": repository, "namespace": within}});
        let spec = json!({
            "interval": "30m0s", "chart": {"spec": chart},
            "values": {"replicaCount": 2, "image": {"tag": version}, "adminPassword": "correct-horse", "podAnnotations": {"team": "platform"}},
        });
        self.release_of(namespace, name, spec, version);
        let mut spec = chart;
        if let Some(reference) = spec["sourceRef"].as_object_mut() {
            reference.remove("namespace");
        }
        self.source(Kind::HelmChart, within, &format!("{namespace}-{name}"), spec, version);
        self.change(name, |object| {
            if object["kind"] == "HelmRelease" {
                object["status"]["helmChart"] = format!("{within}/{namespace}-{name}").into();
            }
        });
    }

    fn release_by_reference(&mut self, namespace: &str, name: &str, source: &str, version: &str) {
        let spec = json!({
            "interval": "30m0s", "chartRef": {"kind": "OCIRepository", "name": source, "namespace": "flux-system"},
            "values": {"replicaCount": 2, "ui": {"message": "Hello"}},
        });
        self.release_of(namespace, name, spec, version);
    }

    fn release_of(&mut self, namespace: &str, name: &str, spec: Value, version: &str) {
        let mut object = self.object(Kind::HelmRelease, namespace, name, spec);
        let (deployed, earlier) = (self.past(10), self.past(200));
        object["status"]["storageNamespace"] = namespace.into();
        object["status"]["history"] = json!([{
            "name": name, "namespace": namespace, "version": 3, "status": "deployed", "chartName": name,
            "chartVersion": version, "appVersion": version, "firstDeployed": deployed, "lastDeployed": deployed,
            "digest": new_revision(Kind::Bucket, ""), "configDigest": new_revision(Kind::Bucket, ""),
        }, {
            "name": name, "namespace": namespace, "version": 2, "status": "superseded", "chartName": name,
            "chartVersion": earlier_version(version), "appVersion": earlier_version(version), "firstDeployed": deployed, "lastDeployed": earlier,
            "digest": new_revision(Kind::Bucket, ""), "configDigest": new_revision(Kind::Bucket, ""),
        }]);
        status::succeed(Kind::HelmRelease, &mut object, &self.past(1), version);
        self.put(Kind::HelmRelease, namespace, name, object);
    }

    fn object(&self, kind: Kind, namespace: &str, name: &str, spec: Value) -> Value {
        let resource = kinds::current(kind);
        let version = resource.versions.first().copied().unwrap_or("v1");
        let api_version = format!("{}/{version}", kind.group());
        let noted = json!({"apiVersion": api_version, "kind": kind.name(), "metadata": {"name": name, "namespace": namespace},
                           "spec": spec});
        json!({
            "apiVersion": api_version, "kind": kind.name(),
            "metadata": {
                "name": name, "namespace": namespace, "generation": 2, "uid": uid(),
                "creationTimestamp": self.past(24 * self.days), "finalizers": ["finalizers.fluxcd.io"],
                "labels": {"kustomize.toolkit.fluxcd.io/name": "flux-system",
                           "kustomize.toolkit.fluxcd.io/namespace": "flux-system"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": noted.to_string()},
                "managedFields": [
                    {"manager": "kustomize-controller", "operation": "Apply", "fieldsType": "FieldsV1",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:kustomize.toolkit.fluxcd.io/name": {}}},
                                  "f:spec": {"f:interval": {}, "f:path": {}, "f:prune": {}, "f:sourceRef": {}}}},
                    {"manager": "gotk-controller", "operation": "Update", "subresource": "status",
                     "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:conditions": {}, "f:artifact": {}}}},
                ],
            },
            "spec": spec,
            "status": {"observedGeneration": 2},
        })
    }

    fn past(&self, hours: i64) -> String {
        let moment: OffsetDateTime = clock::now() - Duration::hours(hours) - Duration::minutes(self.days % 53);
        clock::text(moment)
    }

    fn put(&mut self, kind: Kind, namespace: &str, name: &str, object: Value) {
        self.objects.push(((kind, namespace.to_owned(), name.to_owned()), object));
    }

    fn change(&mut self, name: &str, change: impl Fn(&mut Value)) {
        self.objects.iter_mut().filter(|((.., found), _)| found == name).for_each(|(_, object)| change(object));
    }

    fn fail_always(&mut self, name: &str, reason: &str, message: &str) {
        let now = self.past(0);
        self.change(name, |object| {
            object["metadata"]["annotations"][FAILS_WITH] = message.into();
            status::fail(object, &now, reason, message);
        });
    }
}

/// The version before `1.18.2`: `1.18.1`, or `1.17.9` before `1.18.0`.
fn earlier_version(version: &str) -> String {
    let numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    match numbers.as_slice() {
        [major, minor, 0] => format!("{major}.{}.9", minor.saturating_sub(1)),
        [major, minor, patch] => format!("{major}.{minor}.{}", patch - 1),
        _ => version.to_owned(),
    }
}

/// Current versions of some kinds have no status at all.
fn without_status(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

fn uid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-4{}-8{}-{}", part(0..8), part(8..12), part(12..15), part(15..18), part(18..30))
}
