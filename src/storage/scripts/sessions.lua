-- Writes sessions, each unless a later life of it is there, or that it has ended.
-- KEYS: theirs
-- ARGV: for each its life, for how many milliseconds, its text; without a text it has ended, which is
--       remembered for that long
-- Answers for each whether it was done.
local done = {}
for i, key in ipairs(KEYS) do
  local life, ms, text = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  local head = redis.pcall('GETRANGE', key, 0, 39)
  local known = type(head) == 'string' and string.match(head, '^{"life":(%d+),')
  local is_over = known and string.find(head, ',"over":true}', 1, true)
  if head ~= '' and (not known or tonumber(known) > tonumber(life)
    or (is_over and text ~= '' and tonumber(known) == tonumber(life)))
  then
    done[i] = 0
  else
    if text == '' then text = '{"life":' .. life .. ',"over":true}' end
    redis.call('SET', key, text, 'PX', ms)
    done[i] = 1
  end
end
return done
