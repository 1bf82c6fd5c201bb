-- Says that the writer still lives; with a lease of 0 ms, that it has ended well.
-- KEYS: who writes
-- ARGV: token, lease in ms
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return {'gone', '0'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until_ms', string.format('%.0f', now + ARGV[2]))
return {'done', '1'}
