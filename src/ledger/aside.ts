/**
 * Places of facts that stand aside: parked, or given up by an operator. They count as facts that there
 * were, and for nothing in the coupons.
 */
export const aside = `(SELECT shard, epoch, n, i, 'parked' AS how FROM parked_facts
  UNION ALL SELECT p[1]::int, p[2]::bigint, p[3]::bigint, p[4]::int, 'discarded'
  FROM audit_log, regexp_match(target, '^fact:(\\d+)/(\\d+)-(\\d+)/(\\d+)$') AS p
  WHERE action = 'parked.discard' AND p IS NOT NULL)`
/** A row of the ledger, by its alias, that the coupons rest on. */
export const counts = (
  of: string,
) => `NOT EXISTS (SELECT FROM ${aside} AS a WHERE a.shard = ${of}.shard
  AND a.epoch = ${of}.epoch AND a.n = ${of}.n AND a.i = ${of}.i)`
