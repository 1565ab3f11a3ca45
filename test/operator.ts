import { typed } from './stampede.ts'
import type { World } from './world.ts'

export const why = ['--reason', 'a test']

/** Somebody who types commands at a world, and buys from its book. */
export function operator(at: () => { world: World; book: string }) {
  const stampede = (args: string[], more?: Record<string, string>) =>
    typed(at().world.settings, args, more)

  /** What a verb answers with --json. */
  async function asked(...args: string[]) {
    const { code, out, err } = await stampede([...args, '--json'])
    return { code, err, ...(out ? JSON.parse(out) : {}) }
  }

  const assign = (user = 'u') =>
    at().world.call('POST', 'coupons/assign', {
      as: at().world.service,
      body: { book_id: at().book, user_id: user },
    })
  return { stampede, asked, assign }
}
