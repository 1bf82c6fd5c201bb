-- Becomes the one who writes under the prefix, with a number higher than any before.
-- KEYS: who writes
-- ARGV: token, node, lease in ms, the number to be passed, '1' if this token has held it before,
--       a token whose process is known to be dead, the host
-- Answers with a word; of another one name, host and since when in ms, in a line each, or whether it was
-- there before; a number; and a token, or how often
-- rooms and channels were changed.
local held = redis.call('HMGET', KEYS[1], 'token', 'node', 'generation', 'until_ms', 'changes', 'host',
  'since_ms')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_mine = held[1] == ARGV[1]
local who = table.concat({held[2] or '', held[6] or '', held[7] or '0'}, '\n')
if held[1] and not is_mine then
  if ARGV[5] == '1' then return {'overtaken', who, '0', held[1]} end
  local left = tonumber(held[4] or 0) - now
  if left > 0 and held[1] ~= ARGV[6] then
    return {'other', who, string.format('%.0f', left), held[1]}
  end
end
local generation = math.max(tonumber(held[3] or 0), tonumber(ARGV[4])) + 1
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'node', ARGV[2], 'host', ARGV[7],
  'since_ms', is_mine and held[7] or string.format('%.0f', now),
  'generation', string.format('%.0f', generation),
  'until_ms', string.format('%.0f', now + ARGV[3]))
return {'held', is_mine and 'again' or 'new', string.format('%.0f', generation), held[5] or '0'}
