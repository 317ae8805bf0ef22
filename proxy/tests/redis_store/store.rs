//! The store itself, as two replicas use it: the renewal lease, lists, single-use entries, all sessions.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidegate::adapters::stores::redis::{Host, Layout, RedisPlace, RedisSettings, RedisStore};
use sidegate::adapters::stores::{self, StoreSettings};
use sidegate::adapters::telemetry::StoreMetrics;
use sidegate::domain::identity::{Identity, ProviderKind, Username};
use sidegate::domain::session::{Authority, Device, Session, SessionKey, SessionSelector, SessionToken};
use sidegate::domain::time::Timestamp;
use sidegate::ports::{
    Claim, Directory as _, EndError, Lease, Leases as _, LoadedSession, SESSIONS_OF_ONE, Sessions, StoreTerms,
};
use zeroize::Zeroizing;

use crate::support::redis::is_installed;
use crate::support::{PATIENCE, Redis, until};

const US: Authority = Authority([7; 8]);
const HOUR: Duration = Duration::from_secs(3600);

#[expect(clippy::disallowed_methods, reason = "Redis goes by the clock of the machine")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}

pub fn place(layout: Layout, ports: &[u16]) -> RedisPlace {
    let hosts = ports.iter().map(|port| Host { name: "127.0.0.1".into(), port: *port }).collect();
    RedisPlace { layout, hosts, tls: false, user: None, password: None, database: 0 }
}

/// A replica's connected store.
async fn open(place: RedisPlace, secrets: &[u8]) -> Arc<RedisStore> {
    open_with(place, secrets.iter().map(|byte| Zeroizing::new(vec![*byte; 32])).collect()).await
}

/// The same with its own secrets.
pub async fn open_with(place: RedisPlace, secrets: Vec<Zeroizing<Vec<u8>>>) -> Arc<RedisStore> {
    let settings = RedisSettings {
        place,
        prefix: "sidegate:".into(),
        roots: Vec::new(),
        timeout: Duration::from_secs(1),
        cache_ttl: Duration::from_secs(10),
        memory_bytes: 1 << 20,
    };
    let metrics = StoreMetrics::default();
    let store = RedisStore::open(&settings, &StoreTerms { idle: Duration::ZERO, secrets, cookie_beside: 0 }, &metrics);
    let store = store.unwrap();
    store.reach(PATIENCE).await.unwrap();
    // What is read before it is there is read again.
    until("the channel is there", async || metrics.channel.get() == 1 && store.trouble().is_none()).await;
    store
}

fn terms(secrets: &[u8]) -> StoreTerms {
    let secrets = secrets.iter().map(|byte| Zeroizing::new(vec![*byte; 32])).collect();
    StoreTerms { idle: Duration::ZERO, secrets, cookie_beside: 0 }
}

fn session(id: &str, at: Timestamp) -> Session {
    let identity = Identity {
        provider: ProviderKind::Oidc,
        id: id.into(),
        email: None,
        name: "Ann".into(),
        username: Username::Vouched("ann".into()),
        groups: Vec::new(),
        claims: sidegate::domain::claims::Claims::default(),
    };
    let device = Device::new([192, 0, 2, 1].into(), "Firefox");
    Session { provider_session: Some(format!("sid-{id}")), ..Session::begin(identity, US, device, HOUR, at) }
}

fn person(id: &str) -> SessionSelector<'_> {
    SessionSelector::Person { authority: US, id }
}

fn sid(sid: &str) -> SessionSelector<'_> {
    SessionSelector::ProviderSession { authority: US, sid }
}

