-- Takes client ids back from a node, as far as it has them; gives how many.
-- KEYS: the client ids
-- ARGV: the node's token, client ids
local freed = 0
for at = 2, #ARGV do
  local kept = redis.call('HGET', KEYS[1], ARGV[at])
  if kept and string.match(kept, '^%S+') == ARGV[1] then
    freed = freed + redis.call('HDEL', KEYS[1], ARGV[at])
  end
end
return freed
