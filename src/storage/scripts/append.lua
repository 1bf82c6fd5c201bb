-- Appends the events of one channel, all or none.
-- KEYS: stream, meta
-- ARGV: writer, epoch, keep messages, oldest time to keep in ms, then for each event
--       its time in us, sequence, id, sender, message, and for how many ms it may still be delivered
--       or '' if for ever
-- Answers with the last sequence that was there before.
local meta = redis.call('HMGET', KEYS[2], 'writer', 'epoch', 'last', 'top', 'last_us')
if tonumber(meta[1] or 0) > tonumber(ARGV[1]) then return {'fenced', meta[1]} end
if meta[2] ~= ARGV[2] then return {'missing', '0'} end
local last, last_us = tonumber(meta[3] or 0), meta[5] or '0'
local before = string.format('%.0f', last)

-- An id is time-sequence, and grows: if the clock went back, or sequences begin anew, the time of
-- the newest entry is taken, or the millisecond after it.
local top_ms, top_sequence = string.match(meta[4] or '0-0', '^(%d+)-(%d+)$')
top_ms, top_sequence = tonumber(top_ms), tonumber(top_sequence)
local function next_id(us, sequence)
  local ms = math.max(math.floor(us / 1000), top_ms)
  if ms == top_ms and sequence <= top_sequence then ms = ms + 1 end
  return ms
end
local time
-- What it has left is kept as a time of this server's clock, as those of nodes differ.
local function until_ms(left)
  time = time or redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + left)
end
local function add(at, ms)
  local fields = {'epoch', ARGV[2], 'sequence', ARGV[at + 1], 'id', ARGV[at + 2],
    'from', ARGV[at + 3], 'message', ARGV[at + 4]}
  if ARGV[at + 5] ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'until', until_ms(ARGV[at + 5])
  end
  return redis.pcall('XADD', KEYS[1], string.format('%.0f-%s', ms, ARGV[at + 1]), unpack(fields))
end

local added = 0
for at = 5, #ARGV, 6 do
  local sequence = tonumber(ARGV[at + 1])
  -- What is there already was stored by a try whose answer was lost.
  if sequence > last then
    local ms = next_id(tonumber(ARGV[at]), sequence)
    local reply = add(at, ms)
    if reply.err and string.find(reply.err, 'equal or smaller', 1, true) then
      -- Somebody else has added to the stream: its own top counts.
      local info = redis.call('XINFO', 'STREAM', KEYS[1])
      for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
          top_ms, top_sequence = string.match(info[i + 1], '^(%d+)-(%d+)$')
          top_ms, top_sequence = tonumber(top_ms), tonumber(top_sequence)
        end
      end
      ms = next_id(tonumber(ARGV[at]), sequence)
      reply = add(at, ms)
    end
    if reply.err then return redis.error_reply(reply.err) end
    top_ms, top_sequence, last, last_us = ms, sequence, sequence, ARGV[at]
    added = added + 1
  end
end

if added > 0 then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[3])
  if ARGV[4] ~= '0' then redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[4]) end
end
-- Always a write, so that WAIT after it waits for this, even if all of it was there.
redis.call('HSET', KEYS[2], 'writer', ARGV[1], 'last', string.format('%.0f', last),
  'last_us', last_us, 'top', string.format('%.0f-%.0f', top_ms, top_sequence))
return {'done', before}
