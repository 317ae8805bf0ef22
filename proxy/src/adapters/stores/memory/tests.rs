//! Sessions begin, are used, make way and end, also while requests and renewals race.

use super::*;
use crate::domain::grant::SealedGrant;
use crate::domain::identity::{Identity, ProviderKind, Username};
use crate::domain::session::{Authority, Device};
use crate::ports::LEASE;

const HOUR: Duration = Duration::from_secs(3600);
const MEMORY: u64 = 128 * 1024 * 1024;
const US: Authority = Authority([1; 8]);

fn session(now: Timestamp) -> Session {
    let identity = Identity {
        provider: ProviderKind::Github,
        id: "1".into(),
        email: None,
        name: "Ann".into(),
        username: Username::Vouched("ann".into()),
        groups: Vec::new(),
        claims: crate::domain::claims::Claims::default(),
    };
    Session::begin(identity, US, Device::new([192, 0, 2, 1].into(), "Firefox"), HOUR, now)
}

#[tokio::test]
async fn a_session_is_there_until_it_expires_or_is_ended() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    let one = store.begin(session(now), now).await.unwrap();
    let two = store.begin(session(now), now).await.unwrap();
    assert!(store.hot(&one, now + HOUR.saturating_sub(Duration::from_secs(1))).is_some());
    assert!(store.hot(&one, now + HOUR).is_none());
    store.end_unseen(&two).await.unwrap();
    assert!(store.load(&two, now).await.unwrap().is_none());
    assert!(store.hot(&SessionToken::from_random([3; 32]), now).is_none());
}

#[tokio::test]
async fn use_keeps_a_session_from_going_idle() {
    let (store, now) = (MemoryStore::new(Duration::from_secs(60), MEMORY), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    assert!(store.hot(&token, Timestamp::from_secs(1059)).is_some());
    assert!(store.hot(&token, Timestamp::from_secs(1118)).is_some());
    assert!(store.hot(&token, Timestamp::from_secs(1178)).is_none());
    assert!(store.hot(&token, Timestamp::from_secs(1119)).is_none(), "ended is ended");
}

fn session_of(id: &str, now: Timestamp) -> Session {
    let mut session = session(now);
    session.identity.id = id.into();
    session
}

#[tokio::test]
async fn one_persons_sign_ins_end_their_own_sessions_and_nobody_elses() {
    for bytes in [1 << 20, 64 << 20] {
        let mut now = Timestamp::from_secs(1000);
        let store = MemoryStore::new(Duration::ZERO, bytes);
        let mut others = Vec::new();
        for number in 0..300 {
            others.push(store.begin(session_of(&format!("other{number}"), now), now).await.unwrap());
        }
        let (mut own, mut used) = (Vec::new(), None);
        for number in 0..4000 {
            // A use is recorded to the second: sessions used within the same second may be in any order.
            now = now + Duration::from_millis(20);
            own.push(store.begin(session_of("loud", now), now).await.unwrap());
            if number == 0 {
                used = own.first().cloned();
            }
            assert!(store.hot(used.as_ref().unwrap(), now).is_some(), "the one in use stays");
        }
        for other in &others {
            assert!(store.hot(other, now).is_some(), "somebody else's session was ended");
        }
        let left = own.iter().filter(|token| store.hot(token, now).is_some()).count();
        assert!(left <= SESSIONS_OF_ONE && left > 50, "{left}");
        assert!(store.hot(own.last().unwrap(), now).is_some(), "the latest is there");
        assert!(store.hot(&own[1], now).is_none(), "their longest unused went");
    }
}

#[tokio::test]
async fn a_full_store_lets_the_longest_unused_go() {
    let mut now = Timestamp::from_secs(1000);
    let store = MemoryStore::new(Duration::ZERO, 1 << 20);
    let first = store.begin(session(now), now).await.unwrap();
    let second = store.begin(session(now), now).await.unwrap();
    let held = store.hot(&second, now).unwrap();
    for number in 0..8000 {
        now = now + Duration::from_millis(200);
        let latest = store.begin(session_of(&number.to_string(), now), now).await.unwrap();
        assert!(store.hot(&first, now).is_some(), "the one in use stays");
        assert!(store.hot(&latest, now).is_some(), "a new sign-in is never refused");
    }
    assert!(store.hot(&second, now).is_none());
    assert!(store.follow(&held, true, now).await.unwrap().is_none(), "whoever holds it is told");
    assert_eq!(store.held() + store.evicted(), 8002);
    assert!(store.evicted() > 1000 && store.held() > 1000, "{} and {}", store.evicted(), store.held());
    let record = record::pack(&session(now)).len() as u64;
    assert!(store.held() * (record + table::BESIDE as u64) <= 1 << 20);
}

#[tokio::test]
async fn as_many_are_ready_as_there_is_room_for_and_those_in_use_stay_ready() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, 1 << 20), Timestamp::from_secs(1000));
    let mut tokens = Vec::new();
    for number in 0..1500 {
        tokens.push(store.begin(session_of(&number.to_string(), now), now).await.unwrap());
    }
    let is_ready = |token: &SessionToken| {
        let key = store.key(token);
        store.table(key).get(key).is_some_and(|kept| kept.ready.is_some())
    };
    let (busy, others) = tokens.split_at(50);
    for token in busy {
        assert!(store.hot(token, now).is_some());
    }
    for token in others {
        assert!(store.hot(token, now).is_some() && is_ready(token));
        for token in busy {
            assert!(is_ready(token), "it is in use");
            store.hot(token, now);
        }
        assert!(store.table(store.key(token)).all_bytes() <= 1 << 20);
    }
    let ready = tokens.iter().filter(|token| is_ready(token)).count();
    assert!(ready > 1 << 7, "the quarter alone holds fewer than {ready}");
    assert_eq!(store.held(), 1500, "nothing ends for it");
}

