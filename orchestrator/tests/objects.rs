//! Flux objects through the API: found, shown, changed by a named user, and sent live.

use std::time::{Duration, Instant};

use orchestrator::fleet::Kind;
use serde_json::{Value, json};

use crate::databases::{Database, on_both};
use crate::service::{ANN, Service};

on_both!(an_object_is_suspended_resumed_and_reconciled_and_the_log_says_by_whom);

const ROOT: &str = "flux/kustomization/flux-system/flux-system";

/// A service with one cluster, of which all is known.
async fn with_staging() -> (Service, String) {
    let service = Service::alone().await;
    let id = registered(&service).await;
    (service, id)
}

async fn registered(service: &Service) -> String {
    let id = service.register("staging").await;
    let count = service.world("staging").count();
    service.until(&format!("clusters/{id}/flux/stats"), |stats| stats["total"] == count).await;
    id
}

async fn an_object_is_suspended_resumed_and_reconciled_and_the_log_says_by_whom(database: &Database) {
    let service = Service::start(database).await;
    let id = registered(&service).await;
    let root = format!("clusters/{id}/{ROOT}");
    let spec = || service.world("staging").object(Kind::Kustomization, "flux-system", "flux-system").unwrap();

    let (status, summary) = service.send("POST", &format!("{root}/suspend"), Value::Null).await;
    assert_eq!((status, &summary["suspended"]), (200, &json!(true)), "{summary}");
    assert_eq!(spec()["spec"]["suspend"], true);
    let (status, summary) = service.send("POST", &format!("{root}/resume"), json!({})).await;
    assert_eq!((status, &summary["suspended"]), (200, &json!(false)), "{summary}");
    assert_ne!(spec()["spec"]["suspend"], true);
    let (status, _) = service.send("POST", &format!("{root}/reconcile"), json!({"with_source": true})).await;
    assert_eq!(status, 200);
    assert!(spec()["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].is_string());
    assert_eq!(service.call("POST", &format!("{root}/reconcile"), None, &[]).await.0, 200);

    let log = service.get(&format!("activities?kind=kustomization&cluster={id}")).await;
    let actions: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let field = |name: &str| item[name].as_str().unwrap();
            assert_eq!(
                (field("namespace"), field("name"), field("cluster_name")),
                ("flux-system", "flux-system", "staging")
            );
            [field("action"), field("actor"), field("outcome"), field("message")]
        })
        .collect();
    assert_eq!(
        actions,
        [
            ["reconcile", "anonymous", "succeeded", ""],
            ["reconcile", "ann", "succeeded", "With its source"],
            ["resume", "ann", "succeeded", ""],
            ["suspend", "ann", "succeeded", ""],
        ]
    );
}

#[tokio::test]
async fn objects_are_found_by_kind_namespace_status_and_words_in_order_and_pages() {
    let (service, id) = with_staging().await;
    let all = service.get("resources?limit=500").await;
    let total = all["total"].as_u64().unwrap();
    assert_eq!(
        (total as usize, all["items"].as_array().unwrap().len() as u64),
        (service.world("staging").count(), total)
    );
    assert_eq!(service.get(&format!("clusters/{id}/resources?limit=500")).await, all);
    assert_eq!(service.get(&format!("resources?limit=500&cluster={id}")).await, all);
    assert_eq!(service.get(&format!("resources?cluster={}", "0".repeat(32))).await["total"], 0);

    let mut kinds = 0;
    for kind in Kind::ALL {
        let of_kind = service.get(&format!("resources?kind={}&limit=500", kind.name().to_lowercase())).await;
        assert!(of_kind["items"].as_array().unwrap().iter().all(|item| item["kind"] == kind.name()));
        kinds += of_kind["total"].as_u64().unwrap();
    }
    assert_eq!(kinds, total);
    let stats = service.get(&format!("clusters/{id}/flux/stats")).await;
    for status in ["ready", "progressing", "failed", "suspended", "unknown"] {
        let of_status = service.get(&format!("resources?status={status}&limit=500")).await;
        assert_eq!(of_status["total"], stats["by_status"][status], "{status}");
    }
    let found = service.get("resources?q=FLUX-SYSTEM%20gitrepo").await;
    assert!(found["items"].as_array().unwrap().iter().any(|item| item["kind"] == "GitRepository"), "{found}");
    let paged = service.get("resources?limit=2&offset=1").await;
    assert_eq!((&paged["items"][0], &paged["total"]), (&all["items"][1], &all["total"]));
    for wrong in ["kind=Secret", "status=fine", "sort=colour", "cluster=x", "limit=501", "page=2"] {
        let (status, refusal) = service.call("GET", &format!("resources?{wrong}"), None, &[]).await;
        assert_eq!((status, &refusal["error"]), (400, &json!("bad_request")), "{wrong}");
    }
}

