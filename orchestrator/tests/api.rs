//! The API over real HTTP, simulated clusters and both databases.

use orchestrator::fleet::{Fleet, Tuning};
use orchestrator::start;
use serde_json::{Value, json};
use sqlx::Executor as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::databases::{Database, key, on_both};
use crate::logs;
use crate::service::{ANN, PATIENCE, Service};

on_both!(
    a_cluster_is_registered_shown_renamed_and_removed,
    a_registration_that_fails_says_why_and_leaves_nothing,
    a_kubeconfig_is_in_no_answer_no_log_and_not_in_the_database_in_clear,
    every_action_has_its_actor_and_is_anonymous_without_one,
    settings_are_changed_within_their_bounds,
    activities_are_filtered_and_come_in_pages,
    the_whole_log_is_exported_as_csv_and_json,
    registered_clusters_are_looked_after_again_after_a_restart,
    without_its_record_nothing_is_done,
);

const TREE_ROOT: &str = "flux/kustomization/flux-system/flux-system";

fn names(listing: &Value) -> Vec<&str> {
    listing["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"].as_str().unwrap_or_default())
}

async fn a_cluster_is_registered_shown_renamed_and_removed(database: &Database) {
    let service = Service::start(database).await;
    assert_eq!(service.get("clusters").await, json!({"items": [], "total": 0}));
    let answer = service.raw("POST", "/api/v1/clusters", Some(&service.registration("staging")), &ANN).await;
    assert_eq!(answer.status(), 201, "{}", answer.body);
    let cluster = answer.json();
    let id = cluster["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(format!("/api/v1/clusters/{id}").as_str()));
    assert_eq!((&cluster["connection"], &cluster["context"]), (&json!("kubeconfig"), &json!("staging")));
    assert_eq!((&cluster["created_by"], &cluster["name"]), (&json!("ann"), &json!("staging")));
    assert!(cluster["server"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{cluster}");

    let health = service.until(&format!("clusters/{id}/health"), |health| health["state"] == "up").await;
    assert!(health["version"].as_str().unwrap().starts_with("v1."), "{health}");
    assert_eq!(service.get(&format!("clusters/{id}")).await["health"]["state"], "up");
    assert_eq!(names(&service.get("clusters").await), ["staging"]);

    let (status, renamed) = service.send("PATCH", &format!("clusters/{id}"), json!({"name": " Stage 2 "})).await;
    assert_eq!((status, &renamed["name"]), (200, &json!("Stage 2")));
    assert_eq!(service.send("POST", &format!("clusters/{id}/sync"), Value::Null).await.0, 202);
    assert_eq!(service.send("DELETE", &format!("clusters/{id}"), Value::Null).await, (204, Value::Null));
    for gone in
        ["", "/health", "/resources", "/resources/tree", "/flux/stats", "/flux/bucket/a/b", "/flux/bucket/a/b/tree"]
    {
        let answer = service.call("GET", &format!("clusters/{id}{gone}"), None, &[]).await;
        assert_eq!(code(&answer), (404, "not_found"), "{gone}");
    }
    let log = service.get("activities").await;
    let actions: Vec<_> =
        log["items"].as_array().unwrap().iter().map(|item| item["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["remove", "sync", "rename", "register"]);
    for activity in log["items"].as_array().unwrap() {
        assert_eq!(
            (&activity["cluster"], &activity["outcome"], &activity["actor"]),
            (&json!(id), &json!("succeeded"), &json!("ann"))
        );
    }
}

async fn a_registration_that_fails_says_why_and_leaves_nothing(database: &Database) {
    let service = Service::start(database).await;
    let kubeconfig = service.demo.kubeconfig("staging").expose().to_owned();
    let registration = |name: &str, kubeconfig: &str| json!({"name": name, "kubeconfig": kubeconfig});
    for (body, expected) in [
        (registration("a", "not: a kubeconfig"), (422, "invalid")),
        (registration("a", &kubeconfig.replace("token: demo-", "token: x")), (403, "cluster_forbids")),
        (
            registration("a", &kubeconfig.replace("http://127.0.0.1:", "http://127.0.0.1:1/")),
            (502, "cluster_unreachable"),
        ),
        (registration("", &kubeconfig), (422, "invalid")),
        (registration("a\u{7}", &kubeconfig), (422, "invalid")),
        (json!({"name": "a"}), (422, "invalid")),
        (json!({"name": "a", "in_cluster": true}), (422, "invalid")),
        (json!({"name": "a", "in_cluster": true, "kubeconfig": kubeconfig}), (422, "invalid")),
        (json!({"name": "a", "kubeconfig": kubeconfig, "context": "nowhere"}), (422, "invalid")),
        (json!({"name": "a", "kubeconfig": kubeconfig, "what": 1}), (400, "bad_request")),
        (json!({"kubeconfig": kubeconfig}), (400, "bad_request")),
    ] {
        let answer = service.send("POST", "clusters", body).await;
        assert_eq!(code(&answer), expected, "{}", answer.1);
    }
    assert_eq!(service.get("clusters").await["total"], 0);
    // What was tried stands in the log; what could not be read was not even tried.
    let log = service.get("activities?outcome=failed&action=register").await;
    assert_eq!(log["total"], 4, "{log}");
    assert!(log["items"].as_array().unwrap().iter().all(|item| !item["message"].as_str().unwrap().is_empty()));

    service.register("staging").await;
    let answer = service.send("POST", "clusters", registration("staging", &kubeconfig)).await;
    assert_eq!(code(&answer), (409, "name_taken"));
    let other = service.register("production-eu").await;
    let answer = service.send("PATCH", &format!("clusters/{other}"), json!({"name": "staging"})).await;
    assert_eq!(code(&answer), (409, "name_taken"));
    assert_eq!(names(&service.get("clusters").await), ["production-eu", "staging"]);
}

async fn a_kubeconfig_is_in_no_answer_no_log_and_not_in_the_database_in_clear(database: &Database) {
    logs::watch();
    let service = Service::start(database).await;
    let kubeconfig = service.demo.kubeconfig("staging").expose().to_owned();
    let token = kubeconfig.split("token: ").nth(1).unwrap().split('\n').next().unwrap();
    assert!(token.len() > 30);
    let id = service.register("staging").await;
    service.until(&format!("clusters/{id}/health"), |health| health["state"] == "up").await;

    let mut answers = Vec::new();
    for (method, path, body) in [
        ("POST", "clusters", json!({"name": "staging", "kubeconfig": kubeconfig})),
        ("POST", "clusters", json!({"name": "two", "in_cluster": kubeconfig})),
        ("POST", "clusters", json!({"name": kubeconfig, "kubeconfig": "x"})),
        ("POST", "clusters", json!({"name": "two", "kubeconfig": format!("{kubeconfig}: [broken")})),
        ("POST", "clusters", json!({"name": "two", "kubeconfig": kubeconfig.replace("token: demo", "token: x-demo")})),
        ("POST", "clusters", json!({"name": "two", "kubeconfig": kubeconfig, "context": "nowhere"})),
        ("PATCH", &format!("clusters/{id}"), json!({"name": kubeconfig})),
        ("POST", &format!("clusters/{id}/sync"), json!({"kubeconfig": kubeconfig})),
        ("PUT", "settings", json!({"activity_retention_days": kubeconfig})),
    ] {
        answers.push(service.send(method, path, body).await.1.to_string());
    }
    for path in [
        "clusters",
        &format!("clusters/{id}"),
        &format!("clusters/{id}/resources"),
        "activities",
        "activities/export?format=json",
        "settings",
        "whoami",
        "openapi.json",
        "resources",
    ] {
        answers.push(service.raw("GET", &format!("/api/v1/{path}"), None, &ANN).await.body);
    }
    answers.push(service.raw("GET", "/metrics", None, &[]).await.body);
    for answer in &answers {
        assert!(!answer.contains(token), "{answer}");
    }
    assert!(answers.concat().contains("staging"), "the search itself finds nothing");
    let log = logs::text();
    assert!(log.contains(&id), "the search itself finds nothing");
    assert!(!log.contains(token), "{}", log.lines().find(|line| line.contains(token)).unwrap());
    assert!(database.files_hold(&id).await && !database.files_hold(token).await);
}

async fn every_action_has_its_actor_and_is_anonymous_without_one(database: &Database) {
    let service = Service::start(database).await;
    let id = service.register("staging").await;
    let name = json!({"name": "renamed"});
    service
        .call(
            "PATCH",
            &format!("clusters/{id}"),
            Some(&name),
            &["X-Forwarded-User: Jos%C3%A9 %00%0A", "X-Request-Id: bad id"],
        )
        .await;
    service.call("PUT", "settings", Some(&json!({"activity_retention_days": 30})), &[]).await;
    service.call("POST", &format!("clusters/{id}/sync"), None, &["X-Forwarded-User: "]).await;
    service.call("POST", &format!("clusters/{id}/{TREE_ROOT}/suspend"), None, &ANN).await;
    service.call("DELETE", &format!("clusters/{id}"), None, &ANN).await;
    let log = service.get("activities").await;
    let who: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let field = |name: &str| item[name].as_str().unwrap();
            [field("action"), field("actor"), field("actor_id"), field("actor_email"), field("request_id")]
        })
        .collect();
    let ann = |action| [action, "ann", "1001", "ann@example.com", "request-7"];
    assert_eq!(
        who,
        [
            ann("remove"),
            ann("suspend"),
            ["sync", "anonymous", "", "", ""],
            ["settings", "anonymous", "", "", ""],
            ["rename", "José ", "", "", ""],
            ann("register"),
        ]
    );
}

async fn settings_are_changed_within_their_bounds(database: &Database) {
    let service = Service::start(database).await;
    assert_eq!(service.get("settings").await, json!({"activity_retention_days": 90}));
    assert_eq!(service.send("PUT", "settings", json!({"activity_retention_days": 7})).await.0, 200);
    for (wrong, status) in [
        (json!({"activity_retention_days": 0}), 422),
        (json!({"activity_retention_days": 3651}), 422),
        (json!({"activity_retention_days": -1}), 400),
        (json!({"activity_retention_days": 1, "other": 1}), 400),
        (json!({}), 400),
        (json!([]), 400),
    ] {
        assert_eq!(service.send("PUT", "settings", wrong).await.0, status);
    }
    assert_eq!(service.get("settings").await, json!({"activity_retention_days": 7}));
    let log = service.get("activities").await;
    assert_eq!(
        (&log["total"], &log["items"][0]["message"]),
        (&json!(1), &json!("activity_retention_days from 90 to 7"))
    );
}

/// Many activities, the newest of them failed and by an actor whose name is a formula.
async fn fill(database: &Database, count: u32) {
    let rows = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO activities (id, at, actor, actor_id, actor_email, action, name, outcome, message, request_id, haystack) \
         SELECT 'a-' || i, 1800000000000 + i, CASE WHEN i = {count} THEN '=cmd()' ELSE 'ann' END, '', '', 'suspend', 'n' || i, \
         CASE WHEN i = {count} THEN 'failed' ELSE 'succeeded' END, 'one, \"two\"', '', 'n' || i FROM n"
    );
    database.connect().await.execute(sqlx::AssertSqlSafe(rows)).await.unwrap();
}

async fn activities_are_filtered_and_come_in_pages(database: &Database) {
    let service = Service::start(database).await;
    fill(database, 120).await;
    let first = service.get("activities").await;
    assert_eq!((first["total"].as_u64(), names(&first).len(), names(&first)[0]), (Some(120), 50, "n120"));
    assert_eq!(names(&service.get("activities?limit=2&offset=118").await), ["n2", "n1"]);
    for (query, expected) in [
        ("outcome=failed", 1),
        ("actor=ann", 119),
        ("actor=bo", 0),
        ("q=N11", 11),
        ("q=&actor=&kind=", 120),
        ("action=suspend&outcome=succeeded", 119),
        ("since=2027-01-15T08:00:00.100Z", 21),
        ("until=2027-01-15T08:00:00.100Z&q=n9", 11),
        ("kind=kustomization", 0),
        ("q=%00", 0),
    ] {
        assert_eq!(service.get(&format!("activities?{query}")).await["total"], expected, "{query}");
    }
    for wrong in [
        "limit=0",
        "limit=501",
        "limit=x",
        "offset=-1",
        "outcome=maybe",
        "since=yesterday",
        "who=ann",
        "limit=1&limit=2",
    ] {
        let answer = service.call("GET", &format!("activities?{wrong}"), None, &[]).await;
        assert_eq!(code(&answer), (400, "bad_request"), "{wrong}");
    }
}

async fn the_whole_log_is_exported_as_csv_and_json(database: &Database) {
    let service = Service::start(database).await;
    let empty = service.raw("GET", "/api/v1/activities/export?format=json", None, &[]).await;
    assert_eq!(empty.json(), json!([]));
    // More than is read at once.
    fill(database, 1203).await;
    let csv = service.raw("GET", "/api/v1/activities/export", None, &[]).await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert!(csv.header("content-disposition").unwrap().starts_with("attachment; filename=\"activity-"));
    let lines: Vec<_> = csv.body.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 1204);
    assert!(lines[0].starts_with("id,at,actor,"), "{}", lines[0]);
    assert!(lines[1].contains(r#","'=cmd()","#) && lines[1].contains(r#","one, ""two""","#), "{}", lines[1]);

    let json = service.raw("GET", "/api/v1/activities/export?format=json", None, &[]).await.json();
    let ids: std::collections::BTreeSet<_> =
        json.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!((json.as_array().unwrap().len(), ids.len()), (1203, 1203));
    let one = service.raw("GET", "/api/v1/activities/export?format=json&outcome=failed", None, &[]).await.json();
    assert_eq!((one.as_array().unwrap().len(), &one[0]["name"]), (1, &json!("n1203")));
    assert_eq!(service.raw("GET", "/api/v1/activities/export?format=xml", None, &[]).await.status(), 400);
}

async fn registered_clusters_are_looked_after_again_after_a_restart(database: &Database) {
    let service = Service::start(database).await;
    let id = service.register("staging").await;
    let (served, demo) = service.end();
    timeout(PATIENCE, served).await.unwrap().unwrap();

    let service = Service::with(database.open().await, demo).await;
    service.until(&format!("clusters/{id}/health"), |health| health["state"] == "up").await;
    let (served, demo) = service.end();
    timeout(PATIENCE, served).await.unwrap().unwrap();

    // With another key the cluster is there, says why it is down, and can be removed.
    let service = Service::with(database.open_with(&[key(2)]).await, demo).await;
    let cluster = service.get(&format!("clusters/{id}")).await;
    assert_eq!(cluster["health"]["state"], "down");
    assert!(cluster["health"]["reason"].as_str().unwrap().contains("ENCRYPTION_KEY"), "{cluster}");
    assert_eq!(service.send("DELETE", &format!("clusters/{id}"), Value::Null).await.0, 204);
}

async fn without_its_record_nothing_is_done(database: &Database) {
    let service = Service::start(database).await;
    let id = service.register("staging").await;
    let kustomization =
        || service.world("staging").object(orchestrator::fleet::Kind::Kustomization, "flux-system", "flux-system");
    let before = kustomization().unwrap();
    service.store.close().await;
    for (method, path, body) in [
        ("POST", format!("clusters/{id}/{TREE_ROOT}/suspend"), Value::Null),
        ("POST", "clusters".into(), service.registration("production-eu")),
        ("DELETE", format!("clusters/{id}"), Value::Null),
    ] {
        let answer = service.send(method, &path, body).await;
        assert_eq!(code(&answer), (503, "store_unavailable"), "{path}");
    }
    assert_eq!(kustomization().unwrap(), before);
    let ready = service.raw("GET", "/readyz", None, &[]).await;
    assert_eq!(ready.status(), 200);
    assert!(ready.body.contains("the database does not answer"), "{}", ready.body);
}

#[tokio::test]
async fn a_kubeconfig_is_replaced_in_place_and_a_wrong_one_is_not_taken() {
    let service = Service::alone().await;
    let id = service.register("staging").await;
    let path = format!("clusters/{id}");
    let before = service.get(&path).await;
    let good = service.demo.kubeconfig("staging").expose().to_owned();
    let wrong = good.replace("token: demo", "token: x-demo");
    let (status, refusal) = service.send("PATCH", &path, json!({"kubeconfig": wrong})).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("cluster_forbids")));
    assert!(!refusal.to_string().contains("x-demo"));
    let (status, after) = service.send("PATCH", &path, json!({"kubeconfig": good, "name": "stage"})).await;
    assert_eq!((status, &after["name"], &after["server"]), (200, &json!("stage"), &before["server"]), "{after}");
    let other = service.demo.kubeconfig("production-eu").expose().to_owned();
    let (_, moved) = service.send("PATCH", &path, json!({"kubeconfig": other})).await;
    assert!(moved["server"].as_str().unwrap().ends_with("production-eu"), "{moved}");
    let count = service.world("production-eu").count();
    service.until(&format!("{path}/flux/stats"), |stats| stats["total"] == count).await;
    assert_eq!(service.store.kubeconfig(&id).await.unwrap().expose(), other);
    for wrong in [json!({}), json!({"context": "a"}), json!({"impersonate": true}), json!({"kubeconfig": 7})] {
        assert!(matches!(service.send("PATCH", &path, wrong.clone()).await.0, 400 | 422), "{wrong}");
    }
    let log = service.get("activities?action=replace").await;
    let outcomes: Vec<_> =
        log["items"].as_array().unwrap().iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["succeeded", "succeeded", "failed"]);
}

