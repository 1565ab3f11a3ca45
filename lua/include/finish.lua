-- finish: how every coupon verb remembers what it decided. `-- @include finish` pulls it in.
--
-- (4) Write. `append` is the first write of a call: one entry with the next explicit id carries all
-- facts. Redis does not roll back, so whatever could fail has been read before; should XADD fail
-- all the same, nothing has changed yet and the error goes to the caller.
local facts = {}   -- pairs: state, context

local function fact(code, user, c, redemption, context)
  facts[#facts + 1] = table.concat({ code, user, c.version, c.assigned_at, c.redemptions, c.max,
    c.token, c.locked_until, redemption }, '\t')
  facts[#facts + 1] = context
  return #facts / 2 - 1
end

local function append(verb)
  local result = redis.pcall('XADD', KEYS[2], string.format('%s-%d', ARGV[1], n + 1),
    'kind', verb, 'book', ARGV[4], 'at', at, 'op', ARGV[3], unpack(facts))
  if type(result) == 'table' and result.err then return result end
  redis.call('HSET', KEYS[1], 'n', n + 1, 'facts', tonumber(meta[4]) + #facts / 2,
    'kept', meta[8] + 1)
end

-- The reply: `done`, whether the journal was level before, id of the last entry, time, the book's
-- durability ('' where the verb's own default counts) and its expires_at; then a line a request.
local function reply()
  local wrote = #facts > 0
  local entry = wrote and n + 1 or n
  local id = string.format('%s-%d\t%s\t%s\t', ARGV[1], entry, at, ARGV[3])
  for i, first in pairs(same) do
    lines[i] = effect[first] and 'again\t' .. id .. lines[first] or lines[first]
  end
  local text = string.format('done\t%d\t%s-%d\t%s\t%s\t%s\n',
    meta[6] == meta[3] and 1 or 0, ARGV[1], entry, at, book[13], book[6])
    .. table.concat(lines, '\n')
  if wrote then
    for key, i in pairs(keyed) do
      if effect[i] then
        redis.call('HSET', KEYS[11], key, hashes[i] .. '\t' .. id .. lines[i])
        redis.call('EXPIRE', KEYS[11], 172800)
        if not meta[10] then
          -- From now on it is missed where it is gone. What meta says of a day that is over goes.
          meta[10] = '1'
          local today = tonumber(string.match(KEYS[11], '%d+$'))
          redis.call('HSET', KEYS[1], day(11), 1)
          redis.call('HDEL', KEYS[1], string.format('answers:%d', today - 3))
        end
      end
    end
    redis.call('SET', KEYS[3], text, 'PX', 120000)
  end
  return text
end
