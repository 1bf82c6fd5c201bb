-- Gives events their places, appends them, and tells them to all nodes that follow the channel;
-- all or none.
-- KEYS: stream, meta
-- ARGV: writer, epoch, term, the mark of the asker (sequence, id, origin), the last sequence that it
--       had seen, keep messages, keep ms or 0, what stands before the time of a message, what stands
--       before its sequence, where it is told, the time of the last event as text if none is kept,
--       then for each event its time in us and as text, id, sender, origin, the rest of the message,
--       its place if that is known: '' or 'p' and the sequence, or 'r' and that of the first, and for
--       how many ms it may still be delivered or '' if for ever
-- Answers with the sequence of each, and whether it is a repeat.
local meta = meta_of(KEYS[2])
if meta.writer > tonumber(ARGV[1]) then return {'fenced', {meta.writer}} end
if meta.epoch ~= ARGV[2] then return {'missing', {}} end
local seen, keep = tonumber(ARGV[7]), tonumber(ARGV[8])
if meta.term ~= ARGV[3] or seen > meta.last
  or has(KEYS[1], meta, ARGV[4], ARGV[5], ARGV[6]) == 'no' then
  return {'stale', {}}
end

-- What came since the asker looked.
local by_name, by_origin = {}, {}
if meta.last > seen then
  local count = string.format('%.0f', math.min(meta.last - seen, math.max(keep, 1)))
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', count)) do
    local fields = fields_of(entry)
    if fields.epoch ~= ARGV[2] or tonumber(fields.sequence) <= seen then break end
    by_name[fields.from .. '\n' .. fields.id] = tonumber(fields.sequence)
    if fields.origin then by_origin[fields.origin] = tonumber(fields.sequence) end
  end
end

-- An id is time-sequence, and grows: see append.lua.
local top_ms, top_sequence = string.match(meta.top, '^(%d+)-(%d+)$')
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

local last, last_us, last_time = meta.last, meta.last_us, meta.last_time or ARGV[13]
local top, origin = meta.top, meta.origin
local places, told = {}, {}
for at = 14, #ARGV, 8 do
  local id, from, name = ARGV[at + 2], ARGV[at + 3], ARGV[at + 3] .. '\n' .. ARGV[at + 2]
  -- It was placed by a call whose answer was lost; or it is a repeat.
  local sequence, is_repeat = by_origin[ARGV[at + 4]], 0
  if not sequence then
    local kind, known = string.match(ARGV[at + 6], '^(.)(%d+)$')
    if kind then sequence, is_repeat = tonumber(known), kind == 'r' and 1 or 0 end
  end
  if not sequence and by_name[name] then sequence, is_repeat = by_name[name], 1 end
  if not sequence then
    sequence = last + 1
    if tonumber(ARGV[at]) > last_us then last_us, last_time = tonumber(ARGV[at]), ARGV[at + 1] end
    local digits = string.format('%.0f', sequence)
    local message = table.concat({ARGV[10], last_time, ARGV[11], digits, ARGV[at + 5]})
    local function add(ms)
      top = string.format('%.0f-%s', ms, digits)
      local fields = {'epoch', ARGV[2], 'sequence', digits, 'id', id, 'from', from,
        'origin', ARGV[at + 4], 'message', message}
      if ARGV[at + 7] ~= '' then
        fields[#fields + 1], fields[#fields + 2] = 'until', until_ms(ARGV[at + 7])
      end
      return redis.pcall('XADD', KEYS[1], top, unpack(fields))
    end
    local ms = next_id(last_us, sequence)
    local reply = add(ms)
    if reply.err and string.find(reply.err, 'equal or smaller', 1, true) then
      -- Somebody else has added to the stream: its own top counts.
      local info = redis.call('XINFO', 'STREAM', KEYS[1])
      for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
          top_ms, top_sequence = string.match(info[i + 1], '^(%d+)-(%d+)$')
          top_ms, top_sequence = tonumber(top_ms), tonumber(top_sequence)
        end
      end
      ms = next_id(last_us, sequence)
      reply = add(ms)
    end
    if reply.err then return redis.error_reply(reply.err) end
    top_ms, top_sequence, last, origin = ms, sequence, sequence, ARGV[at + 4]
    by_name[name], by_origin[origin] = sequence, sequence
    local left = ARGV[at + 7] ~= '' and ' ' .. ARGV[at + 7] or ''
    told[#told + 1] = table.concat({digits, ' ', top, ' ', origin, ' ', #message, left, '\n', message})
  end
  places[#places + 1] = sequence
  places[#places + 1] = is_repeat
end

if #told > 0 then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[8])
  if ARGV[9] ~= '0' then
    local oldest_ms = math.floor(last_us / 1000) - tonumber(ARGV[9])
    redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', math.max(oldest_ms, 0)))
  end
  redis.call('PUBLISH', ARGV[12],
    'events ' .. ARGV[2] .. ' ' .. ARGV[3] .. '\n' .. table.concat(told))
end
-- Always a write, so that WAIT after it waits for this, even if all of it was there.
redis.call('HSET', KEYS[2], 'writer', ARGV[1], 'last', string.format('%.0f', last),
  'last_us', string.format('%.0f', last_us), 'top', top, 'mark', top .. ' ' .. origin,
  'last_time', string.format('%.0f', last_us) .. ' ' .. last_time)
return {'done', places}
