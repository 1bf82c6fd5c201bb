-- Deletes a channel; what is not ours stays.
-- KEYS: stream, meta
-- ARGV: writer
local writer = redis.call('HGET', KEYS[2], 'writer')
if tonumber(writer or 0) > tonumber(ARGV[1]) then return {'fenced', writer} end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE not a stream') end
redis.call('DEL', KEYS[1], KEYS[2])
return {'done', '1'}
