-- Deletes a channel, unless another node that lives follows it; what is not ours stays.
-- KEYS: stream, meta, who follows it
-- ARGV: writer, then the tokens of the other nodes that live
local text = redis.call('HGET', KEYS[2], 'writer')
local writer = whole(text)
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', {text, ''}} end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE not a stream') end
for at = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[3], ARGV[at]) == 1 and text then
    return {'followed', redis.call('HGETALL', KEYS[2])}
  end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return {'done', {}}
