#!lua
--[[
  void: take a code out of circulation for good, from stock or from its holder.

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
    coupon-not-found  -- a counter book has no code that nobody holds
    not-ready  -- whoever asks knows it for a code of this book: its load has not brought it yet
    coupon-void
    coupon-redeemed
    coupon-in-use  -- some of its uses are redeemed
    coupon-locked           locked_until
    voided                  fact record  -- as it was at the end

  Cost: O(1) a request, one journal entry a call.

  What stays is a record of the book and nobody: holders' verbs find nobody's coupon, and `load`,
  however late it comes again, finds a record and leaves the code alone.
]]
-- @include begin
-- @include finish
-- @include record

-- A code in stock, as a coupon that nobody has yet; nil if it is not there.
local function stocked(code)
  if redis.call('SISMEMBER', KEYS[6], code) == 0 then return nil end
  local own = book[12] == '1' and redis.call('HGET', KEYS[9], code)
  return { book = ARGV[4], user = '', version = 0, assigned_at = at, redemptions = 0,
    max = tonumber(own or max), token = '', locked_until = '' }
end

local WIDTH = 4
local void, shelf, held = {}, {}, {}
for i = 1, (#ARGV - 5) / WIDTH do
  local base = (i - 1) * WIDTH + 6
  local code = ARGV[base]
  if unfit(code) then return redis.error_reply('ERR unfit code') end
  local c = read(code) or stocked(code)
  if repeats(i, ARGV[base + 1], ARGV[base + 2]) then -- answered
  elseif book[3] == '1' then lines[i] = 'book-archived'
  elseif c and c.book ~= ARGV[4] or not c and kind == 'counter' then lines[i] = 'coupon-not-found'
  elseif not c then lines[i] = 'not-ready'
  elseif not c.version then lines[i] = 'coupon-void'
  elseif used_up(c) then lines[i] = 'coupon-redeemed'
  elseif c.redemptions > 0 then lines[i] = 'coupon-in-use'
  elseif locked(c) then lines[i] = 'coupon-locked\t' .. c.locked_until
  else
    touch(c)
    c.token, c.locked_until = '', ''
    if c.user == '' then shelf[#shelf + 1] = code
    else held[c.user] = (held[c.user] or tonumber(redis.call('HGET', KEYS[7], c.user) or 0)) - 1 end
    void[#void + 1], void[#void + 2], effect[i] = code, ARGV[4] .. '\t', true
    lines[i] = string.format('voided\t%d\t%s', fact(code, c.user, c, '', ARGV[base + 3]), pack(c))
    records[code] = { book = ARGV[4], user = '' }
  end
end
if #void == 0 then return reply() end

local failure = append('void')
if failure then return failure end
redis.call('HSET', KEYS[5], unpack(void))
if #shelf > 0 then redis.call('SREM', KEYS[6], unpack(shelf)) end
for user, count in pairs(held) do
  if count > 0 then redis.call('HSET', KEYS[7], user, count)
  else redis.call('HDEL', KEYS[7], user) end
end
redis.call('HSET', KEYS[4], 'left', left - #shelf)
redis.call('HINCRBY', KEYS[4], 'held', #shelf - #void / 2)
redis.call('HINCRBY', KEYS[4], 'void', #void / 2)
return reply()