#[tokio::test]
async fn where_more_are_in_use_than_can_be_held_ready_those_held_stay_until_they_are_idle() {
    let (store, begun) = (MemoryStore::new(Duration::ZERO, 1 << 20), Timestamp::from_secs(1000));
    let mut tokens = Vec::new();
    for number in 0..1000 {
        let token = store.begin(session_of(&number.to_string(), begun), begun).await.unwrap();
        store.hot(&token, begun).unwrap().was_signed(7, begun);
        tokens.push(token);
    }
    let are_ready = |tokens: &[SessionToken]| -> Vec<bool> {
        let table = store.table(store.key(&tokens[0]));
        tokens.iter().map(|token| table.get(store.key(token)).unwrap().ready.is_some()).collect()
    };
    let mut held = Vec::new();
    for second in 3..8 {
        let now = begun + Duration::from_secs(second);
        for token in &tokens {
            let session = store.hot(token, now).unwrap();
            assert_eq!(session.signed().unwrap().signature, [9; 64], "nothing is signed anew for it");
            assert!(store.table(store.key(token)).all_bytes() <= 1 << 20);
        }
        held.push(are_ready(&tokens));
    }
    let number = |held: &[bool]| held.iter().filter(|is_ready| **is_ready).count();
    assert!(number(&held[4]) > 200 && number(&held[4]) < 500, "{} are ready", number(&held[4]));
    assert_eq!(held[3], held[4]);
    // One whose signature counts no more is held, so that the new one is kept: after the clock was set back, or after a reload.
    let now = begun + Duration::from_secs(8);
    let mut unheld = tokens.iter().zip(&held[4]).filter(|(_, is_ready)| !**is_ready).map(|(token, _)| token.clone());
    let early = unheld.next().unwrap();
    store.hot(&early, Timestamp::from_secs(500)).unwrap();
    let outdated = unheld.next().unwrap();
    let renewed = tokens.iter().zip(&held[4]).filter(|(_, is_ready)| **is_ready);
    for (token, _) in renewed {
        store.hot(token, now).unwrap().was_signed(8, now);
    }
    store.hot(&outdated, now).unwrap();
    assert_eq!(are_ready(&[early, outdated]), [true, true]);
    // Who comes while the others are idle takes their room, after one request for itself alone.
    let mut comers: Vec<_> = tokens.into_iter().zip(&held[4]).filter(|(_, is_ready)| !**is_ready).collect();
    comers.truncate(200);
    let comers: Vec<_> = comers.into_iter().map(|(token, _)| token).collect();
    for second in [20, 21] {
        for token in &comers {
            store.hot(token, begun + Duration::from_secs(second)).unwrap();
        }
    }
    assert!(number(&are_ready(&comers)) > 190, "{} of {}", number(&are_ready(&comers)), comers.len());
}

#[tokio::test]
async fn kept_signatures_count_as_memory_too() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, 1 << 20), Timestamp::from_secs(1000));
    for number in 0..4500 {
        let token = store.begin(session_of(&number.to_string(), now), now).await.unwrap();
        store.hot(&token, now).unwrap().was_signed(7, now);
        assert!(store.all_looked_at().all(|table| table.all_bytes() <= 1 << 20), "after {number}");
    }
    assert!(store.evicted() > 0, "so many do not fit");
}

