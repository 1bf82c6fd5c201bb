-- Appends the events of one channel, all or none.
-- KEYS: stream, meta
-- ARGV: writer, epoch, keep messages, oldest time to keep in ms or 0, keep bytes or 0, then for each
--       event its time in us, sequence, id, sender, message, and for how many ms it may still be
--       delivered or '' if for ever
-- Answers with the last sequence that was there before, and what was cut.
local got = redis.call('HMGET', KEYS[2], 'writer', 'epoch', 'last', 'top', 'last_us', 'bytes',
  'bytes_before')
local writer, last = whole(got[1]), whole(got[3])
if not writer then return broken('writer') end
if writer > tonumber(ARGV[1]) then return {'fenced', got[1], {}} end
if got[2] ~= ARGV[2] then return {'missing', '0', {}} end
if not last then return broken('last') end
local last_us = got[5] or '0'
if not whole(last_us) then return broken('last_us') end
local stream, wrong = open_stream(KEYS[1], got[4], got[6], got[7])
if wrong then return wrong end

local before, is_added = string.format('%.0f', last), false
for at = 6, #ARGV, 6 do
  local sequence = whole(ARGV[at + 1])
  -- What is there already was stored by a try whose answer was lost.
  if sequence > last then
    local length = #ARGV[2] + #ARGV[at + 1] + #ARGV[at + 2] + #ARGV[at + 3] + #ARGV[at + 4]
    local _, why = add(stream, tonumber(ARGV[at]), ARGV[at + 1], length, ARGV[at + 5], {'epoch',
      ARGV[2], 'sequence', ARGV[at + 1], 'id', ARGV[at + 2], 'from', ARGV[at + 3],
      'message', ARGV[at + 4]})
    if why then return why end
    last, last_us, is_added = sequence, ARGV[at], true
  end
end

local cut = {}
if is_added then cut = trim(stream, ARGV[3], ARGV[4], tonumber(ARGV[5]), false) end
-- Always a write, so that WAIT after it waits for this, even if all of it was there.
redis.call('HSET', KEYS[2], 'writer', ARGV[1], 'last', string.format('%.0f', last),
  'last_us', last_us, 'top', string.format('%.0f-%.0f', stream.ms, stream.sequence),
  stream_fields(stream))
return {'done', before, cut}
