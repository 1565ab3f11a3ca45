import type { Logger } from 'pino'
import { inTime } from '../deadline.ts'
import type { Database } from '../ledger/database.ts'
import { type PostgresSettings, postgresSettings } from '../ledger/settings.ts'
import type { Place } from '../store/place.ts'
import { type RedisSettings, redisSettings } from '../store/settings.ts'
import {
  type Item,
  itemText,
  judgeClocks,
  judgePostgres,
  judgeRedis,
  judgeShards,
  memoryShare,
} from './checklist.ts'

/** How long a look holds: what was refused is looked at more often, because somebody repairs it. */
const fineMs = 2_000
const refusedMs = 1_000
const tightShare = 0.9
/** Longer than this no question of the checklist waits for its answer. */
const patienceMs = 1_500

export type Fitness = {
  /** Why nothing may be served now; undefined: nothing speaks against it. */
  refusal(): Promise<string | undefined>
  /** Redis was nearly full at the last look: what it need not hold must go. */
  tight(): boolean
}

const answered = <T>(answer: Promise<T>) =>
  inTime(answer, patienceMs, () => new Error('no answer to the checklist'))

type Found = { redis: RedisSettings; postgres: PostgresSettings | undefined }

/**
 * The checklist as the gates need it: looked through at every new connection to Redis and every two
 * seconds from then on. What changes is logged. With PostgreSQL away, what it said last counts: a
 * process that has served may go on without it, and one that has not is held up by the gates.
 */
export function openFitness(
  place: Place,
  database: Database,
  { managed, log }: { managed: boolean; log: Logger },
): Fitness {
  let connection = -1
  let lookedAt = 0
  let refused: string | undefined
  let postgres: PostgresSettings | undefined
  let begun = false
  let tight = false
  let said = new Map<string, string>()
  let looking: Promise<void> | undefined

  async function ask(): Promise<Found> {
    const [redis, answer] = await Promise.all([
      answered(redisSettings(place.redis, place.gates.length)),
      answered(postgresSettings(database)).catch(() => undefined),
    ])
    postgres = answer ?? postgres
    return { redis, postgres: answer }
  }

  async function look(): Promise<void> {
    const at = place.connection
    try {
      const found = await ask()
      const items = judgeRedis(found.redis, managed)
      tight = memoryShare(found.redis) > tightShare
      if (postgres) items.push(...judgePostgres(postgres, begun))
      if (postgres) items.push(...judgeShards(place.gates.length, found.redis, postgres))
      if (found.postgres) items.push(...judgeClocks(found.redis, found.postgres))
      const refusals = items.filter(({ verdict }) => verdict === 'refusal')
      refused = refusals.map(itemText).join('; ') || undefined
      begun ||= postgres !== undefined && !refused
      say(items)
      connection = at
    } catch (error) {
      // Asked again at once: what is not known of this Redis cannot be vouched for.
      refused = `Redis: ${(error as Error).message}`
    }
    lookedAt = performance.now()
  }

  /** Logs the items that are not as they were, and at the first look what was looked at. */
  function say(items: Item[]): void {
    const now = new Map(items.map((item) => [`${item.of} ${item.setting}`, item.verdict as string]))
    if (said.size === 0)
      log.info({ checklist: Object.fromEntries(now) }, `checklist: ${items.length} settings`)
    for (const item of items) {
      const name = `${item.of} ${item.setting}`
      if ((said.get(name) ?? 'fine') === item.verdict) continue
      const level = ({ fine: 'info', note: 'info', warning: 'warn', refusal: 'error' } as const)[
        item.verdict
      ]
      log[level](`checklist: ${itemText(item)}`)
    }
    said = now
  }

  return {
    tight: () => tight,

    async refusal() {
      const age = performance.now() - lookedAt
      const isOld = age > (refused || tight ? refusedMs : fineMs) || connection !== place.connection
      if (isOld) {
        looking ??= look().finally(() => {
          looking = undefined
        })
        await looking
      }
      return refused
    },
  }
}