#[tokio::test]
async fn a_session_that_is_made_ready_again_knows_what_was_signed_for_it() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    let key = store.key(&token);
    store.hot(&token, now).unwrap().was_signed(7, now);
    for _ in 0..2 {
        store.table(key).forget_ready(key);
        assert_eq!(store.hot(&token, now).unwrap().signed().unwrap().signature, [9; 64]);
    }
    let Claim::Granted(lease) = store.claim(key, now).await.unwrap() else { panic!("nobody has it") };
    assert!(store.renew(&lease, session(now), now).await.unwrap());
    assert!(store.hot(&token, now).unwrap().signed().is_none(), "a renewed one is signed for anew");
}

#[tokio::test]
async fn what_is_not_ready_any_more_still_counts_with_its_last_use() {
    let idle = Duration::from_secs(600);
    let (store, now) = (MemoryStore::new(idle, 1 << 20), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    let key = store.key(&token);
    let used = now + Duration::from_secs(300);
    assert!(store.hot(&token, used).is_some());
    store.table(key).forget_ready(key);
    let before = used + idle.saturating_sub(Duration::from_secs(1));
    assert_eq!(store.hot(&token, before).unwrap().last_seen(), before);
    store.table(key).forget_ready(key);
    assert!(store.hot(&token, before + idle).is_none());
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn a_sweep_does_not_end_what_was_used_since_the_table_recorded_it() {
    let idle = Duration::from_secs(600);
    let (store, now) = (MemoryStore::new(idle, MEMORY), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    // Within the minute: the table is not updated.
    assert!(store.hot(&token, now + Duration::from_secs(50)).is_some());
    store.sweep(now + Duration::from_secs(610));
    assert_eq!(store.held(), 1);
    store.sweep(now + Duration::from_secs(650));
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn a_renewal_takes_the_new_identity_and_never_a_later_end() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    let Claim::Granted(lease) = store.claim(store.key(&token), now).await.unwrap() else { panic!("nobody has it") };
    let late = Session { expires_at: now + HOUR + HOUR, provider_session: Some("sid".into()), ..session(now) };
    assert!(store.renew(&lease, late, now).await.unwrap());
    for _ in 0..2 {
        let renewed = store.hot(&token, now).unwrap();
        assert_eq!(renewed.session().expires_at, now + HOUR);
        assert_eq!(renewed.session().provider_session.as_deref(), Some("sid"));
        store.table(store.key(&token)).forget_ready(store.key(&token));
    }
    let selector = SessionSelector::ProviderSession { authority: US, sid: "sid" };
    assert_eq!(store.of(selector, now).await.unwrap().len(), 1);
    assert!(store.hot(&token, now + HOUR).is_none());
    assert!(store.of(selector, now).await.unwrap().is_empty());
}

#[test]
fn an_ended_session_never_comes_back_however_requests_and_renewals_race_with_its_end() {
    let (store, now) = (MemoryStore::new(Duration::from_secs(60), 1 << 20), Timestamp::from_secs(1000));
    for round in 0..200 {
        let token = at_once(store.begin(session(now), now)).unwrap();
        let key = store.key(&token);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0..50 {
                        store.hot(&token, now + Duration::from_secs(n));
                        store.table(key).forget_ready(key);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20 {
                    if let Ok(Claim::Granted(lease)) = at_once(store.claim(key, now)) {
                        let renewed = Session { renew_at: Some(now), ..session(now) };
                        at_once(store.renew(&lease, renewed, now)).unwrap();
                    }
                }
            });
            scope.spawn(|| at_once(store.end_unseen(&token)).unwrap());
        });
        assert!(store.hot(&token, now).is_none(), "round {round}");
        assert!(store.table(key).get(key).is_none() && matches!(at_once(store.claim(key, now)), Ok(Claim::Ended)));
    }
}

/// The result of a call to a store in memory, which is always ready.
fn at_once<T>(mut pending: Pending<'_, T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match pending.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[tokio::test]
async fn what_expired_is_swept() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    store.begin(session(now), now).await.unwrap();
    store.sweep(now);
    assert_eq!(store.held(), 1);
    store.sweep(now + HOUR);
    store.sweep(now + HOUR);
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn one_renews_at_a_time_and_an_ended_session_stays_ended() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    let key = store.key(&token);
    let Claim::Granted(lease) = store.claim(key, now).await.unwrap() else { panic!("nobody has it") };
    assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Taken));
    let renewed = Session { renew_at: Some(now + HOUR), ..session(now) };
    assert!(store.renew(&lease, renewed.clone(), now).await.unwrap());
    assert_eq!(store.hot(&token, now).unwrap().session().renew_at, Some(now + HOUR));
    let Claim::Granted(late) = store.claim(key, now).await.unwrap() else { panic!("it was given back") };
    assert!(!store.renew(&lease, renewed.clone(), now).await.unwrap(), "a lease counts once");
    store.end(&late.session).await.unwrap();
    assert!(!store.renew(&late, renewed, now).await.unwrap());
    assert!(store.hot(&token, now).is_none());
    assert!(matches!(store.claim(key, now).await.unwrap(), Claim::Ended));
}

