#!lua flags=no-writes
--[[
  show: read coupons of one book as they are now. Fenced like a write: a Redis that lost its memory
  must not say "no such coupon".

  KEYS [1] meta [2] book [3] stock [4] coupons [5] uses

  ARGV [1] epoch [2] seen [3..] codes

  Replies
    fenced  why
    shown   now expires_at
            then a line a code: `coupon` record | `stock` max | `void` max | `absent`

  Cost: O(codes), writes nothing.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase', 'n')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' or not (tonumber(meta[3]) >= tonumber(ARGV[2])) then
  return 'fenced\tmeta'
end
if redis.call('HEXISTS', KEYS[4], '') == 0 then return 'fenced\tsentinel' end
local book = redis.call('HMGET', KEYS[2], 'expires_at', 'max', 'left', 'kind', 'overrides')
if not book[3] then return 'fenced\tbook' end
if book[4] ~= 'counter' and tonumber(book[3]) ~= redis.call('SCARD', KEYS[3]) then
  return 'fenced\tstock'
end
if book[5] == '1' and redis.call('EXISTS', KEYS[5]) == 0 then return 'fenced\tuses' end
local clock = redis.call('TIME')
local lines = { string.format('shown\t%.0f\t%s',
  clock[1] * 1000 + math.floor(clock[2] / 1000), book[1]) }
for i = 3, #ARGV do
  local record = redis.call('HGET', KEYS[4], ARGV[i])
  -- What is void has a record of its book and nobody.
  local free = record and string.find(record, '^[^\t]*\t$') and 'void'
    or not record and redis.call('SISMEMBER', KEYS[3], ARGV[i]) == 1 and 'stock'
  lines[#lines + 1] = free and free .. '\t' .. (redis.call('HGET', KEYS[5], ARGV[i]) or book[2])
    or record and 'coupon\t' .. record or 'absent'
end
return table.concat(lines, '\n')
