-- Makes a channel if it is not there, notes who follows it, since which run of the server, and gives it
-- as it is.
-- KEYS: meta, who follows it
-- ARGV: writer, a token or '', epoch, then the other fields and their values, `term` and `past` first
local got = redis.call('HMGET', KEYS[1], 'writer', 'epoch')
local writer = whole(got[1])
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', {got[1], ''}} end
local word = 'there'
if not got[2] then
  if redis.call('EXISTS', KEYS[1]) == 1 then return broken('epoch') end
  word = 'made'
  redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'last', 0, 'last_us', 0, unpack(ARGV, 4))
elseif got[2] == ARGV[3] then
  -- The terms are not the asker's to say.
  redis.call('HSET', KEYS[1], unpack(ARGV, 8))
end
redis.call('HSET', KEYS[1], 'writer', ARGV[1])
if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], ARGV[2], run_of_server()) end
return {word, redis.call('HGETALL', KEYS[1])}