/// The lease to renew a session that nobody else renews.
async fn claimed(store: &MemoryStore, key: SessionKey, now: Timestamp) -> Lease {
    let Claim::Granted(lease) = store.claim(key, now).await.unwrap() else { panic!("nobody has it") };
    lease
}

#[tokio::test]
async fn a_renewal_whose_lease_was_lost_is_kept_unless_another_has_renewed_or_is_at_it() {
    let (store, mut now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    let begun = Session { grant: Some(SealedGrant(Box::new([0_u8]))), ..session(now) };
    let renewed = |grant: u8| Session { grant: Some(SealedGrant(Box::new([grant]))), ..begun.clone() };
    let token = store.begin(begun.clone(), now).await.unwrap();
    let key = store.key(&token);

    let lease = claimed(&store, key, now).await;
    now = now + LEASE;
    store.sweep(now);
    assert!(store.renew(&lease, renewed(1), now).await.unwrap(), "the provider has changed its tokens already");
    assert_eq!(store.hot(&token, now).unwrap().session(), &renewed(1));
    assert!(!store.renew(&lease, renewed(2), now).await.unwrap(), "a lease counts once");

    let lost = claimed(&store, key, now).await;
    now = now + LEASE;
    store.sweep(now);
    let other = claimed(&store, key, now).await;
    assert!(!store.renew(&lost, renewed(2), now).await.unwrap(), "another is at it");
    assert!(store.renew(&other, renewed(3), now).await.unwrap());
    assert!(!store.renew(&lost, renewed(2), now).await.unwrap(), "another has renewed it");
    assert_eq!(store.hot(&token, now).unwrap().session(), &renewed(3));

    let lost = claimed(&store, key, now).await;
    store.sweep(now + LEASE);
    store.end_unseen(&token).await.unwrap();
    assert!(!store.renew(&lost, renewed(4), now + LEASE).await.unwrap(), "a logout stays a logout");
    assert!(store.hot(&token, now + LEASE).is_none());
}

#[tokio::test]
async fn a_holder_follows_a_session_through_a_renewal_to_its_end_and_does_not_keep_it_from_going_idle() {
    let (store, now) = (MemoryStore::new(Duration::from_secs(60), MEMORY), Timestamp::from_secs(1000));
    let token = store.begin(session(now), now).await.unwrap();
    let held = store.hot(&token, now).unwrap();
    let Claim::Granted(lease) = store.claim(held.key(), now).await.unwrap() else { panic!("nobody has it") };
    let renewed = Session { renew_at: Some(now + HOUR), ..session(now) };
    assert!(store.renew(&lease, renewed, now).await.unwrap());
    let later = Timestamp::from_secs(1050);
    let followed = store.follow(&held, false, later).await.unwrap().unwrap();
    assert_eq!(followed.session().renew_at, Some(now + HOUR));
    assert!(store.follow(&held, false, Timestamp::from_secs(1059)).await.unwrap().is_some());
    assert!(store.follow(&held, true, Timestamp::from_secs(1059)).await.unwrap().is_some());
    assert!(store.follow(&held, false, Timestamp::from_secs(1118)).await.unwrap().is_some(), "that was a use");
    assert!(store.follow(&held, false, Timestamp::from_secs(1119)).await.unwrap().is_none());
    let token = store.begin(session(now), now).await.unwrap();
    let held = store.hot(&token, now).unwrap();
    store.end(&held).await.unwrap();
    assert!(store.follow(&held, true, now).await.unwrap().is_none());
}

#[tokio::test]
async fn a_persons_sessions_are_found() {
    let (store, now) = (MemoryStore::new(Duration::ZERO, MEMORY), Timestamp::from_secs(1000));
    store.begin(session(now), now).await.unwrap();
    store.begin(session(now + HOUR), now + HOUR).await.unwrap();
    let of = |id| store.of(SessionSelector::Person { authority: US, id }, now);
    let found = of("1").await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].session().created_at, now + HOUR, "the newest first");
    assert!(of("2").await.unwrap().is_empty());
}
