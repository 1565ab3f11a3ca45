-- record: a coupon as the `coupons` hash holds it. `-- @include record` pulls it in.
--
-- book user version assigned_at updated_at redemptions max token locked_until, joined by tabs.
-- Records that this call has changed are kept in `records`, so that a second request for the same
-- code in the same call sees the first one's doing; `save` writes them all.
local records = {}

local function read(code)
  local c = records[code]
  if c ~= nil then return c end
  local packed = redis.call('HGET', KEYS[5], code)
  c = false
  if packed then
    local f = {}
    for field in string.gmatch(packed .. '\t', '([^\t]*)\t') do f[#f + 1] = field end
    c = { book = f[1], user = f[2], version = tonumber(f[3]), assigned_at = f[4],
      updated_at = f[5], redemptions = tonumber(f[6]), max = tonumber(f[7]),
      token = f[8], locked_until = f[9] }
  end
  records[code] = c
  return c
end

local function pack(c)
  return table.concat({ ARGV[4], c.user, c.version, c.assigned_at, c.updated_at, c.redemptions,
    c.max, c.token, c.locked_until }, '\t')
end

-- Every change of a coupon, whatever it changes, is one more version.
local function touch(c)
  c.version, c.updated_at = c.version + 1, at
end

-- The user's own coupon of this book, or false: a stranger's answers like an unknown one.
local function mine(code, user)
  local c = read(code)
  return c and c.book == ARGV[4] and c.user == user and c
end

local function used_up(c) return c.max > 0 and c.redemptions >= c.max end
local function locked(c) return c.locked_until ~= '' and tonumber(c.locked_until) >= now end
local function expired() return book[6] ~= '' and tonumber(book[6]) <= now end