/// A session's key as the names in the store have it.
fn hex(key: SessionKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many of those left on a list have ended; `None`: not all for certain.
async fn end_remaining(
    store: &RedisStore,
    selector: SessionSelector<'_>,
    kept: Option<SessionKey>,
    now: Timestamp,
) -> Option<usize> {
    let (ended, failure) = store.end_remaining(selector, kept, now).await;
    failure.is_none().then_some(ended)
}

/// The lease to renew a session that nobody else renews.
async fn claimed(store: &RedisStore, token: &SessionToken, now: Timestamp) -> Lease {
    let Claim::Granted(lease) = store.claim(store.key(token), now).await.unwrap() else { panic!("nobody has it") };
    lease
}

/// Lists so many sessions that have ended, all of which would have expired after those that are live.
async fn list_ended(redis: &Redis, count: u64, now: Timestamp) {
    let lists: Vec<String> = redis::from_redis_value(redis.ask(&["KEYS", "sidegate:i:*"]).await.unwrap()).unwrap();
    let end = (now + HOUR * 2).millis();
    let entries: Vec<String> = (0..count).flat_map(|n| [(end + n).to_string(), format!("{n:032}")]).collect();
    for list in &lists {
        let mut words = vec!["ZADD", list.as_str()];
        words.extend(entries.iter().map(String::as_str));
        redis.ask(&words).await.unwrap();
    }
}

/// How many entries all lists have.
async fn listed(redis: &Redis) -> u64 {
    let lists: Vec<String> = redis::from_redis_value(redis.ask(&["KEYS", "sidegate:i:*"]).await.unwrap()).unwrap();
    let mut count = 0;
    for list in &lists {
        count += redis::from_redis_value::<u64>(redis.ask(&["ZCARD", list]).await.unwrap()).unwrap();
    }
    count
}

#[tokio::test]
async fn one_replica_renews_at_a_time_and_the_others_are_notified() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (one, two, now) = (open(here(), &[1]).await, open(here(), &[1]).await, now());
    let token = one.begin(session("ann", now), now).await.unwrap();
    let key = one.key(&token);
    let held = two.load(&token, now).await.unwrap().unwrap();
    let Claim::Granted(lease) = one.claim(key, now).await.unwrap() else { panic!("nobody has it") };
    for store in [&one, &two] {
        assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Taken));
    }
    let mut renewed = session("ann", now);
    renewed.identity.groups = vec!["new".into()];
    assert!(one.renew(&lease, renewed.clone(), now).await.unwrap());
    let groups = |session: &Session| session.identity.groups.clone();
    assert_eq!(groups(one.hot(&token, now).unwrap().session()), ["new"]);
    until("the other hears of it", async || groups(two.load(&token, now).await.unwrap().unwrap().session()) == ["new"])
        .await;
    assert_eq!(groups(two.follow(&held, false, now).await.unwrap().unwrap().session()), ["new"]);
    assert!(one.renew(&lease, renewed.clone(), now).await.is_ok_and(|renewed| !renewed), "a lease counts once");

    // Released unused; then a logout on the other replica overtakes the renewal.
    let Claim::Granted(unused) = two.claim(key, now).await.unwrap() else { panic!("it was given back") };
    assert_eq!(groups(unused.session.session()), ["new"], "as the store has it");
    two.release(&unused).await;
    let Claim::Granted(late) = one.claim(key, now).await.unwrap() else { panic!("it was given back") };
    one.release(&unused).await;
    assert!(matches!(two.claim(key, now).await.unwrap(), Claim::Taken), "only ours is given back");
    two.end(&held).await.unwrap();
    assert!(!one.renew(&late, renewed, now).await.unwrap(), "a logout stays a logout");
    for store in [&one, &two] {
        assert!(store.load(&token, now).await.unwrap().is_none());
        assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Ended));
        assert!(store.follow(&held, true, now).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_renewal_whose_lease_was_lost_is_kept_unless_another_has_renewed_or_is_at_it() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (one, two, now) = (open(here(), &[1]).await, open(here(), &[1]).await, now());
    let token = one.begin(session("ann", now), now).await.unwrap();
    let name = format!("sidegate:l:{{{}}}", hex(one.key(&token)));
    let renewed = |group: &str| {
        let mut renewed = session("ann", now);
        renewed.identity.groups = vec![group.into()];
        renewed
    };
    let has = async |group: &str| {
        let lease = claimed(&two, &token, now).await;
        two.release(&lease).await;
        assert_eq!(lease.session.session().identity.groups, [group], "as the store has it");
    };

    let lease = claimed(&one, &token, now).await;
    redis.ask(&["DEL", &name]).await.unwrap();
    assert!(one.renew(&lease, renewed("kept"), now).await.unwrap(), "the provider has changed its tokens already");
    has("kept").await;

    let lost = claimed(&one, &token, now).await;
    redis.ask(&["DEL", &name]).await.unwrap();
    let other = claimed(&two, &token, now).await;
    assert!(!one.renew(&lost, renewed("refused"), now).await.unwrap(), "another is at it");
    assert!(two.renew(&other, renewed("other"), now).await.unwrap());
    assert!(!one.renew(&lost, renewed("refused"), now).await.unwrap(), "another has renewed it");
    has("other").await;

    let lost = claimed(&one, &token, now).await;
    two.end_unseen(&token).await.unwrap();
    assert!(!one.renew(&lost, renewed("refused"), now).await.unwrap(), "a logout stays a logout");
    assert!(matches!(two.claim(two.key(&token), now).await.unwrap(), Claim::Ended));
}

