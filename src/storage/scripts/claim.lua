-- Keeps older writers from a channel, and gives it as it is. Who followed it as one of several nodes lives
-- no more.
-- KEYS: meta, who followed it
-- ARGV: writer
local text = redis.call('HGET', KEYS[1], 'writer')
local writer = whole(text)
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', text} end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'writer', ARGV[1]) end
if redis.call('TYPE', KEYS[2]).ok == 'hash' then redis.call('UNLINK', KEYS[2]) end
return redis.call('HGETALL', KEYS[1])
