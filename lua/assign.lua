#!lua
--[[
  assign: give a user `count` codes from stock, at random; all of them or none.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       user count codes key hash context
       codes: of a counter book, `count` fresh ones joined by spaces

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    book-archived
    book-expired            expiration_date
    book-inactive
    book-not-open           opens_at
    book-closed             closes_at
    assignment-limit        held limit
    sold-out                left
    assigned                fact (code max)...

  Cost: O(codes), one journal entry a call.
]]
-- @include begin
-- @include finish
-- @include assignable

local WIDTH = 6
local requests = (#ARGV - 5) / WIDTH
local names = {}
for i = 1, requests do
  names[i] = ARGV[i * WIDTH]
  local count = tonumber(ARGV[i * WIDTH + 1])
  if unfit(names[i]) or not count or count < 1 or count % 1 ~= 0 then
    return redis.error_reply('ERR unfit user or count')
  end
end
local counts = redis.call('HMGET', KEYS[7], unpack(names))
local held = {}
for i = 1, requests do held[names[i]] = tonumber(counts[i] or 0) end

-- (3) Refuse, in the order above. What is granted here is drawn in one SPOP below.
local no = closed()
local grants, draw = {}, 0
for i = 1, requests do
  local base = i * WIDTH
  local user, count = ARGV[base], tonumber(ARGV[base + 1])
  if repeats(i, ARGV[base + 3], ARGV[base + 4]) then -- answered
  elseif no then lines[i] = no
  elseif max_held and held[user] + count > max_held then
    lines[i] = string.format('assignment-limit\t%d\t%d', held[user], max_held)
  elseif left - draw < count then
    lines[i] = string.format('sold-out\t%d', left - draw)
  else
    grants[#grants + 1], effect[i] = i, true
    held[user], draw = held[user] + count, draw + count
  end
end
if draw == 0 then return reply() end

local drawn = {}
if kind == 'counter' then
  for _, i in ipairs(grants) do
    local made = 0
    for code in string.gmatch(ARGV[i * WIDTH + 2], '%S+') do
      drawn[#drawn + 1], made = code, made + 1
    end
    if made ~= tonumber(ARGV[i * WIDTH + 1]) then return redis.error_reply('ERR codes missing') end
  end
end
local stocked = kind ~= 'counter'
if stocked then drawn = redis.call('SPOP', KEYS[6], draw) end
local own = book[12] == '1' and redis.call('HMGET', KEYS[9], unpack(drawn)) or {}

local packed, users, d = {}, {}, 0
for _, i in ipairs(grants) do
  local user, count = ARGV[i * WIDTH], tonumber(ARGV[i * WIDTH + 1])
  local line = { 'assigned', #facts / 2 }
  for _ = 1, count do
    d = d + 1
    local _, record, its_max = hand_out(drawn[d], user, own[d], ARGV[i * WIDTH + 5])
    packed[#packed + 1], packed[#packed + 2] = drawn[d], record
    line[#line + 1], line[#line + 2] = drawn[d], its_max
  end
  users[#users + 1], users[#users + 2] = user, held[user]
  lines[i] = table.concat(line, '\t')
end

local failure = append('assign')
if failure then
  if stocked then redis.call('SADD', KEYS[6], unpack(drawn)) end
  return failure
end
redis.call('HSET', KEYS[5], unpack(packed))
redis.call('HSET', KEYS[7], unpack(users))
redis.call('HSET', KEYS[4], 'left', left - draw)
redis.call('HINCRBY', KEYS[4], 'held', draw)
return reply()
