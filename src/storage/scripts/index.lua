-- Changes an index, if no later writer is there; gives how often that was done.
-- KEYS: who writes, the index
-- ARGV: writer, command, its arguments
local writer = redis.call('HGET', KEYS[1], 'generation')
if tonumber(writer or 0) > tonumber(ARGV[1]) then return {'fenced', writer} end
redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
return {'done', string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'changes', 1))}
