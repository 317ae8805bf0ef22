//! Fuzz targets for Redis: any reply or message is parsed or ignored.

use redis::Value;

use super::cluster::ClusterMap;
use super::names;
use super::sentinel::Replication;
use crate::adapters::stores::record;

/// The bytes as a reply in Redis's protocol, and as the value of a session's key.
pub(crate) fn redis_replies(bytes: &[u8]) {
    if let Ok(answer) = redis::parse_redis_value(bytes) {
        let map = ClusterMap::read(answer.clone());
        assert!(map.masters().len() <= map.nodes().len());
        let _ = map.replicas("sidegate:{session}");
        let _ = Replication::of(answer.clone());
        if let Value::BulkString(held) = &answer {
            session(held);
        }
    }
    session(bytes);
    if let Some(key) = std::str::from_utf8(bytes).ok().and_then(names::read) {
        assert_eq!(bytes.len(), 64);
        assert!(names::hex(&key.0).eq_ignore_ascii_case(&String::from_utf8_lossy(bytes)));
    }
}

fn session(held: &[u8]) {
    if let Ok(session) = record::unpack(held) {
        let again = record::unpack(&record::pack(&session));
        assert!(
            again.is_ok_and(|again| again.identity == session.identity),
            "a session that was read cannot be written"
        );
    }
}
