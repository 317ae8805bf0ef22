//! How what an object applied is, logs of its pods, Flux's own controllers, what is different since, and clusters of which only some
//! namespaces may be looked at.

use orchestrator::fleet::Kind;
use serde_json::{Value, json};

use crate::service::Service;

const BACKEND: &str = "flux/kustomization/shop/shop-backend";
const FRONTEND: &str = "flux/kustomization/shop/shop-frontend";

async fn with_staging() -> (Service, String) {
    let service = Service::alone().await;
    let id = service.register("staging").await;
    let count = service.world("staging").count();
    service.until(&format!("clusters/{id}/flux/stats"), |stats| stats["total"] == count).await;
    (service, id)
}

fn states(applied: &Value) -> Vec<(String, String)> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    applied["items"].as_array().unwrap().iter().map(|item| (text(item, "kind"), text(item, "status"))).collect()
}

fn of<'a>(applied: &'a Value, kind: &str) -> &'a Value {
    applied["items"].as_array().unwrap().iter().find(|item| item["kind"] == kind).unwrap()
}

#[tokio::test]
async fn each_thing_that_was_applied_says_how_it_is_and_workloads_with_their_pods() {
    let (service, id) = with_staging().await;
    let path = format!("clusters/{id}/{BACKEND}/applied");
    let applied = service.get(&path).await;
    assert!(states(&applied).iter().all(|(_, status)| status == "ready"), "{applied}");
    assert_eq!((applied["items"].as_array().unwrap().len(), &applied["left"]), (4, &json!(0)));
    let pods = of(&applied, "Deployment")["pods"].as_array().unwrap();
    assert!(
        pods.len() == 2 && pods.iter().all(|pod| pod["status"] == "ready" && pod["containers"][0]["ready"] == true)
    );

    let late = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "has timed out"}]);
    let stuck = json!({"metadata": {"name": "backend", "namespace": "shop", "generation": 1}, "spec": {"replicas": 2, "progressDeadlineSeconds": 600},
                       "status": {"observedGeneration": 1, "conditions": late}});
    service.world("staging").set_applied("apps", "Deployment", "shop", "backend", Some(stuck));
    service.world("staging").set_applied("", "ConfigMap", "shop", "backend", None);
    let applied = service.get(&path).await;
    let expected = [
        ("Deployment", "failed"),
        ("ConfigMap", "missing"),
        ("Service", "ready"),
        ("HorizontalPodAutoscaler", "ready"),
    ];
    assert_eq!(states(&applied), expected.map(|(kind, status)| (kind.to_owned(), status.to_owned())));
    assert_eq!(of(&applied, "Deployment")["message"], "has timed out");
}

#[tokio::test]
async fn objects_of_flux_are_as_they_are_everywhere_and_secrets_are_not_read() {
    let (service, id) = with_staging().await;
    let applied = service.get(&format!("clusters/{id}/flux/kustomization/flux-system/apps/applied")).await;
    let frontend = applied["items"].as_array().unwrap().iter().find(|item| item["name"] == "shop-frontend").unwrap();
    assert_eq!(frontend["status"], "failed", "{frontend}");
    let release = service.get(&format!("clusters/{id}/flux/helmrelease/cert-manager/cert-manager/applied")).await;
    let secret = of(&release, "Secret");
    assert_eq!((&secret["status"], &secret["message"]), (&json!("unknown"), &json!("Secrets are not read")));
}

#[tokio::test]
async fn what_may_not_be_read_is_unknown_with_the_clusters_words() {
    let (service, id) = with_staging().await;
    service.world("staging").faults().hide_applied(true);
    let applied = service.get(&format!("clusters/{id}/{BACKEND}/applied")).await;
    let deployment = of(&applied, "Deployment");
    assert_eq!(deployment["status"], "unknown", "{applied}");
    assert!(deployment["message"].as_str().unwrap().contains("cannot get resource \"deployments\""), "{deployment}");
    let (status, refusal) = service.call("GET", &format!("clusters/{id}/flux/controllers"), None, &[]).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("cluster_forbids")));
}

#[tokio::test]
async fn no_more_than_two_hundred_objects_are_read() {
    let (service, id) = with_staging().await;
    service.world("staging").change(Kind::Kustomization, "shop", "shop-backend", |object| {
        let entries = (0..300).map(|number| json!({"id": format!("shop_x-{number}__ConfigMap"), "v": "v1"}));
        object["status"]["inventory"]["entries"] = entries.collect();
    });
    let applied = service.get(&format!("clusters/{id}/{BACKEND}/applied")).await;
    assert_eq!((applied["items"].as_array().unwrap().len(), &applied["left"]), (200, &json!(100)));
}

