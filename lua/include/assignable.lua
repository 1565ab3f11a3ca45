-- assignable: why this book assigns nothing to anybody now, or nil. `-- @include assignable`.
local function closed()
  if book[3] == '1' then return 'book-archived' end
  if book[6] ~= '' and tonumber(book[6]) <= now then return 'book-expired\t' .. book[6] end
  if book[2] ~= '1' then return 'book-inactive' end
  if book[4] ~= '' and tonumber(book[4]) > now then return 'book-not-open\t' .. book[4] end
  if book[5] ~= '' and tonumber(book[5]) <= now then return 'book-closed\t' .. book[5] end
end

local function hand_out(code, user, own_max, context)
  -- The hottest lines of the house. Everything is a string already: Lua formats numbers slowly.
  local its_max = own_max or max
  local terms = at .. '\t0\t' .. its_max .. '\t\t'
  facts[#facts + 1] = code .. '\t' .. user .. '\t1\t' .. terms .. '\t'
  facts[#facts + 1] = context
  local record = ARGV[4] .. '\t' .. user .. '\t1\t' .. at .. '\t' .. terms
  return #facts / 2 - 1, record, its_max
end
