import { keys } from '../src/store/keys.ts'
import { scriptSha } from '../src/store/lua.ts'
import type { BookPlace } from '../src/store/store.ts'
import { verbs } from '../src/store/verbs.ts'
import type { World } from './world.ts'

export type VerbName = keyof typeof verbs
/** The arguments of a call before its requests; what is left out is as the service would send it. */
export type Call = {
  epoch?: string
  seen?: string
  op?: string
  backlog?: string
  missing?: number
}

/** One script call past the store: whatever a broken or hostile caller might send. */
export function callScript(
  { redis }: World,
  { shard, book }: BookPlace,
  name: VerbName,
  requests: readonly Record<string, string>[],
  call: Call = {},
): Promise<string> {
  const { epoch = '1', seen = '0', op = crypto.randomUUID(), backlog = '500000' } = call
  const { script, args, guards } = verbs[name]
  const day = Math.floor(Date.now() / 86_400_000)
  const keyList = [
    ...[keys.meta(shard), keys.journal(shard), keys.op(shard, op), keys.book(shard, book)],
    ...[keys.coupons(shard), keys.stock(shard, book), keys.users(shard, book)],
    ...[keys.redemptions(shard), keys.uses(shard, book)],
    ...[1, 0, -1].map((ahead) => keys.answers(shard, day + ahead)),
  ]
  const argList = [epoch, seen, op, book, backlog]
  for (const request of requests) {
    for (const arg of args) argList.push(request[arg] ?? '')
    if (guards) keyList.push(keys.lock(shard, request[guards] ?? ''))
  }
  const sent = argList.slice(0, argList.length - (call.missing ?? 0))
  const parts = [scriptSha(script), keyList.length, ...keyList, ...sent]
  return redis.call('EVALSHA', parts) as Promise<string>
}

/** Hashes and sets in sorted order: their own order may change when they are merely read. */
export const digestText = `
  local function pairs_of(list)
    local pairs = {}
    for i = 1, #list, 2 do pairs[#pairs + 1] = list[i] .. '=' .. list[i + 1] end
    return pairs
  end
  local function sorted(list)
    table.sort(list)
    return table.concat(list, '|')
  end
  local read = {
    hash = function(key) return sorted(pairs_of(redis.call('HGETALL', key))) end,
    set = function(key) return sorted(redis.call('SMEMBERS', key)) end,
    stream = function(key) return redis.call('XLEN', key) .. redis.call('XINFO', 'STREAM', key)[8] end,
    string = function(key) return redis.call('GET', key) .. redis.call('PEXPIRETIME', key) end,
  }
  local names, parts = redis.call('KEYS', '*'), {}
  for _, name in ipairs(names) do
    if string.find(name, '^{s%d') and not string.find(name, ':op:', 1, true) then
      parts[#parts + 1] = name .. read[redis.call('TYPE', name).ok](name)
    end
  end
  return redis.sha1hex(sorted(parts))`

/** One word for all that the shards hold, except the replies kept for a repeat of their call. */
export async function digest({ redis }: World): Promise<string> {
  return (await redis.eval(digestText, 0)) as string
}

/** Copies all that the shards hold; the result puts it back, as a Redis of that moment would be. */
export async function copyShards({ redis }: Pick<World, 'redis'>): Promise<() => Promise<void>> {
  const all = async () => (await redis.keys('{s*}:*')).filter((name) => /^{s\d+}:/.test(name))
  const copies = await Promise.all(
    (await all()).map(async (name) => {
      const until = Math.max(0, await redis.pexpiretime(name))
      return { name, until, dump: await redis.dumpBuffer(name) }
    }),
  )
  return async () => {
    const names = await all()
    const back = redis.multi().del(...names)
    for (const { name, until, dump } of copies) back.restore(name, until, dump!, 'ABSTTL')
    await back.exec()
  }
}
