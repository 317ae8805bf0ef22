//! What the store keeps, on both databases.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use orchestrator::clock;
use orchestrator::secret::Secret;
use orchestrator::store::{
    Activity, Cluster, Connection, Filter, Location, NewActivity, OpenError, Outcome, SealError, Settings, Store,
    StoreError,
};
use orchestrator::upkeep;
use sqlx::Executor as _;
use time::OffsetDateTime;

use crate::databases::{Database, key, on_both};

on_both!(
    a_cluster_is_kept_renamed_and_removed,
    a_name_is_taken_once,
    the_cluster_that_this_runs_in_is_kept_once_and_decides_by_person_for_good,
    a_kubeconfig_lies_sealed_and_opens_for_its_cluster_only,
    a_key_can_be_replaced_and_the_older_one_then_dropped,
    settings_are_kept,
    what_has_begun_is_shown_only_when_it_has_ended,
    what_never_ended_is_closed_as_failed,
    activities_are_filtered,
    a_text_is_found_in_any_case_and_wildcards_mean_themselves,
    activities_come_in_pages_without_gaps,
    what_is_too_old_is_forgotten_and_nothing_else,
    upkeep_goes_by_the_settings,
    a_second_start_finds_all_as_it_was,
    a_database_of_a_newer_version_is_left_alone,
);

const KUBECONFIG: &str = "apiVersion: v1 # in-clear-nowhere";

fn cluster(id: &str, name: &str) -> Cluster {
    Cluster {
        id: id.into(),
        name: name.into(),
        connection: Connection::Kubeconfig,
        context: Some("admin".into()),
        server: "https://k8s.example.com:6443".into(),
        created_at: clock::now(),
        created_by: "ann".into(),
        impersonate: false,
        namespaces: vec!["shop".into(), "team-a".into()],
    }
}

