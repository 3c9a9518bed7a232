const common = `
local function expire_in(key, ms)
  redis.call('PEXPIRE', key, string.format('%.0f', ms + 60000))
end
local function burn(key)
  redis.call('HSET', key, 'state', 'burnt')
  redis.call('HDEL', key, 'kid', 'mac', 'subject', 'lease', 'lease_until')
end
local now = tonumber(ARGV[1])
`

// The rule of `Tally`.
const tally = `
-- So much the clocks of instances may differ.
local skew = 60000
-- Pauses double up to a quarter of an hour; a first one that is longer is the longest.
local function longest_pause(window, free)
  return math.max(900000, math.ceil(window / free))
end
local function read(key, free, window)
  local count = redis.call('HMGET', key, 'tries', 'next', 'until')
  local ends = tonumber(count[3] or 0)
  -- Further ahead than any pause and window lead: the clock was set back.
  local live = now < ends and ends <= now + longest_pause(window, free) + window + skew
  return { key = key, free = free, window = window, used = live and tonumber(count[1]) or 0,
    next = live and tonumber(count[2]) or 0, ends = live and ends or now + window }
end
local function pause(t, used)
  local doubled = math.ceil(t.window / t.free) * 2 ^ math.min(60, math.max(0, used - t.free))
  return math.min(longest_pause(t.window, t.free), doubled)
end
local function wait(t)
  local ms = t.used < t.free and 0 or t.next - now
  return ms > pause(t, t.used) + skew and 0 or math.max(0, ms)
end
local function write(t, used, next, ends)
  redis.call('HSET', t.key, 'tries', string.format('%.0f', used), 'next', string.format('%.0f', next),
    'until', string.format('%.0f', ends))
  expire_in(t.key, ends - now)
end
local function count(t)
  local used = t.used + 1
  if used < t.free then
    local even = math.ceil(t.window / t.free) >= 900000
    return write(t, used, 0, even and now + t.window or t.ends)
  end
  local next = now + pause(t, used)
  write(t, used, next, next + t.window)
end
-- With a client the first key is that of the list, and the next \`own\` ones are charged instead when it is known.
local function charge(client, own, keys, limits)
  local known = client ~= '' and now < tonumber(redis.call('ZSCORE', table.remove(keys, 1), client) or 0)
  local tallies, longest, share = {}, 0, 0
  for i = known and 1 or own + 1, known and own or #keys do
    local t = read(keys[i], limits[2 * i - 1], limits[2 * i])
    longest = math.max(longest, wait(t))
    share = math.max(share, (t.used + 1) / t.free)
    tallies[#tallies + 1] = t
  end
  if longest == 0 then
    for _, t in ipairs(tallies) do count(t) end
  end
  return longest, known, share
end
local function numbers(from)
  local all = {}
  for i = from, #ARGV do all[#all + 1] = tonumber(ARGV[i]) end
  return all
end
`

/**
 * One script per verb of the cache. A record is a hash in state issued, verified, exhausted or burnt; `ends_at` is the
 * end of the code and, once verified, of the grant. An exhausted one keeps its subject, a burnt one keeps nothing.
 */
