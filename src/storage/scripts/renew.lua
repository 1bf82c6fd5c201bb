-- Says that the writer still lives; with a lease of 0 ms, that it has ended well. Gives how often
-- rooms and channels were changed.
-- KEYS: who writes
-- ARGV: token, lease in ms
local held = redis.call('HMGET', KEYS[1], 'token', 'changes')
if held[1] ~= ARGV[1] then return {'gone', '0'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until_ms', string.format('%.0f', now + ARGV[2]))
return {'done', held[2] or '0'}
