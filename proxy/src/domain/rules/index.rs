//! Compiled rules, so that a thousand cost as much as ten: hosts hashed, paths in a trie of segments.

use std::collections::HashMap;

use super::host::{HostName, HostPattern};
use super::pattern::{Glob, PathPattern, Piece, decode_what_must_be_encoded, fold};

/// Finds the first rule whose host and path match.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    every: PathIndex,
    one: HashMap<Box<str>, PathIndex>,
    below: HashMap<Box<str>, PathIndex>,
    /// The number of labels of the longest name in `below`: longer suffixes of a host are not looked up.
    deepest: usize,
    /// Whether some rule's path ignores case.
    folds: bool,
}

/// A path prepared for the index, once for each reading.
#[derive(Debug)]
pub(in crate::domain) struct PathText<'a> {
    cased: std::borrow::Cow<'a, str>,
    folded: Option<String>,
}

impl PathText<'_> {
    /// The path with its case, decoded where it must be encoded.
    pub(super) fn cased(&self) -> &str {
        &self.cased
    }
}

impl Index {
    /// Adds a rule; numbers increase. `path` comes with whether it ignores case; `None`: every path.
    pub(super) fn add(&mut self, number: u32, host: &HostPattern, path: Option<(&PathPattern, bool)>) {
        let of_host = match host {
            HostPattern::Every => &mut self.every,
            HostPattern::One(name) => self.one.entry(name.as_str().into()).or_default(),
            HostPattern::Below(domain) => {
                self.deepest = self.deepest.max(domain.split('.').count());
                self.below.entry(domain.as_str().into()).or_default()
            }
        };
        match path {
            None => of_host.anywhere.push(number),
            Some((pattern, true)) => {
                self.folds = true;
                of_host.folded.add(number, &pattern.pieces(true));
            }
            Some((pattern, false)) => of_host.cased.add(number, &pattern.pieces(false)),
        }
    }

    /// Prepares a path for [`Self::first`].
    #[must_use]
    pub(super) fn path<'a>(&self, reading: &'a str) -> PathText<'a> {
        let cased = decode_what_must_be_encoded(reading);
        let folded = self.folds.then(|| fold(&cased));
        PathText { cased, folded }
    }

    /// The first rule that matches the host and the path, among those that `fits` accepts.
    #[must_use]
    pub(super) fn first(&self, host: &HostName<'_>, path: &PathText<'_>, fits: &impl Fn(u32) -> bool) -> Option<u32> {
        let host = host.as_str();
        let mut best = self.every.first(path, None, fits);
        if let Some(paths) = self.one.get(host) {
            best = paths.first(path, best, fits);
        }
        if self.deepest > 0 {
            let dots = host.bytes().enumerate().rev().filter(|(_, b)| *b == b'.').map(|(at, _)| at);
            // A name that begins with a dot has no label before it.
            for at in dots.take(self.deepest).filter(|at| *at > 0) {
                let end = host.get(at + 1..).unwrap_or_default();
                if let Some(paths) = self.below.get(end) {
                    best = paths.first(path, best, fits);
                }
            }
        }
        best
    }
}

/// The rules for one host name.
#[derive(Clone, Debug, Default)]
struct PathIndex {
    /// The rules without a path.
    anywhere: Vec<u32>,
    cased: Trie,
    folded: Trie,
}

impl PathIndex {
    fn first(&self, path: &PathText<'_>, best: Option<u32>, fits: &impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = earliest(&self.anywhere, best, fits);
        if !self.cased.nodes.is_empty() {
            best = self.cased.first(&path.cased, best, fits);
        }
        if let (false, Some(folded)) = (self.folded.nodes.is_empty(), &path.folded) {
            best = self.folded.first(folded, best, fits);
        }
        best
    }
}

/// The earlier of `best` and the first of `numbers` that fits.
fn earliest(numbers: &[u32], best: Option<u32>, fits: &impl Fn(u32) -> bool) -> Option<u32> {
    let earlier = |number: &&u32| best.is_none_or(|best| **number < best);
    numbers.iter().take_while(earlier).find(|number| fits(**number)).copied().or(best)
}