#[tokio::test]
async fn a_live_session_below_a_thousand_ended_ones_is_listed_and_ended() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (old, both, now) = (open(here(), &[1]).await, open(here(), &[2, 1]).await, now());
    let token = old.begin(session("ann", now), now).await.unwrap();
    for selector in [person("ann"), sid("sid-ann")] {
        list_ended(&redis, 1100, now).await;
        assert_eq!(old.of(selector, now).await.unwrap().len(), 1);
    }
    list_ended(&redis, 1100, now).await;
    old.of(person("ann"), now).await.unwrap();
    old.of(sid("sid-ann"), now).await.unwrap();
    assert_eq!(listed(&redis).await, 2, "what is gone is taken off");

    let lease = claimed(&both, &token, now).await;
    assert!(both.renew(&lease, session("ann", now), now).await.unwrap());
    let is_hidden = async || old.of(person("ann"), now).await.unwrap().is_empty();
    until("the replica without the new secret hears of it", is_hidden).await;
    list_ended(&redis, 1100, now).await;
    assert_eq!(end_remaining(&old, sid("sid-ann"), None, now).await.unwrap(), 1);
    until("it has ended everywhere", async || both.load(&token, now).await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_list_that_is_too_long_to_be_read_at_once_is_refused_and_read_in_the_end() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    list_ended(&redis, 21_000, now).await;
    assert!(end_remaining(&store, person("ann"), None, now).await.is_none(), "a live one may be below");
    assert!(store.load(&token, now).await.unwrap().is_some());
    assert_eq!(store.of(person("ann"), now).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_that_looks_idle_here_is_not_shown_and_ends_all_the_same() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let idle = Duration::from_secs(600);
    store.reconfigure(&StoreTerms { idle, ..terms(&[1]) }).unwrap();
    let kept = store.begin(session("ann", now), now).await.unwrap();
    let token = store.begin(session("ann", now), now).await.unwrap();
    let others = store.begin(session("bob", now), now).await.unwrap();
    // Another replica may have let it in since: the store keeps it for as long as the writing of its last use may lag behind.
    let later = now + idle;
    assert!(store.of(person("ann"), later).await.unwrap().is_empty());
    let ended = end_remaining(&store, person("ann"), Some(store.key(&kept)), later).await.unwrap();
    assert_eq!(ended, 1, "all but the one that is kept");
    let other = open(place(Layout::Single, &[redis.port]), &[1]).await;
    assert!(other.load(&token, now).await.unwrap().is_none());
    assert!(other.load(&kept, now).await.unwrap().is_some() && other.load(&others, now).await.unwrap().is_some());
}

#[tokio::test]
async fn a_persons_sessions_are_found_on_every_replica_also_while_secrets_rotate() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (old, both, now) = (open(here(), &[1]).await, open(here(), &[2, 1]).await, now());
    let first = old.begin(session("ann", now), now).await.unwrap();
    let later = now + Duration::from_secs(1);
    let second = both.begin(session("ann", later), later).await.unwrap();
    old.begin(session("bob", now), now).await.unwrap();
    let found = both.of(person("ann"), later).await.unwrap();
    let keys: Vec<_> = found.iter().map(|session| session.key()).collect();
    assert_eq!(keys, [both.key(&second), both.key(&first)], "the newest first");
    let sid = SessionSelector::ProviderSession { authority: US, sid: "sid-bob" };
    assert_eq!(both.of(sid, later).await.unwrap().len(), 1);
    for nobody in [person("eve"), SessionSelector::Person { authority: Authority([8; 8]), id: "ann" }] {
        assert!(both.of(nobody, later).await.unwrap().is_empty());
    }
    old.end_unseen(&first).await.unwrap();
    until("one is left", async || both.of(person("ann"), later).await.unwrap().len() == 1).await;
    assert!(both.of(person("ann"), later + HOUR).await.unwrap().is_empty(), "expired is gone");
    let mut all = Vec::new();
    both.all(later, |session| all.push(session.session().identity.id.clone())).await.unwrap();
    all.sort();
    assert_eq!(all, ["ann", "bob"]);
}

#[tokio::test]
async fn one_persons_sign_ins_end_their_own_oldest_session_and_nobody_elses() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let other = store.begin(session("bob", now), now).await.unwrap();
    let mut own = Vec::new();
    for number in 0..SESSIONS_OF_ONE + 20 {
        let then = now + Duration::from_millis(u64::try_from(number).unwrap());
        own.push(store.begin(session("ann", then), then).await.unwrap());
    }
    let later = now + Duration::from_secs(2);
    assert_eq!(store.of(person("ann"), later).await.unwrap().len(), SESSIONS_OF_ONE);
    for (number, token) in own.iter().enumerate() {
        assert_eq!(store.load(token, later).await.unwrap().is_some(), number >= 20, "{number}");
    }
    assert!(store.load(&other, later).await.unwrap().is_some());
}

