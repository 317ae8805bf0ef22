"""Finds what is wrong with the manifests and the Compose files under deploy/: schemas first, then the house's rules."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
KUSTOMIZATIONS = ("sidecar", "gateway")
COMPONENTS = ("sidecar/in-cluster",)
KUBERNETES = ("1.33", "1.37")
ADMIN_PORT = 9091

# The chart, with values that turn everything on that can be.
CHART_VALUES = {
    "as it is": {},
    "replicated": {
        "replicas": 3,
        "valkey": {"enabled": True},
        "autoscaling": {"enabled": True},
        "metrics": {"serviceMonitor": {"enabled": True}},
        "ingress": {"enabled": True, "className": "public", "hosts": ["grafana.example.com"], "tlsSecretName": "app-tls"},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "config": "[[routes]]\npath = \"/assets/**\"\nallow = \"public\"\n",
        "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}]},
    },
    "signed sessions": {"replicas": 2, "settings": {"SESSION_STORE": "jwt"}},
    "valkey without a volume": {"valkey": {"enabled": True, "storage": ""}},
    "slow to end": {
        "terminationGracePeriodSeconds": 96,
        "settings": {"SHUTDOWN_TIMEOUT": "90s", "OAUTH_PROXY": "http://proxy.internal:3128"},
    },
}
# Values that would start and be wrong, and a part of what the chart says of them.
CHART_FAULTS = [
    ({"replicas": 2}, "more than one replica needs a store"),
    ({"autoscaling": {"enabled": True}}, "more than one replica needs a store"),
    ({"settings": {"OAUTH_CLIENT_SECRET": "x"}}, "a secret would stand in a ConfigMap"),
    ({"settings": {"SESSION_REDIS_URL": "redis://x"}}, "a secret would stand in a ConfigMap"),
    ({"settings": {"OAUTH_PROXY": "http://name:word@proxy.internal:3128"}}, "a password would stand in a ConfigMap"),
    ({"settings": {"LISTEN_ADDR": "0.0.0.0:80"}}, "the chart sets it"),
    ({"settings": {"SHUTDOWN_TIMEOUT": "40s"}}, "must be longer than SHUTDOWN_DELAY (5s) and SHUTDOWN_TIMEOUT (40s)"),
    ({"settings": {"SHUTDOWN_TIMEOUT": "1m500ms"}, "terminationGracePeriodSeconds": 65}, "must be longer"),
    ({"settings": {"SHUTDOWN_DELAY": "20s"}}, "must be longer"),
    ({"settings": {"oauth_provider": "github"}}, "settings"),
    ({"replica": 2}, "Additional property replica is not allowed"),
    ({"networkPolicy": {"scraper": {"podLabels": {"app.kubernetes.io/name": None}}}}, "podLabels"),
    ({"httpRoute": {"enabled": True}}, "name the Gateway"),
]
# A Deployment and its Service as others have them, and one that has nothing to do with it.
APPLICATION = """
apiVersion: apps/v1
kind: Deployment
metadata: { name: app, labels: { sidegate.dev/sidecar: "true" } }
spec:
  selector: { matchLabels: { app: app } }
  template:
    metadata: { labels: { app: app } }
    spec:
      containers: [{ name: app, image: app, ports: [{ name: http, containerPort: 3000 }] }]
