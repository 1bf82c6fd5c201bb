-- Deletes what nodes that shared have left, for one who writes alone: none of them lives.
-- KEYS: who writes, the client ids, the nodes
-- ARGV: token
-- Answers with how many keys there were.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local removed = 0
for at = 2, 3 do
  if redis.call('TYPE', KEYS[at]).ok == 'hash' then
    removed = removed + redis.call('UNLINK', KEYS[at])
  end
end
return removed