#[tokio::test]
async fn a_cluster_that_is_registered_twice_is_said_to_be() {
    let service = Service::alone().await;
    service.register("staging").await;
    let mut again = service.registration("staging");
    again["name"] = "twin".into();
    let (status, twin) = service.send("POST", "clusters", again).await;
    assert_eq!((status, &twin["same_as"]), (201, &json!("staging")), "{twin}");
    let log = service.get("activities?action=register").await;
    assert!(log["items"][0]["message"].as_str().unwrap().contains("staging has the same address"), "{log}");
}

#[tokio::test]
async fn a_demonstration_on_a_database_replaces_its_own_clusters_and_nobody_elses() {
    let service = Service::alone().await;
    let anns = service.register("staging").await;
    let fleet = Fleet::start(Tuning::default());
    let simulate = async |name| {
        start::register_simulated(&service.store, &fleet, name, service.demo.kubeconfig(name), false).await.unwrap();
        let clusters = service.store.clusters().await.unwrap();
        clusters.into_iter().find(|cluster| cluster.name == name).unwrap()
    };
    assert_eq!(simulate("staging").await.id, anns);
    let (first, second) = (simulate("production-eu").await, simulate("production-eu").await);
    assert_ne!(first.id, second.id, "its address is another one after a restart");
    assert_eq!((second.created_by.as_str(), fleet.healths().len()), ("orchestrator", 1));
}

