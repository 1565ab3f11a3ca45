-- assignable: why this book assigns nothing to anybody now, or nil. `-- @include assignable`.
local function closed()
  if book[3] == '1' then return 'book-archived' end
  if book[6] ~= '' and tonumber(book[6]) <= now then return 'book-expired\t' .. book[6] end
  if book[2] ~= '1' then return 'book-inactive' end
  if book[4] ~= '' and tonumber(book[4]) > now then return 'book-not-open\t' .. book[4] end
  if book[5] ~= '' and tonumber(book[5]) <= now then return 'book-closed\t' .. book[5] end
end

local function hand_out(code, user, own_max, context)
  local c = { user = user, version = 1, assigned_at = at, redemptions = 0,
    max = own_max or max, token = '', locked_until = '' }
  return fact(code, user, c, '', context), table.concat({ ARGV[4], user, 1, at, at, 0, c.max,
    '', '' }, '\t'), c.max
end
