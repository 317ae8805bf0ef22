"""Breaks good manifests, one thing at a time: a check that does not see it is no check."""

import copy
import shutil
import unittest

import check

POD = ("Deployment", "spec", "template", "spec")
PROXY = (*POD, "containers", 0)
SIDECAR = (*POD, "initContainers", 0)
MISSING = object()

# The step where something breaks, what it becomes, and a part of what has to be said of it.
KUBERNETES = [
    ((*PROXY, "livenessProb"), {}, "not valid in Kubernetes"),
    (("Deployment", "spec", "replicas"), "one", "not valid in Kubernetes"),
    (("Deployment", "spec", "selector"), MISSING, "not valid in Kubernetes"),
    (("Deployment", "apiVersion"), "apps/v9", "find schema"),
    ((*POD, "enableServiceLinks"), MISSING, "enableServiceLinks"),
    ((*POD, "automountServiceAccountToken"), True, "automountServiceAccountToken"),
    ((*POD, "securityContext", "runAsNonRoot"), MISSING, "runAsNonRoot"),
    ((*POD, "securityContext", "seccompProfile"), MISSING, "seccomp"),
    ((*POD, "terminationGracePeriodSeconds"), 35, "grace period"),
    ((*PROXY, "securityContext", "readOnlyRootFilesystem"), False, "readOnlyRootFilesystem"),
    ((*PROXY, "securityContext", "allowPrivilegeEscalation"), MISSING, "allowPrivilegeEscalation"),
    ((*PROXY, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}, "capabilities"),
    ((*PROXY, "securityContext", "runAsUser"), 0, "numbered user"),
    ((*PROXY, "resources", "limits"), MISSING, "no limits"),
    ((*PROXY, "readinessProbe", "httpGet", "port"), "http", "does not ask /readyz"),
    ((*PROXY, "livenessProbe"), MISSING, "livenessProbe"),
    ((*PROXY, "env"), [{"name": "SESSION_SECRET", "value": "x"}], "SESSION_SECRET is in the environment"),
    ((*PROXY, "env"), [{"name": "ADMIN_ADDR", "value": "0.0.0.0:8080"}], "ADMIN_ADDR"),
    ((*PROXY, "env"), [{"name": "SHUTDOWN_DELAY", "value": "1s"}], "SHUTDOWN_DELAY"),
    ((*PROXY, "name"), "other", "the proxy is not one of the containers"),
    (("Service", "spec", "ports", 0, "targetPort"), 9091, "admin listener is not for callers"),
    (("Service", "spec", "ports", 0, "targetPort"), "admin", "admin listener is not for callers"),
    (("Service", "spec", "ports", 0, "targetPort"), 8081, "more than the proxy's port"),
    (("Service", "spec", "selector"), {"app": "other"}, "not one Service"),
    (("NetworkPolicy", "spec", "ingress", 1, "from"), MISSING, "open to more than a named scraper"),
    (("NetworkPolicy", "spec", "ingress", 1, "from", 0, "podSelector"), MISSING, "open to more than a named scraper"),
    (("NetworkPolicy", "spec", "ingress", 0, "ports"), MISSING, "open to more than a named scraper"),
    (("NetworkPolicy", "spec", "policyTypes"), ["Ingress"], "guards both ways"),
    (("NetworkPolicy", "spec", "egress", 0, "to"), MISSING, "leads anywhere"),
    (("Secret", "stringData", "session-secret"), "c2VjcmV0", "a value stands in the repository"),
]
SIDECAR_ONLY = [
    ((*SIDECAR, "restartPolicy"), MISSING, "outlive"),
    ((*SIDECAR, "readinessProbe"), MISSING, "readinessProbe"),
    ((*SIDECAR, "env", 0, "value"), "0.0.0.0:8081", "other pods"),
    ((*SIDECAR, "env"), [{"name": "ENCRYPTION_KEY", "value": "x"}], "ENCRYPTION_KEY is in the environment"),
    ((*SIDECAR, "volumeMounts", 0, "mountPath"), "/elsewhere", "does not outlive the pod"),
]
COMPONENT = [
    (("ClusterRole", "rules", 0, "verb"), ["get"], "not valid in Kubernetes"),
    (("ClusterRole", "rules", 0, "verbs"), ["*"], "allows everything"),
    (("ClusterRole", "rules", 0, "apiGroups"), ["*"], "allows everything"),
    (("ClusterRole", "rules", 0, "verbs"), ["get", "delete"], "more than to see and to patch"),
    (("ClusterRole", "rules", 3, "resources"), ["events", "secrets"], "secrets can be read"),
    (("ClusterRole", "rules", 3, "verbs"), ["list", "patch"], "not Flux's"),
    (("ServiceAccount", "automountServiceAccountToken"), MISSING, "mounted wherever"),
    (("NetworkPolicy", "spec", "egress", 0, "to"), MISSING, "leads anywhere"),
]
CHART_ONLY = [
    (("StatefulSet", "spec", "template", "spec", "automountServiceAccountToken"), True, "automountServiceAccountToken"),
    (("StatefulSet", "spec", "template", "spec", "containers", 0, "securityContext", "capabilities"), MISSING, "capabilities"),
    (("NetworkPolicy app-sidegate-valkey", "spec", "ingress", 0, "from"), MISSING, "more than the proxy reaches it"),
    (("Service app-sidegate-metrics", "spec", "clusterIP"), MISSING, "admin listener is not for callers"),
    ((*PROXY, "livenessProbe"), MISSING, "livenessProbe"),
    (("NetworkPolicy", "spec", "egress", 0, "to"), MISSING, "leads anywhere"),
    (("HorizontalPodAutoscaler", "spec", "maxReplica"), 3, "not valid in Kubernetes"),
    (("PodDisruptionBudget", "spec", "selector"), "x", "not valid in Kubernetes"),
]
ADDED = [
    ((*POD, "containers", 0, "readinessProbe", "httpGet", "port"), "http", "does not ask /readyz"),
    ((*POD, "containers", 0, "securityContext", "runAsUser"), 0, "numbered user"),
    ((*POD, "terminationGracePeriodSeconds"), 30, "grace period"),
    (("Service app", "spec", "ports", 0, "targetPort"), "http", "lead elsewhere"),
    (("Service other", "spec", "ports", 0, "targetPort"), "sidegate", "lead elsewhere"),
    (("NetworkPolicy", "spec", "ingress", 0, "ports"), MISSING, "other pods reach the application"),
    (("NetworkPolicy", "spec", "ingress", 1, "from"), MISSING, "open to more than a named scraper"),
]
COMPOSE = [
    ((0, "services", "orchestrator", "ports"), ["8081:8081"], "orchestrator publishes a port"),
    ((0, "services", "orchestrator", "networks"), ["app"], "no way out"),
    ((0, "services", "sidegate", "read_only"), MISSING, "read_only"),
    ((0, "services", "sidegate", "cap_drop"), MISSING, "capabilities"),
    ((0, "services", "sidegate", "security_opt"), MISSING, "privileges"),
    ((0, "services", "sidegate", "healthcheck"), MISSING, "health check"),
    ((0, "networks", "app", "internal"), False, "internal network"),
    ((1, "services", "dev-idp", "network_mode"), MISSING, "not in the proxy's network"),
    ((1, "services", "sidegate", "ports"), ["9400:9400"], "other machines"),
    ((2, "services", "sidegate", "ports"), ["8080:8080"], "sidegate publishes a port"),
    ((2, "services", "sidegate", "ports"), MISSING, "keeps its published port"),
    ((2, "services", "valkey", "cap_drop"), MISSING, "capabilities"),
    ((2, "services", "valkey", "networks"), ["app"], "more than Sidegate reaches the sessions"),
    ((2, "services", "valkey", "networks"), ["sessions", "balance"], "believed about a client's address"),
    ((2, "networks", "sessions", "internal"), False, "more than Sidegate reaches the sessions"),
]


