-- Changes an index, if no later writer is there; gives how often that was done.
-- KEYS: who writes, the index
-- ARGV: writer, command, its arguments
local held = redis.call('HMGET', KEYS[1], 'generation', 'changes')
if (whole(held[1]) or 0) > tonumber(ARGV[1]) then return {'fenced', held[1]} end
redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
-- A count that is none begins anew, and all is told again.
local changes = string.format('%.0f', (whole(held[2]) or 0) + 1)
redis.call('HSET', KEYS[1], 'changes', changes)
return {'done', changes}
