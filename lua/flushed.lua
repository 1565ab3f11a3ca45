#!lua flags=allow-oom
--[[
  flushed: tell the shard what PostgreSQL has committed, and forget entries that are long in it.

  KEYS [1] meta [2] journal

  ARGV [1] epoch [2] watermark: n of the last committed entry [3] facts committed, in all
       [4] minid: entries below this id may go, '' for none

  Replies
    fenced  why
    flushed watermark

  Cost: O(trimmed entries). Only ever moves forward, so a late or repeated call does no harm.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'watermark', 'flushed')
if meta[1] ~= ARGV[1] then return 'fenced\tmeta' end
if tonumber(meta[2]) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'watermark', ARGV[2], 'flushed', ARGV[3])
  meta[2] = ARGV[2]
end
if ARGV[4] ~= '' then
  local gone = redis.call('XTRIM', KEYS[2], 'MINID', '~', ARGV[4])
  redis.call('HINCRBY', KEYS[1], 'kept', -gone)
end
return 'flushed\t' .. meta[2]
