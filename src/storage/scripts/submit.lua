-- Gives events their places, appends them, and tells them to all nodes that follow the channel;
-- all or none.
-- KEYS: stream, meta
-- ARGV: writer, epoch, term, the mark of the asker (sequence, id, origin), the last sequence that it
--       had seen, keep messages, oldest time to keep in ms or 0, keep bytes or 0, what stands before the
--       time of a message, what stands before its sequence, where it is told, the time of the last event
--       as text if none is kept, then for each event its time in us and as text, id, sender, origin, the
--       rest of the message, its place if that is known: '' or 'p' and the sequence, or 'r' and that of
--       the first, and for how many ms it may still be delivered or '' if for ever
-- Answers with the sequence of each, and whether it is a repeat; and what was cut.
local meta, wrong = meta_of(KEYS[2])
if wrong then return wrong end
if meta.writer > tonumber(ARGV[1]) then return {'fenced', {meta.writer}, {}} end
if meta.epoch ~= ARGV[2] then return {'missing', {}, {}} end
local seen = tonumber(ARGV[7])
if meta.term ~= ARGV[3] or seen > meta.last
  or has(KEYS[1], meta, ARGV[4], ARGV[5], ARGV[6]) == 'no' then
  return {'stale', {}, {}}
end
local stream
stream, wrong = open_stream(KEYS[1], meta.top, meta.bytes, meta.bytes_before)
if wrong then return wrong end

-- What came since the asker looked: no more than can be looked through while nobody else is served.
local SINCE_BYTES_MAX = 4 * 1024 * 1024
local by_name, by_origin = {}, {}
if meta.last > seen then
  local looked = 0
  walk(KEYS[1], '+', '-', true, function(entry, length)
    local fields = fields_of(entry)
    local sequence = whole(fields.sequence or 'none')
    -- What is not of this bus is passed over.
    if not sequence or not fields.epoch then return false end
    if fields.epoch ~= ARGV[2] or sequence <= seen then return true end
    if fields.from and fields.id then by_name[fields.from .. '\n' .. fields.id] = sequence end
    if fields.origin then by_origin[fields.origin] = sequence end
    looked = looked + length
    return looked > SINCE_BYTES_MAX
  end)
end

local last, last_us, last_time = meta.last, meta.last_us, meta.last_time or ARGV[14]
local top, origin = meta.top, meta.origin
local places, told = {}, {}
for at = 15, #ARGV, 8 do
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
    local message = table.concat({ARGV[11], last_time, ARGV[12], digits, ARGV[at + 5]})
    local length = #ARGV[2] + #digits + #id + #from + #ARGV[at + 4] + #message
    local why
    top, why = add(stream, last_us, digits, length, ARGV[at + 7], {'epoch', ARGV[2],
      'sequence', digits, 'id', id, 'from', from, 'origin', ARGV[at + 4], 'message', message})
    if why then return why end
    last, origin = sequence, ARGV[at + 4]
    by_name[name], by_origin[origin] = sequence, sequence
    local left = ARGV[at + 7] ~= '' and ' ' .. ARGV[at + 7] or ''
    told[#told + 1] = table.concat({digits, ' ', top, ' ', origin, ' ', #message, left, '\n', message})
  end
  places[#places + 1] = sequence
  places[#places + 1] = is_repeat
end

local cut = {}
if #told > 0 then
  cut = trim(stream, ARGV[8], ARGV[9], tonumber(ARGV[10]), false)
  redis.call('PUBLISH', ARGV[13],
    'events ' .. ARGV[2] .. ' ' .. ARGV[3] .. '\n' .. table.concat(told))
end
-- Always a write, so that WAIT after it waits for this, even if all of it was there.
redis.call('HSET', KEYS[2], 'writer', ARGV[1], 'last', string.format('%.0f', last),
  'last_us', string.format('%.0f', last_us), 'top', top, 'mark', top .. ' ' .. origin,
  'last_time', string.format('%.0f', last_us) .. ' ' .. last_time, stream_fields(stream))
return {'done', places, cut}
