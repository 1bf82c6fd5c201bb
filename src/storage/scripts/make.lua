-- Makes a channel if it is not there, notes who follows it, since which run of the server, and gives it
-- as it is.
-- KEYS: meta, who follows it
-- ARGV: writer, a token or '', epoch, then the other fields and their values, `term` and `past` first
local meta = redis.call('HMGET', KEYS[1], 'writer', 'epoch')
if tonumber(meta[1] or 0) > tonumber(ARGV[1]) then return {'fenced', {meta[1], ''}} end
local word = 'there'
if not meta[2] then
  word = 'made'
  redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'last', 0, 'last_us', 0, unpack(ARGV, 4))
elseif meta[2] == ARGV[3] then
  -- The terms are not the asker's to say.
  redis.call('HSET', KEYS[1], unpack(ARGV, 8))
end
redis.call('HSET', KEYS[1], 'writer', ARGV[1])
if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], ARGV[2], run_of_server()) end
return {word, redis.call('HGETALL', KEYS[1])}