def broken(documents, steps, value):
    """A copy of the documents with one thing changed; a first step that is text names the first document of a kind, or a document."""
    documents = copy.deepcopy(documents)
    first, *rest, last = steps
    if isinstance(first, str):
        kind, _, name = first.partition(" ")
        place = next(one for one in documents if one["kind"] == kind and name in ("", one["metadata"]["name"]))
    else:
        place = documents[first]
    for step in rest:
        place = place[step]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return documents


class Broken(unittest.TestCase):
    def check_each(self, documents, breakages, findings_of):
        self.assertEqual(findings_of(documents), [])
        for steps, value, said in breakages:
            with self.subTest(steps=steps, value=value):
                findings = findings_of(broken(documents, steps, value))
                self.assertTrue(any(said in finding for finding in findings), findings)

    def test_sidecar(self):
        self.check_each(check.manifests("sidecar"), KUBERNETES + SIDECAR_ONLY, check.kubernetes_findings)

    def test_gateway(self):
        documents = check.manifests("gateway")
        # The policy of the app behind comes first or second as kustomize likes: the proxy's own is meant.
        documents.sort(key=lambda document: document["metadata"]["name"] == "behind-sidegate")
        self.check_each(documents, KUBERNETES, check.kubernetes_findings)

    def test_in_cluster(self):
        self.check_each(check.manifests("sidecar/in-cluster"), COMPONENT, check.component_findings)

    def test_chart(self):
        documents = check.charts()["replicated"]
        documents.sort(key=lambda document: document["metadata"]["name"] != "app-sidegate")
        self.check_each(documents, CHART_ONLY, check.kubernetes_findings)

    def test_chart_faults(self):
        self.assertTrue(check.fault_findings({"replicas": 1}, "anything"))
        self.assertTrue(check.fault_findings({"replicas": 2}, "something else"))

    @unittest.skipUnless(shutil.which("kubectl"), "there is no kubectl")
    def test_added_sidecar(self):
        self.check_each(check.with_sidecar(), ADDED, check.added_findings)

    @unittest.skipUnless(shutil.which("kubectl"), "there is no kubectl")
    def test_moved_sidecar(self):
        self.assertEqual(check.moved_findings(check.with_sidecar(check.moving_patches())), [])
        self.assertTrue(check.moved_findings(check.with_sidecar()))

    def test_compose(self):
        self.check_each(check.compose_files(), COMPOSE, lambda files: check.compose_findings(*files))


if __name__ == "__main__":
    unittest.main()
