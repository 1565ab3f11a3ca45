import { keys } from '../src/store/keys.ts'
import { digestText } from './script.ts'
import type { World } from './world.ts'

/**
 * What is wrong with the shard: numbers that are none, counts that do not add up. Empty: nothing. Its
 * books must be right in epoch 1 only: what a recovery restores here is made up.
 */
const soundText = `
  local wrong = {}
  local function whole(key, names)
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
      if not value or not string.find(value, '^%d+$') then
        wrong[#wrong + 1] = key .. ' ' .. names[i] .. ' is ' .. tostring(value)
      end
    end
  end
  whole(KEYS[1], { 'epoch', 'n', 'facts', 'flushed', 'watermark', 'kept' })
  local meta = redis.call('HMGET', KEYS[1], 'phase', 'intake', 'n', 'watermark', 'kept', 'epoch')
  if meta[2] ~= 'open' and meta[2] ~= 'stopped' then wrong[#wrong + 1] = 'intake' end
  if meta[1] == 'active' then
    if tonumber(meta[4]) > tonumber(meta[3]) then wrong[#wrong + 1] = 'watermark beyond n' end
    if tonumber(meta[5]) ~= redis.call('XLEN', KEYS[2]) then wrong[#wrong + 1] = 'kept' end
    if meta[3] ~= '0' and redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1] == nil then
      wrong[#wrong + 1] = 'the last entry is gone'
    end
    for k = 3, #KEYS, 2 do
      local kind = redis.call('HGET', KEYS[k], 'kind')
      if kind and meta[6] == '1' then
        whole(KEYS[k], { 'version', 'left', 'held', 'redeemed', 'void', 'units', 'max', 'lock_seconds' })
        local left = tonumber(redis.call('HGET', KEYS[k], 'left'))
        if kind == 'codes' and left ~= redis.call('SCARD', KEYS[k + 1]) then
          wrong[#wrong + 1] = 'left of ' .. KEYS[k]
        end
        if redis.call('HLEN', KEYS[k]) < 17 then wrong[#wrong + 1] = 'a policy with holes' end
      end
    end
  end
  local function digest()${digestText}
  end
  -- In a recovery anything may stand where the journal should be.
  local entries = redis.pcall('XLEN', KEYS[2])
  return { digest(), table.concat(wrong, ', '), type(entries) == 'number' and entries or -1 }`

export type Look = { digest: string; wrong: string; entries: number }

/** Digest and soundness in one go, for those who look after every call. */
export async function openLook(
  { redis }: Pick<World, 'redis'>,
  shard: number,
  books: readonly string[],
): Promise<() => Promise<Look>> {
  const sha = (await redis.script('LOAD', soundText)) as string
  const names = [keys.meta(shard), keys.journal(shard)]
  for (const book of books) names.push(keys.book(shard, book), keys.stock(shard, book))
  return async () => {
    const seen = await redis.evalsha(sha, names.length, ...names)
    const [digest, wrong, entries] = seen as [string, string, number]
    return { digest, wrong, entries }
  }
}
