-- Cuts the stream of a channel to what is kept of it now; see stream.lua.
-- KEYS: stream, meta
-- ARGV: writer, keep messages, oldest time to keep in ms or 0, keep bytes or 0
-- Answers with what was cut, and the time of the oldest entry in ms, 0 if there is none.
local got = redis.call('HMGET', KEYS[2], 'writer', 'top', 'bytes', 'bytes_before')
local writer = whole(got[1])
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', got[1], {}} end
-- Of a channel that is gone, or is not known here, nothing is to be cut.
if not got[1] or redis.call('EXISTS', KEYS[1]) == 0 then return {'done', '0', {}} end
local stream, wrong = open_stream(KEYS[1], got[2], got[3], got[4])
if wrong then return wrong end
local cut = trim(stream, ARGV[2], ARGV[3], tonumber(ARGV[4]), true)
redis.call('HSET', KEYS[2], stream_fields(stream))
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {'done', oldest and string.match(oldest[1], '^%d+') or '0', cut}
