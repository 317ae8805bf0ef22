//! Atomic operations in Redis. Each script declares its keys, so that a cluster runs it on the node that has them.

use redis::Cmd;

use super::ticket::Ticket;

/// Stores a session: `v` is its sealed value, `s` its last use. ARGV: value, last use, when the key expires.
const KEEP: &str = "redis.call('HSET',KEYS[1],'v',ARGV[1],'s',ARGV[2]) return redis.call('PEXPIREAT',KEYS[1],ARGV[3])";

/// Lists a session until it expires, and removes expired ones. ARGV: its key, its end, now.
const LIST: &str = "redis.call('ZREMRANGEBYSCORE',KEYS[1],'-inf',ARGV[3]) \
redis.call('ZADD',KEYS[1],ARGV[2],ARGV[1]) \
local last=redis.call('ZRANGE',KEYS[1],-1,-1,'WITHSCORES') \
return redis.call('PEXPIREAT',KEYS[1],string.format('%.0f',last[2]))";

/// Notes a later use. ARGV: last use, when the key then expires. Returns 0 if there is no such session.
const SEE: &str = "local s=redis.call('HGET',KEYS[1],'s') if not s then return 0 end \
if tonumber(ARGV[1])>tonumber(s) then redis.call('HSET',KEYS[1],'s',ARGV[1]) \
redis.call('PEXPIREAT',KEYS[1],ARGV[2]) end return 1";

/// Ends a session and announces it. It writes to the lease, whether there is a session or not: from Redis 7.2 on, and in Valkey, `WAIT`
/// confirms at once to a client whose own commands changed nothing, also where an earlier end of the same session is on no replica yet. ARGV: channel, message.
const END: &str = "redis.call('UNLINK',KEYS[1]) redis.call('SET',KEYS[2],'','PX',1000) \
redis.call('PUBLISH',ARGV[1],ARGV[2]) return 1";

/// Takes the lease to renew. ARGV: its number, its milliseconds. Returns {0}: ended; {1}: the lease is taken; {2, value, seen}.
const CLAIM: &str = "local f=redis.call('HMGET',KEYS[1],'v','s') if not f[1] then return {0} end \
if not redis.call('SET',KEYS[2],ARGV[1],'NX','PX',ARGV[2]) then return {1} end return {2,f[1],f[2]}";

/// Replaces a session by its renewed form, if it still exists and we still hold the lease; keeps its expiry. A lease that expired or went
/// with a failover does no harm while nobody else holds one and the session is as it was claimed: the provider has changed the tokens
/// already. Repeating it gives the same result. ARGV: the lease's number, value, channel, message, the end of the claimed value.
const RENEW: &str = "local v=redis.call('HGET',KEYS[1],'v') if not v then redis.call('DEL',KEYS[2]) return 0 end \
if v==ARGV[2] then return 1 end \
local l=redis.call('GET',KEYS[2]) \
if l and l~=ARGV[1] or not l and string.sub(v,-#ARGV[5])~=ARGV[5] then return 0 end \
redis.call('HSET',KEYS[1],'v',ARGV[2]) redis.call('DEL',KEYS[2]) redis.call('PUBLISH',ARGV[3],ARGV[4]) return 1";

/// Returns the lease if we hold it. ARGV: its number.
const RELEASE: &str = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";

pub(super) fn keep(session: &str, value: &[u8], seen: u64, expires: u64) -> Cmd {
    let mut cmd = script(KEEP, &[session]);
    cmd.arg(value).arg(seen).arg(expires);
    cmd
}

pub(super) fn list(list: &str, key: &[u8], end: u64, now: u64) -> Cmd {
    let mut cmd = script(LIST, &[list]);
    cmd.arg(key).arg(end).arg(now);
    cmd
}

pub(super) fn see(session: &str, seen: u64, expires: u64) -> Cmd {
    let mut cmd = script(SEE, &[session]);
    cmd.arg(seen).arg(expires);
    cmd
}

pub(super) fn end(session: &str, lease: &str, channel: &str, message: &str) -> Cmd {
    let mut cmd = script(END, &[session, lease]);
    cmd.arg(channel).arg(message);
    cmd
}

pub(super) fn claim(session: &str, lease: &str, number: u32, millis: u64) -> Cmd {
    let mut cmd = script(CLAIM, &[session, lease]);
    cmd.arg(number).arg(millis);
    cmd
}

pub(super) fn renew(session: &str, lease: &str, ticket: &Ticket, value: &[u8], channel: &str, message: &str) -> Cmd {
    let mut cmd = script(RENEW, &[session, lease]);
    cmd.arg(ticket.number).arg(value).arg(channel).arg(message).arg(ticket.claimed.as_slice());
    cmd
}

pub(super) fn release(lease: &str, number: u32) -> Cmd {
    let mut cmd = script(RELEASE, &[lease]);
    cmd.arg(number);
    cmd
}

/// Sent as text and not as a hash: after a restart the server would have to load it again, and the texts are short.
fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(text).arg(keys.len()).arg(keys);
    cmd
}
