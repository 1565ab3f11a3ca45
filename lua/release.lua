#!lua
--[[
  release: put an assigned coupon back into stock; a counter book's code is void for ever instead.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       code key hash context

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    book-archived
    coupon-not-found  -- also for a code in stock
    coupon-void
    coupon-redeemed
    coupon-in-use  -- some of its uses are redeemed
    coupon-locked           locked_until
    released                fact record

  Cost: O(1) a request, one journal entry a call.
]]
-- @include begin
-- @include finish
-- @include record

local WIDTH = 4
local back, held = {}, {}
for i = 1, (#ARGV - 5) / WIDTH do
  local base = (i - 1) * WIDTH + 6
  local code = ARGV[base]
  if code == '' then return redis.error_reply('ERR empty code') end
  local c = read(code)
  if repeats(i, ARGV[base + 1], ARGV[base + 2]) then -- answered
  elseif book[3] == '1' then lines[i] = 'book-archived'
  elseif not c or c.book ~= ARGV[4] then lines[i] = 'coupon-not-found'
  elseif c.user == '' then lines[i] = 'coupon-void'
  elseif used_up(c) then lines[i] = 'coupon-redeemed'
  elseif c.redemptions > 0 then lines[i] = 'coupon-in-use'
  elseif locked(c) then lines[i] = 'coupon-locked\t' .. c.locked_until
  else
    touch(c)
    c.token, c.locked_until = '', ''
    held[c.user] = (held[c.user] or tonumber(redis.call('HGET', KEYS[7], c.user) or 0)) - 1
    back[#back + 1], effect[i] = code, true
    lines[i] = string.format('released\t%d\t%s', fact(code, c.user, c, '', ARGV[base + 3]), pack(c))
    records[code] = false
  end
end
if #back == 0 then return reply() end

local failure = append('release')
if failure then return failure end
redis.call('HDEL', KEYS[5], unpack(back))
if kind ~= 'counter' then redis.call('SADD', KEYS[6], unpack(back)) end
for user, count in pairs(held) do
  if count > 0 then redis.call('HSET', KEYS[7], user, count)
  else redis.call('HDEL', KEYS[7], user) end
end
redis.call('HSET', KEYS[4], 'left', left + #back)
redis.call('HINCRBY', KEYS[4], 'held', -#back)
return reply()
