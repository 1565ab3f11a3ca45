#!lua
--[[
  restore: one write of a recovery. Refused once another recoverer has taken over.

  KEYS [1] meta [2..] what is written; UNLINK takes many, every other command one

  ARGV [1] epoch [2] token [3] command [4..] its arguments

  Replies
    stale
    restored

  Cost: O(arguments).
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'recovering:' .. ARGV[2] then return 'stale' end
if ARGV[3] == 'UNLINK' then redis.call('UNLINK', unpack(KEYS, 2))
else redis.call(ARGV[3], KEYS[2], unpack(ARGV, 4)) end
return 'restored'
