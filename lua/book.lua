#!lua
--[[
  book: bring a book's policy into Redis, if it is newer than what is there.

  KEYS [1] meta [2] book [3] users

  ARGV [1] epoch [2] version [3] pushed_version [4] units
       [5..] field value pairs of the policy

  Replies
    fenced   why      also when PostgreSQL pushed this book before and Redis does not know it
    pushed   version  the version that Redis has now

  Cost: O(fields). No journal entry: PostgreSQL has the row already and pushes until it is level.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' then return 'fenced\tmeta' end
local there = redis.call('HMGET', KEYS[2], 'version', 'units')
if not there[1] then
  if tonumber(ARGV[3]) > 0 then return 'fenced\tbook' end
  redis.call('HSET', KEYS[2], 'left', 0, 'held', 0, 'redeemed', 0, 'units', 0)
  redis.call('HSET', KEYS[3], '', 1)
  there = { 0, 0 }
elseif tonumber(there[1]) >= tonumber(ARGV[2]) then
  return 'pushed\t' .. there[1]
end
-- Units of a counter book only ever rise; the difference is what came new into stock.
local fresh = tonumber(ARGV[4]) - tonumber(there[2] or 0)
if fresh > 0 then
  redis.call('HINCRBY', KEYS[2], 'left', fresh)
  redis.call('HSET', KEYS[2], 'units', ARGV[4])
end
redis.call('HSET', KEYS[2], 'version', ARGV[2], unpack(ARGV, 5))
return 'pushed\t' .. ARGV[2]
