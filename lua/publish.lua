#!lua flags=allow-oom
--[[
  publish: put a recovered shard into service; the last step of a recovery.

  KEYS [1] meta [2] coupons [3] redemptions [4] journal

  ARGV [1] epoch [2] token [3] facts [4] intake

  Replies
    stale               another recoverer has taken over
    published
    an error            where facts or intake is not what it should be; it changes nothing

  Cost: O(1). Entries of the new epoch begin at 1; `facts` goes on counting where it stood.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'recovering:' .. ARGV[2] then return 'stale' end
if not string.find(ARGV[3], '^%d+$') or #ARGV[3] > 15
  or ARGV[4] ~= 'open' and ARGV[4] ~= 'stopped' then
  return redis.error_reply('ERR unfit facts or intake')
end
-- What is of another type than it should be fails here, before anything is written.
redis.call('HLEN', KEYS[3])
local kept = redis.call('XLEN', KEYS[4])
redis.call('HSET', KEYS[2], '', ARGV[1])
redis.call('HSET', KEYS[3], '', ARGV[1])
redis.call('HSET', KEYS[1], 'phase', 'active', 'n', 0, 'facts', ARGV[3], 'flushed', ARGV[3],
  'watermark', 0, 'intake', ARGV[4], 'kept', kept)
return 'published'
