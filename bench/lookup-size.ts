import type { Bench } from './bench.ts'
import type { Book } from './client.ts'
import { type Paced, pace } from './pace.ts'
import { reconcile, undecided } from './reconcile.ts'
import type { Stores } from './stores.ts'
import { type Target, target } from './targets.ts'

export type Times = { p50: number; p95: number; p99: number; max: number }
export type LookupSizeReport = {
  codes: number
  generateSeconds: number
  bytesPerCode: number
  assignmentsEach: number
  times: { large: Times; small: Times }
  refused: Record<string, number>
  differences: string[]
  targets: Target[]
}

const userOf = (request: number) => `10000000-0000-4000-8000-${String(request).padStart(12, '0')}`

/** Does the size of a book matter: to fill it, to keep it, to draw from it? */
export async function lookupSize(bench: Bench): Promise<LookupSizeReport> {
  const { stores, client, options, say } = bench
  const before = await stores.usedMemory()
  const large = await client.makeBook('Large', options.large)
  await stores.untilQuiet()
  const bytesPerCode = ((await stores.usedMemory()) - before) / options.large
  say(`${options.large} codes generated in ${large.generateSeconds.toFixed(1)} s`)
  const { available } = await client.call('GET', `books/${large.id}/stats`)

  const smalls: Book[] = []
  for (let b = 1; b <= options.smallBooks; b++)
    smalls.push(await client.makeBook(`Small ${b}`, options.small))
  const { books, paced } = await compare(bench, large, smalls)
  const differences = [
    ...(available === options.large ? [] : [`in stock: ${available} instead of ${options.large}`]),
    ...(await reconcileAll(stores, [large, ...smalls], paced)),
  ]
  const times = (of: string) =>
    timesOf(paced.ms.filter((_, i) => (books[i] === large.id) === (of === 'large')))
  const both = { large: times('large'), small: times('small') }
  const apart = (p: 'p50' | 'p99') => 100 * Math.abs(both.large[p] / both.small[p] - 1)
  return {
    codes: options.large,
    generateSeconds: large.generateSeconds,
    bytesPerCode,
    assignmentsEach: books.length / 2,
    times: both,
    refused: paced.refused,
    differences,
    targets: [
      target('codes generated, s', large.generateSeconds, 'at most', 20),
      target('Redis memory per code in stock, bytes', bytesPerCode, 'at most', 80),
      target('p50, large book against small ones, % apart', apart('p50'), 'at most', 20),
      target('p99, large book against small ones, % apart', apart('p99'), 'at most', 20),
    ],
  }
}

/** Turn and turn about, so that whatever else happens on this machine meets both alike. */
async function compare({ client, options }: Bench, large: Book, smalls: Book[]) {
  const warmUp = await client.makeBook('Warm-up', options.small)
  const perSecond = options.pace
  await pace(client, { books: Array(options.small).fill(warmUp.id), perSecond, userOf })
  const books = smalls.flatMap((small) =>
    Array.from({ length: small.total }, (_, i) =>
      i % 2 === 0 ? [large.id, small.id] : [small.id, large.id],
    ).flat(),
  )
  return { books, paced: await pace(client, { books, perSecond, userOf }) }
}

async function reconcileAll(stores: Stores, books: Book[], paced: Paced): Promise<string[]> {
  const found: string[] = []
  for (const book of books) {
    const acknowledged = paced.acknowledged.get(book.id)!
    const differences = await reconcile(stores, book, {
      acknowledged,
      undecided: undecided(0, paced.refused),
    })
    found.push(...differences.map((difference) => `book ${book.id}: ${difference}`))
  }
  return found
}

function timesOf(ms: Float64Array): Times {
  const sorted = ms.toSorted()
  const at = (share: number) => sorted[Math.ceil(sorted.length * share) - 1]!
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) }
}
