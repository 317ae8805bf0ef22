//! What is fuzzed: each target takes any bytes, and panics where what must always hold does not. `fuzz/` runs them under libFuzzer;
//! the property test below runs them with the rest of the tests, from the same seeds.

use url::Url;

use crate::adapters::providers::fuzzing as providers;
use crate::adapters::seal::Sealer;
use crate::adapters::stores::redis::fuzzing as stores;
use crate::adapters::upstream::fuzzing as upstream;
use crate::domain::path::ReturnTo;
use crate::domain::paths::AUTH_PREFIX;
use crate::domain::readings::Readings;
use crate::serve::fuzzing as serve;

/// A target: the name of its program and of its seeds, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 10] = [
    ("answers", upstream::answers),
    ("chunks", upstream::chunks),
    ("forwarded", serve::forwarded),
    ("paths", paths),
    ("return_to", return_to),
    ("cookies", serve::cookies),
    ("seals", seals),
    ("tokens", providers::tokens),
    ("provider_answers", providers::provider_answers),
    ("redis_replies", stores::redis_replies),
];

/// Runs the target of this name, if there is one.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(bytes);
    }
}

fn paths(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = format!("/{}", text.trim_start_matches('/'));
    for raw in [text, path.as_str()] {
        let Ok(readings) = Readings::of(raw) else { continue };
        let all: Vec<&str> = readings.iter().collect();
        assert!(all.first() == Some(&raw) && all.len() <= 64, "{raw:?} has {} readings", all.len());
        assert!(all.iter().enumerate().all(|(at, one)| !all.iter().skip(at + 1).any(|other| one == other)), "{raw:?}");
        if raw.starts_with('/') {
            assert!(all.iter().all(|reading| reading.starts_with('/')), "{raw:?} has a reading that is no path");
        }
        // What every public rule may open is read at the same depth by every server.
        if readings.may_be_opened() {
            let odd = |reading: &&str| {
                reading.contains("/../") || reading.contains("//") || reading.contains(['\\', ';', '\0'])
            };
            assert!(!all.iter().any(odd), "{raw:?} may be opened");
        }
        assert!(!readings.is_plain() || readings.may_be_opened());
    }
}

fn return_to(bytes: &[u8]) {
    let (Ok(rd), Ok(origin)) = (std::str::from_utf8(bytes), Url::parse("https://app.example.com/")) else { return };
    let place = ReturnTo::parse(rd, &origin);
    let text = place.as_str();
    assert!(
        text.starts_with('/') && text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic()),
        "{rd:?} is {text:?}"
    );
    // Where a browser goes: a backslash or a second slash would name another host.
    let there = origin.join(text);
    assert!(there.as_ref().is_ok_and(|there| there.origin() == origin.origin()), "{rd:?} leads away");
    let path = text.split(['?', '#']).next().unwrap_or_default();
    assert!(
        Readings::of(path).is_ok_and(|path| !path.may_be_below(AUTH_PREFIX)),
        "{rd:?} leads to one of our endpoints"
    );
    assert_eq!(ReturnTo::parse(text, &origin), place, "{rd:?} is another place the second time");
}

fn seals(bytes: &[u8]) {
    static SEALER: std::sync::LazyLock<Option<Sealer>> =
        std::sync::LazyLock::new(|| Sealer::new(&[[7_u8; 32]], "fuzz").ok());
    let Some(sealer) = SEALER.as_ref() else { return };
    let text = String::from_utf8_lossy(bytes);
    let opened = sealer.open(b"context", &text).is_some() || sealer.open_bytes(b"context", bytes).is_some();
    assert!(!opened, "what we did not seal was opened");
    let Ok(mut sealed) = sealer.seal_bytes(b"context", bytes) else { return };
    assert!(
        sealer.open_bytes(b"context", &sealed).is_some_and(|opened| *opened == bytes),
        "what was sealed does not open"
    );
    assert!(sealer.open_bytes(b"another", &sealed).is_none(), "it opens where it does not belong");
    let at = bytes.iter().fold(0, |sum: usize, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b))) % sealed.len();
    if let Some(byte) = sealed.get_mut(at) {
        *byte ^= 1;
    }
    assert!(sealer.open_bytes(b"context", &sealed).is_none(), "it opens with a byte changed");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::TARGETS;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    /// One change of the bytes: what libFuzzer does, without its knowledge of the code.
    fn change(bytes: &mut Vec<u8>, (kind, at, more): &(u8, usize, Vec<u8>)) {
        let at = at % (bytes.len() + 1);
        let end = (at + more.len()).min(bytes.len());
        match kind % 4 {
            0 => drop(bytes.splice(at..end, more.iter().copied())),
            1 => drop(bytes.splice(at..at, more.iter().copied())),
            2 => drop(bytes.drain(at..end)),
            _ => bytes.extend_from_within(at..end),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn no_bytes_break_what_must_always_hold(
            seed in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<u8>(), any::<usize>(), prop::collection::vec(any::<u8>(), 1..6)), 0..5),
            noise in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            for (name, target) in TARGETS {
                let seeds = seeds(name);
                let mut bytes = seeds[seed.index(seeds.len())].clone();
                for one in &changes {
                    change(&mut bytes, one);
                }
                target(&bytes);
                target(&noise);
            }
        }
    }

    #[test]
    fn every_seed_is_taken() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name} has no seeds");
            seeds.iter().for_each(|seed| target(seed));
        }
    }
}
