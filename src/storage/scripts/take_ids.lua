-- Gives client ids to a node: those that are free, its own, of a node that has no lease, or of the same
-- session in an earlier life, whoever has them.
-- KEYS: the client ids
-- ARGV: what the keys of leases begin with, the node's token, '1' if it had them before, then for each
--       its id, its session or '', and the life of that
-- Answers for each: 1 it is the node's, 0 another node has it, 2 another node has it for the same
-- session in a later life.
if redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 0 then return {'gone', {}} end
local leases = {}
local function lives(node)
  if leases[node] == nil then leases[node] = redis.call('EXISTS', ARGV[1] .. node) == 1 end
  return leases[node]
end
local verdicts = {}
for at = 4, #ARGV, 3 do
  local id, session, life = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local kept = redis.call('HGET', KEYS[1], id) or ''
  -- Without a session only the token stands there.
  local holder, of, since = string.match(kept, '^(%S+) ?(%S*) ?(%d*)$')
  local verdict = 1
  if holder and holder ~= ARGV[2] then
    local is_same = session ~= '' and of == session
    local is_later = is_same and tonumber(life) > tonumber(since)
    local is_earlier = is_same and tonumber(life) < tonumber(since)
    if is_earlier and (ARGV[3] == '1' or lives(holder)) then
      verdict = 2
    elseif not is_later and lives(holder) then
      verdict = 0
    end
  end
  if verdict == 1 then
    local claim = session == '' and ARGV[2] or table.concat({ARGV[2], session, life}, ' ')
    redis.call('HSET', KEYS[1], id, claim)
  end
  verdicts[#verdicts + 1] = verdict
end
return {'done', verdicts}
