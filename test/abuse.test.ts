import { expect, test } from 'vitest'
import { broken, siege } from './abuse/siege.ts'
import { openWorld } from './world.ts'

/** The short form of `npm run abuse`, with the limits that an installation has if nobody sets others. */
test.skipIf(process.platform !== 'linux')(
  'abuse  guessing is throttled as documented, and honest clients elsewhere are served',
  async () => {
    const world = await openWorld({ limits: {}, acl: true })
    try {
      const book = await world.makeBook({}, 100)
      const sizes = { logins: 400, codes: 2_000, honest: 40, attackers: 3 }
      const told = await siege({ base: world.base, book }, sizes)
      expect(broken(told, sizes)).toEqual([])
      // Counted in Redis, by a user that can reach nothing else.
      const keys = await world.redis.keys('limit:*')
      expect(keys.filter((key) => key.startsWith('limit:login-address:127.0.0.'))).toHaveLength(3)
      expect(keys.some((key) => key.includes('@'))).toBe(false)
    } finally {
      await world.close()
    }
  },
)