export const scripts = {
  put: `${common}${tally}
local ends_at, grant_ms, tries, records = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
-- A code may be guessed in its last moment: the index knows a record until the last possible end of its grant.
local last = ends_at + grant_ms
local rest = 6 + 3 * records
local decoy = false
if #KEYS > records + 1 and redis.call('EXISTS', KEYS[2]) == 0 then
  decoy = charge(ARGV[rest], tonumber(ARGV[rest + 1]), { unpack(KEYS, records + 2) }, numbers(rest + 2)) > 0
end
for i = 2, records + 1 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    local at = 3 * i
    redis.call('HSET', KEYS[i], 'state', 'issued', 'ends_at', ARGV[2], 'grant_ms', ARGV[3], 'tries', tries,
      'used', 0, 'refusals', 0, 'kid', decoy and '' or ARGV[at], 'mac', ARGV[at + 1], 'subject', ARGV[at + 2])
    expire_in(KEYS[i], ends_at - now)
    redis.call('ZADD', KEYS[1], string.format('%.0f', last), KEYS[i])
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 60000))
if redis.call('PTTL', KEYS[1]) < last - now + 60000 then expire_in(KEYS[1], last - now) end
local first = redis.call('HMGET', KEYS[2], 'state', 'ends_at', 'kid')
local alive = (first[1] == 'issued' or first[1] == 'verified') and now < tonumber(first[2])
return { alive and first[2] or '0', first[3] == '' and 'decoy' or 'code' }`,

  guess: `${common}
local record = redis.call('HMGET', KEYS[1], 'state', 'ends_at', 'grant_ms', 'tries', 'kid', 'mac', 'lease_until')
local state, kid, mac = record[1], record[5], record[6]
if state ~= 'issued' and state ~= 'verified' then return 'dead' end
if now >= tonumber(record[2]) then return 'dead' end
local right = false
for i = 2, #ARGV, 2 do
  if ARGV[i] == kid and kid ~= '' then right = ARGV[i + 1] == mac end
end
if state == 'verified' then
  if record[7] and now < tonumber(record[7]) then return 'dead' end
  return right and 'right' or 'wrong'
end
-- Counted before it is compared: a guess past the last try never learns whether it was right.
if redis.call('HINCRBY', KEYS[1], 'used', 1) > tonumber(record[4]) then
  redis.call('HSET', KEYS[1], 'state', 'exhausted')
  redis.call('HDEL', KEYS[1], 'kid', 'mac')
  return 'exhausted'
end
if not right then return 'wrong' end
local grant_ms = tonumber(record[3])
redis.call('HSET', KEYS[1], 'state', 'verified', 'ends_at', string.format('%.0f', now + grant_ms))
expire_in(KEYS[1], grant_ms)
return 'right'`,

  lease: `${common}
local record = redis.call('HMGET', KEYS[1], 'state', 'ends_at', 'lease_until', 'subject')
if record[1] ~= 'verified' or now >= tonumber(record[2]) then return false end
if record[3] and now < tonumber(record[3]) then return false end
redis.call('HSET', KEYS[1], 'lease', ARGV[2], 'lease_until', ARGV[3])
return record[4]`,

  giveBack: `${common}
local record = redis.call('HMGET', KEYS[1], 'state', 'lease')
if record[1] ~= 'verified' or record[2] ~= ARGV[2] then return 'OK' end
if ARGV[3] == 'refused' and redis.call('HINCRBY', KEYS[1], 'refusals', 1) >= 5 then
  burn(KEYS[1])
else
  redis.call('HDEL', KEYS[1], 'lease', 'lease_until')
end
return 'OK'`,

  burn: `${common}
-- The records are in the index's slot. One that is gone must not come back, as a key without a lifetime.
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.call('EXISTS', key) == 1 then burn(key) end
end
return 'OK'`,

  peek: `${common}
local record = redis.call('HMGET', KEYS[1], 'ends_at', 'subject')
if not record[1] or now >= tonumber(record[1]) then return false end
return record[2]`,

  charge: `${common}${tally}
local longest, known, share = charge(ARGV[2], tonumber(ARGV[3]), KEYS, numbers(4))
return { string.format('%.0f', longest), known and 'known' or 'unknown', string.format('%.6f', share) }`,

  refund: `${common}${tally}
local limits = numbers(2)
for i = 1, #KEYS do
  local t = read(KEYS[i], limits[2 * i - 1], limits[2 * i])
  if t.used > 1 then write(t, t.used - 1, now, t.ends) else redis.call('DEL', KEYS[i]) end
end
return 'OK'`,

  acquaint: `${common}
local ends = tonumber(ARGV[3])
if ARGV[4] == 'alone' then redis.call('DEL', KEYS[1]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
-- Whoever has the password must not make it forget the owner's: of more than 32 the newest is not known.
redis.call('ZREMRANGEBYRANK', KEYS[1], 32, -1)
expire_in(KEYS[1], ends - now)
return 'OK'`,
}
