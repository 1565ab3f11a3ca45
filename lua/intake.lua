#!lua flags=allow-oom
--[[
  intake: open or stop a shard's intake, as PostgreSQL's row says.

  KEYS [1] meta

  ARGV [1] epoch [2] open | stopped

  Replies
    fenced  why
    intake  open | stopped
    an error where it is neither

  Cost: O(1).
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' then return 'fenced\tmeta' end
if ARGV[2] ~= 'open' and ARGV[2] ~= 'stopped' then
  return redis.error_reply('ERR neither open nor stopped')
end
redis.call('HSET', KEYS[1], 'intake', ARGV[2])
return 'intake\t' .. ARGV[2]
