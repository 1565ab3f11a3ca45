#!lua
--[[
  rollback: undo one named redemption, once.

  KEYS [1] meta [2] journal [3] op [4] book [5] coupons [6] stock [7] users [8] redemptions
       [9] uses [10] answers tomorrow [11] answers today [12] answers yesterday

  ARGV [1] epoch [2] seen [3] op [4] book [5] backlog; then per request
       code redemption key hash context

  Replies to a request, first match wins
    again                   entry at op line  -- same Idempotency-Key, same body
    idempotency-key-reused
    intake-stopped
    backlog
    book-archived
    already-rolled-back
    redemption-not-found
    rolled-back             fact record

  Cost: O(1) a request, one journal entry a call.

  A live lock stays: it was taken on a use that is left. The id stays behind with a tab before its
  code, so that a second rollback of it is told apart from a redemption there never was.
]]
-- @include begin
-- @include finish
-- @include record

local WIDTH = 5
local undone, reopened = {}, 0
local gone = {}
for i = 1, (#ARGV - 5) / WIDTH do
  local base = (i - 1) * WIDTH + 6
  local code, redemption = ARGV[base], ARGV[base + 1]
  local of = gone[redemption] or redis.call('HGET', KEYS[8], redemption)
  local c = read(code)
  if repeats(i, ARGV[base + 2], ARGV[base + 3]) then -- answered
  elseif book[3] == '1' then lines[i] = 'book-archived'
  elseif of == '\t' .. code then lines[i] = 'already-rolled-back'
  elseif redemption == '' or of ~= code or not c or c.book ~= ARGV[4] or c.redemptions < 1 then
    lines[i] = 'redemption-not-found'
  else
    if used_up(c) then reopened = reopened + 1 end
    touch(c)
    c.redemptions = c.redemptions - 1
    gone[redemption], effect[i] = '\t' .. code, true
    undone[#undone + 1] = { code = code, redemption = redemption }
    lines[i] = string.format('rolled-back\t%d\t%s',
      fact(code, c.user, c, redemption, ARGV[base + 4]), pack(c))
  end
end
if #facts == 0 then return reply() end

local failure = append('rollback')
if failure then return failure end
for _, undo in ipairs(undone) do
  redis.call('HSET', KEYS[5], undo.code, pack(records[undo.code]))
  redis.call('HSET', KEYS[8], undo.redemption, '\t' .. undo.code)
end
if reopened > 0 then redis.call('HINCRBY', KEYS[4], 'redeemed', -reopened) end
return reply()