/// Patterns by their pieces. The first node is the root; without patterns there are no nodes.
#[derive(Clone, Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    literals: HashMap<Box<str>, usize>,
    any: Option<usize>,
    globs: Vec<(Glob, usize)>,
    deep: Option<usize>,
    /// Whether it follows `**`, and so stays active for any segment.
    is_deep: bool,
    /// The rules whose patterns end here, in their order.
    ends: Vec<u32>,
    /// The first rule here or below.
    least: u32,
}

impl Node {
    fn new(is_deep: bool, least: u32) -> Self {
        Self { literals: HashMap::new(), any: None, globs: Vec::new(), deep: None, is_deep, ends: Vec::new(), least }
    }
}

impl Trie {
    fn add(&mut self, number: u32, pieces: &[Piece]) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::new(false, number));
        }
        let mut at = 0;
        for piece in pieces {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            let to = match piece {
                Piece::Literal(text) => *node.literals.entry(text.as_str().into()).or_insert(next),
                Piece::Any => *node.any.get_or_insert(next),
                Piece::Deep => *node.deep.get_or_insert(next),
                Piece::Glob(glob) => match node.globs.iter().find(|(known, _)| known == glob) {
                    Some((_, known)) => *known,
                    None => {
                        node.globs.push((glob.clone(), next));
                        next
                    }
                },
            };
            if to == next {
                self.nodes.push(Node::new(*piece == Piece::Deep, number));
            }
            at = to;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.ends.push(number);
        }
    }

    /// Walks all patterns at once, segment by segment.
    fn first(&self, path: &str, best: Option<u32>, fits: &impl Fn(u32) -> bool) -> Option<u32> {
        // The target `*` is not a path: only rules without one apply to it.
        let Some(inner) = path.strip_prefix('/') else { return best };
        let mut now = Places::default();
        let mut next = Places::default();
        self.enter(0, best, &mut now);
        for segment in inner.split('/') {
            next.clear();
            now.each(|at| self.step(at, segment, best, &mut next));
            std::mem::swap(&mut now, &mut next);
            if now.is_empty() {
                return best;
            }
        }
        let mut best = best;
        now.each(|at| {
            if let Some(node) = self.nodes.get(at) {
                best = earliest(&node.ends, best, fits);
            }
        });
        best
    }

    /// Advances from one node by one segment.
    fn step(&self, at: usize, segment: &str, best: Option<u32>, next: &mut Places) {
        let Some(node) = self.nodes.get(at) else { return };
        if node.is_deep {
            self.enter(at, best, next);
        }
        if let Some(to) = node.literals.get(segment) {
            self.enter(*to, best, next);
        }
        if let Some(to) = node.any {
            self.enter(to, best, next);
        }
        for (glob, to) in &node.globs {
            if glob.matches(segment) {
                self.enter(*to, best, next);
            }
        }
    }

    /// Enters a node, and the one after its `**`, which also matches no segment; skips nodes with only later rules than the best so far.
    fn enter(&self, at: usize, best: Option<u32>, places: &mut Places) {
        let Some(node) = self.nodes.get(at) else { return };
        if best.is_some_and(|best| best < node.least) {
            return;
        }
        // Only nodes that follow `**` can be reached in two ways.
        if !(node.is_deep && places.contains(at)) {
            places.push(at);
        }
        if let Some(deep) = node.deep.filter(|deep| !places.contains(*deep)) {
            places.push(deep);
        }
    }
}

/// Nodes, the first few of them without an allocation.
#[derive(Default)]
struct Places {
    few: [usize; 8],
    count: usize,
    more: Vec<usize>,
}

impl Places {
    fn push(&mut self, at: usize) {
        match self.few.get_mut(self.count) {
            Some(place) => *place = at,
            None => self.more.push(at),
        }
        self.count += 1;
    }

    fn contains(&self, at: usize) -> bool {
        self.few.iter().take(self.count).any(|place| *place == at) || self.more.contains(&at)
    }

    fn each(&self, visit: impl FnMut(usize)) {
        self.few.iter().take(self.count).chain(&self.more).copied().for_each(visit);
    }

    const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn clear(&mut self) {
        self.count = 0;
        self.more.clear();
    }
}
