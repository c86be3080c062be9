/**
 * The one Lua script that does every fenced write: many rows in one call, each with its version. A row whose key holds a
 * version that is not older is passed over; what was passed over because the stored version lies above everything this
 * cursor has given out is told. The cursor moves in the same call, and only when no row of it failed.
 *
 * A script (EVALSHA), not a FUNCTION: its name is the hash of its text, so two releases of Sluice can write to one Redis
 * without replacing each other's code, it needs no right to change the server's library, and it runs on Redis 5 to 8,
 * Valkey and cloud services alike. NOSCRIPT is answered with EVAL (connection.ts).
 *
 *   KEYS  [applied]  then per row: s h j d x → version key, key · a r z y → version key, key, tombstones · p → version key
 *   ARGV  owner, tombstone ms, highest, count of cursor arguments, cursor arguments, then per row: operation, mark, …
 *         s j ttl, value            h ttl, mode, pairs, names to remove, pairs…, names…     d –
 *         a r ttl, member           z ttl, member, score        y ttl, member               p channel, message
 *         x ttl, length limit, version before or "", count of names and values, names and values…
 *
 * Entries of a stream are in order or not at all: the first one of a call names the last of an earlier call, and where that
 * is missing (its call failed, this one came through) the call fails too.
 *
 * A mark is a version (40 digits) and its owner, "instance/database.table". The reply lists exceptions only, as
 * (row in this call, kind, text) one after another; row -1 is the cursor.
 */
import { createHash } from 'node:crypto'

