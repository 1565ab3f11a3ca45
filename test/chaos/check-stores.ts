import type { Story } from './check-ledger.ts'
import type { Findings } from './findings.ts'
import type { Held, Seen, SeenBook } from './observe.ts'

/** Both stores against the story that the ledger tells, once all of it is in the ledger. */
export function checkStores(seen: Seen, story: Story, findings: Findings): void {
  for (const shard of seen.shards) {
    const { meta, checkpoint, epoch, facts } = shard
    const what = `shard ${shard.shard}`
    findings.equal('not-level', `${what}: phases`, [shard.phase, meta.phase], ['active', 'active'])
    findings.equal('not-level', `${what}: epoch in Redis`, meta.epoch, epoch)
    const entries = { n: meta.n, watermark: meta.watermark }
    findings.equal('not-level', `${what}: entries`, entries, {
      n: checkpoint,
      watermark: checkpoint,
    })
    const there = seen.ledger.filter((fact) => fact.shard === shard.shard).length
    const lost = seen.parked.filter((fact) => fact.shard === shard.shard).length
    const counts = { facts: meta.facts, flushed: meta.flushed, row: facts }
    findings.equal('not-level', `${what}: facts`, counts, { facts, flushed: facts, row: facts })
    // What is parked may stand in the ledger as well, or be such that it could not.
    if (facts < there || facts > there + lost)
      findings.add('not-level', `${what}: ${there} facts in the ledger, its row counts ${facts}`)
    checkGuards(seen, shard.shard, shard.guards, findings)
  }
  findings.same('fold-table', 'the row in coupons', seen.table, story.coupons)
  findings.same('fold-memory', 'the record in Redis', seen.memory, story.coupons)
  for (const book of seen.books) checkBook(book, story, findings)
  checkRedemptions(seen, story, findings)
}

/** A live lock has its guard, which bears its token; no other guard is there. */
function checkGuards(
  { memory, books, now }: Seen,
  shard: number,
  guards: ReadonlyMap<string, string>,
  findings: Findings,
): void {
  const home = new Set(books.filter((book) => book.shard === shard).map(({ book }) => book))
  // Memory is read a little later than the clock. The crowd makes locks of a minute, which outlast it.
  const doubtful = ({ lockedUntil }: Held) => Math.abs(lockedUntil - now) < 10_000
  for (const [code, coupon] of memory) {
    if (!home.has(coupon.book) || doubtful(coupon)) continue
    const live = coupon.lockedUntil > now
    findings.equal('guard', `guard of ${code}`, guards.get(code), live ? coupon.token : undefined)
  }
  for (const code of guards.keys()) {
    const coupon = memory.get(code)
    if (!coupon || !home.has(coupon.book))
      findings.add('guard', `guard of ${code} on shard ${shard}, where nobody has it`)
  }
}

/** available + assigned + redeemed + void = loaded, by everybody's count. */
function checkBook(its: SeenBook, { coupons }: Story, findings: Findings): void {
  const { book, kind, stock, codes } = its
  const users = new Map<string, number>()
  /** Codes that left stock: somebody has them, or they are void. */
  const out = new Set<string>()
  let [redeemed, gone] = [0, 0]
  for (const [code, coupon] of coupons) {
    if (coupon.book !== book) continue
    out.add(code)
    if (coupon.user === '') {
      gone++
      continue
    }
    users.set(coupon.user, (users.get(coupon.user) ?? 0) + 1)
    if (coupon.max > 0 && coupon.redemptions >= coupon.max) redeemed++
  }
  const expected = { held: out.size - gone, redeemed, void: gone }
  const inRedis = { held: its.held, redeemed: its.redeemed, void: its.void }
  findings.equal('counters', `counters of ${book} in Redis`, inRedis, expected)
  findings.equal('counters', `book_counters of ${book}`, its.counters, expected)
  findings.same('counters', `coupons in ${book}`, its.users, users)
  findings.equal('sum', `left + held + void of ${book}`, its.left + out.size, its.total)
  if (kind === 'counter') return
  findings.equal('sum', `codes of ${book}`, codes.length, its.total)
  findings.equal('stock', `left of ${book}`, its.left, stock.length)
  const known = new Set(codes)
  const inStock = new Set(stock)
  for (const code of stock) {
    if (out.has(code)) findings.add('stock', `${code} of ${book} is in stock and held or void`)
    if (!known.has(code))
      findings.add('stock', `${code} of ${book} is in stock and was never loaded`)
  }
  for (const code of codes)
    if (!out.has(code) && !inStock.has(code)) findings.add('stock', `${code} of ${book} is nowhere`)
}

function checkRedemptions(seen: Seen, story: Story, findings: Findings): void {
  const shown = [...story.redemptions].map(
    ([id, { code, undone }]) => [id, undone ? `\t${code}` : code] as const,
  )
  const expected = new Map(shown)
  const table = seen.redemptionTable.map(
    ({ id, code, undone }) => [id, undone ? `\t${code}` : code] as const,
  )
  findings.same('redemptions', 'the redemption in PostgreSQL', new Map(table), expected)
  findings.same('redemptions', 'the redemption in Redis', seen.redemptionMemory, expected)
}
