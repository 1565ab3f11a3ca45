#!lua
--[[
  redeem: use a coupon for good, or one of its uses.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday
       then per request [13..] lock

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       code user token redemption key hash context

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    coupon-not-found  -- also for someone else's coupon
    book-archived
    coupon-redeemed
    book-expired            expiration_date
    redemption-limit        limit  -- per user and code
    coupon-locked           locked_until  -- lock policy strict or required, without its token
    lock-expired  -- a token was sent whose lock is over
    lock-required  -- lock policy required, and there is no live lock
    redeemed                fact redemption record

  Cost: O(1) a request, one journal entry a call.
]]
-- @include begin
-- @include finish
-- @include record

-- Why the lock policy keeps this redeemer from this coupon, or nil.
local function barred(c, token)
  if book[10] == 'holder' then return nil end
  if locked(c) then return c.token ~= token and 'coupon-locked\t' .. c.locked_until or nil end
  if token ~= '' then return 'lock-expired' end
  return book[10] == 'required' and 'lock-required' or nil
end

local WIDTH = 7
local used, done = {}, 0
for i = 1, (#ARGV - 5) / WIDTH do
  local base = (i - 1) * WIDTH + 6
  local code, user, redemption = ARGV[base], ARGV[base + 1], ARGV[base + 3]
  if unfit(redemption) then return redis.error_reply('ERR unfit redemption') end
  local c = mine(code, user)
  if repeats(i, ARGV[base + 4], ARGV[base + 5]) then -- answered
  elseif not c then lines[i] = 'coupon-not-found'
  elseif book[3] == '1' then lines[i] = 'book-archived'
  elseif used_up(c) then lines[i] = 'coupon-redeemed'
  elseif expired() then lines[i] = 'book-expired\t' .. book[6]
  elseif max_per_user and c.redemptions >= max_per_user then
    lines[i] = string.format('redemption-limit\t%d', max_per_user)
  elseif barred(c, ARGV[base + 2]) then lines[i] = barred(c, ARGV[base + 2])
  else
    touch(c)
    c.redemptions, c.token, c.locked_until = c.redemptions + 1, '', ''
    if used_up(c) then done = done + 1 end
    used[#used + 1] = { code = code, guard = KEYS[12 + i], redemption = redemption }
    effect[i] = true
    lines[i] = string.format('redeemed\t%d\t%s\t%s',
      fact(code, user, c, redemption, ARGV[base + 6]), redemption, pack(c))
  end
end
if #facts == 0 then return reply() end

local failure = append('redeem')
if failure then return failure end
for _, use in ipairs(used) do
  redis.call('DEL', use.guard)
  redis.call('HSET', KEYS[5], use.code, pack(records[use.code]))
  redis.call('HSET', KEYS[8], use.redemption, use.code)
end
if done > 0 then redis.call('HINCRBY', KEYS[4], 'redeemed', done) end
return reply()
