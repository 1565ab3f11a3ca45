import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { adminLogin } from '../src/embedded/demo.ts'
import { openWorld, type World } from './world.ts'

const folder = resolve(import.meta.dirname, '../examples')
const scripts = readdirSync(folder).filter(
  (file) => /\.(sh|ts)$/.test(file) && file !== 'common.sh',
)

let world: World
beforeAll(async () => {
  world = await openWorld()
  await world.house.deps.accounts.createUser({ ...adminLogin, role: 'admin' })
})
afterAll(() => world.close())

test.each(scripts)('examples/%s goes through without a refusal', async (name) => {
  const env = {
    ...environmentOf({}),
    API: world.base,
    PATH: `${resolve(process.execPath, '..')}:${environmentOf({}).PATH}`,
  }
  const program = name.endsWith('.ts') ? process.execPath : 'bash'
  const child = spawn(program, [join(folder, name)], { env: env as NodeJS.ProcessEnv })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (said += some))
  const [code] = await once(child, 'close')
  expect(code, said).toBe(0)
})

test('examples/README.md lists every script', () => {
  const page = readFileSync(join(folder, 'README.md'), 'utf8')
  expect(scripts.filter((name) => !page.includes(`[${name}](${name})`))).toEqual([])
})
