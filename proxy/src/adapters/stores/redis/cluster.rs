//! The map of a cluster: which slots have replicas, and the addresses of its nodes.

use redis::Value;

use super::settings::Host;

/// The number of slots in a cluster (Redis Cluster Specification, "Key distribution model").
const SLOTS: u16 = 16384;

/// The result of `CLUSTER SLOTS`. It does not list failed nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterMap {
    ranges: Vec<Range>,
}

#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    /// Each node without an address is one that does not know its own.
    master: Option<Host>,
    replicas: Vec<Option<Host>>,
}

impl ClusterMap {
    /// Reads the reply; skips what it does not understand.
    pub(super) fn read(answer: Value) -> Self {
        let ranges = redis::from_redis_value::<Vec<Value>>(answer).unwrap_or_default();
        Self { ranges: ranges.into_iter().filter_map(range).collect() }
    }

    /// How many replicas the master with the slot of `key` has.
    pub(super) fn replicas(&self, key: &str) -> usize {
        let slot = slot(key.as_bytes());
        self.ranges
            .iter()
            .find(|range| (range.first..=range.last).contains(&slot))
            .map_or(0, |range| range.replicas.len())
    }

    /// All nodes, each once, masters first.
    pub(super) fn nodes(&self) -> Vec<Host> {
        let masters = self.ranges.iter().filter_map(|range| range.master.as_ref());
        let replicas = self.ranges.iter().flat_map(|range| range.replicas.iter().flatten());
        let mut nodes: Vec<Host> = Vec::new();
        for node in masters.chain(replicas) {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        nodes
    }

    /// The masters, each once.
    pub(super) fn masters(&self) -> Vec<Host> {
        let mut masters: Vec<Host> = Vec::new();
        for master in self.ranges.iter().filter_map(|range| range.master.as_ref()) {
            if !masters.contains(master) {
                masters.push(master.clone());
            }
        }
        masters
    }
}

fn range(value: Value) -> Option<Range> {
    let parts: Vec<Value> = redis::from_redis_value(value).ok()?;
    let mut parts = parts.into_iter();
    let first = redis::from_redis_value(parts.next()?).ok()?;
    let last = redis::from_redis_value(parts.next()?).ok()?;
    let mut nodes = parts.map(node);
    Some(Range { first, last, master: nodes.next()?, replicas: nodes.collect() })
}

/// A node; one that does not know its own address is listed without it.
fn node(value: Value) -> Option<Host> {
    let parts: Vec<Value> = redis::from_redis_value(value).ok()?;
    let mut parts = parts.into_iter();
    let name: Option<String> = redis::from_redis_value(parts.next()?).ok()?;
    let port = redis::from_redis_value(parts.next()?).ok()?;
    name.filter(|name| !name.is_empty()).map(|name| Host { name, port })
}

/// CRC-16/XMODEM of the text in the first pair of braces, or of the whole key.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|b| *b == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"a{foo}b"), 12182);
        assert_ne!(slot(b"a{}foo"), 12182);
    }

    #[test]
    fn a_map_lists_nodes_and_replicas() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |port| Value::Array(vec![text("10.0.0.1"), Value::Int(port), text("id")]);
        let answer = Value::Array(vec![
            Value::Array(vec![Value::Int(0), Value::Int(9999), node(1), node(2)]),
            Value::Array(vec![Value::Int(10000), Value::Int(16383), node(3)]),
            Value::Int(7),
        ]);
        let map = ClusterMap::read(answer);
        let ports: Vec<u16> = map.nodes().iter().map(|host| host.port).collect();
        assert_eq!(ports, [1, 3, 2]);
        assert_eq!(map.replicas("foo"), 0, "slot 12182");
        assert_eq!(map.replicas("123456"), 1, "slot {}", slot(b"123456"));
        assert_eq!(map.masters().len(), 2);
    }

    #[test]
    fn a_replica_is_no_master_where_the_master_does_not_know_its_address() {
        let node = |name, port| Value::Array(vec![name, Value::Int(port)]);
        let named = Value::BulkString(b"10.0.0.1".to_vec());
        let range = vec![Value::Int(0), Value::Int(16383), node(Value::Nil, 1), node(named, 2)];
        let map = ClusterMap::read(Value::Array(vec![Value::Array(range)]));
        assert!(map.masters().is_empty());
        assert_eq!((map.nodes().len(), map.replicas("foo")), (1, 1), "it is waited for all the same");
    }
}
