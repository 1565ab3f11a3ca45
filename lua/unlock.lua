#!lua
--[[
  unlock: end the lock of a coupon before its deadline.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday
       then per request [13..] lock

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       code user key hash context

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    coupon-not-found  -- also for someone else's coupon
    book-archived
    coupon-redeemed
    not-locked              record  -- nothing to end: the answer is the coupon as it is
    unlocked                fact record

  Cost: O(1) a request, one journal entry a call.
]]
-- @include begin
-- @include finish
-- @include record

local WIDTH = 5
local ended = {}
for i = 1, (#ARGV - 5) / WIDTH do
  local base = (i - 1) * WIDTH + 6
  local code, user = ARGV[base], ARGV[base + 1]
  local c = mine(code, user)
  if repeats(i, ARGV[base + 2], ARGV[base + 3]) then -- answered
  elseif not c then lines[i] = 'coupon-not-found'
  elseif book[3] == '1' then lines[i] = 'book-archived'
  elseif used_up(c) then lines[i] = 'coupon-redeemed'
  elseif not locked(c) then lines[i] = 'not-locked\t' .. pack(c)
  else
    touch(c)
    c.token, c.locked_until = '', ''
    ended[#ended + 1], effect[i] = { code = code, guard = KEYS[12 + i] }, true
    lines[i] = string.format('unlocked\t%d\t%s', fact(code, user, c, '', ARGV[base + 4]), pack(c))
  end
end
if #facts == 0 then return reply() end

local failure = append('unlock')
if failure then return failure end
for _, lock in ipairs(ended) do
  redis.call('DEL', lock.guard)
  redis.call('HSET', KEYS[5], lock.code, pack(records[lock.code]))
end
return reply()
