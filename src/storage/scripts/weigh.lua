-- Notes how many bytes channels hold, for all nodes; and tells one of the nodes which hold the most, if
-- all together hold more than they may.
-- KEYS: the bytes of channels, and of all under `*`; which node cuts channels for it
-- ARGV: the node's token, for how many ms it is that one, the bytes that all may hold, then for each
--       channel its name and its bytes, 0 if it is gone
-- Answers with the bytes of all, and names with their bytes.
local changed = 0
for at = 4, #ARGV, 2 do
  local before = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at]) or 0)
  local now = tonumber(ARGV[at + 1])
  changed = changed + now - before
  if now == 0 then
    redis.call('ZREM', KEYS[1], ARGV[at])
  else
    redis.call('ZADD', KEYS[1], now, ARGV[at])
  end
end
local total = tonumber(redis.call('ZSCORE', KEYS[1], '*') or 0)
if changed ~= 0 then
  total = math.max(total + changed, 0)
  redis.call('ZADD', KEYS[1], total, '*')
end
local largest = {}
if total > tonumber(ARGV[3]) then
  redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
  if redis.call('GET', KEYS[2]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
    local found = redis.call('ZREVRANGE', KEYS[1], 0, 8, 'WITHSCORES')
    for at = 1, #found, 2 do
      -- The sum is one of them; a single channel weighs as much.
      if found[at] ~= '*' then
        largest[#largest + 1] = found[at]
        largest[#largest + 1] = string.format('%.0f', tonumber(found[at + 1]))
      end
    end
  end
end
return {string.format('%.0f', total), largest}