fn new_activity(actor: &str, action: &'static str, name: &str) -> NewActivity {
    NewActivity {
        actor: actor.into(),
        actor_email: format!("{actor}@example.com"),
        action,
        cluster: Some("c1".into()),
        cluster_name: Some("Production".into()),
        kind: Some("Kustomization".into()),
        namespace: Some("flux-system".into()),
        name: Some(name.into()),
        request_id: "r-1".into(),
        ..NewActivity::default()
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    clock::from_millis(1_800_000_000_000 + seconds * 1000)
}

async fn done(
    store: &Store,
    new_activity: &NewActivity,
    now: OffsetDateTime,
    outcome: Outcome,
    message: &str,
) -> Activity {
    let id = store.begin_activity(new_activity, now).await.unwrap();
    store.end_activity(&id, outcome, message).await.unwrap()
}

async fn names(store: &Store, filter: &Filter) -> Vec<String> {
    let found = store.activities(filter, 100, 0).await.unwrap();
    assert_eq!(store.count_activities(filter).await.unwrap(), found.len() as u64);
    found.into_iter().map(|activity| activity.name.unwrap()).collect()
}

async fn a_cluster_is_kept_renamed_and_removed(database: &Database) {
    let store = database.open().await;
    let (eu, here) =
        (cluster("a", "eu"), Cluster { connection: Connection::InCluster, context: None, ..cluster("b", "here") });
    store.add_cluster(&eu, Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    store.add_cluster(&here, None).await.unwrap();
    assert_eq!(store.clusters().await.unwrap(), [eu.clone(), here.clone()]);
    assert!(matches!(store.kubeconfig("b").await, Err(StoreError::NotFound)));

    store.rename_cluster("a", "europe").await.unwrap();
    assert_eq!(store.cluster("a").await.unwrap(), Cluster { name: "europe".into(), ..eu });
    store.remove_cluster("a").await.unwrap();
    assert_eq!(store.clusters().await.unwrap(), [here]);
    for gone in [store.remove_cluster("a").await, store.rename_cluster("a", "x").await] {
        assert!(matches!(gone, Err(StoreError::NotFound)));
    }
}

async fn a_name_is_taken_once(database: &Database) {
    let store = database.open().await;
    for (id, name) in [("a", "eu"), ("b", "us")] {
        store.add_cluster(&cluster(id, name), Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    }
    let again = store.add_cluster(&cluster("c", "eu"), Some(&Secret::new(KUBECONFIG.into()))).await;
    assert!(matches!(again, Err(StoreError::NameTaken)), "{again:?}");
    assert!(matches!(store.rename_cluster("b", "eu").await, Err(StoreError::NameTaken)));
    store.rename_cluster("a", "eu").await.unwrap();
}

async fn the_cluster_that_this_runs_in_is_kept_once_and_decides_by_person_for_good(database: &Database) {
    let store = database.open().await;
    let here = |id: &str| Cluster { connection: Connection::InCluster, context: None, ..cluster(id, id) };
    assert!(!store.add_cluster(&here("a"), None).await.unwrap().impersonate);
    let again = store.add_cluster(&here("b"), None).await;
    assert!(matches!(&again, Err(StoreError::InClusterTaken(name)) if name == "a"), "{again:?}");
    store.remove_cluster("a").await.unwrap();
    assert!(!store.add_cluster(&here("b"), None).await.unwrap().impersonate, "it never did");

    store.impersonate("b").await.unwrap();
    store.remove_cluster("b").await.unwrap();
    store.close().await;
    let store = database.open().await;
    let kept = store.add_cluster(&here("c"), None).await.unwrap();
    assert!(kept.impersonate);
    assert_eq!(store.clusters().await.unwrap(), [kept]);
    // Removed a second time, and of no other cluster: that one's kubeconfig is the right to it.
    store.remove_cluster("c").await.unwrap();
    let other = store.add_cluster(&cluster("d", "eu"), Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    assert!(!other.impersonate);
}

async fn a_kubeconfig_lies_sealed_and_opens_for_its_cluster_only(database: &Database) {
    let store = database.open().await;
    let secret = Secret::new(KUBECONFIG.into());
    for (id, name) in [("a", "name-in-clear"), ("b", "us")] {
        store.add_cluster(&cluster(id, name), Some(&secret)).await.unwrap();
    }
    assert_eq!(store.kubeconfig("a").await.unwrap().expose(), KUBECONFIG);
    assert!(database.files_hold("name-in-clear").await, "the search itself finds nothing");
    assert!(!database.files_hold("in-clear-nowhere").await);

    let swap = "UPDATE clusters SET kubeconfig = (SELECT kubeconfig FROM clusters WHERE id = 'b') WHERE id = 'a'";
    database.connect().await.execute(swap).await.unwrap();
    assert!(matches!(store.kubeconfig("a").await, Err(StoreError::Seal(SealError::Closed))));
}

async fn a_key_can_be_replaced_and_the_older_one_then_dropped(database: &Database) {
    let store = database.open_with(&[key(1)]).await;
    store.add_cluster(&cluster("a", "eu"), Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    let other = database.open_with(&[key(2)]).await;
    assert!(matches!(other.kubeconfig("a").await, Err(StoreError::Seal(SealError::Closed))));
    let both = database.open_with(&[key(2), key(1)]).await;
    assert_eq!(both.kubeconfig("a").await.unwrap().expose(), KUBECONFIG);
    assert_eq!(other.kubeconfig("a").await.unwrap().expose(), KUBECONFIG, "it was not sealed again");
}

async fn settings_are_kept(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.settings().await.unwrap(), Settings { activity_retention_days: 90 });
    for days in [30, 31] {
        store.set(Settings { activity_retention_days: days }).await.unwrap();
        assert_eq!(store.settings().await.unwrap().activity_retention_days, days);
    }
}

async fn what_has_begun_is_shown_only_when_it_has_ended(database: &Database) {
    let store = database.open().await;
    let id = store.begin_activity(&new_activity("ann", "suspend", "apps"), at(0)).await.unwrap();
    assert_eq!(names(&store, &Filter::default()).await, [""; 0]);
    let ended = store.end_activity(&id, Outcome::Failed, "It was too late").await.unwrap();
    assert_eq!((ended.outcome, ended.message.as_str(), ended.at), (Outcome::Failed, "It was too late", at(0)));
    assert_eq!(store.activities(&Filter::default(), 10, 0).await.unwrap(), [ended]);
    assert!(store.end_activity("nothing", Outcome::Failed, "").await.is_err());
}

async fn what_never_ended_is_closed_as_failed(database: &Database) {
    let store = database.open().await;
    store.begin_activity(&new_activity("ann", "suspend", "old"), at(0)).await.unwrap();
    store.begin_activity(&new_activity("ann", "suspend", "under-way"), at(100)).await.unwrap();
    assert_eq!(store.close_activities(at(50)).await.unwrap(), 1);
    let shown = store.activities(&Filter::default(), 10, 0).await.unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].outcome, shown[0].name.as_deref()), (Outcome::Failed, Some("old")));
    assert!(shown[0].message.contains("not known"));
}

async fn activities_are_filtered(database: &Database) {
    let store = database.open().await;
    done(&store, &new_activity("ann", "suspend", "one"), at(1), Outcome::Succeeded, "").await;
    done(&store, &new_activity("bo", "resume", "two"), at(2), Outcome::Failed, "refused").await;
    let elsewhere = NewActivity {
        cluster: Some("c2".into()),
        kind: Some("Bucket".into()),
        ..new_activity("ann", "resume", "three")
    };
    done(&store, &elsewhere, at(3), Outcome::Succeeded, "").await;

    let all = Filter::default();
    let of = |word: &str| Some(word.to_owned());
    for (filter, expected) in [
        (all.clone(), &["three", "two", "one"][..]),
        (Filter { actor: of("ann"), ..all.clone() }, &["three", "one"]),
        (Filter { action: of("resume"), ..all.clone() }, &["three", "two"]),
        (Filter { cluster: of("c2"), ..all.clone() }, &["three"]),
        (Filter { kind: of("Kustomization"), ..all.clone() }, &["two", "one"]),
        (Filter { outcome: Some(Outcome::Failed), ..all.clone() }, &["two"]),
        (Filter { since: Some(at(2)), ..all.clone() }, &["three", "two"]),
        (Filter { until: Some(at(2)), ..all.clone() }, &["one"]),
        (Filter { actor: of("ann"), action: of("resume"), text: of("bucket"), ..all.clone() }, &["three"]),
        (Filter { actor: of("x' OR '1'='1"), ..all.clone() }, &[]),
    ] {
        assert_eq!(names(&store, &filter).await, expected, "{filter:?}");
    }
}

async fn a_text_is_found_in_any_case_and_wildcards_mean_themselves(database: &Database) {
    let store = database.open().await;
    done(&store, &new_activity("Ärger", "suspend", "100%_sure"), at(1), Outcome::Failed, r"Path C:\Temp").await;
    done(&store, &new_activity("bo", "suspend", "1000 sure"), at(2), Outcome::Succeeded, "").await;
    for (text, found) in [
        ("ÄRGER@", 1),
        ("ärger", 1),
        ("production", 2),
        ("SURE", 2),
        ("0%_s", 1),
        (r"c:\temp", 1),
        ("100_", 0),
        ("%", 1),
    ] {
        let filter = Filter { text: Some(text.into()), ..Filter::default() };
        assert_eq!(names(&store, &filter).await.len(), found, "{text}");
    }
}

async fn activities_come_in_pages_without_gaps(database: &Database) {
    let store = database.open().await;
    for number in 0..7 {
        // Several at one moment.
        done(&store, &new_activity("ann", "suspend", &number.to_string()), at(number / 3), Outcome::Succeeded, "")
            .await;
    }
    let all = store.activities(&Filter::default(), 100, 0).await.unwrap();
    assert!(all.is_sorted_by_key(|activity| std::cmp::Reverse((activity.at, activity.id.clone()))));
    let mut filter = Filter::default();
    let mut paged = Vec::new();
    for offset in [0, 2, 4, 6] {
        assert_eq!(
            store.activities(&Filter::default(), 2, offset).await.unwrap(),
            all[offset as usize..].iter().take(2).cloned().collect::<Vec<_>>()
        );
        let page = store.activities(&filter, 2, 0).await.unwrap();
        filter.after = page.last().map(Activity::mark);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(store.count_activities(&Filter::default()).await.unwrap(), 7);
}

async fn what_is_too_old_is_forgotten_and_nothing_else(database: &Database) {
    let store = database.open().await;
    // More than go at once.
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1201) \
                INSERT INTO activities (id, at, actor, actor_id, actor_email, action, outcome, message, request_id, haystack) \
                SELECT 'old-' || i, i, 'ann', '', '', 'suspend', 'succeeded', '', '', '' FROM n";
    database.connect().await.execute(many).await.unwrap();
    done(&store, &new_activity("ann", "suspend", "recent"), at(0), Outcome::Succeeded, "").await;
    assert_eq!(store.prune_activities(at(0)).await.unwrap(), 1201);
    assert_eq!(names(&store, &Filter::default()).await, ["recent"]);
    assert_eq!(store.prune_activities(at(1)).await.unwrap(), 1);
}

async fn upkeep_goes_by_the_settings(database: &Database) {
    let store = database.open().await;
    let day = 24 * 3600;
    for (name, age) in [("old", 8 * day), ("recent", 6 * day)] {
        done(&store, &new_activity("ann", "suspend", name), at(-age), Outcome::Succeeded, "").await;
    }
    store.begin_activity(&new_activity("ann", "suspend", "cut-off"), at(-300)).await.unwrap();
    store.begin_activity(&new_activity("ann", "suspend", "under-way"), at(-1)).await.unwrap();
    assert_eq!(upkeep::once(&store, at(0)).await.unwrap(), 0, "90 days unless set");
    store.set(Settings { activity_retention_days: 7 }).await.unwrap();
    assert_eq!(upkeep::once(&store, at(0)).await.unwrap(), 1);
    assert_eq!(names(&store, &Filter::default()).await, ["cut-off", "recent"]);
}

async fn a_second_start_finds_all_as_it_was(database: &Database) {
    let store = database.open().await;
    store.add_cluster(&cluster("a", "eu"), Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    let activity = done(&store, &new_activity("ann", "suspend", "apps"), at(0), Outcome::Succeeded, "").await;
    store.close().await;
    assert!(store.ping().await.is_err());
    let store = database.open().await;
    store.ping().await.unwrap();
    assert_eq!(store.kubeconfig("a").await.unwrap().expose(), KUBECONFIG);
    assert_eq!(store.activities(&Filter::default(), 10, 0).await.unwrap(), [activity]);
}

async fn a_database_of_a_newer_version_is_left_alone(database: &Database) {
    database.open().await.close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 SELECT 9999, 'newer', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    database.connect().await.execute(newer).await.unwrap();
    assert!(matches!(Store::open(&database.location, &[key(1)]).await, Err(OpenError::Newer)));
}

#[tokio::test]
async fn sqlite_without_a_key_makes_one_that_only_its_user_reads() {
    let database = Database::sqlite();
    let Location::Sqlite(path) = &database.location else { panic!() };
    let file = path.with_extension("key");
    let store = database.open_with(&[]).await;
    store.add_cluster(&cluster("a", "eu"), Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    for made in [path, &file] {
        assert_eq!(std::fs::metadata(made).unwrap().mode() & 0o777, 0o600, "{}", made.display());
    }
    store.close().await;
    assert_eq!(database.open_with(&[]).await.kubeconfig("a").await.unwrap().expose(), KUBECONFIG);
    // Who moves to ENCRYPTION_KEY later still opens what the file sealed.
    assert_eq!(database.open_with(&[key(9)]).await.kubeconfig("a").await.unwrap().expose(), KUBECONFIG);
}

#[tokio::test]
async fn a_lost_key_file_is_a_fault_and_no_new_one_is_made() {
    let database = Database::sqlite();
    let Location::Sqlite(path) = &database.location else { panic!() };
    let file = path.with_extension("key");
    let store = database.open_with(&[]).await;
    store.add_cluster(&cluster("a", "eu"), Some(&Secret::new(KUBECONFIG.into()))).await.unwrap();
    store.close().await;
    std::fs::remove_file(&file).unwrap();
    let error = Store::open(&database.location, &[]).await.unwrap_err().to_string();
    assert!(error.contains("is gone") && error.contains("orchestrator.key"), "{error}");
    assert!(!file.exists());
    std::fs::write(&file, "not a key").unwrap();
    assert!(Store::open(&database.location, &[]).await.unwrap_err().to_string().contains("base64"));
}

#[tokio::test]
async fn postgresql_without_a_key_is_a_fault() {
    let Some(database) = Database::postgres().await else { return };
    assert!(matches!(Store::open(&database.location, &[]).await, Err(OpenError::NoKey)));
}

#[tokio::test]
async fn a_database_that_refuses_is_reported_without_its_password() {
    let Some(database) = Database::postgres().await else { return };
    let url = database.url().replace("/test_", "/nothing_").replace("user=test", "user=test&password=hunter2");
    let (location, keys) = (Location::Postgres(Secret::new(url)), [key(1)]);
    let refused = Store::open(&location, &keys);
    let error = tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap().unwrap_err();
    let text = format!("{error:?}") + &format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("does not exist") && !text.contains("hunter2"), "{text}");
}
