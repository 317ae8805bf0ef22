//! The dependency tree: from sources, through Flux objects, to what these applied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::held::{Held, Key};
use super::model::{InventoryEntry, Kind, Relation, Tree, TreeEdge, TreeNode};

/// The most objects in a tree.
const NODES_MOST: usize = 2000;

/// The tree of all objects, or of one object's ancestors and descendants.
///
/// It contains only what `shows` allows, and what that applied.
pub(super) fn tree(objects: &BTreeMap<Key, Held>, root: Option<&Key>, shows: impl Fn(&Key) -> bool) -> Tree {
    let graph = Graph::of(objects, shows);
    let shown = match root {
        Some(root) => graph.related(&id_of(root)),
        None => graph.first(),
    };
    let truncated = graph.truncated || (root.is_none() && shown.len() < graph.nodes.len()) || shown.len() >= NODES_MOST;
    let mut hidden: BTreeMap<String, u32> = BTreeMap::new();
    for (from, to, relation) in &graph.edges {
        if *relation == Relation::Applies && shown.contains(from) && !shown.contains(to) {
            *hidden.entry(from.clone()).or_default() += 1;
        }
    }
    let edges = graph.edges.iter().filter(|(from, to, _)| shown.contains(from) && shown.contains(to));
    let edges = edges.map(|(from, to, relation)| TreeEdge { from: from.clone(), to: to.clone(), relation: *relation });
    let edges = edges.collect();
    let nodes = graph.nodes.into_iter().filter(|(id, _)| shown.contains(id));
    let nodes =
        nodes.map(|(id, node)| TreeNode { hidden: hidden.get(&id).copied().unwrap_or_default(), ..node }).collect();
    Tree { nodes, edges, truncated }
}

struct Graph {
    nodes: BTreeMap<String, TreeNode>,
    edges: BTreeSet<(String, String, Relation)>,
    truncated: bool,
}

/// How many applied objects are considered for one tree.
const APPLIED_MOST: usize = 50_000;

impl Graph {
    fn of(objects: &BTreeMap<Key, Held>, shows: impl Fn(&Key) -> bool) -> Self {
        let mut graph = Self { nodes: BTreeMap::new(), edges: BTreeSet::new(), truncated: false };
        for (key, held) in objects.iter().filter(|(key, _)| shows(key)) {
            graph.nodes.insert(id_of(key), flux_node(key, held));
        }
        let mut applied = 0;
        for (key, held) in objects.iter().filter(|(key, _)| shows(key)) {
            let id = id_of(key);
            match (&held.source, &held.chart) {
                // Through the chart, if that is visible.
                (Some(source), Some(chart)) if graph.nodes.contains_key(&id_of(chart)) => {
                    graph.add_edge(id_of(chart), id.clone(), Relation::Chart);
                    graph.add_edge(id_of(source), id_of(chart), Relation::Source);
                }
                (Some(source), _) => graph.add_edge(id_of(source), id.clone(), Relation::Source),
                (None, _) => {}
            }
            for (namespace, name) in &held.depends_on {
                let other = (key.0, namespace.clone(), name.clone());
                graph.add_edge(id_of(&other), id.clone(), Relation::DependsOn);
            }
            for entry in held.applied() {
                applied += 1;
                if applied > APPLIED_MOST {
                    graph.truncated = true;
                    break;
                }
                let to = id_of_entry(&entry);
                if to != id {
                    graph.nodes.entry(to.clone()).or_insert_with(|| applied_node(to.clone(), entry));
                    graph.add_edge(id.clone(), to, Relation::Applies);
                }
            }
        }
        graph
    }

    fn add_edge(&mut self, from: String, to: String, relation: Relation) {
        if self.nodes.contains_key(&from) {
            self.edges.insert((from, to, relation));
        }
    }

    /// All nodes, or if these are too many, Flux objects only: what they applied is shown in their own trees.
    fn first(&self) -> BTreeSet<String> {
        let all = self.nodes.len() <= NODES_MOST;
        let shown = self.nodes.iter().filter(|(_, node)| all || node.flux);
        shown.take(NODES_MOST).map(|(id, _)| id.clone()).collect()
    }

    /// The ancestors and descendants of a node.
    fn related(&self, root: &str) -> BTreeSet<String> {
        let mut up: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut down: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (from, to, _) in &self.edges {
            up.entry(to).or_default().push(from);
            down.entry(from).or_default().push(to);
        }
        let mut shown = BTreeSet::from([root.to_owned()]);
        add_reachable(root, &up, &mut shown);
        add_reachable(root, &down, &mut shown);
        shown
    }
}

// Breadth first, so that a truncated tree leaves out what is far away. Cycles end at nodes that are already shown.
fn add_reachable(root: &str, ways: &BTreeMap<&str, Vec<&str>>, shown: &mut BTreeSet<String>) {
    let mut next = VecDeque::from([root]);
    let mut visited: BTreeSet<&str> = BTreeSet::from([root]);
    while let Some(id) = next.pop_front() {
        for other in ways.get(id).into_iter().flatten() {
            if shown.len() >= NODES_MOST {
                return;
            }
            if visited.insert(other) {
                shown.insert((*other).to_owned());
                next.push_back(other);
            }
        }
    }
}

fn flux_node(key: &Key, held: &Held) -> TreeNode {
    let (kind, namespace, name) = key;
    TreeNode {
        id: id_of(key),
        kind: kind.name().to_owned(),
        namespace: namespace.to_string(),
        name: name.to_string(),
        status: Some(held.status),
        message: held.message.to_string(),
        flux: true,
        hidden: 0,
    }
}

fn applied_node(id: String, entry: InventoryEntry) -> TreeNode {
    let InventoryEntry { kind, namespace, name, .. } = entry;
    TreeNode { id, kind, namespace, name, status: None, message: String::new(), flux: false, hidden: 0 }
}

fn id_of((kind, namespace, name): &Key) -> String {
    id(kind.group(), kind.name(), namespace, name)
}

fn id_of_entry(entry: &InventoryEntry) -> String {
    id(&entry.group, &entry.kind, &entry.namespace, &entry.name)
}

// Without the version: an object is the same in every version.
fn id(group: &str, kind: &str, namespace: &str, name: &str) -> String {
    format!("{group}/{kind}/{namespace}/{name}")
}

/// What an object names as its source, whether that is there or not.
pub(super) fn named_source(objects: &BTreeMap<Key, Held>, key: &Key) -> Option<Key> {
    let held = objects.get(key)?;
    held.chart.clone().or_else(|| held.source.clone()).filter(|source| source.0.is_reconciled_on_request())
}

/// The sources of an object that are reconciled on request, the farthest first: the order in which to reconcile them.
pub(super) fn sources(objects: &BTreeMap<Key, Held>, key: &Key) -> Vec<Key> {
    let Some(held) = objects.get(key) else { return Vec::new() };
    let known = |source: &Option<Key>| source.clone().filter(|source| objects.contains_key(source));
    let chart = known(&held.chart).or_else(|| known(&held.source).filter(|source| source.0 == Kind::HelmChart));
    let of_chart = chart.as_ref().and_then(|chart| objects.get(chart)).and_then(|chart| known(&chart.source));
    let mut sources: Vec<Key> = of_chart.or_else(|| known(&held.source)).into_iter().chain(chart).collect();
    sources.dedup();
    sources.retain(|source| source.0.is_reconciled_on_request());
    sources
}
