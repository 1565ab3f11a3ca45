import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { type Command, done, type Model, type Real, shortLockMs, verbs } from './model.ts'

type Act = (m: Model, r: Real) => Promise<void>

/** What changes the book, or the machine under it, and no coupon. */
class Happening implements Command {
  readonly name: string
  readonly run: Act
  constructor(name: string, run: Act) {
    this.name = name
    this.run = run
  }
  check = () => true
  toString = () => this.name
}
const change = (name: string, act: Act) =>
  new Happening(name, (m, r) => r.undisturbed(() => act(m, r)))

let loads = 0
const happenings: fc.Arbitrary<Command>[] = [
  fc.boolean().map((active) =>
    change(active ? 'open' : 'pause', async (m, r) => {
      done(await r.patch(`books/${r.book}`, { is_active: active }), 'pause')
      m.active = active
    }),
  ),
  fc.integer({ min: 1, max: 6 }).map((perUser) =>
    change(`limit ${perUser}`, async (m, r) => {
      done(await r.patch(`books/${r.book}`, { max_assignments_per_user: perUser }), 'limit')
      m.perUser = perUser
    }),
  ),
  fc.constant(
    change('load', async (m, r) => {
      const codes = [1, 2].map((part) => `LOAD-${process.pid}-${++loads}-${part}`)
      done(await r.post(`books/${r.book}/codes/upload`, { codes }), 'load')
      for (const code of codes) m.stock.add(code)
    }),
  ),
  fc.constant(new Happening('wait', () => sleep(shortLockMs + 100))),
]
/** Redis takes half a second to be back, for everybody: it dies less often. */
const accidents = fc.constantFrom(
  ...Array(2).fill(new Happening('crash API', (_, r) => r.crashApi())),
  ...Array(2).fill(new Happening('crash worker', (_, r) => r.crashWorker())),
  new Happening('restart Redis', (_, r) => r.restartRedis()),
) as fc.Arbitrary<Command>

/** Verbs and changes; in every sixth or so of the sequences a machine dies in between. */
const steps = fc.oneof(
  { weight: 59, arbitrary: fc.oneof(...verbs, ...verbs, ...happenings) },
  { weight: 1, arbitrary: accidents },
)
export const sequences = () => fc.commands([steps], { maxCommands: 25, size: '+1' })
