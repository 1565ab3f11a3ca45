/**
 * Who may do what in Redis, one user per kind of connection: docs/redis-acl.md has the same rules to
 * copy, and a test that the two agree. A script may do what its caller may, so these are the commands
 * that the scripts run as well. Nobody here has EVAL on coupons, FLUSHALL, CONFIG SET or KEYS.
 */
const connection = '+ping +info +time +select +quit +client|setname +config|get'
const reads =
  '+exists +get +hexists +hget +hlen +hmget +pttl +scard +sismember +xlen +xrange +xrevrange'
const writes = '+hdel +hincrby +hset +sadd +spop +srem +xadd'

export const aclRules = {
  /** Runs scripts that are there, and cannot bring one. What ends a key may touch locks alone. */
  api:
    `-@all ~{s[0-9]*}:* &stampede:* ${connection} +subscribe +unsubscribe +evalsha +script|exists ` +
    `${reads} ${writes} (+set +del ~{s[0-9]*}:lock:* ~{s[0-9]*}:op:*) (+expire ~{s[0-9]*}:keys:*)`,
  /** Brings the scripts, makes a shard anew, compares both stores; operators' verbs use it too. */
  worker:
    `-@all ~{s[0-9]*}:* &stampede:* ${connection} +subscribe +unsubscribe +publish +evalsha ` +
    `+script|exists +script|load +client|list ${reads} ${writes} +scan +del +unlink +set +expire +xtrim ` +
    '+hscan +sscan +hgetall +smismember +pexpiretime +mget +multi +exec',
  /** BullMQ, of API and worker: it sends its scripts by their text when they are not there. */
  queue:
    '-@all ~{stampede}:* +@read +@write +@connection +@transaction -@dangerous ' +
    '-@scripting +info +eval +evalsha',
  /** Counts failed logins and guessed codes; its one script comes by its text. */
  limit:
    '-@all ~limit:* +ping +info +select +quit +client|setname +eval +evalsha +set +incrby +pttl +expire',
} as const

export type AclUser = keyof typeof aclRules
export const aclUsers = Object.keys(aclRules) as AclUser[]