#[tokio::test]
async fn an_action_goes_on_where_its_caller_goes_away() {
    let service = Service::alone().await;
    service.world("staging").faults().be_slow(std::time::Duration::from_millis(200));
    let body = service.registration("staging").to_string();
    let mut stream = service.orchestrator.connect().await;
    let head =
        "POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    drop(stream);
    service.until("activities", |log| log["total"] == 1).await;
    assert_eq!(names(&service.get("clusters").await), ["staging"]);
}

#[tokio::test]
async fn what_another_site_sends_and_what_is_no_json_is_refused() {
    let service = Service::alone().await;
    let body = json!({"activity_retention_days": 1});
    for (headers, status) in [
        (&["Sec-Fetch-Site: cross-site"][..], 403),
        (&["Sec-Fetch-Site: same-site"], 403),
        (&["Origin: https://evil.example"], 403),
        (&["Origin: null"], 403),
        (&["Sec-Fetch-Site: same-origin", "Origin: http://localhost"], 200),
        (&["Origin: http://localhost"], 200),
    ] {
        assert_eq!(service.call("PUT", "settings", Some(&body), headers).await.0, status, "{headers:?}");
    }
    // A form of another site cannot say that it is JSON, and an empty one needs not.
    for target in ["PUT /api/v1/settings", "POST /api/v1/clusters"] {
        for (content_type, status) in [
            ("text/plain", 415),
            ("application/x-www-form-urlencoded", 415),
            ("application/jsonp", 415),
            ("Application/JSON; charset=utf-8", 400),
        ] {
            let (length, content_type) = ("Content-Length: 1".to_owned(), format!("Content-Type: {content_type}"));
            let mut stream = service.orchestrator.connect().await;
            let request = format!(
                "{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n{content_type}\r\n\r\n{{"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = crate::support::Answer::read(&mut stream).await;
            assert_eq!(answer.status(), status, "{target} {content_type}");
            assert_eq!(
                (answer.header("cache-control"), answer.header("x-content-type-options")),
                (Some("no-store"), Some("nosniff"))
            );
        }
    }
    assert_eq!(service.get("activities").await["total"], 2);
}

#[tokio::test]
async fn a_body_beyond_512_kib_is_refused_and_its_content_never_repeated() {
    let service = Service::alone().await;
    let long = json!({"name": "a", "kubeconfig": "x".repeat(512 * 1024)});
    assert_eq!(code(&service.send("POST", "clusters", long).await), (413, "too_large"));
    let almost = json!({"name": "a", "kubeconfig": "x".repeat(500 * 1024)});
    let answer = service.send("POST", "clusters", almost).await;
    assert_eq!(code(&answer), (422, "invalid"), "a kubeconfig beyond 256 KiB is the fleet's to refuse");
    let answer = service.send("POST", "clusters", json!({"name": ["hunter2"]})).await;
    assert_eq!(code(&answer), (400, "bad_request"));
    assert!(!answer.1.to_string().contains("hunter2"), "{}", answer.1);
}

#[tokio::test]
async fn the_document_has_every_route_of_the_contract_and_every_route_of_it_answers() {
    let service = Service::alone().await;
    let object = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}";
    let routes = service.document().routes();
    let expected = [
        ("GET", "/api/v1/activities".to_owned()),
        ("GET", "/api/v1/activities/export".into()),
        ("GET", "/api/v1/clusters".into()),
        ("POST", "/api/v1/clusters".into()),
        ("DELETE", "/api/v1/clusters/{id}".into()),
        ("GET", "/api/v1/clusters/{id}".into()),
        ("PATCH", "/api/v1/clusters/{id}".into()),
        ("GET", "/api/v1/clusters/{id}/flux/controllers".into()),
        ("GET", "/api/v1/clusters/{id}/flux/stats".into()),
        ("GET", object.into()),
        ("GET", format!("{object}/applied")),
        ("GET", format!("{object}/applied/log")),
        ("GET", format!("{object}/comparison")),
        ("POST", format!("{object}/reconcile")),
        ("POST", format!("{object}/resume")),
        ("POST", format!("{object}/suspend")),
        ("GET", format!("{object}/tree")),
        ("GET", "/api/v1/clusters/{id}/health".into()),
        ("GET", "/api/v1/clusters/{id}/resources".into()),
        ("GET", "/api/v1/clusters/{id}/resources/tree".into()),
        ("POST", "/api/v1/clusters/{id}/sync".into()),
        ("GET", "/api/v1/events".into()),
        ("GET", "/api/v1/openapi.json".into()),
        ("GET", "/api/v1/resources".into()),
        ("POST", "/api/v1/resources/reconcile".into()),
        ("GET", "/api/v1/settings".into()),
        ("PUT", "/api/v1/settings".into()),
        ("GET", "/api/v1/whoami".into()),
        ("GET", "/healthz".into()),
        ("GET", "/metrics".into()),
        ("GET", "/readyz".into()),
    ];
    let expected: std::collections::BTreeSet<_> =
        expected.into_iter().map(|(method, path)| (method.to_owned(), path)).collect();
    assert_eq!(routes, expected);
    let operations = service.document().operations();
    let unique: std::collections::BTreeSet<_> = operations.iter().collect();
    assert_eq!((operations.len(), unique.len()), (expected.len(), expected.len()), "{operations:?}");

    for (method, path) in &routes {
        let responses = &service.document().0["paths"][path][method.to_lowercase()]["responses"];
        let by_address = path == "/healthz" || path == "/readyz";
        assert_eq!(responses["421"].is_object(), !by_address, "{method} {path}: {responses}");
    }
    for (method, path) in routes.into_iter().filter(|(_, path)| !path.ends_with("/events")) {
        let target = path
            .replace("{id}", &"0".repeat(32))
            .replace("{kind}", "Bucket")
            .replace("{namespace}", "a")
            .replace("{name}", "b");
        let answer = service.raw(&method, &target, None, &[]).await;
        assert_ne!(answer.status(), 405, "{method} {target}");
        assert!(!answer.body.contains("nothing at this address"), "{method} {target}: {}", answer.body);
        let other = service.raw("OPTIONS", &target, None, &[]).await;
        assert_eq!((other.status(), &other.json()["error"]), (405, &json!("method_not_allowed")), "{target}");
        assert!(other.header("allow").unwrap().contains(&method), "{target}");
    }
}

