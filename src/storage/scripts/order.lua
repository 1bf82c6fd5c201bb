-- What the scripts of an order that several nodes share have in common. A mark is a sequence, the
-- id of its entry, and who asked for it: two events that got the same place have different marks.

-- The hash of a channel; or what is wrong with it.
local function meta_of(key)
  local got = redis.call('HMGET', key, 'writer', 'epoch', 'term', 'past', 'last', 'top', 'mark',
    'last_us', 'last_time', 'bytes', 'bytes_before')
  local meta = {writer = whole(got[1]), epoch = got[2], term = got[3] or '0',
    past = got[4] or '[]', last = whole(got[5]), top = got[6] or '0-0', origin = '-',
    last_us = whole(got[8]), bytes = got[10], bytes_before = got[11]}
  local wrong = not meta.writer and 'writer' or not meta.last and 'last'
    or not meta.last_us and 'last_us' or not id_of(meta.top) and 'top'
    or not (whole(meta.term) and whole(meta.term) < 4294967296) and 'term'
    or not string.match(meta.past, '^%[[%[%]%d,]*%]$') and 'past'
    or meta.epoch and not is_epoch(meta.epoch) and 'epoch'
  if wrong then return nil, broken(wrong) end
  -- Who writes alone knows nothing of the two: they count only for the entry that they are of.
  local id, origin = string.match(got[7] or '', '^(%S+) (%S+)$')
  if id == meta.top then meta.origin = origin end
  local us, text = string.match(got[9] or '', '^(%d+) ([%d-]+T[%d:.]+Z)$')
  if tonumber(us) == meta.last_us then meta.last_time = text end
  return meta
end

local function is_before(a, b)
  local a_ms, a_sequence = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_sequence = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_sequence) < tonumber(b_sequence))
end

-- The id of the oldest entry of a stream, or false; it is looked for once.
local oldest_id
local function oldest_of(stream)
  if oldest_id == nil then
    local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    oldest_id = entry and entry[1] or false
  end
  return oldest_id
end

-- Whether what a mark says is so: 'yes', 'no', or 'trimmed' if it is older than what is kept.
local function has(stream, meta, sequence, id, origin)
  sequence = tonumber(sequence)
  if sequence == 0 then return 'yes' end
  if sequence > meta.last then return 'no' end
  if sequence == meta.last then
    return meta.top == id and meta.origin == origin and 'yes' or 'no'
  end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then return (fields_of(entry).origin or '-') == origin and 'yes' or 'no' end
  local oldest = oldest_of(stream)
  return (not oldest or is_before(id, oldest)) and 'trimmed' or 'no'
end

-- Which run of which server this is: another one may have forgotten what this one told. '' if that
-- can't be known, as the user of the connection may not ask.
local function run_of_server()
  local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  if type(server) ~= 'string' or type(replication) ~= 'string' then return '' end
  local run = string.match(server, 'run_id:(%x+)')
  -- A replica that becomes the master gets another one of these.
  local history = string.match(replication, 'master_replid:(%x+)')
  return run and history and run .. ':' .. history or ''
end

-- Ends the term; of it and of those before it no more is sure than up to a sequence.
local function bump(key, push, meta, sure, term)
  sure = math.min(sure, meta.last)
  local sure_text = string.format('%.0f', sure)
  local past = {}
  for of, last in string.gmatch(meta.past, '%[(%d+),(%d+)%]') do
    past[#past + 1] = '[' .. of .. ',' .. (tonumber(last) > sure and sure_text or last) .. ']'
  end
  past[#past + 1] = '[' .. meta.term .. ',' .. sure_text .. ']'
  past = '[' .. table.concat(past, ',', math.max(1, #past - 15)) .. ']'
  if term == meta.term then term = string.format('%.0f', tonumber(term) - 1) end
  redis.call('HSET', key, 'term', term, 'past', past)
  redis.call('PUBLISH', push, table.concat({'term', meta.epoch, term, meta.term,
    string.format('%.0f', meta.last), meta.top, meta.origin, past}, ' '))
end
