#!lua
--[[
  lock: keep everyone else from an assigned coupon until a deadline.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday
       then per request [13..] lock

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       code user token fresh ttl_ms key hash context
       token: of the lock that the holder has, '' for none; fresh: of the lock that would begin;
       ttl_ms: '' for the book's lock_seconds

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    coupon-not-found  -- also for someone else's coupon
    book-archived
    coupon-redeemed
    book-expired            expiration_date
    coupon-locked           locked_until  -- by another token
    lock-expired  -- a token was sent whose lock is over
    locked                  fact record  -- begun, or extended by its own token

  Cost: O(1) a request, one journal entry a call.

  The deadline is written into the entry because a key that expires says nothing when it goes, and
  the ledger must not ask its own clock.
]]
-- @include begin
-- @include finish
-- @include record

local WIDTH = 8
local writes = {}
for i = 1, (#ARGV - 5) / WIDTH do
  local base = (i - 1) * WIDTH + 6
  local code, user, token = ARGV[base], ARGV[base + 1], ARGV[base + 2]
  local guard = KEYS[12 + i]
  local c = mine(code, user)
  if repeats(i, ARGV[base + 5], ARGV[base + 6]) then -- answered
  elseif not c then lines[i] = 'coupon-not-found'
  elseif book[3] == '1' then lines[i] = 'book-archived'
  elseif used_up(c) then lines[i] = 'coupon-redeemed'
  elseif expired() then lines[i] = 'book-expired\t' .. book[6]
  elseif locked(c) and c.token ~= token then lines[i] = 'coupon-locked\t' .. c.locked_until
  elseif not locked(c) and redis.call('EXISTS', guard) == 1 and not writes[guard] then
    lines[i] = string.format('coupon-locked\t%.0f', now + redis.call('PTTL', guard))
  elseif not locked(c) and token ~= '' then lines[i] = 'lock-expired'
  else
    local ttl_ms = tonumber(ARGV[base + 4]) or tonumber(book[14]) * 1000
    if unfit(ARGV[base + 3]) or not (ttl_ms >= 1000 and ttl_ms <= 3600000) then
      return redis.error_reply('ERR unfit token or ttl_ms')
    end
    local until_ms = string.format('%.0f', now + ttl_ms)
    writes[guard] = code
    c.token, c.locked_until = locked(c) and c.token or ARGV[base + 3], until_ms
    touch(c)
    effect[i] = true
    lines[i] = string.format('locked\t%d\t%s', fact(code, user, c, '', ARGV[base + 7]), pack(c))
  end
end
if #facts == 0 then return reply() end

local failure = append('lock')
if failure then return failure end
for guard, code in pairs(writes) do
  local c = records[code]
  redis.call('SET', guard, c.token, 'PXAT', c.locked_until)
  redis.call('HSET', KEYS[5], code, pack(c))
end
return reply()
