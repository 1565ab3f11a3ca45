#!lua flags=allow-oom
--[[
  recovering: take a shard out of service under a new epoch, for one recoverer.

  KEYS [1] meta

  ARGV [1] epoch [2] token

  Replies
    stale    epoch    Redis has seen this epoch or a higher one
    begun
    an error where epoch or token is not what it should be; it changes nothing

  Cost: O(1).
]]
if not string.find(ARGV[1], '^[1-9]%d*$') or #ARGV[1] > 15
  or not string.find(ARGV[2], '^[%w-]+$') then
  return redis.error_reply('ERR unfit epoch or token')
end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[1]) then return 'stale\t' .. epoch end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'phase', 'recovering:' .. ARGV[2])
return 'begun'