#[tokio::test]
async fn a_cluster_that_falls_silent_meanwhile_costs_twelve_seconds_at_most() {
    let (service, id) = with_staging().await;
    service.world("staging").faults().be_slow(std::time::Duration::from_secs(30));
    let begun = std::time::Instant::now();
    let (status, refusal) = service.call("GET", &format!("clusters/{id}/{BACKEND}/applied"), None, &[]).await;
    assert!(status == 502 && begun.elapsed() < std::time::Duration::from_secs(15), "{refusal} {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_last_lines_of_a_container_are_shown_only_of_pods_of_what_the_object_applied() {
    let (service, id) = with_staging().await;
    let applied = service.get(&format!("clusters/{id}/{FRONTEND}/applied")).await;
    let deployment = of(&applied, "Deployment");
    let pod = deployment["pods"].as_array().unwrap().iter().find(|pod| pod["status"] == "failed").unwrap();
    assert_eq!((&pod["restarts"], &pod["message"]), (&json!(9), &json!("frontend: CrashLoopBackOff")));
    let name = pod["name"].as_str().unwrap();

    let log = |at: &str, workload: &str, pod: &str, container: &str| {
        format!(
            "clusters/{id}/{at}/applied/log?workload_kind=Deployment&workload={workload}&within=shop&pod={pod}&container={container}"
        )
    };
    let own = log(FRONTEND, "frontend", name, "frontend");
    let text = service.get(&own).await["text"].as_str().unwrap().to_owned();
    assert!(text.contains("cannot reach the database") && text.ends_with("gave up after 40 tries\n"), "{text}");
    let before = service.get(&format!("{own}&previous=true")).await;
    assert!(before["text"].as_str().unwrap().starts_with("before the last start"), "{before}");
    for wrong in [
        log(BACKEND, "frontend", name, "frontend"),
        log(BACKEND, "backend", name, "frontend"),
        log(FRONTEND, "frontend", "frontend-of-nobody", "frontend"),
        log(FRONTEND, "frontend", name, "sidecar"),
        log(FRONTEND, "frontend", "..%2F..%2Fsecrets", "frontend"),
        own.replace("Deployment", "Service"),
    ] {
        let (status, refusal) = service.call("GET", &wrong, None, &[]).await;
        assert_eq!((status, &refusal["error"]), (404, &json!("not_found")), "{wrong}: {refusal}");
    }
    assert_eq!(service.call("GET", &format!("{own}&previous=yes"), None, &[]).await.0, 400);
}

#[tokio::test]
async fn flux_says_which_of_its_controllers_run_in_which_version() {
    let (service, id) = with_staging().await;
    let controllers = service.get(&format!("clusters/{id}/flux/controllers")).await;
    let all: Vec<_> = controllers["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["version"].as_str().unwrap(), one["status"].as_str().unwrap()))
        .collect();
    let expected = [
        ("helm-controller", "v1.4.2", "ready"),
        ("kustomize-controller", "v1.7.2", "ready"),
        ("notification-controller", "v1.7.3", "ready"),
        ("source-controller", "v1.7.2", "ready"),
    ];
    assert_eq!(all, expected);
}

#[tokio::test]
async fn the_last_two_revisions_of_a_history_are_compared() {
    let (service, id) = with_staging().await;
    let object = service.get(&format!("clusters/{id}/{BACKEND}")).await;
    let difference = &object["difference"];
    assert_eq!(difference["to"], object["revision"], "{difference}");
    assert_ne!(difference["from"], difference["to"]);
    assert_eq!((&difference["parts"][0]["name"], &difference["compare"]), (&json!("manifests"), &Value::Null));
    service.world("staging").change(Kind::GitRepository, "shop", "shop", |object| {
        object["spec"]["url"] = "https://github.com/acme/shop".into();
    });
    let object = service.get(&format!("clusters/{id}/{BACKEND}")).await;
    let page = object["difference"]["compare"].as_str().unwrap();
    assert!(page.starts_with("https://github.com/acme/shop/compare/"), "{page}");
    let release = service.get(&format!("clusters/{id}/flux/helmrelease/cert-manager/cert-manager")).await;
    let parts = release["difference"]["parts"].as_array().unwrap();
    let named: Vec<_> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["chart", "application", "values"]);
}

#[tokio::test]
async fn credentials_for_some_namespaces_suffice_for_these() {
    let service = Service::alone().await;
    service.world("staging").faults().confine(true);
    let mut registration = service.registration("staging");
    registration["namespaces"] = json!(["shop", " monitoring", "shop"]);
    let (status, cluster) = service.send("POST", "clusters", registration).await;
    assert_eq!((status, &cluster["namespaces"]), (201, &json!(["monitoring", "shop"])), "{cluster}");
    let path = format!("clusters/{}", cluster["id"].as_str().unwrap());
    let up = |health: &Value| health["state"] == "up";
    let health = service.until(&format!("{path}/health"), up).await;
    assert_eq!(health["reason"], Value::Null, "{health}");
    let within = async || {
        let list = service.get(&format!("{path}/resources?limit=500")).await;
        let mut names: Vec<String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["namespace"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(within().await, ["monitoring", "shop"]);
    // Each is watched.
    service
        .world("staging")
        .change(Kind::Kustomization, "shop", "shop-backend", |object| object["spec"]["suspend"] = true.into());
    service.until(&format!("{path}/resources?namespace=shop&status=suspended"), |list| list["total"] == 1).await;

    let (status, changed) = service.send("PATCH", &path, json!({"namespaces": ["shop"]})).await;
    assert_eq!((status, &changed["namespaces"]), (200, &json!(["shop"])), "{changed}");
    service.until(&format!("{path}/health"), up).await;
    assert_eq!(within().await, ["shop"]);
    // A namespace that the credentials do not cover is named, and hides no other.
    let (status, _) = service.send("PATCH", &path, json!({"namespaces": []})).await;
    assert_eq!(status, 200);
    let all = service.until(&format!("{path}/health"), |health| up(health) && health["reason"] != Value::Null).await;
    assert!(all["reason"].as_str().unwrap().contains("Kustomization: the cluster does not allow it"), "{all}");
    let log = service.get("activities?action=narrow").await;
    assert_eq!((&log["total"], &log["items"][0]["message"]), (&json!(2), &json!("All")));

    for wrong in [json!(["A"]), json!(["a/b"]), json!(["a.b"]), (0..21).map(|number| format!("n{number}")).collect()] {
        let (status, refusal) = service.send("PATCH", &path, json!({"namespaces": wrong})).await;
        assert_eq!((status, &refusal["error"]), (422, &json!("invalid")), "{wrong}: {refusal}");
    }
}

fn effects(comparison: &Value) -> Vec<(String, String)> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    comparison["items"].as_array().unwrap().iter().map(|item| (text(item, "kind"), text(item, "effect"))).collect()
}

#[tokio::test]
async fn what_kubectl_noted_is_rehearsed_by_the_cluster_and_shown_as_a_diff() {
    let (service, id) = with_staging().await;
    let path = format!("clusters/{id}/flux/kustomization/monitoring/dashboards");
    let before = service.world("staging").object(Kind::Kustomization, "monitoring", "dashboards").unwrap();
    let compared = service.get(&format!("{path}/comparison")).await;
    assert_eq!(effects(&compared), [("Kustomization".to_owned(), "different".to_owned())], "{compared}");
    let diff = compared["items"][0]["diff"].as_str().unwrap();
    assert!(diff.contains("-  interval: 1h0m0s\n+  interval: 10m0s\n") && !diff.contains("managedFields"), "{diff}");
    assert!(compared["reasons"][0].as_str().unwrap().contains("made from its source"), "{compared}");
    assert_eq!(before, service.world("staging").object(Kind::Kustomization, "monitoring", "dashboards").unwrap());

    // Nothing else was changed by hand.
    let same = service.get(&format!("clusters/{id}/{BACKEND}/comparison")).await;
    assert_eq!(effects(&same), [("Kustomization".to_owned(), "same".to_owned())], "{same}");
    // Secrets are read as nobody but the person who asks, and this cluster does not decide by person.
    let release = service.get(&format!("clusters/{id}/flux/helmrelease/podinfo/podinfo/comparison")).await;
    assert!(release["reasons"][0].as_str().unwrap().contains("does not decide by person"), "{release}");

    service.world("staging").faults().forbid_changes(true);
    let refused = service.get(&format!("{path}/comparison")).await;
    let item = &refused["items"][0];
    assert_eq!(item["effect"], "unknown", "{refused}");
    assert!(item["message"].as_str().unwrap().contains("cannot patch resource \"kustomizations\""), "{item}");
}

#[tokio::test]
async fn what_is_not_compared_says_why_or_is_counted() {
    let (service, id) = with_staging().await;
    let path = format!("clusters/{id}/{BACKEND}/comparison");
    service.world("staging").faults().hide_applied(true);
    let compared = service.get(&path).await;
    let deployment = of(&compared, "Deployment");
    assert_eq!(deployment["effect"], "unknown", "{compared}");
    assert!(deployment["message"].as_str().unwrap().contains("cannot get resource \"deployments\""), "{deployment}");

    service.world("staging").faults().hide_applied(false);
    service.world("staging").change(Kind::Kustomization, "shop", "shop-backend", |object| {
        let entries = (0..300).map(|number| json!({"id": format!("shop_x-{number}__ConfigMap"), "v": "v1"}));
        object["status"]["inventory"]["entries"] = entries.collect();
    });
    let compared = service.get(&path).await;
    assert_eq!(compared["left"], 200, "{compared}");
}
