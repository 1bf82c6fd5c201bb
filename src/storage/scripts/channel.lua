-- Keeps a channel as it is now. Another epoch is another life, in the same stream.
-- KEYS: meta
-- ARGV: writer, epoch, then the other fields and their values
local meta = redis.call('HMGET', KEYS[1], 'writer', 'epoch')
if tonumber(meta[1] or 0) > tonumber(ARGV[1]) then return {'fenced', meta[1]} end
if meta[2] ~= ARGV[2] then redis.call('HSET', KEYS[1], 'last', 0, 'last_us', 0) end
redis.call('HSET', KEYS[1], 'writer', ARGV[1], 'epoch', ARGV[2], unpack(ARGV, 3))
return {'done', '1'}
