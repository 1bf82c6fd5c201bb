-- What the scripts of a channel share. A field of its hash counts only if this bus may have written
-- it: whatever another hand has put there costs this channel and no other.

-- Beyond it numbers are not exact.
local EXACT_MAX = 9007199254740992

-- The number that a text is; 0 for none, nil for anything else.
local function whole(text)
  if not text then return 0 end
  local number = string.match(text, '^%d+$') and tonumber(text)
  return number and number <= EXACT_MAX and number or nil
end

-- The two numbers of the id of an entry; nothing if it is none.
local function id_of(text)
  local ms, sequence = string.match(text, '^(%d+)-(%d+)$')
  if not ms then return nil end
  ms, sequence = whole(ms), whole(sequence)
  if not ms or not sequence then return nil end
  return ms, sequence
end

local function broken(name)
  return redis.error_reply('BROKEN the field ' .. name .. ' is not what this bus writes')
end

-- The text of an epoch, which stands in messages that are cut at spaces.
local function is_epoch(text)
  return #text <= 256 and string.match(text, '^[!-~]+$') ~= nil
end
