#!lua flags=allow-oom
--[[
  restore: one write of a recovery. Refused once another recoverer has taken over.

  KEYS [1] meta [2..] what is written; UNLINK takes many, every other command one

  ARGV [1] epoch [2] token [3] command: HSET HDEL SADD SET EXPIRE UNLINK [4..] its arguments

  Replies
    stale
    restored
    an error  also for any other command; it changes nothing

  Cost: O(arguments).
]]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if meta[1] ~= ARGV[1] or meta[2] ~= 'recovering:' .. ARGV[2] then return 'stale' end
local commands = { HSET = true, HDEL = true, SADD = true, SET = true, EXPIRE = true }
if ARGV[3] == 'UNLINK' then redis.call('UNLINK', unpack(KEYS, 2))
elseif commands[ARGV[3]] then redis.call(ARGV[3], KEYS[2], unpack(ARGV, 4))
else return redis.error_reply('ERR no command of a recovery') end
return 'restored'
