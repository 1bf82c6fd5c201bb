-- Deletes a channel; what is not ours stays.
-- KEYS: stream, meta
-- ARGV: writer
local text = redis.call('HGET', KEYS[2], 'writer')
local writer = whole(text)
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', text} end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE not a stream') end
redis.call('DEL', KEYS[1], KEYS[2])
return {'done', '1'}
