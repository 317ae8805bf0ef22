//! What is stored of clusters, and what of it is in force.

use axum::extract::FromRequestParts as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fleet::{Fleet, Tuning};
use crate::store::{KEY_LEN, Key, Location, Store};

fn stored(id: u8, name: &str, connection: store::Connection, impersonate: bool) -> store::Cluster {
    store::Cluster {
        id: format!("{id:032x}"),
        name: name.into(),
        connection,
        context: None,
        server: "https://10.0.0.1".into(),
        created_at: clock::now(),
        created_by: "ann".into(),
        impersonate,
        namespaces: Vec::new(),
    }
}

#[tokio::test]
async fn the_cluster_that_this_runs_in_is_registered_once_and_decides_by_person_for_good() {
    let store = Store::open(&Location::Memory, &[]).await.unwrap();
    let app = App::new(Fleet::start(Tuning::default()), store, CancellationToken::new(), true);
    let cluster = |id, impersonate| stored(id, &format!("here-{id}"), store::Connection::InCluster, impersonate);
    // No test runs in a pod: the cluster is down, and kept all the same.
    let here = fleet::Connection::InCluster;
    let first = keep(&app, &cluster(1, true), None, &here).await.unwrap();
    let refused = keep(&app, &cluster(2, false), None, &here).await.unwrap_err();
    assert!(refused.message().contains("as `here-1`"), "{}", refused.message());
    assert_eq!(refused.into_response().status(), StatusCode::CONFLICT);

    app.store.remove_cluster(&first.id).await.unwrap();
    let again = keep(&app, &cluster(3, false), None, &here).await.unwrap();
    assert!(again.impersonate && app.fleet.asks_as_person(again.id.parse().unwrap()));
}

/// The state with a cluster whose kubeconfig was sealed under a key that is lost.
async fn with_lost_key(folder: &tempfile::TempDir, impersonate: bool) -> (App, store::Cluster) {
    let location = Location::Sqlite(folder.path().join("o.db"));
    let opened = async |key: u8| Store::open(&location, &[Key::new(&[key; KEY_LEN]).unwrap()]).await.unwrap();
    let cluster = stored(1, "one", store::Connection::Kubeconfig, impersonate);
    let before = opened(1).await;
    before.add_cluster(&cluster, Some(&Secret::new("a kubeconfig".into()))).await.unwrap();
    before.close().await;
    (App::new(Fleet::start(Tuning::default()), opened(2).await, CancellationToken::new(), false), cluster)
}

#[tokio::test]
async fn a_cluster_that_cannot_be_watched_again_stays_stored_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (app, cluster) = with_lost_key(&folder, false).await;
    let id: ClusterId = cluster.id.parse().unwrap();
    assert!(enable_impersonation(app.clone(), id).await.is_err());
    assert!(narrow(app.clone(), id, vec!["shop".into()]).await.is_err());
    assert_eq!(app.store.cluster(&cluster.id).await.unwrap(), cluster);
}

#[tokio::test]
async fn a_cluster_that_is_not_watched_and_decides_by_person_already_can_be_renamed_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (app, cluster) = with_lost_key(&folder, true).await;
    let (mut parts, ()) = axum::http::Request::new(()).into_parts();
    let actor = Actor::from_request_parts(&mut parts, &()).await.unwrap();
    let changes = Changes {
        name: Some("two".into()),
        kubeconfig: None,
        context: None,
        impersonate: Some(true),
        namespaces: None,
    };
    let id = InCluster(cluster.id.parse().unwrap());
    let changed = change(State(app), id, actor, ViewedBy(Viewer::Program), Body(changes)).await;
    assert_eq!(changed.unwrap().0.name, "two");
}

#[tokio::test]
async fn the_cluster_that_this_runs_in_is_not_used_by_a_change_either_unless_that_is_allowed() {
    let store = Store::open(&Location::Memory, &[]).await.unwrap();
    let cluster = stored(1, "here", store::Connection::InCluster, false);
    store.add_cluster(&cluster, None).await.unwrap();
    let app = App::new(Fleet::start(Tuning::default()), store, CancellationToken::new(), false);
    let id: ClusterId = cluster.id.parse().unwrap();
    for refused in [
        narrow(app.clone(), id, vec!["shop".into()]).await.map(drop),
        enable_impersonation(app.clone(), id).await.map(drop),
    ] {
        assert!(matches!(&refused, Err(ApiError::Invalid(why)) if why.contains("IN_CLUSTER=true")), "{refused:?}");
    }
    assert!(matches!(app.fleet.health(id), Err(FleetError::NotFound { .. })), "it is watched");
    assert_eq!(app.store.cluster(&cluster.id).await.unwrap(), cluster);
}

#[test]
fn a_name_is_readable_and_not_empty() {
    assert_eq!(name(" production-eu ").unwrap(), "production-eu");
    assert!(name(&"ü".repeat(NAME_MOST)).is_ok());
    for bad in ["", "  ", "a\nb", "a\u{202e}b", "a\0", &"a".repeat(NAME_MOST + 1)] {
        assert!(name(bad).is_err(), "{bad:?}");
    }
}