#[tokio::test]
async fn sessions_that_have_ended_do_not_count_among_those_of_one_person() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let oldest = store.begin(session("ann", now), now).await.unwrap();
    list_ended(&redis, u64::try_from(SESSIONS_OF_ONE).unwrap() * 2, now).await;
    let later = now + Duration::from_millis(1);
    let newest = store.begin(session("ann", later), later).await.unwrap();
    for token in [&oldest, &newest] {
        assert!(store.load(token, later).await.unwrap().is_some());
    }
    assert_eq!(store.of(person("ann"), later).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_counts_once_counts_once_on_all_replicas_also_while_secrets_rotate() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (old, both, now) = (open(here(), &[1]).await, open(here(), &[2, 1]).await, now());
    let until = now + HOUR;
    assert!(!old.has_come("a", now).await.unwrap());
    old.note_coming("a", until, now).await.unwrap();
    assert!(old.has_come("a", now).await.unwrap() && both.has_come("a", now).await.unwrap());
    assert!(!both.has_come("b", now).await.unwrap());
    both.note_coming("b", until, now).await.unwrap();
    assert!(both.has_come("b", now).await.unwrap() && old.has_come("b", now).await.unwrap());
}

#[tokio::test]
async fn a_state_is_taken_once_over_all_replicas_also_by_many_at_once_and_while_secrets_rotate() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let stores = [
        open(here(), &[1]).await,
        open(here(), &[1]).await,
        open(here(), &[2, 1]).await,
        open(here(), &[1, 2]).await,
        open(here(), &[2, 1, 3]).await,
    ];
    let now = now();
    for round in 0..20 {
        let state = format!("state {round}");
        let asked = stores.iter().chain(&stores).map(|store| store.take_state(&state, now + HOUR, now));
        let taken = futures_util::future::join_all(asked).await;
        assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1, "{state}");
    }
}

#[tokio::test]
async fn a_flood_of_sign_ins_leaves_only_so_many_states_in_the_store_and_keeps_nobody_from_signing_in() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let until = now + Duration::from_secs(600);
    let states: Vec<String> = (0..21_000).map(|n| n.to_string()).collect();
    for some in states.chunks(500) {
        let taken = some.iter().map(|state| store.take_state(state, until, now));
        assert!(futures_util::future::join_all(taken).await.into_iter().all(|taken| taken.unwrap()));
    }
    let held: usize = redis::from_redis_value(redis.ask(&["DBSIZE"]).await.unwrap()).unwrap();
    assert!((10_000..=20_000).contains(&held), "{held}");
    for state in [states.first().unwrap(), states.last().unwrap()] {
        assert!(!store.take_state(state, until, now).await.unwrap(), "each counts once");
    }
}

#[tokio::test]
async fn a_session_that_no_secret_opens_any_more_is_over_for_its_holders_also_while_the_store_is_away() {
    if !is_installed() {
        return;
    }
    let mut redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let ann = store.begin(session("ann", now), now).await.unwrap();
    let held = store.load(&ann, now).await.unwrap().unwrap();
    store.reconfigure(&terms(&[2, 1])).unwrap();
    let bob = store.begin(session("bob", now), now).await.unwrap();
    assert!(Arc::ptr_eq(&held, &store.hot(&ann, now).unwrap()), "a new secret alone costs no read");
    store.reconfigure(&terms(&[2])).unwrap();
    assert!(store.hot(&ann, now).is_none() && store.load(&ann, now).await.unwrap().is_none());
    assert!(store.follow(&held, true, now).await.unwrap().is_none());
    assert!(store.load(&bob, now).await.unwrap().is_some() && store.hot(&bob, now).is_some());
    store.reconfigure(&terms(&[2])).unwrap();
    assert!(store.hot(&bob, now).is_some(), "the secrets are the same");
    redis.kill();
    store.reconfigure(&terms(&[3])).unwrap();
    assert!(store.load(&bob, now).await.is_err(), "nobody can say");
}

#[tokio::test]
async fn a_session_renewed_under_a_new_secret_is_found_by_its_person_after_the_old_one_is_gone() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    store.reconfigure(&terms(&[2, 1])).unwrap();
    let Claim::Granted(lease) = store.claim(store.key(&token), now).await.unwrap() else { panic!("nobody has it") };
    assert!(store.renew(&lease, session("ann", now), now).await.unwrap());
    store.reconfigure(&terms(&[2])).unwrap();
    assert!(store.load(&token, now).await.unwrap().is_some());
    assert_eq!(store.of(person("ann"), now).await.unwrap().len(), 1, "a logout everywhere ends it");
}