#[tokio::test]
async fn an_object_is_shown_whole_with_where_it_comes_from() {
    let (service, id) = with_staging().await;
    let detail = service.get(&format!("clusters/{id}/{ROOT}")).await;
    assert_eq!((&detail["kind"], &detail["cluster_name"]), (&json!("Kustomization"), &json!("staging")));
    assert!(
        !detail["conditions"].as_array().unwrap().is_empty() && !detail["inventory"].as_array().unwrap().is_empty()
    );
    assert!(detail["yaml"].as_str().unwrap().contains("kind: Kustomization"), "{detail}");
    let around = service.get(&format!("clusters/{id}/{ROOT}/tree")).await;
    let whole = service.get(&format!("clusters/{id}/resources/tree")).await;
    let relations = |tree: &Value| {
        tree["edges"].as_array().unwrap().iter().map(|edge| edge["relation"].to_string()).collect::<Vec<_>>()
    };
    assert!(
        relations(&around).contains(&"\"source\"".to_owned()) && relations(&around).contains(&"\"applies\"".to_owned())
    );
    assert!(whole["nodes"].as_array().unwrap().len() >= around["nodes"].as_array().unwrap().len());

    for (path, status) in [
        ("flux/secret/flux-system/flux-system", 404),
        ("flux/kustomization/flux-system/nothing", 404),
        ("flux/kustomization/flux-system/..%2f..%2fsecrets", 404),
        ("flux/kustomization/%2e%2e/x", 404),
        ("flux/kustomization/flux-system/a%00b", 404),
    ] {
        let (answered, refusal) = service.call("GET", &format!("clusters/{id}/{path}"), None, &[]).await;
        assert_eq!((answered, &refusal["error"]), (status, &json!("not_found")), "{path}");
    }
}

#[tokio::test]
async fn what_a_cluster_refuses_is_said_and_written_down() {
    let (service, id) = with_staging().await;
    let suspend = format!("clusters/{id}/{ROOT}/suspend");
    let faults = service.world("staging").faults();
    faults.forbid_changes(true);
    assert_eq!(code(service.send("POST", &suspend, Value::Null).await), (403, "cluster_forbids".into()));
    faults.forbid_changes(false);
    faults.conflict(true);
    assert_eq!(code(service.send("POST", &suspend, Value::Null).await), (409, "conflict".into()));
    faults.conflict(false);
    let nothing = format!("clusters/{id}/flux/kustomization/flux-system/nothing/suspend");
    assert_eq!(code(service.send("POST", &nothing, Value::Null).await), (404, "not_found".into()));
    faults.break_down(true);
    assert_eq!(code(service.send("POST", &suspend, Value::Null).await), (502, "cluster_unreachable".into()));
    let log = service.get("activities?outcome=failed&action=suspend").await;
    assert_eq!(log["total"], 4);
    assert!(log["items"].as_array().unwrap().iter().all(|item| item["actor"] == "ann" && item["message"] != ""));
}

fn code((status, body): (u16, Value)) -> (u16, String) {
    (status, body["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_change_in_a_cluster_is_sent_within_a_second() {
    let (service, id) = with_staging().await;
    let mut events = service.listen(&ANN).await;
    events.line("retry: ").await.unwrap();
    // The best of some, so that a busy machine does not decide.
    let mut fastest = Duration::MAX;
    for suspended in [true, false, true] {
        let begun = Instant::now();
        service
            .world("staging")
            .change(Kind::Kustomization, "flux-system", "apps", |object| object["spec"]["suspend"] = json!(suspended));
        let event = events
            .next("object", |event| event["summary"]["name"] == "apps" && event["summary"]["suspended"] == suspended)
            .await;
        assert_eq!((&event["cluster"], &event["removed"]), (&json!(id), &json!(false)));
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    service.world("staging").delete(Kind::Kustomization, "flux-system", "apps");
    let event = events.next("object", |event| event["removed"] == true).await;
    assert_eq!(event["summary"]["name"], "apps");
}

#[tokio::test]
async fn a_release_is_forced_or_reset_by_fluxs_own_annotations_and_nothing_else_is() {
    let (service, id) = with_staging().await;
    let release = format!("clusters/{id}/flux/helmrelease/podinfo/podinfo/reconcile");
    for (how, annotation) in [("force", "reconcile.fluxcd.io/forceAt"), ("reset", "reconcile.fluxcd.io/resetAt")] {
        let (status, _) = service.send("POST", &release, json!({how: true})).await;
        let object = service.world("staging").object(Kind::HelmRelease, "podinfo", "podinfo").unwrap();
        let annotations = &object["metadata"]["annotations"];
        assert!(status == 200 && annotations[annotation].is_string(), "{annotations}");
        assert_eq!(annotations[annotation], annotations["reconcile.fluxcd.io/requestedAt"], "{how}");
        let (status, refusal) =
            service.send("POST", &format!("clusters/{id}/{ROOT}/reconcile"), json!({how: true})).await;
        assert_eq!((status, &refusal["error"]), (422, &json!("invalid")));
    }
    assert_eq!(service.send("POST", &release, json!({"force": true, "reset": true})).await.0, 422);
}

#[tokio::test]
async fn all_that_failed_is_looked_at_again_and_each_stands_in_the_log() {
    let (service, id) = with_staging().await;
    let failed = service.get("resources?status=failed").await["total"].as_u64().unwrap();
    assert!(failed > 1);
    let (status, asked) = service.send("POST", "resources/reconcile", json!({"cluster": id})).await;
    assert_eq!((status, &asked["asked"], &asked["refused"]), (200, &json!(failed), &json!([])), "{asked}");
    assert_eq!(service.get("activities?action=reconcile").await["total"], failed);
    service.until("resources?status=failed", |list| list["total"] == failed).await;
    service.world("staging").faults().forbid_changes(true);
    let (_, asked) = service.send("POST", "resources/reconcile", json!({"kind": "kustomization"})).await;
    assert!(
        asked["asked"] == 0 && asked["refused"][0]["message"].as_str().unwrap().contains("cannot patch"),
        "{asked}"
    );
    for wrong in [json!({"kind": "Secret"}), json!({"cluster": "x"}), json!({"status": "ready"})] {
        assert_eq!(service.send("POST", "resources/reconcile", wrong).await.0, 400);
    }
}
