-- Keeps a channel as it is now. Another epoch is another life, in the same stream.
-- KEYS: meta
-- ARGV: writer, epoch, then the other fields and their values
local got = redis.call('HMGET', KEYS[1], 'writer', 'epoch')
local writer = whole(got[1])
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', got[1]} end
if not got[2] and redis.call('EXISTS', KEYS[1]) == 1 then return broken('epoch') end
if got[2] ~= ARGV[2] then redis.call('HSET', KEYS[1], 'last', 0, 'last_us', 0) end
redis.call('HSET', KEYS[1], 'writer', ARGV[1], 'epoch', ARGV[2], unpack(ARGV, 3))
return {'done', '1'}
