"""Finds what is wrong with the manifests and the Compose files under deploy/: schemas first, then the house's rules."""

import pathlib
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
KUSTOMIZATIONS = ("sidecar", "gateway")
COMPONENTS = ("sidecar/in-cluster",)
KUBERNETES = ("1.33", "1.37")
ADMIN_PORT = 9091


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
    for finding in findings:
        print(f"check-manifests: {finding}", file=sys.stderr)
    if findings:
        return 1
    how = "as kustomize makes them" if shutil.which("kubectl") else "file by file (no kubectl here)"
    print(f"check-manifests: {count} manifests {how} and the Compose files are good")
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


def compose_files():
    """The Compose file, and the one for development."""
    return [yaml.safe_load((DEPLOY / f"docker-compose{kind}.yml").read_text()) for kind in ("", ".dev")]


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
        if any(ADMIN_PORT in port.values() or "admin" in port.values() for port in service["spec"]["ports"]):
            findings.append(f"Service {name}: the admin listener is not for callers")
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


def schema_findings(document):
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


def proxy_findings(proxy, grace):
    findings = []
    variables = plain_variables(proxy)
    delay = seconds(variables.get("SHUTDOWN_DELAY", "0s"))
    drain = seconds(variables.get("SHUTDOWN_TIMEOUT", "30s"))
    expect(findings, delay >= 5, "SHUTDOWN_DELAY is shorter than endpoints take to be taken out")
    expect(findings, delay + drain < grace, "the grace period ends before the proxy's drain")
    expect(findings, variables.get("ADMIN_ADDR") == f"$(POD_IP):{ADMIN_PORT}", "ADMIN_ADDR is not the pod's address")
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        expect(findings, proxy.get(probe, {}).get("httpGet") == {"path": path, "port": "admin"},
               f"{probe} does not ask {path} of the admin listener")
    return findings


def reach_findings(template, services, policies):
    """Whether the proxy's port alone is served, and the admin listener is closed to all but a named scraper."""
    findings = []
    labels = template["metadata"]["labels"].items()
    mine = [service for service in services if service["spec"]["selector"].items() <= labels]
    expect(findings, len(mine) == 1, "not one Service that leads to it")
    for service in mine:
        expect(findings, [port["targetPort"] for port in service["spec"]["ports"]] == ["http"],
               f"Service {service['metadata']['name']}: leads to more than the proxy's port")

    guards = [policy["spec"] for policy in policies
              if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels]
    expect(findings, any({"Ingress", "Egress"} <= set(guard["policyTypes"]) for guard in guards),
           "no NetworkPolicy guards both ways")
    for rule in (rule for guard in guards for rule in guard.get("ingress", [])):
        ports = [port.get("port") for port in rule.get("ports", [])]
        to_admin = not ports or any(port in (None, ADMIN_PORT, "admin") for port in ports)
        named = rule.get("from") and all("namespaceSelector" in peer and "podSelector" in peer for peer in rule["from"])
        expect(findings, not to_admin or named, "the admin listener is open to more than a named scraper")
    for rule in (rule for guard in guards for rule in guard.get("egress", [])):
        expect(findings, rule.get("to"), "a way out leads anywhere")
    return findings


def compose_findings(base, dev):
    findings = []
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
