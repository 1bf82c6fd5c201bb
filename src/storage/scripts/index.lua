-- Changes an index, if no later writer is there.
-- KEYS: who writes, the index
-- ARGV: writer, command, its arguments
local writer = redis.call('HGET', KEYS[1], 'generation')
if tonumber(writer or 0) > tonumber(ARGV[1]) then return {'fenced', writer} end
redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
return {'done', '1'}