export const SCRIPT = `
local call, try, sub = redis.call, redis.pcall, string.sub
local own, tomb, high, n = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local k, a, row, out, fatal = 0, 4 + n, -1, {}, nil
if n > 0 then k = 1 end
local function tell(kind, text)
  local at = #out
  out[at + 1] = row; out[at + 2] = kind; out[at + 3] = text
end
local function fails(r)
  if type(r) ~= 'table' or not r.err then return false end
  local code = string.match(r.err, '^%-?(%u+)')
  -- ERR with the word script: a right or a command is missing, which is no fault of the row
  if code == 'WRONGTYPE' or (code == 'ERR' and not string.find(r.err, 'script', 1, true)) then tell('refused', r.err)
  else fatal = r end
  return true
end
local function newer(s, mark)
  if not s then return true end
  if fails(s) then return false end
  if sub(s, 41, 40 + #own) ~= own then tell('owner', s) return false end
  local v = sub(s, 1, 40)
  if v < sub(mark, 1, 40) then return true end
  if v > high then tell('ahead', v) end
  return false
end
local function set(vk, mark, ttl)
  if ttl == '' then call('SET', vk, mark) else call('SET', vk, mark, 'PX', ttl + tomb) end
end
local function many(name, key, from, to)
  for i = from, to, 2000 do
    local r = try(name, key, unpack(ARGV, i, math.min(i + 1999, to)))
    if fails(r) then return false end
  end
  return true
end
local function hash(key, ttl)
  local mode, pairs, gone = ARGV[a + 2], tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local from = a + 5
  if mode ~= 'f' and call('EXISTS', key) == 0 then
    if mode == 'p' then tell('partial', '') return false end
    return true
  end
  if not many('HSET', key, from, from + 2 * pairs - 1) then return false end
  if not many('HDEL', key, from + 2 * pairs, from + 2 * pairs + gone - 1) then return false end
  if ttl ~= '' then call('PEXPIRE', key, ttl) end
  return true
end
local function append(key, ttl)
  local limit, count = ARGV[a + 2], tonumber(ARGV[a + 4])
  local from, r = a + 5, nil
  if limit == '' then r = try('XADD', key, '*', unpack(ARGV, from, from + count - 1))
  else r = try('XADD', key, 'MAXLEN', '~', limit, '*', unpack(ARGV, from, from + count - 1)) end
  if fails(r) then return false end
  if ttl ~= '' then call('PEXPIRE', key, ttl) end
  return true
end
local function gap(s, key, after)
  if after == '' then return false end
  if s then return type(s) == 'string' and sub(s, 41, 40 + #own) == own and sub(s, 1, 40) < after end
  local kind = call('TYPE', key).ok
  return kind == 'none' or kind == 'stream'
end
local function now()
  local t = call('TIME')
  return t[1] * 1000
end
local function member(op, mark, vk, key, dk, ttl)
  local m, r = ARGV[a + 2], nil
  if not newer(try('HGET', vk, m), mark) then return end
  if op == 'a' then r = try('SADD', key, m)
  elseif op == 'z' then r = try('ZADD', key, ARGV[a + 3], m)
  elseif op == 'r' then r = try('SREM', key, m)
  else r = try('ZREM', key, m) end
  if fails(r) then return end
  call('HSET', vk, m, mark)
  if op == 'a' or op == 'z' then
    call('ZREM', dk, m)
    if ttl ~= '' then
      call('PEXPIRE', key, ttl); call('PEXPIRE', vk, ttl + tomb); call('PEXPIRE', dk, ttl + tomb)
    elseif r == 1 then call('PERSIST', vk); call('PERSIST', dk) end
    return
  end
  local t = now()
  call('ZADD', dk, t + tomb, m)
  local old = call('ZRANGEBYSCORE', dk, '-inf', t, 'LIMIT', 0, 16)
  if #old > 0 then call('HDEL', vk, unpack(old)); call('ZREM', dk, unpack(old)) end
  if call('EXISTS', key) == 0 then call('PEXPIRE', vk, tomb); call('PEXPIRE', dk, tomb) end
end
while a < #ARGV do
  local op, mark, ttl = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  row, a = row + 1, a + 2
  if op == 's' then
    local vk, key = KEYS[k + 1], KEYS[k + 2]
    if newer(try('GET', vk), mark) then
      local r
      if ttl == '' then r = try('SET', key, ARGV[a + 2]) else r = try('SET', key, ARGV[a + 2], 'PX', ttl) end
      if not fails(r) then set(vk, mark, ttl) end
    end
    k, a = k + 2, a + 2
  elseif op == 'h' then
    local vk, key = KEYS[k + 1], KEYS[k + 2]
    if newer(try('GET', vk), mark) and hash(key, ttl) then set(vk, mark, ttl) end
    k, a = k + 2, a + 4 + 2 * ARGV[a + 3] + ARGV[a + 4]
  elseif op == 'd' then
    local vk, key = KEYS[k + 1], KEYS[k + 2]
    if newer(try('GET', vk), mark) and not fails(try('UNLINK', key)) then call('SET', vk, mark, 'PX', tomb) end
    k = k + 2
  elseif op == 'j' then
    local vk, key = KEYS[k + 1], KEYS[k + 2]
    if newer(try('GET', vk), mark) and not fails(try('JSON.SET', key, '$', ARGV[a + 2])) then
      if ttl ~= '' then call('PEXPIRE', key, ttl) end
      set(vk, mark, ttl)
    end
    k, a = k + 2, a + 2
  elseif op == 'x' then
    local vk, key = KEYS[k + 1], KEYS[k + 2]
    local s = try('GET', vk)
    if gap(s, key, ARGV[a + 3]) then return redis.error_reply('TRYAGAIN an earlier part of this write is missing in ' .. key) end
    if newer(s, mark) and append(key, ttl) then set(vk, mark, ttl) end
    k, a = k + 2, a + 4 + ARGV[a + 4]
  elseif op == 'p' then
    fails(try('PUBLISH', ttl, ARGV[a + 2]))
    k, a = k + 1, a + 2
  else
    member(op, mark, KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], ttl)
    k, a = k + 3, a + (op == 'z' and 3 or 2)
  end
  if fatal then return fatal end
end
if n > 0 and #out == 0 then
  row = -1
  local fence, at, before = ARGV[5], ARGV[6], ARGV[7]
  local c = call('HMGET', KEYS[1], 'fence', 'at')
  if c[1] and tonumber(c[1]) > tonumber(fence) then tell('fenced', c[1])
  elseif before ~= '' and (not c[2] or c[2] < before) then tell('back', c[2] or '')
  elseif not c[2] or c[2] <= at then call('HSET', KEYS[1], 'fence', fence, 'at', at, unpack(ARGV, 8, 4 + n)) end
end
return out
`

export const SCRIPT_SHA = createHash('sha1').update(SCRIPT).digest('hex')
