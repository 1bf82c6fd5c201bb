-- Ends the term at a sequence at the latest.
-- KEYS: meta
-- ARGV: writer, epoch, the last sequence that is sure, another term, where it is told
local meta, wrong = meta_of(KEYS[1])
if wrong then return wrong end
if meta.writer > tonumber(ARGV[1]) then return {'fenced', string.format('%.0f', meta.writer)} end
if meta.epoch ~= ARGV[2] then return {'missing', '0'} end
bump(KEYS[1], ARGV[5], meta, tonumber(ARGV[3]), ARGV[4])
return {'done', '1'}
