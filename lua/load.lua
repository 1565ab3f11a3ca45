#!lua
--[[
  load: bring codes into stock. Again and again without harm: a code that is in stock or has a
  record is left alone, because the code of a coupon must never be drawn a second time, and one that
  is void not once more.

  KEYS [1] meta [2] book [3] stock [4] coupons [5] uses

  ARGV [1] epoch [2] max ('' the book's, 0 no limit) [3..] at most 1,000 codes

  Replies
    fenced   why
    loaded   added
    an error         where max or a code is not what it should be; it changes nothing

  Cost: O(codes). No journal entry: PostgreSQL has the codes already and pushes until it is level.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' then return 'fenced\tmeta' end
if redis.call('HEXISTS', KEYS[4], '') == 0 then return 'fenced\tsentinel' end
local book = redis.call('HMGET', KEYS[2], 'left', 'overrides', 'kind')
local left = book[1]
if not left or tonumber(left) ~= redis.call('SCARD', KEYS[3]) then return 'fenced\tstock' end
if book[2] == '1' and redis.call('HLEN', KEYS[5]) == 0 then return 'fenced\tuses' end

if book[3] ~= 'codes' then return redis.error_reply('ERR this book has no stock') end
if not string.find(ARGV[2], '^%d*$') or #ARGV[2] > 15 or #ARGV > 1002 then
  return redis.error_reply('ERR unfit max, or too many codes')
end
local codes = { unpack(ARGV, 3) }
if #codes == 0 then return 'loaded\t0' end
for _, code in ipairs(codes) do
  if code == '' or string.find(code, '%c') then return redis.error_reply('ERR unfit code') end
end
local records = redis.call('HMGET', KEYS[4], unpack(codes))
local fresh, uses = {}, {}
for i, code in ipairs(codes) do
  if not records[i] then fresh[#fresh + 1] = code end
  uses[#uses + 1], uses[#uses + 2] = code, ARGV[2]
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[5], unpack(uses))
  redis.call('HSET', KEYS[2], 'overrides', 1)
end
local added = #fresh > 0 and redis.call('SADD', KEYS[3], unpack(fresh)) or 0
redis.call('HSET', KEYS[2], 'left', left + added)
return 'loaded\t' .. added
