import { readFileSync, rmSync } from 'node:fs'
import { scratchDir } from '../../src/embedded/leftovers.ts'
import { openAccounts } from '../../src/ledger/accounts.ts'
import { level } from '../chaos/level.ts'
import { openCluster } from '../chaos/servers.ts'
import { openTown } from '../chaos/town.ts'
import { type Found, fuzz } from './fuzz.ts'

export type Report = Found & {
  /** Resident memory of the API process in MB, after the first quarter of the requests and after the last. */
  rssMb: { early: number; late: number }
}

/** Who guesses so much would be refused before the door. */
const loose = {
  LIMIT_LOGIN_ACCOUNT: '1000000/600',
  LIMIT_LOGIN_ADDRESS: '1000000/600',
  LIMIT_REGISTER_ADDRESS: '1000000/600',
  LIMIT_CODE_USER: '1000000/600',
  LIMIT_CODE_ADDRESS: '1000000/600',
  LIMIT_CODE_KEY: '1000000/600',
}
const password = 'correct horse'

/** An installation of its own, asked `count` times by everybody. */
export async function fuzzTown(
  count: number,
  seed: number,
  say: (line: string) => void,
): Promise<Report> {
  const dir = scratchDir('fuzz')
  const cluster = await openCluster(dir)
  const town = await openTown({ cluster, shards: 2, env: { LOG_LEVEL: 'fatal', ...loose } })
  try {
    const [api] = town.apis
    api.start()
    town.workers[0].start()
    await level({ ...town, apis: [api] as unknown as typeof town.apis }, 30_000)
    const accounts = openAccounts(town.database)
    const signIn = async (role: 'user' | 'viewer' | 'operator') => {
      const email = `${role}@example.com`
      const made = await accounts.createUser({ name: role, email, password, role })
      if ('problem' in made) throw new Error(made.problem)
      const login = await fetch(`${api.base}/api/v1/auth/login`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ email, password }),
      })
      const { access_token } = (await login.json()) as { access_token: string }
      return access_token
    }
    const people = [await signIn('user'), await signIn('viewer'), await signIn('operator')]
    const { rows } = await town.database.query<{ id: string }>(
      'SELECT user_id::text AS id FROM users UNION ALL SELECT key_id FROM api_keys',
    )
    let early = 0
    const found = await fuzz(
      {
        ...{ base: api.base, admin: town.admin, spared: rows.map(({ id }) => id) },
        callers: [undefined, town.service, town.service, ...people],
        bystanders: [undefined, town.service, ...people.slice(0, 2)],
        told(asked) {
          if (early === 0 && asked >= count / 4) early = rssOf(api.pid())
          if (asked % 20_000 < 400) say(`${asked} of ${count}, ${rssOf(api.pid())} MB`)
        },
      },
      count,
      seed,
    )
    return { ...found, rssMb: { early, late: rssOf(api.pid()) } }
  } finally {
    await town.close()
    await cluster.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

function rssOf(pid: number): number {
  const kilobytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Math.round(Number(kilobytes?.[1]) / 1024)
}