async fn renews_without_its_lists(layout: Layout, redis: &Redis) {
    let (store, now) = (open(place(layout.clone(), &[redis.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    store.reconfigure(&terms(&[2, 1])).unwrap();
    let Claim::Granted(lease) = store.claim(store.key(&token), now).await.unwrap() else { panic!("nobody has it") };
    redis.ask(&["ACL", "SETUSER", "default", "-zadd"]).await.unwrap();
    let mut renewed = session("ann", now);
    renewed.identity.groups = vec!["new".into()];
    assert!(store.renew(&lease, renewed, now).await.unwrap(), "the new tokens are kept");
    redis.ask(&["ACL", "SETUSER", "default", "+zadd"]).await.unwrap();
    let later = open(place(layout, &[redis.port]), &[2]).await;
    assert_eq!(later.load(&token, now).await.unwrap().unwrap().session().identity.groups, ["new"]);
    assert!(later.of(person("ann"), now).await.unwrap().is_empty(), "its list could not be written");
    assert!(store.load(&token, now).await.unwrap().is_some());
    until("its next use has listed it", async || later.of(person("ann"), now).await.unwrap().len() == 1).await;
}

#[tokio::test]
async fn a_renewal_holds_where_its_lists_cannot_be_written_and_the_next_use_lists_the_session() {
    if !is_installed() {
        return;
    }
    renews_without_its_lists(Layout::Single, &Redis::start().await).await;
    let alone = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]).await;
    alone.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.unwrap();
    until("the cluster stands", async || {
        let answer = alone.ask(&["CLUSTER", "INFO"]).await.unwrap();
        redis::from_redis_value::<String>(answer).unwrap().contains("cluster_state:ok")
    })
    .await;
    renews_without_its_lists(Layout::Cluster, &alone).await;
}

#[tokio::test]
async fn a_write_that_the_server_refuses_is_not_taken_for_done() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    let may = async |what: &str| _ = redis.ask(&["ACL", "SETUSER", "default", what]).await.unwrap();
    may("-zadd").await;
    assert!(store.begin(session("bob", now), now).await.is_err(), "a session without its list could not be ended");
    may("+zadd").await;
    may("-unlink").await;
    assert!(store.end_unseen(&token).await.is_err(), "the store still has it");
    assert!(end_remaining(&store, person("ann"), None, now).await.is_none(), "a second logout is no more certain");
    assert!(store.trouble().unwrap().contains("1 logouts wait"));
    may("+unlink").await;
    until("the logout is confirmed", async || store.trouble().is_none()).await;
    let other = open(place(Layout::Single, &[redis.port]), &[1]).await;
    assert!(other.load(&token, now).await.unwrap().is_none());
}

#[tokio::test]
async fn logouts_that_the_store_goes_on_refusing_keep_no_others_waiting() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let mut tokens = Vec::new();
    for _ in 0..12 {
        tokens.push(store.begin(session("ann", now), now).await.unwrap());
    }
    redis.ask(&["ACL", "SETUSER", "default", "-unlink"]).await.unwrap();
    for token in &tokens {
        assert!(store.end_unseen(token).await.is_err());
    }
    // From now on the store refuses two of them, as a cluster does where one of its nodes is away. The link needs its probe.
    let name = |key: SessionKey| format!("~sidegate:s:{{{}}}", hex(key));
    let mut allowed = vec!["~sidegate:l:*".to_owned(), name(SessionKey([0; 32]))];
    allowed.extend(tokens.iter().skip(2).map(|token| name(store.key(token))));
    let mut words = vec!["ACL", "SETUSER", "default", "+unlink", "resetkeys"];
    words.extend(allowed.iter().map(String::as_str));
    redis.ask(&words).await.unwrap();
    let waiting = "2 logouts wait to be confirmed by the store";
    until("the others are confirmed", async || store.trouble().as_deref() == Some(waiting)).await;
    redis.ask(&["ACL", "SETUSER", "default", "allkeys"]).await.unwrap();
    until("all are confirmed", async || store.trouble().is_none()).await;
}