---
apiVersion: v1
kind: Service
metadata: { name: app, labels: { sidegate.dev/sidecar: "true" } }
spec: { selector: { app: app }, ports: [{ name: http, port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: other }
spec: { selector: { app: other }, ports: [{ name: http, port: 80, targetPort: http }] }
"""


def main():
    findings = compose_findings(*compose_files())
    count = 0
    for name in KUSTOMIZATIONS:
        documents = manifests(name)
        count += len(documents)
        findings += [f"kubernetes/{name}: {finding}" for finding in kubernetes_findings(documents)]
    for name in COMPONENTS:
        documents = manifests(name)
        count += len(documents)
        findings += [f"kubernetes/{name}: {finding}" for finding in component_findings(documents)]
    for values, documents in charts().items():
        count += len(documents)
        findings += [f"helm, {values}: {finding}" for finding in kubernetes_findings(documents)]
    for values, said in CHART_FAULTS:
        findings += fault_findings(values, said)
    if shutil.which("kubectl"):
        documents = with_sidecar()
        count += len(documents)
        findings += [f"kubernetes/add-sidecar: {finding}" for finding in added_findings(documents)]
        findings += [f"kubernetes/add-sidecar: {finding}" for finding in moved_findings(with_sidecar(moving_patches()))]
    for finding in findings:
        print(f"check-manifests: {finding}", file=sys.stderr)
    if findings:
        return 1
    how = "as kustomize makes them" if shutil.which("kubectl") else "file by file (no kubectl here)"
    print(f"check-manifests: {count} manifests, {how}, the chart and the Compose files are good")
    return 0


def manifests(name):
    """A kustomization's documents: rendered, or without kubectl each file's as written."""
    folder = DEPLOY / "kubernetes" / name
    # A component is rendered by nobody but the kustomization that names it.
    if shutil.which("kubectl") and name in KUSTOMIZATIONS:
        rendered = subprocess.run(["kubectl", "kustomize", folder], check=True, stdout=subprocess.PIPE, text=True)
        return list(yaml.safe_load_all(rendered.stdout))
    resources = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [document for file in resources for document in yaml.safe_load_all((folder / file).read_text())]


def helm(values):
    """Renders the chart with these values."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        # The one that the requirements name, beside this Python.
        program = pathlib.Path(sys.executable).with_name("helm")
        command = [program, "template", "app", DEPLOY / "helm" / "sidegate", "--namespace", "app", "--values", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def charts():
    """The chart's documents, for each of the values above."""
    rendered = {}
    for name, values in CHART_VALUES.items():
        outcome = helm(values)
        if outcome.returncode != 0:
            raise RuntimeError(f"helm, {name}: {outcome.stderr}")
        rendered[name] = [document for document in yaml.safe_load_all(outcome.stdout) if document]
    return rendered


def fault_findings(values, said):
    """Whether the chart refuses these values, and says why."""
    outcome = helm(values)
    if outcome.returncode == 0:
        return [f"helm: takes {values}"]
    return [] if said in outcome.stderr else [f"helm: of {values} it does not say `{said}`: {outcome.stderr.strip()}"]


def moving_patches():
    """What docs/deployment.md says of an application that listens on the sidecar's port."""
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    return next(yaml.safe_load(block)["patches"] for block in blocks if block.startswith("patches:"))


def moved_findings(documents):
    text = yaml.safe_dump_all(documents)
    moved = "8080" not in text and text.count("8180") == 3
    return [] if moved else ["docs/deployment.md does not move the sidecar to another port"]


def with_sidecar(patches=()):
    """What the component makes of somebody's Deployment."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(DEPLOY / "kubernetes" / "add-sidecar", folder / "add-sidecar")
        (folder / "app.yaml").write_text(APPLICATION)
        (folder / "kustomization.yaml").write_text(yaml.safe_dump({
            "resources": ["app.yaml"],
            "components": ["add-sidecar"],
            "configMapGenerator": [{"name": "sidegate", "literals": ["UPSTREAM_URL=http://127.0.0.1:3000"]}],
            "patches": list(patches),
        }))
        rendered = subprocess.run(["kubectl", "kustomize", folder], check=True, stdout=subprocess.PIPE, text=True)
        return list(yaml.safe_load_all(rendered.stdout))


def added_findings(documents):
    findings = [finding for document in documents for finding in schema_findings(document)]
    if findings:
        return findings
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    template = named["Deployment", "app"]["spec"]["template"]
    pod = template["spec"]
    proxies = [container for container in pod["containers"] if container["name"] == "sidegate"]
    expect(findings, len(proxies) == 1 and len(pod["containers"]) == 2, "the proxy does not stand beside the application")
    for proxy in proxies:
        findings += container_findings(proxy)
        findings += proxy_findings(proxy, pod.get("terminationGracePeriodSeconds", 30), "sidegate-admin")
    ports = {name: [port["targetPort"] for port in named["Service", name]["spec"]["ports"]] for name in ("app", "other")}
    expect(findings, ports == {"app": ["sidegate"], "other": ["http"]}, f"the Services lead elsewhere: {ports}")
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    guards = [policy for policy in policies if policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()]
    expect(findings, guards and all(ingress_ports(guard) <= {8080, ADMIN_PORT} for guard in guards),
           "other pods reach the application")
    for guard in guards:
        findings += admin_findings(guard)
    return findings


def ingress_ports(policy):
    return {port.get("port") for rule in policy.get("ingress", []) for port in rule.get("ports", [{}])}


class ComposeLoader(yaml.SafeLoader):
    """Knows Compose's `!reset`: what it stands at is taken away."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def compose_files():
    """The Compose file, the one for development, and the one for several replicas."""
    names = ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.scale.yml")
    # The loader is a safe one with a tag more.
    return [yaml.load((DEPLOY / name).read_text(), ComposeLoader) for name in names]


def kubernetes_findings(documents):
    findings = [finding for document in documents for finding in schema_findings(document)]
    if findings:
        # The rules below may rely on a sound form.
        return findings
    pods = [(document, document["spec"]["template"]) for document in documents if document["kind"] == "Deployment"]
    services = [document for document in documents if document["kind"] == "Service"]
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    if not pods:
        findings.append("there is no Deployment")
    for deployment, template in pods:
        name = deployment["metadata"]["name"]
        rules = pod_findings(template["spec"]) + reach_findings(template, services, policies)
        findings += [f"Deployment {name}: {finding}" for finding in rules]
    for service in services:
        name = service["metadata"]["name"]
        if leads_to_admin(service) and not is_for_metrics(service):
            findings.append(f"Service {name}: the admin listener is not for callers")
    for stateful in (document for document in documents if document["kind"] == "StatefulSet"):
        findings += [f"StatefulSet {stateful['metadata']['name']}: {finding}" for finding in store_findings(stateful, policies)]
    for secret in (document for document in documents if document["kind"] == "Secret"):
        if any(secret.get("stringData", {}).values()) or any(secret.get("data", {}).values()):
            findings.append(f"Secret {secret['metadata']['name']}: a value stands in the repository")
    return findings


def component_findings(documents):
    findings = [finding for document in documents for finding in schema_findings(document)]
    if findings:
        return findings
    roles = [document for document in documents if document["kind"] in ("Role", "ClusterRole")]
    expect(findings, roles, "there is no role")
    for role in roles:
        findings += [f"{role['kind']} {role['metadata']['name']}: {finding}" for finding in role_findings(role)]
    for account in (document for document in documents if document["kind"] == "ServiceAccount"):
        expect(findings, account.get("automountServiceAccountToken") is False,
               f"ServiceAccount {account['metadata']['name']}: its token is mounted wherever it is named")
    for policy in (document for document in documents if document["kind"] == "NetworkPolicy"):
        expect(findings, all(rule.get("to") and rule.get("ports") for rule in policy["spec"].get("egress", [])),
               f"NetworkPolicy {policy['metadata']['name']}: a way out leads anywhere")
    return findings


def role_findings(role):
    """Whether a role allows no more than to see and to patch what is Flux's."""
    findings = []
    for rule in role["rules"]:
        words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        expect(findings, "*" not in words, "a rule allows everything of something")
        expect(findings, "secrets" not in rule["resources"], "secrets can be read")
        expect(findings, set(rule["verbs"]) <= {"get", "list", "watch", "patch"}, "allows more than to see and to patch")
        flux = all(group.endswith((".toolkit.fluxcd.io", "fluxcd.controlplane.io")) for group in rule["apiGroups"])
        expect(findings, flux or "patch" not in rule["verbs"], "what is not Flux's can be changed")
    return findings


def leads_to_admin(service):
    return any(ADMIN_PORT in port.values() or "admin" in port.values() for port in service["spec"]["ports"])


def is_for_metrics(service):
    """Whether a Service only names the admin listener to the scraper, and gives it no address."""
    labels = service["metadata"]["labels"]
    return service["spec"].get("clusterIP") == "None" and labels.get("app.kubernetes.io/component") == "metrics"


def store_findings(stateful, policies):
    """Whether a store's pod is as closed as the proxy's, and the proxy alone reaches it."""
    template = stateful["spec"]["template"]
    findings = []
    for setting in ("enableServiceLinks", "automountServiceAccountToken"):
        expect(findings, template["spec"].get(setting) is False, f"{setting} is not false")
    for container in template["spec"]["containers"]:
        findings += container_findings(container)
    labels = template["metadata"]["labels"].items()
    guards = [policy["spec"] for policy in policies if policy["spec"]["podSelector"]["matchLabels"].items() <= labels]
    rules = [rule for guard in guards for rule in guard.get("ingress", [])]
    from_proxy = all(peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/name") == "sidegate"
                     for rule in rules for peer in rule.get("from", [{}]))
    expect(findings, rules and from_proxy, "more than the proxy reaches it")
    return findings


def schema_findings(document):
    # What others have defined has no schema here.
    if document["apiVersion"].startswith(("monitoring.coreos.com/", "gateway.networking.k8s.io/")):
        return []
    return list(schema_findings_of(json.dumps(document)))


@functools.cache
def schema_findings_of(text):
    """The same of a document's text: the tests ask about most of them again and again."""
    document = json.loads(text)
    label = f"{document['kind']} {document['metadata']['name']}"
    findings = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(step) for step in error.path)
            findings.append(f"{label}: not valid in Kubernetes {version}: {path}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            findings.append(f"{label}: {error.message}")
    return findings


def pod_findings(pod):
    findings = []
    expect(findings, pod.get("enableServiceLinks") is False, "enableServiceLinks is not false")
    expect(findings, pod.get("automountServiceAccountToken") is False, "automountServiceAccountToken is not false")
    security = pod.get("securityContext", {})
    expect(findings, security.get("runAsNonRoot") is True, "runAsNonRoot is not true")
    expect(findings, security.get("seccompProfile", {}).get("type") == "RuntimeDefault", "no seccomp profile")

    sidecars = pod.get("initContainers", [])
    for container in sidecars + pod["containers"]:
        findings += [f"container {container['name']}: {finding}" for finding in container_findings(container)]

    proxies = [container for container in pod["containers"] if container["name"] == "sidegate"]
    expect(findings, len(proxies) == 1, "the proxy is not one of the containers that end first")
    for proxy in proxies:
        findings += proxy_findings(proxy, pod.get("terminationGracePeriodSeconds", 30))
    for sidecar in sidecars:
        expect(findings, sidecar.get("restartPolicy") == "Always",
               f"container {sidecar['name']}: without restartPolicy Always it does not outlive the proxy's drain")
        expect(findings, plain_variables(sidecar).get("ORCHESTRATOR_LISTEN_ADDR", "127.").startswith("127."),
               f"container {sidecar['name']}: listens where other pods reach it")
        mounted = {mount["name"] for mount in sidecar.get("volumeMounts", []) if mount["mountPath"] == "/data"}
        lasting = {volume["name"] for volume in pod.get("volumes", []) if "persistentVolumeClaim" in volume}
        expect(findings, mounted & lasting, f"container {sidecar['name']}: its data does not outlive the pod")
    return findings


def container_findings(container):
    findings = []
    security = container.get("securityContext", {})
    expect(findings, security.get("readOnlyRootFilesystem") is True, "readOnlyRootFilesystem is not true")
    expect(findings, security.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation is not false")
    expect(findings, security.get("capabilities") == {"drop": ["ALL"]}, "does not drop all capabilities")
    expect(findings, security.get("runAsUser", 0) > 0, "has no numbered user of its own")
    for side in ("requests", "limits"):
        expect(findings, {"cpu", "memory"} <= container.get("resources", {}).get(side, {}).keys(),
               f"resources: no {side} of cpu and memory")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        expect(findings, probe in container, f"has no {probe}")
    for variable in container.get("env", []):
        secret = variable["name"].endswith(("_SECRET", "_REDIS_URL", "_KEY", "DATABASE_URL"))
        expect(findings, not secret, f"{variable['name']} is in the environment: mount it, and set its _FILE twin")
    return findings


def proxy_findings(proxy, grace, admin="admin"):
    findings = []
    variables = plain_variables(proxy)
    delay = seconds(variables.get("SHUTDOWN_DELAY", "0s"))
    drain = seconds(variables.get("SHUTDOWN_TIMEOUT", "30s"))
    expect(findings, delay >= 5, "SHUTDOWN_DELAY is shorter than endpoints take to be taken out")
    expect(findings, delay + drain < grace, "the grace period ends before the proxy's drain")
    expect(findings, variables.get("ADMIN_ADDR") == f"$(POD_IP):{ADMIN_PORT}", "ADMIN_ADDR is not the pod's address")
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        expect(findings, proxy.get(probe, {}).get("httpGet") == {"path": path, "port": admin},
               f"{probe} does not ask {path} of the admin listener")
    return findings


def reach_findings(template, services, policies):
    """Whether the proxy's port alone is served, and the admin listener is closed to all but a named scraper."""
    findings = []
    labels = template["metadata"]["labels"].items()
    mine = [service for service in services
            if service["spec"]["selector"].items() <= labels and not is_for_metrics(service)]
    expect(findings, len(mine) == 1, "not one Service that leads to it")
    for service in mine:
        expect(findings, [port["targetPort"] for port in service["spec"]["ports"]] == ["http"],
               f"Service {service['metadata']['name']}: leads to more than the proxy's port")

    guards = [policy["spec"] for policy in policies
              if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels]
    expect(findings, any({"Ingress", "Egress"} <= set(guard["policyTypes"]) for guard in guards),
           "no NetworkPolicy guards both ways")
    for guard in guards:
        findings += admin_findings(guard)
    for rule in (rule for guard in guards for rule in guard.get("egress", [])):
        expect(findings, rule.get("to"), "a way out leads anywhere")
    return findings


def admin_findings(guard):
    findings = []
    for rule in guard.get("ingress", []):
        ports = [port.get("port") for port in rule.get("ports", [])]
        to_admin = not ports or any(port in (None, ADMIN_PORT, "admin") for port in ports)
        named = rule.get("from") and all("namespaceSelector" in peer and "podSelector" in peer for peer in rule["from"])
        expect(findings, not to_admin or named, "the admin listener is open to more than a named scraper")
    return findings


def compose_findings(base, dev, scale):
    findings = scale_findings(scale)
    for file, document in (("docker-compose.yml", base), ("docker-compose.dev.yml", dev)):
        for name, service in document["services"].items():
            published = "ports" in service
            expect(findings, not published or name == "sidegate", f"{file}: {name} publishes a port")
            if "image" not in service:
                continue
            expect(findings, service.get("read_only") is True, f"{file}: {name}: read_only is not true")
            expect(findings, service.get("cap_drop") == ["ALL"], f"{file}: {name}: does not drop all capabilities")
            expect(findings, service.get("security_opt") == ["no-new-privileges:true"],
                   f"{file}: {name}: new privileges are possible")
            expect(findings, service.get("healthcheck", {}).get("test", [])[1:] == [f"/usr/local/bin/{name}", "health"],
                   f"{file}: {name}: its health check is not `{name} health`")
    services, networks = base["services"], base["networks"]
    shared = set(services["sidegate"]["networks"]) & set(services["orchestrator"]["networks"])
    expect(findings, len(shared) == 1 and all((networks[name] or {}).get("internal") is True for name in shared),
           "docker-compose.yml: proxy and orchestrator do not share just one internal network")
    expect(findings, set(services["orchestrator"]["networks"]) - shared,
           "docker-compose.yml: the orchestrator has no way out of its own")
    expect(findings, dev["services"]["dev-idp"].get("network_mode") == "service:sidegate",
           "docker-compose.dev.yml: dev-idp is not in the proxy's network")
    expect(findings, all(port.startswith("127.0.0.1:") for port in dev["services"]["sidegate"]["ports"]),
           "docker-compose.dev.yml: dev-idp can be reached from other machines")
    return findings


def scale_findings(scale):
    findings = []
    services, networks = scale["services"], scale["networks"]
    for name, service in services.items():
        published = service.get("ports")
        expect(findings, not published or name == "balancer", f"docker-compose.scale.yml: {name} publishes a port")
        if name != "sidegate":
            expect(findings, service.get("read_only") is True, f"docker-compose.scale.yml: {name}: read_only is not true")
            expect(findings, service.get("cap_drop") == ["ALL"], f"docker-compose.scale.yml: {name}: does not drop all capabilities")
    expect(findings, "ports" in services["sidegate"], "docker-compose.scale.yml: sidegate keeps its published port")
    expect(findings, services["valkey"]["networks"] == ["sessions"] and networks["sessions"].get("internal") is True,
           "docker-compose.scale.yml: more than Sidegate reaches the sessions")
    members = {name for name, service in services.items() if "balance" in service.get("networks", [])}
    expect(findings, members == {"balancer", "sidegate"}, "docker-compose.scale.yml: others are believed about a client's address")
    return findings


def plain_variables(container):
    return {variable["name"]: variable["value"] for variable in container.get("env", []) if "value" in variable}


def seconds(duration):
    units = {"s": 1, "m": 60, "h": 3600}
    return int(duration[:-1]) * units[duration[-1]]


def expect(findings, holds, finding):
    if not holds:
        findings.append(finding)


if __name__ == "__main__":
    sys.exit(main())
