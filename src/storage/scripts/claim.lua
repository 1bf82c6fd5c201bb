-- Keeps older writers from a channel, and gives it as it is.
-- KEYS: meta
-- ARGV: writer
local writer = redis.call('HGET', KEYS[1], 'writer')
if tonumber(writer or 0) > tonumber(ARGV[1]) then return {'fenced', writer} end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'writer', ARGV[1]) end
return redis.call('HGETALL', KEYS[1])