#[tokio::test]
async fn what_this_replica_cannot_open_on_a_persons_list_ends_with_the_rest_and_stays_where_it_is_only_shown() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (old, both, now) = (open(here(), &[1]).await, open(here(), &[2, 1]).await, now());
    let token = old.begin(session("ann", now), now).await.unwrap();
    let others = old.begin(session("bob", now), now).await.unwrap();
    let gone = old.begin(session("ann", now), now).await.unwrap();
    let renew = async |token: &SessionToken, id: &str| {
        let Claim::Granted(lease) = both.claim(both.key(token), now).await.unwrap() else { panic!("nobody has it") };
        assert!(both.renew(&lease, session(id, now), now).await.unwrap());
    };
    renew(&token, "ann").await;
    renew(&others, "bob").await;
    both.end_unseen(&gone).await.unwrap();
    let is_hidden = async || old.of(person("ann"), now).await.unwrap().is_empty();
    until("the replica without the new secret hears of it", is_hidden).await;
    assert!(is_hidden().await && both.load(&token, now).await.unwrap().is_some(), "shown or not, it lives");

    let key = Some(both.key(&token));
    assert_eq!(end_remaining(&old, person("ann"), key, now).await.unwrap(), 0, "that one is kept");
    assert_eq!(end_remaining(&old, person("ann"), None, now).await.unwrap(), 1, "what has ended is not counted");
    until("it has ended everywhere", async || both.load(&token, now).await.unwrap().is_none()).await;
    assert_eq!(end_remaining(&old, person("ann"), None, now).await.unwrap(), 0);
    assert!(both.load(&others, now).await.unwrap().is_some(), "another person's lives on");
    let sid = SessionSelector::ProviderSession { authority: US, sid: "sid-bob" };
    assert_eq!(end_remaining(&old, sid, None, now).await.unwrap(), 1);
    until("it has ended everywhere", async || both.load(&others, now).await.unwrap().is_none()).await;
}

#[tokio::test]
async fn what_others_publish_ends_no_session_and_proves_nothing() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    until("news comes through", async || store.trouble().is_none()).await;
    let held = store.load(&token, now).await.unwrap().unwrap();
    let key: String = store.key(&token).0.iter().map(|byte| format!("{byte:02x}")).collect();
    let channels = redis.ask(&["PUBSUB", "CHANNELS"]).await.unwrap();
    let channels: Vec<String> = redis::from_redis_value(channels).unwrap();
    let news = channels.iter().find(|name| name.ends_with("news")).unwrap();
    let pulse = channels.iter().find(|name| name.contains("pulse")).unwrap();
    let huge = "x".repeat(8 << 20);
    for message in [&format!("e:{key}"), &format!("c:0000000000000001:{key}"), "e:", "e:zz", "", &huge] {
        redis.ask(&["PUBLISH", news, message]).await.unwrap();
    }
    for message in ["18446744073709551615", "9999999999999", "", "x", &huge] {
        redis.ask(&["PUBLISH", pulse, message]).await.unwrap();
    }
    until("the session still is there", async || store.load(&token, now).await.is_ok_and(|found| found.is_some()))
        .await;
    assert!(held.is_live(Duration::ZERO, now), "the holder keeps it");
    until("news comes through again", async || store.trouble().is_none()).await;
    store.end(&held).await.unwrap();
    assert!(store.load(&token, now).await.unwrap().is_none());
}

