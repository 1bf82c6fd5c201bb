-- Reads backwards through a stream.
-- KEYS: stream
-- ARGV: where to begin, the bytes that are enough, how many entries at most
-- Answers with what the clock shows by which the time that entries have left is kept; with entries, the
-- newest first; and whether no more follow.
local found, bytes, left = {}, tonumber(ARGV[2]), tonumber(ARGV[3])
local is_end = walk(KEYS[1], ARGV[1], '-', true, function(entry, length)
  found[#found + 1] = entry
  bytes, left = bytes - length, left - 1
  return bytes <= 0 or left <= 0
end)
return {redis.call('TIME'), found, is_end and 1 or 0}
