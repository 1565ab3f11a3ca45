#!lua
--[[
  assign_code: give a user one named code from stock.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       user code key hash context

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    already-assigned  -- to this very user
    coupon-not-found  -- also when someone else has it
    book-archived
    book-expired            expiration_date
    book-inactive
    book-not-open           opens_at
    book-closed             closes_at
    assignment-limit        held limit
    assigned                fact code max

  Cost: O(1) a request, one journal entry a call.
]]
-- @include begin
-- @include finish
-- @include record
-- @include assignable

local WIDTH = 5
local no = closed()
local held, taken, packed, users, d = {}, {}, {}, {}, 0
local gone = {}
for i = 1, (#ARGV - 5) / WIDTH do
  local base = i * WIDTH + 1
  local user, code = ARGV[base], ARGV[base + 1]
  if unfit(user) or unfit(code) then return redis.error_reply('ERR unfit user or code') end
  held[user] = held[user] or tonumber(redis.call('HGET', KEYS[7], user) or 0)
  if repeats(i, ARGV[base + 2], ARGV[base + 3]) then -- answered
  elseif taken[code] == user or mine(code, user) then lines[i] = 'already-assigned'
  elseif taken[code] or redis.call('SISMEMBER', KEYS[6], code) == 0 then
    lines[i] = 'coupon-not-found'
  elseif no then lines[i] = no
  elseif max_held and held[user] + 1 > max_held then
    lines[i] = string.format('assignment-limit\t%d\t%d', held[user], max_held)
  else
    local own = book[12] == '1' and redis.call('HGET', KEYS[9], code)
    local index, record, its_max = hand_out(code, user, own, ARGV[base + 4])
    taken[code], effect[i], held[user], d = user, true, held[user] + 1, d + 1
    gone[d] = code
    packed[#packed + 1], packed[#packed + 2] = code, record
    users[#users + 1], users[#users + 2] = user, held[user]
    lines[i] = table.concat({ 'assigned', index, code, its_max }, '\t')
  end
end
if d == 0 then return reply() end

local failure = append('assign')
if failure then return failure end
redis.call('SREM', KEYS[6], unpack(gone))
redis.call('HSET', KEYS[5], unpack(packed))
redis.call('HSET', KEYS[7], unpack(users))
redis.call('HSET', KEYS[4], 'left', left - d)
redis.call('HINCRBY', KEYS[4], 'held', d)
return reply()
