#!lua flags=no-writes
--[[
  check: what a shard says of itself, for the gate and the flush worker to judge.

  KEYS [1] meta [2] journal [3] coupons [4] redemptions

  ARGV [1] checkpoint: id of the entry to show, '' for none

  Replies
    absent                 no meta
    an array: epoch phase n facts flushed watermark intake calls, whole (1 or 0: the journal has as
    many entries as meta counts and none beyond n, the sentinels are there), fields of the
    checkpoint, memory: which life of this Redis it is, '' where it hides that

  Cost: O(facts of one entry), writes nothing. NOSCRIPT tells that no worker has vouched for this
  Redis since it started.
]]
local meta = redis.call('HMGET', KEYS[1],
  'epoch', 'phase', 'n', 'facts', 'flushed', 'watermark', 'intake', 'calls', 'kept')
if not meta[1] or not meta[3] then return 'absent' end
local head = meta[1] .. '-' .. meta[3]
local whole = redis.call('XLEN', KEYS[2]) == tonumber(meta[9])
  and #redis.call('XRANGE', KEYS[2], '(' .. head, '+', 'COUNT', 1) == 0
  and redis.call('HEXISTS', KEYS[3], '') == 1 and redis.call('HEXISTS', KEYS[4], '') == 1
local of, calls = string.match(meta[8] or '', '^(%d+):(%d+)$')
meta[8] = of == meta[1] and calls or meta[1]
meta[9] = whole and '1' or '0'
local entry = ARGV[1] ~= '' and redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
meta[10] = entry and entry[2] or {}
-- A Redis that restarts has a new run_id; one that was a replica for a while, and may have
-- forgotten what it had, the id and the end of the history that it took over.
local info = redis.pcall('INFO', 'server', 'replication')
local function said(name) return string.match(info, '\n' .. name .. ':(%w+)') or '' end
meta[11] = ''
if type(info) == 'string' and said('run_id') ~= '' then
  local took = said('master_replid2') .. ' ' .. said('second_repl_offset')
  meta[11] = said('run_id') .. ' ' .. took
end
return meta
