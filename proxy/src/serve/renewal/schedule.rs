//! When a session is renewed: pure arithmetic on the provider's grant.

use std::time::Duration;

use crate::domain::grant::Grant;
use crate::domain::session::Session;
use crate::domain::time::Timestamp;

/// How long before its expiry an access token is renewed at least, if it lasts long enough.
const LEAD: Duration = Duration::from_secs(60);
/// The shortest time until a renewal, whatever lifetime the provider gives its tokens.
const SHORTEST: Duration = Duration::from_secs(1);
/// For a provider that does not say how long an access token lasts.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(900);
/// The first pause after a failure is at most this long, and at least [`SHORTEST`].
const PAUSE: Duration = Duration::from_secs(30);

/// When to ask the provider again about what it granted at `now`: with a refresh token shortly before the access token expires, else
/// every `recheck` (zero: never) while the access token lasts. `None`: never.
///
/// `between`: the access token alone reads the identity (GitHub's), so it is also used every `recheck` between its renewals.
/// `chance`, from 0 to 1, moves the time forward a little, so that sessions begun together are not renewed together.
pub(super) fn next(grant: &Grant, recheck: Duration, now: Timestamp, between: bool, chance: f64) -> Option<Timestamp> {
    let every = |interval: Duration| interval - (interval / 10).mul_f64(chance);
    match (&grant.refresh, grant.access_expires_at) {
        (Some(_), Some(expires_at)) => {
            let life = expires_at.since(now);
            let lead = (life / 10).max(LEAD).min(life / 2);
            let wait = life - lead - (lead / 2).mul_f64(chance);
            let wait = if between && !recheck.is_zero() { wait.min(every(recheck)) } else { wait };
            Some(now + wait.max(SHORTEST))
        }
        (Some(_), None) => Some(now + every(if recheck.is_zero() { UNKNOWN_LIFETIME } else { recheck })),
        (None, _) if recheck.is_zero() => None,
        (None, expires_at) => {
            Some(now + every(recheck).max(SHORTEST)).filter(|at| expires_at.is_none_or(|end| *at < end))
        }
    }
}

/// How long to pause a session's renewal after a first failure: several attempts must fit in before its access token expires.
pub(super) fn pause(session: &Session, grant: &Grant, recheck: Duration) -> Duration {
    let window = match (&grant.refresh, grant.access_expires_at, session.renew_at) {
        (Some(_), Some(expires_at), Some(due)) => expires_at.since(due) / 2,
        (Some(_) | None, _, _) => recheck / 10,
    };
    window.clamp(SHORTEST, PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::secret::Secret;

    const NOW: Timestamp = Timestamp::from_secs(1000);
    const QUARTER: Duration = Duration::from_secs(900);

    fn grant(refresh: bool, lasts: Option<u64>) -> Grant {
        Grant {
            access: Secret::new("a"),
            access_expires_at: lasts.map(|lasts| NOW + Duration::from_secs(lasts)),
            refresh: refresh.then(|| Secret::new("r")),
            id_token: None,
            supplied_by_userinfo: Vec::new(),
        }
    }

    fn after(refresh: bool, lasts: Option<u64>, recheck: Duration, chance: f64) -> Option<u64> {
        next(&grant(refresh, lasts), recheck, NOW, false, chance).map(|at| at.since(NOW).as_millis() as u64)
    }

    #[test]
    fn a_refresh_token_is_used_shortly_before_the_access_token_ends() {
        for (lasts, earliest, latest) in
            [(3600, 3060, 3240), (86_400, 73_440, 77_760), (300, 210, 240), (100, 25, 50), (10, 3, 5)]
        {
            assert_eq!(after(true, Some(lasts), QUARTER, 0.0), Some(latest * 1000), "{lasts}");
            let early = after(true, Some(lasts), QUARTER, 1.0).unwrap();
            assert!(early >= earliest * 1000 - 1000 && early < latest * 1000, "{lasts}: {early}");
        }
        for short in [0, 1, 2] {
            assert_eq!(after(true, Some(short), QUARTER, 0.9), Some(1000), "{short}");
        }
        assert_eq!(after(true, None, QUARTER, 0.0), Some(900_000));
        assert_eq!(after(true, None, Duration::ZERO, 0.0), Some(900_000));
    }

    #[test]
    fn githubs_access_token_reads_again_between_its_renewals() {
        let after =
            |lasts, recheck| next(&grant(true, Some(lasts)), recheck, NOW, true, 0.0).map(|at| at.since(NOW).as_secs());
        assert_eq!(after(8 * 3600, QUARTER), Some(900));
        assert_eq!(after(8 * 3600, Duration::ZERO), Some(8 * 3240));
        assert_eq!(after(100, QUARTER), Some(50));
    }

    #[test]
    fn without_one_the_access_token_reads_again_while_it_lasts() {
        assert_eq!(after(false, None, QUARTER, 0.0), Some(900_000));
        assert_eq!(after(false, None, QUARTER, 1.0), Some(810_000));
        assert_eq!(after(false, Some(3600), QUARTER, 0.0), Some(900_000));
        assert_eq!(after(false, Some(900), QUARTER, 0.0), None);
        assert_eq!(after(false, None, Duration::ZERO, 0.0), None, "off");
    }

    #[test]
    fn several_attempts_fit_in_before_the_access_token_ends() {
        let identity = crate::domain::identity::Identity {
            provider: crate::domain::identity::ProviderKind::Oidc,
            id: "1".into(),
            email: None,
            name: String::new(),
            username: crate::domain::identity::Username::Displayed(String::new()),
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        };
        let device = crate::domain::session::Device::new([127, 0, 0, 1].into(), "");
        let authority = crate::domain::session::Authority([0; 8]);
        let mut session = Session::begin(identity, authority, device, QUARTER, NOW);
        let mut paused = |refresh, lasts, due| {
            session.renew_at = Some(NOW + Duration::from_secs(due));
            pause(&session, &grant(refresh, lasts), QUARTER).as_secs()
        };
        assert_eq!(paused(true, Some(3600), 3240), 30);
        assert_eq!(paused(true, Some(40), 20), 10);
        assert_eq!(paused(true, Some(2), 1), 1);
        assert_eq!(paused(false, None, 900), 30);
    }
}
