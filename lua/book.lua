#!lua flags=allow-oom
--[[
  book: bring a book's policy into Redis, if it is newer than what is there; into a full one, too:
  a book that sells too fast must be paused all the same.

  KEYS [1] meta [2] book [3] users

  ARGV [1] epoch [2] version [3] pushed_version [4] units
       [5..] field value pairs of the policy: each field once, in any order

  Replies
    fenced   why      also when PostgreSQL pushed this book before and Redis does not know it
    pushed   version  the version that Redis has now
    an error          where any of this is not what it should be; like a refusal, it changes nothing

  Cost: O(fields). No journal entry: PostgreSQL has the row already and pushes until it is level.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' then return 'fenced\tmeta' end

-- What each field of a policy may be: whatever fits one of its patterns.
local flag, whole, limit = { '^[01]$' }, { '^%d+$' }, { '^$', '^%d+$' }
local time = { '^$', '^-?%d+$' }
local fields = {
  kind = { '^codes$', '^counter$' }, active = { '^[01]$', '^stopped$' }, archived = flag,
  opens_at = time, closes_at = time, expires_at = time,
  max = whole, max_per_user = limit, max_held = limit,
  lock_policy = { '^strict$', '^holder$', '^required$' }, lock_seconds = whole,
  durability = { '^$', '^redis$', '^postgres$' },
}
local function fits(value, patterns)
  for _, pattern in ipairs(patterns) do
    if #value < 18 and string.find(value, pattern) then return true end
  end
end
local policy = {}
for i = 5, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if not fields[name] or policy[name] or not value or not fits(value, fields[name]) then
    return redis.error_reply('ERR unfit policy')
  end
  policy[name] = value
end
for name in pairs(fields) do
  if not policy[name] then return redis.error_reply('ERR policy without ' .. name) end
end
for i = 2, 4 do
  if not string.find(ARGV[i], '^%d+$') or #ARGV[i] > 15 then
    return redis.error_reply('ERR unfit version or units')
  end
end

local there = redis.call('HMGET', KEYS[2], 'version', 'units', 'left', 'kind')
local new = not there[1]
if new then
  if tonumber(ARGV[3]) > 0 then return 'fenced\tbook' end
  there = { '0', '0', '0', policy.kind }
elseif not there[3] then return 'fenced\tbook'
elseif tonumber(there[1]) >= tonumber(ARGV[2]) then return 'pushed\t' .. there[1] end
-- Units of a counter book only ever rise; the difference is what came new into stock.
local units = math.max(tonumber(ARGV[4]), tonumber(there[2] or 0))
local fresh = units - tonumber(there[2] or 0)
if there[4] ~= policy.kind or fresh > 0 and policy.kind ~= 'counter' then
  return redis.error_reply('ERR unfit kind')
end

-- Nothing can fail from here on but the first write, and then nothing has changed.
if new then
  redis.call('HSET', KEYS[3], '', 1)
  redis.call('HSET', KEYS[2], 'held', 0, 'redeemed', 0, 'void', 0)
end
redis.call('HSET', KEYS[2], 'version', ARGV[2], 'units', units, 'left', there[3] + fresh,
  unpack(ARGV, 5))
return 'pushed\t' .. ARGV[2]
