#!lua flags=allow-oom
--[[
  publish: put a recovered shard into service; the last step of a recovery.

  KEYS [1] meta [2] coupons [3] redemptions [4] journal

  ARGV [1] epoch [2] token [3] facts [4] intake
       [5] calls: since which epoch the op keys of all calls are here

  Replies
    stale               another recoverer has taken over
    damaged             the sentinels are missing: what the recovery has made or found is gone again
    published
    an error            where facts, intake or calls is not what it should be; it changes nothing

  Cost: O(1). Entries of the new epoch begin at 1; `facts` goes on counting where it stood.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'recovering:' .. ARGV[2] then return 'stale' end
if not string.find(ARGV[3], '^%d+$') or #ARGV[3] > 15
  or ARGV[4] ~= 'open' and ARGV[4] ~= 'stopped'
  or not string.find(ARGV[5] or '', '^%d+$') or #ARGV[5] > 15 then
  return redis.error_reply('ERR unfit facts, intake or calls')
end
-- Whoever deletes one of them meanwhile takes its sentinel along: to put it back would hide that.
for k = 2, 3 do
  if redis.call('HEXISTS', KEYS[k], '') == 0 then return 'damaged' end
end
local kept = redis.call('XLEN', KEYS[4])
-- With its epoch: once a version that does not know of it publishes the next one, it is void.
local calls = ARGV[1] .. ':' .. ARGV[5]
redis.call('HSET', KEYS[1], 'phase', 'active', 'n', 0, 'facts', ARGV[3], 'flushed', ARGV[3],
  'watermark', 0, 'intake', ARGV[4], 'calls', calls, 'kept', kept)
return 'published'
