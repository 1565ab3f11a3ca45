import type { Command } from 'commander'
import { readConfig, refused } from '../config.ts'
import { connection, doctor, type QueueItem, queueItem } from '../ops/doctor.ts'
import { openQueueDesk } from '../queues.ts'
import type { Item } from '../recovery/checklist.ts'
import { withOps } from './ops.ts'
import { say } from './say.ts'

export function doctorVerb(program: Command): void {
  program
    .command('doctor')
    .description(
      'look at Redis, PostgreSQL and this environment as the service does before it serves',
    )
    .addHelpText('before', 'Example:\n  $ npm run stampede -- doctor\n')
    .addHelpText(
      'after',
      '\nEnds with 3 if there is a warning or a refusal, and with 69 if Redis or PostgreSQL does not answer.' +
        '\nOf this environment a wrong value is a refusal, because nobody starts with it; a variable that is' +
        '\nmissing is a note, because a machine may have the command alone.',
    )
    .action(run)
}

/** What the service has no item for: it would not be running. */
type Found = Item | QueueItem | (Omit<Item, 'of'> & { of: 'environment' })

async function run(_: unknown, command: Command): Promise<void> {
  const { REDIS_MANAGED, QUEUE_REDIS_URL } = readable()
  const [ofStores, ofQueue] = await Promise.all([
    withOps((ops) => doctor(ops, REDIS_MANAGED === '1')),
    QUEUE_REDIS_URL ? queueItems(QUEUE_REDIS_URL) : [],
  ])
  const items: Found[] = [...ofStores, ...ofQueue, ...environmentItems()]
  say(command, items.map(line).join('\n'), { items })
  if (items.some(({ verdict }) => verdict === 'warning' || verdict === 'refusal'))
    process.exitCode = 3
  if (ofStores.some(({ setting }) => setting === connection)) process.exitCode = 69
}

/** A value that is wrong is an item like another, and does not keep the rest from being looked at. */
function readable(): Partial<ReturnType<typeof readConfig<'REDIS_MANAGED' | 'QUEUE_REDIS_URL'>>> {
  const wrong = refused().map(({ name }) => name)
  const names = (['REDIS_MANAGED', 'QUEUE_REDIS_URL'] as const).filter(
    (name) => !wrong.includes(name),
  )
  return readConfig(names)
}

const processNames = { api: 'an API', worker: 'a worker' }

/** With which variables of this environment an API or a worker would end at once, with 78. */
function environmentItems(): Found[] {
  const all = refused()
  const missing = all.filter(({ isSet }) => !isSet).map(({ name }) => name)
  // Where neither store is named this is beside an `npm start`, which brings whatever is missing.
  const isBeside = missing.includes('REDIS_URL') && missing.includes('DATABASE_URL')
  const shown = all.filter(({ isSet }) => isSet || !isBeside)
  return shown.map(({ name, by, isSet, why }) => {
    const who = by.map((kind) => processNames[kind]).join(' and ')
    const remedy = `${isSet ? 'correct' : 'set'} it: ${who} that starts with this environment ends with 78`
    return {
      ...{ of: 'environment', setting: name, value: why },
      ...{ verdict: isSet ? 'refusal' : 'note', remedy },
    }
  })
}

/** BullMQ's Redis, where it is another one. */
async function queueItems(url: string): Promise<Found[]> {
  const desk = openQueueDesk(url)
  return [await queueItem(desk).finally(() => desk.close())]
}

const width = { verdict: 8, setting: 38 }

const line = ({ of, setting, value, verdict, remedy }: Found): string =>
  `${verdict.padEnd(width.verdict)} ${`${of} ${setting}`.padEnd(width.setting)} ${value}` +
  (remedy && `\n${' '.repeat(width.verdict + 1)}-> ${remedy}`)
