-- Reading a stream in small steps: an entry may be as large as a message, and Redis serves nobody
-- else meanwhile.

-- The most entries that are read at once, and looked at by one call.
local STEP_MAX, WALK_MAX = 16, 1024

-- Calls `visit` with one entry after the other and the bytes of its texts, until that gives true.
-- Gives whether all of them were seen.
local function walk(stream, from, to, is_back, visit)
  local command, step, seen = is_back and 'XREVRANGE' or 'XRANGE', 1, 0
  while seen < WALK_MAX do
    local entries = redis.call(command, stream, from, to, 'COUNT', step)
    for _, entry in ipairs(entries) do
      local bytes = 0
      for _, text in ipairs(entry[2]) do bytes = bytes + #text end
      if visit(entry, bytes) then return false end
    end
    if #entries < step then return true end
    seen, from = seen + #entries, '(' .. entries[#entries][1]
    step = math.min(2 * step, STEP_MAX)
  end
  return false
end

local function fields_of(entry)
  local fields = {}
  for at = 1, #entry[2], 2 do fields[entry[2][at]] = entry[2][at + 1] end
  return fields
end
