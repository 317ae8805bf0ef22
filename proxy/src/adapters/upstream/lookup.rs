//! Looks names up repeatedly, so that requests follow a change although warm connections to the old address would last: a name with several
//! addresses (a headless Service, say) counts as that many backends.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use super::backends::{Backends, Entry};
use super::{BoxError, Restart};

/// How often a name is looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);

impl<B> Backends<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts the look-ups that are due.
    pub(super) fn look_up_names(self: &Arc<Self>) {
        let now = Instant::now();
        for (place, entry) in self.entries.iter().enumerate() {
            let mut due = entry.lookup_due.lock().unwrap_or_else(PoisonError::into_inner);
            if due.is_none_or(|due| due > now) {
                continue;
            }
            *due = None;
            drop(due);
            let pool = Arc::clone(self);
            tokio::spawn(async move { pool.look_up(place).await });
        }
    }

    async fn look_up(&self, place: usize) {
        let Some(entry) = self.entries.get(place) else { return };
        if let Some((host, port)) = entry.settings.address.host_and_port() {
            match tokio::net::lookup_host((host, port)).await {
                Ok(found) => self.replace_backends(entry, &groups(found.map(|address| address.ip().to_canonical()))),
                // Keep the known addresses: an unavailable name server is no reason to drop working ones.
                Err(error) => tracing::debug!(upstream = self.settings.name, "{host} cannot be looked up: {error}"),
            }
        }
        *entry.lookup_due.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + LOOK_UP_EVERY);
    }

    /// Replaces the entry's backends by one for each of these groups.
    fn replace_backends(&self, entry: &Entry, groups: &[Vec<IpAddr>]) {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all.load_full();
        let (old, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|backend| backend.is_of(entry));
        let same = old.len() == groups.len() && old.iter().all(|backend| groups.contains(&backend.addresses));
        if groups.is_empty() || same {
            return;
        }
        let mut next = others;
        for group in groups {
            match old.iter().find(|backend| backend.addresses == *group) {
                Some(known) => next.push(Arc::clone(known)),
                None => match self.backend_of(entry, group.clone()) {
                    Ok(new) => next.push(Arc::new(new)),
                    Err(why) => {
                        tracing::warn!(upstream = self.settings.name, "{why}");
                        return;
                    }
                },
            }
        }
        let name = entry.settings.address.origin();
        tracing::info!(upstream = self.settings.name, backends = groups.len(), "{name} has other addresses now");
        self.all.store(Arc::new(next));
    }
}

/// Groups a name's addresses into backends. A single address of each family are two ways to one server; otherwise each address of the
/// larger family is a server.
fn groups(found: impl Iterator<Item = IpAddr>) -> Vec<Vec<IpAddr>> {
    let mut all: Vec<IpAddr> = Vec::new();
    for address in found {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = all.iter().copied().partition(IpAddr::is_ipv4);
    let mut alone = match (four.len(), six.len()) {
        (1, 1) => {
            all.sort_unstable();
            return vec![all];
        }
        (four_count, six_count) if four_count >= six_count => four,
        _ => six,
    };
    alone.sort_unstable();
    alone.into_iter().map(|address| vec![address]).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;
    use crate::adapters::upstream::{PoolSettings, Trust, UpstreamAddress, UpstreamSettings};

    impl Restart for Full<Bytes> {
        fn restart(self, _: Vec<Bytes>) -> Self {
            self
        }
    }

    #[test]
    fn each_address_of_a_family_is_a_backend_and_one_of_each_are_one() {
        let of = |texts: &[&str]| {
            let groups = groups(texts.iter().map(|text| text.parse().unwrap()));
            groups
                .iter()
                .map(|group| group.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), Vec::<String>::new());
        assert_eq!(of(&["10.0.0.1"]), ["10.0.0.1"]);
        assert_eq!(of(&["::1", "127.0.0.1"]), ["127.0.0.1+::1"]);
        assert_eq!(of(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(of(&["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(of(&["fd00::1", "10.0.0.1", "fd00::2"]), ["fd00::1", "fd00::2"]);
    }

    #[test]
    fn a_name_that_changes_keeps_the_backends_that_it_still_has() {
        let address = UpstreamAddress::Http { host: "app.example".into(), port: 80 };
        let (roots, connect_timeout, trust) = (Vec::new(), Duration::from_secs(1), Trust::default());
        let url = UpstreamSettings { address, roots, connect_timeout, trust };
        let settings = PoolSettings { name: "app".into(), urls: vec![url], health: None };
        let pool: Backends<Full<Bytes>> = Backends::new(&settings, None, Gauge::default()).unwrap();
        let origins = || {
            let all = pool.all.load();
            all.iter().map(|backend| backend.origin().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(origins(), ["http://app.example"], "nothing was looked up yet");
        let replace_backends = |texts: &[&str]| {
            pool.replace_backends(&pool.entries[0], &groups(texts.iter().map(|text| text.parse().unwrap())));
        };
        replace_backends(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(origins(), ["http://10.0.0.1", "http://10.0.0.2"]);
        let second = Arc::clone(&pool.all.load()[1]);
        assert_eq!(second.authority(), "app.example", "its name stays its own");
        replace_backends(&["10.0.0.2", "10.0.0.3"]);
        assert_eq!(origins(), ["http://10.0.0.2", "http://10.0.0.3"]);
        assert!(Arc::ptr_eq(&second, &pool.all.load()[0]));
        replace_backends(&[]);
        assert_eq!(origins().len(), 2, "a name without addresses changes nothing");
        // Each is picked in turn while none is busy, and one that was tried is not picked again.
        let (one, other) = (pool.pick(&[]).unwrap(), pool.pick(&[]).unwrap());
        assert!(!Arc::ptr_eq(&one, &other));
        assert!(pool.pick(&[Arc::clone(&one), Arc::clone(&other)]).is_none());
        one.failed("it is gone");
        for _ in 0..4 {
            assert!(Arc::ptr_eq(&pool.pick(&[]).unwrap(), &other), "one that rests is the last");
        }
        assert!(Arc::ptr_eq(&pool.pick(&[other]).unwrap(), &one));
    }
}
