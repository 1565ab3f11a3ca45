#!lua flags=allow-oom
--[[
  flushed: tell the shard what PostgreSQL has committed, and forget entries that are long in it.

  KEYS [1] meta [2] journal

  ARGV [1] epoch [2] watermark: n of the last committed entry [3] facts committed, in all
       [4] minid: entries below this id may go, '' for none

  Replies
    fenced  why
            also when Redis has no entry as late as the watermark
    flushed watermark
    an error where any of this is not what it should be; like a refusal, it changes nothing

  Cost: O(trimmed entries). Only ever moves forward, so a late or repeated call does no harm.
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'watermark', 'flushed', 'n', 'kept')
if meta[1] ~= ARGV[1] or not (meta[2] and meta[4] and meta[5]) then return 'fenced\tmeta' end
for i = 2, 3 do
  if not string.find(ARGV[i], '^%d+$') or #ARGV[i] > 15 then
    return redis.error_reply('ERR unfit watermark or facts')
  end
end
if tonumber(ARGV[2]) > tonumber(meta[4]) then return 'fenced\tjournal' end
local forward = tonumber(meta[2]) < tonumber(ARGV[2])
local watermark = forward and ARGV[2] or meta[2]
if ARGV[4] ~= '' then
  -- Only what PostgreSQL has may go: nothing beyond the watermark, no entry of a later epoch.
  local epoch, n = string.match(ARGV[4], '^(%d+)-(%d+)$')
  epoch, n = tonumber(epoch), tonumber(n)
  if not epoch or #ARGV[4] > 31 or epoch > tonumber(meta[1])
    or epoch == tonumber(meta[1]) and n > tonumber(watermark) then
    return redis.error_reply('ERR unfit minid')
  end
  local gone = redis.call('XTRIM', KEYS[2], 'MINID', '~', ARGV[4])
  if gone > 0 then redis.call('HSET', KEYS[1], 'kept', meta[5] - gone) end
end
if forward then redis.call('HSET', KEYS[1], 'watermark', watermark, 'flushed', ARGV[3]) end
return 'flushed\t' .. watermark