#[tokio::test]
async fn a_replica_that_confirms_is_waited_for_and_one_that_does_not_is_reported() {
    if !is_installed() {
        return;
    }
    let master = Redis::start().await;
    let replica = master.replica().await;
    let (store, now) = (open(place(Layout::Single, &[master.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    let copied = replica.ask(&["DBSIZE"]).await;
    assert_eq!(copied, Some(redis::Value::Int(3)), "the session and its two lists are there when the sign-in is done");
    let lost = store.begin(session("bob", now), now).await.unwrap();
    replica.signal("STOP");
    assert!(store.end_unseen(&lost).await.is_err(), "only the master has the logout");
    assert!(store.load(&lost, now).await.unwrap().is_none(), "it holds here");
    assert!(store.trouble().unwrap().contains("1 logouts wait"));
    assert!(store.load(&token, now).await.unwrap().is_some());
    replica.signal("CONT");
    until("the replica confirms", async || store.trouble().is_none()).await;
    // A server that refuses to wait confirms nothing; what it has written stays good.
    master.ask(&["ACL", "SETUSER", "default", "-wait"]).await.unwrap();
    let unconfirmed = store.begin(session("ann", now), now).await.unwrap();
    assert!(store.load(&unconfirmed, now).await.unwrap().is_some());
    assert!(store.end_unseen(&unconfirmed).await.is_err_and(|why| why.to_string().contains("no replica confirmed")));
}

#[tokio::test]
async fn writes_that_wait_for_each_other_are_no_failure_of_the_store() {
    if !is_installed() {
        return;
    }
    let master = Redis::start().await;
    let replica = master.replica().await;
    let (store, now) = (open(place(Layout::Single, &[master.port]), &[1]).await, now());
    // Twice as many as wait for the replica at a time: each will wait in vain for as long as an answer of the store may take.
    let mut sessions = Vec::new();
    for _ in 0..8 {
        let token = store.begin(session("ann", now), now).await.unwrap();
        sessions.push(store.load(&token, now).await.unwrap().unwrap());
    }
    replica.signal("STOP");
    let outcomes = futures_util::future::join_all(sessions.iter().map(|session| store.end(session))).await;
    let failures: Vec<String> =
        outcomes.into_iter().filter_map(|outcome| outcome.err().map(|why| why.to_string())).collect();
    assert!(failures.len() >= 4, "{failures:?}");
    assert!(failures.iter().all(|why| why.contains("no replica confirmed")), "{failures:?}");
    replica.signal("CONT");
    until("the replica confirms", async || store.trouble().is_none()).await;
}

#[tokio::test]
async fn logouts_with_made_up_tokens_keep_no_sign_in_from_its_turn() {
    if !is_installed() {
        return;
    }
    let master = Redis::start().await;
    let replica = master.replica().await;
    let (store, now) = (open(place(Layout::Single, &[master.port]), &[1]).await, now());
    replica.signal("STOP");
    let made_up: Vec<SessionToken> = (0..64).map(|byte| SessionToken::from_random([byte; 32])).collect();
    let logouts = futures_util::future::join_all(made_up.iter().map(|token| store.end_unseen(token)));
    let (logouts, begun) = tokio::join!(logouts, store.begin(session("ann", now), now));
    // Later ones may come after the replica has been silent for so long that nobody waits for it.
    assert!(logouts.iter().any(Result::is_err), "the replica confirms nothing");
    let token = begun.unwrap();
    assert!(store.load(&token, now).await.unwrap().is_some());
}

/// A cluster of one master and its replica.
async fn cluster_of_two() -> (Redis, Redis) {
    let options = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"];
    let (master, replica) = (Redis::start_with(&options).await, Redis::start_with(&options).await);
    master.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.unwrap();
    replica.ask(&["CLUSTER", "MEET", "127.0.0.1", &master.port.to_string()]).await.unwrap();
    let id: String = redis::from_redis_value(master.ask(&["CLUSTER", "MYID"]).await.unwrap()).unwrap();
    let follow = async || replica.ask(&["CLUSTER", "REPLICATE", &id]).await.is_some();
    until("the nodes know each other", follow).await;
    until("the replica follows", async || master.info("replication").await.contains("state=online")).await;
    until("the map has the replica", async || {
        // It is listed once the master hears that it has something.
        master.ask(&["SET", "something", "1"]).await;
        format!("{:?}", master.ask(&["CLUSTER", "SLOTS"]).await).contains(&replica.port.to_string())
    })
    .await;
    (master, replica)
}

#[tokio::test]
async fn in_a_cluster_a_logout_is_confirmed_on_another_connection_only_once_a_replica_has_it() {
    if !is_installed() {
        return;
    }
    let (master, replica) = cluster_of_two().await;
    let here = || place(Layout::Cluster, &[master.port]);
    let (first, second, now) = (open(here(), &[1]).await, open(here(), &[1]).await, now());
    let token = first.begin(session("ann", now), now).await.unwrap();
    replica.signal("STOP");
    assert!(first.end_unseen(&token).await.is_err(), "no replica has it");
    let heir: Arc<dyn Sessions> = second.clone();
    assert_eq!(first.hand_over(&heir), 0);
    drop(first);
    // So that `WAIT` covers the end before it, which another connection wrote.
    let changes = async || {
        let persistence = master.info("persistence").await;
        let count = persistence.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = changes().await;
    until("another end of it writes too", async || changes().await > before).await;
    assert!(second.trouble().is_some_and(|why| why.contains("1 logouts wait")), "{:?}", second.trouble());
    replica.signal("CONT");
    until("it is confirmed", async || second.trouble().is_none()).await;
}

#[tokio::test]
async fn in_a_cluster_a_sign_in_that_no_replica_confirms_is_valid() {
    if !is_installed() {
        return;
    }
    let (master, replica) = cluster_of_two().await;
    let (store, now) = (open(place(Layout::Cluster, &[master.port]), &[1]).await, now());
    store.begin(session("ann", now), now).await.unwrap();
    replica.signal("STOP");
    // A session and its two lists are in slots of their own, and each write would wait for the replica.
    for _ in 0..3 {
        let token = store.begin(session("ann", now), now).await.unwrap();
        assert!(store.load(&token, now).await.unwrap().is_some());
    }
    assert_eq!(store.of(person("ann"), now).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_while_it_rests_fails_no_write() {
    if !is_installed() {
        return;
    }
    let master = Redis::start().await;
    let _replica = master.replica().await;
    let (store, now) = (open(place(Layout::Single, &[master.port]), &[1]).await, now());
    let close = async || {
        let clients: String = redis::from_redis_value(master.ask(&["CLIENT", "LIST"]).await.unwrap()).unwrap();
        let waited = clients.lines().filter(|line| line.contains(" cmd=wait "));
        let ids: Vec<&str> = waited.filter_map(|line| line.strip_prefix("id=")?.split(' ').next()).collect();
        assert!(!ids.is_empty(), "{clients}");
        for id in ids {
            master.ask(&["CLIENT", "KILL", "ID", id]).await.unwrap();
        }
    };
    let token = store.begin(session("ann", now), now).await.unwrap();
    close().await;
    store.begin(session("bob", now), now).await.unwrap();
    close().await;
    store.end_unseen(&token).await.unwrap();
    // A slow machine may be late to hear itself.
    let trouble = store.trouble().filter(|why| !why.starts_with("news of ended sessions"));
    assert_eq!(trouble, None, "the other connection stays");
}

#[tokio::test]
async fn a_claim_of_what_cannot_be_renewed_here_leaves_the_lease_to_others() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (one, other, now) = (open(here(), &[1]).await, open(here(), &[2]).await, now());
    let token = one.begin(session("ann", now), now).await.unwrap();
    let key = one.key(&token);
    assert!(matches!(other.claim(key, now).await.unwrap(), Claim::Ended), "it has not the secret");
    one.release(&claimed(&one, &token, now).await).await;
    assert!(matches!(one.claim(key, now + HOUR * 2).await.unwrap(), Claim::Ended), "its time is over");
    claimed(&one, &token, now).await;
}

#[tokio::test]
async fn ends_that_are_not_confirmed_go_over_to_the_next_store_and_so_do_later_ones() {
    if !is_installed() {
        return;
    }
    let redis = Redis::start().await;
    let here = || place(Layout::Single, &[redis.port]);
    let (first, second, now) = (open(here(), &[1]).await, open(here(), &[1]).await, now());
    let (one, two) = (first.begin(session("ann", now), now).await, first.begin(session("bob", now), now).await);
    let (one, two) = (one.unwrap(), two.unwrap());
    let held = first.load(&two, now).await.unwrap().unwrap();
    assert!(second.load(&one, now).await.unwrap().is_some(), "it is in memory there");
    redis.ask(&["ACL", "SETUSER", "default", "-unlink"]).await.unwrap();
    assert!(first.end_unseen(&one).await.is_err());
    let heir: Arc<dyn Sessions> = second.clone();
    assert_eq!(first.hand_over(&heir), 0);
    assert!(first.end(&held).await.is_err_and(|error| error.is_retried()), "of a request that was under way");
    drop(first);
    for token in [&one, &two] {
        assert!(second.hot(token, now).is_none() && second.load(token, now).await.unwrap().is_none());
    }
    let wait = async || second.trouble().is_some_and(|why| why.contains("2 logouts wait"));
    until("both wait", wait).await;

    // A store of another kind cannot end them.
    let third = open(here(), &[1]).await;
    let memory = stores::open(&StoreSettings::Memory { bytes: 1 << 20 }, &terms(&[1]), &StoreMetrics::default());
    assert!(third.end_unseen(&one).await.is_err());
    assert_eq!(third.hand_over(&memory.unwrap()), 1);
    assert!(third.end_unseen(&two).await.is_err_and(|error| !error.is_retried()));
    drop(third);

    redis.ask(&["ACL", "SETUSER", "default", "+unlink"]).await.unwrap();
    until("both are confirmed", async || second.trouble().is_none()).await;
    let other = open(here(), &[1]).await;
    for token in [&one, &two] {
        assert!(other.load(token, now).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn an_end_that_is_not_tried_again_for_want_of_room_is_reported_as_such() {
    /// As many wait to be confirmed as there is room for.
    const MOST: u32 = 10_000;
    if !is_installed() {
        return;
    }
    let mut redis = Redis::start().await;
    let (store, now) = (open(place(Layout::Single, &[redis.port]), &[1]).await, now());
    let token = store.begin(session("ann", now), now).await.unwrap();
    let ann = store.load(&token, now).await.unwrap().unwrap();
    redis.kill();
    until("the store is away", async || store.trouble().is_some()).await;
    for number in 0..MOST {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let other = LoadedSession::new(SessionKey(key), session("bob", now), now);
        let error = store.end(&other).await.unwrap_err();
        assert!(error.is_retried() && other.has_ended(), "{number}: {error}");
    }
    let error = store.end(&ann).await.unwrap_err();
    assert!(matches!(error, EndError::Unavailable(_)) && error.to_string().contains("not tried again"), "{error}");
    // Tokens that may be made up have room of their own.
    assert!(store.end_unseen(&token).await.is_err_and(|error| error.is_retried()));
    assert!(ann.has_ended() && store.hot(&token, now).is_none(), "for now it holds here");
}
