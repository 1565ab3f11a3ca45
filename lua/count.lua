#!lua flags=no-writes
--[[
  count: the counters of one book.

  KEYS [1] meta [2] book [3] stock [4] users

  ARGV [1] epoch [2] seen

  Replies
    fenced   why
    counted  left held redeemed users void

  Cost: O(1), writes nothing.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase', 'n')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' or not (tonumber(meta[3]) >= tonumber(ARGV[2])) then
  return 'fenced\tmeta'
end
local book = redis.call('HMGET', KEYS[2], 'left', 'held', 'redeemed', 'kind', 'void')
if not book[1] then return 'fenced\tbook' end
if book[4] ~= 'counter' and tonumber(book[1]) ~= redis.call('SCARD', KEYS[3]) then
  return 'fenced\tstock'
end
if redis.call('HEXISTS', KEYS[4], '') == 0 then return 'fenced\tsentinel' end
return table.concat({ 'counted', book[1], book[2], book[3], redis.call('HLEN', KEYS[4]) - 1,
  book[5] or 0 }, '\t')
