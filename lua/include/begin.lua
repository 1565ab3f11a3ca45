-- begin: what every coupon verb does before it decides. `-- @include begin` pulls it in.
--
-- (1) Fence. A Redis that is not the one this caller was told of, or that lost anything, must not
-- decide: epoch and phase as expected, at least as many entries as the caller has seen, as many in
-- the journal as meta counts and none beyond the last one, sentinels there, stock as large as the
-- book says, and codes' own limits and answers under keys where it is said that there are some.
local function day(k) return 'answers:' .. (string.match(KEYS[k] or '', '%d+$') or '') end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase', 'n', 'facts', 'flushed', 'watermark',
  'intake', 'kept', day(10), day(11), day(12))
local n = tonumber(meta[3])
if meta[1] ~= ARGV[1] or meta[2] ~= 'active' or not n or not (n >= tonumber(ARGV[2])) then
  return 'fenced\tmeta'
end
local last = string.format('%s-%d', ARGV[1], n)
if redis.call('XLEN', KEYS[2]) ~= tonumber(meta[8])
  or #redis.call('XRANGE', KEYS[2], '(' .. last, '+', 'COUNT', 1) > 0 then
  return 'fenced\tjournal'
end
for k = 5, 8 do
  if k ~= 6 and redis.call('HEXISTS', KEYS[k], '') == 0 then return 'fenced\tsentinel' end
end
local book = redis.call('HMGET', KEYS[4], 'kind', 'active', 'archived', 'opens_at', 'closes_at',
  'expires_at', 'max', 'max_per_user', 'max_held', 'lock_policy', 'left', 'overrides',
  'durability', 'lock_seconds')
local kind, max, max_per_user, max_held = book[1], book[7], tonumber(book[8]), tonumber(book[9])
local left = tonumber(book[11])
if not left then return 'fenced\tbook' end
if left ~= (kind == 'counter' and left or redis.call('SCARD', KEYS[6])) then
  return 'fenced\tstock'
end
if book[12] == '1' and redis.call('EXISTS', KEYS[9]) == 0 then return 'fenced\tuses' end
for k = 10, 12 do
  if meta[k - 1] and redis.call('EXISTS', KEYS[k]) == 0 then return 'fenced\tanswers' end
end

-- (2) Repeat. This very call ran before and its reply was lost: say the same again.
local known = redis.call('GET', KEYS[3])
if known then return known end

-- Stopped intake, of everything or of this book, and a full backlog refuse what is new, before all
-- other reasons. Whoever comes again with an Idempotency-Key hears what was answered.
local shut = (meta[7] ~= 'open' or book[2] == 'stopped') and 'intake-stopped'
  or tonumber(meta[4]) - tonumber(meta[5]) > tonumber(ARGV[5]) and 'backlog'

-- One clock for everything that is decided here: this Redis'.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local at = string.format('%.0f', now)

local lines = {}   -- one answer per request, in order
local keyed = {}   -- Idempotency-Key -> index of the request in this call that came with it first
local same = {}    -- index -> index of the request it repeats
local hashes = {}  -- index -> body hash of a request with a key
local effect = {}  -- index -> true where something was written

-- Text that cannot be part of a record or a fact: empty, or with what parts their fields.
local function unfit(text) return text == '' or string.find(text, '%c') end

-- Answers request `i` from an earlier one with the same Idempotency-Key, or refuses it where all
-- that is new is refused; false if it has to be decided.
local function repeats(i, key, hash)
  if key == '' then
    lines[i] = shut or nil
    return lines[i] ~= nil
  end
  local first = keyed[key]
  if first then
    if hashes[first] == hash then same[i] = first else lines[i] = 'idempotency-key-reused' end
    return true
  end
  for k = 10, 12 do
    local stored = redis.call('HGET', KEYS[k], key)
    if stored then
      local tab = string.find(stored, '\t', 1, true)
      lines[i] = string.sub(stored, 1, tab - 1) == hash and 'again' .. string.sub(stored, tab)
        or 'idempotency-key-reused'
      return true
    end
  end
  if shut then
    lines[i] = shut
    return true
  end
  keyed[key], hashes[i] = i, hash
  return false
end
