-- How the stream of a channel grows, and how it is cut to what is kept. Each entry says how many bytes
-- were appended before it, ever; so what is there is told by the oldest entry and the hash. (An entry
-- that does not say it, of another hand or an earlier version, counts as nothing.)

-- The memory of an entry whose texts have so many bytes, allocator included. Small ones share nodes of
-- 4 KiB; a larger one has a node of its own, and allocations are of four sizes between two powers of two.
-- A node takes some bytes besides, in the tree of nodes, and so does the stream.
local NODE_BYTES, TREE_BYTES, NODE_ENTRIES_MAX, STREAM_BYTES = 4096, 544, 100, 1024
local function weight(length)
  local in_node = math.min(math.floor((NODE_BYTES - 96) / (length + 48)), NODE_ENTRIES_MAX)
  if in_node > 1 then return math.ceil((NODE_BYTES + TREE_BYTES) / in_node) end
  local _, exponent = math.frexp(length + 128)
  local step = math.ldexp(1, exponent - 3)
  return math.ceil((length + 128) / step) * step + TREE_BYTES
end

-- The stream as the hash tells it; or what is wrong with that.
local function open_stream(key, top, bytes, bytes_before)
  local stream = {key = key, bytes = whole(bytes), before = whole(bytes_before)}
  stream.ms, stream.sequence = id_of(top or '0-0')
  if not stream.ms then return nil, broken('top') end
  if not stream.bytes then return nil, broken('bytes') end
  if not stream.before then return nil, broken('bytes_before') end
  if not bytes then
    -- The hash has begun anew, and the stream has not.
    walk(key, '+', '-', true, function(entry, length)
      local before = whole(fields_of(entry).at_bytes or 'none')
      if before then stream.bytes = before + weight(length) end
      return true
    end)
  end
  return stream
end

-- What an event has left is kept as a time of this server's clock, as those of nodes differ.
local time
local function until_ms(left)
  time = time or redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + left)
end

-- Appends an entry whose texts have so many bytes, and which may be delivered for so many ms, or for ever
-- if that is ''. Its id is time-sequence, and grows: if the clock went
-- back, or sequences begin anew, the time of the newest entry is taken, or the millisecond after it.
-- Gives its id, or what went wrong.
local function add(stream, us, digits, length, left, fields)
  local sequence, before = tonumber(digits), string.format('%.0f', stream.bytes)
  if left ~= '' then fields[#fields + 1], fields[#fields + 2] = 'until', until_ms(left) end
  fields[#fields + 1], fields[#fields + 2] = 'at_bytes', before
  local ms, id, reply
  for attempt = 1, 2 do
    ms = math.max(math.floor(us / 1000), stream.ms)
    if ms == stream.ms and sequence <= stream.sequence then ms = ms + 1 end
    id = string.format('%.0f-%s', ms, digits)
    reply = redis.pcall('XADD', stream.key, id, unpack(fields))
    local is_used_up = reply.err
      and (string.find(reply.err, 'equal or smaller', 1, true)
        or string.find(reply.err, 'exhausted', 1, true))
    if not is_used_up then break end
    -- Somebody else has added to the stream: its own top counts.
    local info = redis.call('XINFO', 'STREAM', stream.key)
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then stream.ms, stream.sequence = id_of(info[at + 1]) end
    end
    if attempt == 2 or not stream.ms then
      return nil, redis.error_reply('BROKEN an entry of its stream has an id that none can follow')
    end
  end
  if reply.err then return nil, redis.error_reply(reply.err) end
  stream.ms, stream.sequence = ms, sequence
  stream.bytes = stream.bytes + weight(length)
  return id
end

-- The bytes of entries that are looked at to find where those begin that stay.
local LOOK_BYTES_MAX = 4 * 1024 * 1024

-- The bytes that a stream takes, at most.
local function bytes_of(stream)
  local bytes = stream.bytes - stream.before
  return bytes > 0 and bytes + STREAM_BYTES or 0
end

-- Cuts a stream to so many messages, none before a time in ms, and so many bytes; 0 is no limit of the
-- latter two. The newest entry goes only by its age. Gives how many went by each, how many bytes are
-- left at most, and 1 if more is to be cut by bytes than was looked at.
local function trim(stream, messages, oldest_ms, bytes_max, is_exact)
  local by_count = redis.call('XTRIM', stream.key, 'MAXLEN', '=', messages)
  local by_age, by_bytes, is_more = 0, 0, 0
  if oldest_ms ~= '0' then
    by_age = redis.call('XTRIM', stream.key, 'MINID', '=', oldest_ms)
  end
  local is_over = bytes_max > 0 and bytes_of(stream) > bytes_max
  if is_over or is_exact then
    local left, looked, first = redis.call('XLEN', stream.key), 0, nil
    local is_empty = left == 0
    walk(stream.key, '-', '+', false, function(entry, length)
      local before = whole(fields_of(entry).at_bytes or 'none')
      if before and before <= stream.bytes then stream.before = math.max(stream.before, before) end
      looked, left = looked + length, left - 1
      is_over = bytes_max > 0 and bytes_of(stream) > bytes_max
      if not is_over or left == 0 then return true end
      -- It goes: what follows it is the first that may stay.
      first = entry[1]
      return looked > LOOK_BYTES_MAX
    end)
    if is_over and left > 0 then is_more = 1 end
    if is_empty then stream.before = stream.bytes end
    if first then
      by_bytes = redis.call('XTRIM', stream.key, 'MINID', '=', first)
        + redis.call('XDEL', stream.key, first)
    end
  end
  return {by_count, by_age, by_bytes, bytes_of(stream), is_more}
end

-- The fields of the hash that say what of the stream is there.
local function stream_fields(stream)
  return 'bytes', string.format('%.0f', stream.bytes), 'bytes_before',
    string.format('%.0f', stream.before)
end
