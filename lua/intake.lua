#!lua flags=allow-oom
--[[
  intake: open or stop a shard's intake, as PostgreSQL's row says.

  KEYS [1] meta

  ARGV [1] epoch [2] open | stopped [3] at: this Redis' time in ms before the row was read

  Replies
    fenced  why
    late    the row was read more than a second ago, and may have been changed and obeyed since
    intake  open | stopped
    an error where any of this is not what it should be

  Cost: O(1).
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' then return 'fenced\tmeta' end
if ARGV[2] ~= 'open' and ARGV[2] ~= 'stopped' then
  return redis.error_reply('ERR neither open nor stopped')
end
if not string.find(ARGV[3] or '', '^%d+$') or #ARGV[3] > 15 then
  return redis.error_reply('ERR unfit time')
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if now - tonumber(ARGV[3]) > 1000 then return 'late' end
redis.call('HSET', KEYS[1], 'intake', ARGV[2])
return 'intake\t' .. ARGV[2]