#[tokio::test]
async fn actions_are_sent_to_every_subscriber() {
    let service = Service::alone().await;
    let (mut one, mut two) = (service.listen(&ANN).await, service.listen(&[]).await);
    assert_eq!((one.status, one.line("retry: ").await.as_deref()), (200, Some("2000")));
    let id = service.register("staging").await;
    for events in [&mut one, &mut two] {
        let activity = events.next("activity", |activity| activity["action"] == "register").await;
        assert_eq!(
            (&activity["cluster"], &activity["actor"], &activity["outcome"]),
            (&json!(id), &json!("ann"), &json!("succeeded"))
        );
    }
    service.send("DELETE", &format!("clusters/{id}"), Value::Null).await;
    assert_eq!(one.next("cluster_removed", |_| true).await, json!({"cluster": id}));
    // Who comes back had better ask again.
    let mut again = service.listen(&["Last-Event-ID: 1"]).await;
    again.next("resync", |_| true).await;
}

#[tokio::test]
async fn streams_end_at_once_when_the_end_begins() {
    let service = Service::alone().await;
    let mut events = service.listen(&ANN).await;
    events.line("retry: ").await.unwrap();
    let ready = service.raw("GET", "/readyz", None, &[]).await;
    assert_eq!((ready.status(), ready.body.as_str()), (200, "ready\n"));
    let begun = std::time::Instant::now();
    let (served, _demo) = service.end();
    assert_eq!(events.line("event: ").await, None);
    timeout(PATIENCE, served).await.unwrap().unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_person_does_not_take_all_streams() {
    let service = Service::alone().await;
    let mut open = Vec::new();
    for _ in 0..24 {
        open.push(service.listen(&ANN).await);
    }
    assert!(open.iter().all(|events| events.status == 200));
    assert_eq!(service.listen(&ANN).await.status, 503);
    assert_eq!(service.listen(&["X-Forwarded-User: bo"]).await.status, 200);
    assert_eq!(service.listen(&[]).await.status, 200);
    drop(open);
    let deadline = std::time::Instant::now() + PATIENCE;
    while service.listen(&ANN).await.status != 200 {
        assert!(std::time::Instant::now() < deadline, "places do not come back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_what_is_there() {
    let service = Service::alone().await;
    let id = service.register("staging").await;
    service.until(&format!("clusters/{id}/health"), |health| health["state"] == "up").await;
    let answer = service.raw("GET", "/metrics", None, &[]).await;
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for line in [
        r#"orchestrator_requests_total{route="/api/v1/clusters",code="2xx"} 1"#,
        r#"orchestrator_clusters{state="up"} 1"#,
        "# EOF",
    ] {
        assert!(answer.body.contains(line), "{line} in {}", answer.body);
    }
    assert!(!answer.body.contains(&id), "a label has only so many values");
}
