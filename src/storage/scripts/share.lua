-- Says that a node that shares what is kept lives, and keeps away whoever would write alone.
-- KEYS: who writes, the nodes that live
-- ARGV: token, node, lease in ms, a generation that must be reached, a token whose process is known
--       to be dead, the channel by which this node hears that it is heard, the host
-- Answers with a word; of one who writes alone name, host and since when in ms, in a line each, or whether
-- the node was there before; a number; a token, or how often
-- the catalogue was changed; its last repair; and how many nodes were dropped as their leases are over.
local held = redis.call('HMGET', KEYS[1], 'token', 'node', 'generation', 'until_ms', 'changes',
  'repair', 'host', 'since_ms')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generation = tonumber(held[3] or 0)
if held[1] ~= 'shared' then
  local left = tonumber(held[4] or 0) - now
  if left > 0 and held[1] ~= ARGV[5] then
    local who = table.concat({held[2] or '', held[7] or '', held[8] or '0'}, '\n')
    return {'other', who, string.format('%.0f', left), held[1], '', 0}
  end
  generation = generation + 1
end
generation = math.max(generation, tonumber(ARGV[4]))
local until_ms = now + ARGV[3]
local was_there = redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', until_ms))
end
local nodes, gone = redis.call('HGETALL', KEYS[2]), 0
for at = 1, #nodes, 2 do
  local ends = tonumber(nodes[at + 1]) or 0
  if ends > now then
    until_ms = math.max(until_ms, ends)
  else
    gone = gone + redis.call('HDEL', KEYS[2], nodes[at])
  end
end
redis.call('HSET', KEYS[1], 'token', 'shared', 'node', ARGV[2], 'host', ARGV[7],
  'generation', string.format('%.0f', generation), 'until_ms', string.format('%.0f', until_ms),
  'changes', held[5] or '0')
redis.call('PUBLISH', ARGV[6], 'beat')
return {'shared', was_there and 'again' or 'new', string.format('%.0f', generation), held[5] or '0',
  held[6] or '', gone}
