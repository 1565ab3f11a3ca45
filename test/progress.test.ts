import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { openWorld, type World } from './world.ts'

/** What a person at a terminal sees of long work, and a program does not. */
let world: World
let book: string
const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  book = await world.makeBook({}, 10)
})
afterAll(() => world?.close())

type OnSaid = (said: string, type: (keys: string) => void) => void

/** A drain that has to wait, because somebody holds the flush. */
const drain = (terminal: boolean, timeout = '1s', onSaid?: OnSaid) =>
  run(terminal, ['drain', '--timeout', timeout], onSaid)

async function run(
  terminal: boolean,
  verb: string[],
  onSaid: OnSaid = () => {},
): Promise<{ code: number; said: string }> {
  const command = [process.execPath, main, ...verb]
  // util-linux' script gives a command a terminal of its own, which has no width at first.
  const [program, ...args] = terminal
    ? ['script', '-qefc', `stty cols 120 rows 40; exec ${command.join(' ')}`, '/dev/null']
    : command
  const { REDIS_URL, DATABASE_URL } = world.settings
  const env = environmentOf({ REDIS_URL, DATABASE_URL })
  const child = spawn(program!, args, { env: { ...env, CI: '' } as NodeJS.ProcessEnv })
  let said = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (some) => {
      said += some
      onSaid(said, (keys) => child.stdin.write(keys))
    })
  const [code] = await once(child, 'close')
  return { code, said }
}

/** Types each of these once, as soon as what it answers is there. */
function answering(answers: [question: RegExp, keys: string][]): OnSaid {
  const left = [...answers]
  return (said, type) => {
    if (left[0]?.[0].test(said)) type(left.shift()![1])
  }
}

test('a password is asked for at a terminal, twice, and not shown', async () => {
  const password = 'long-enough'
  const create = (again: string) =>
    run(
      true,
      ['admin', 'create', 'ada@example.com'],
      answering([
        [/Password/, `${password}\r`],
        [/The same again/, `${again}\r`],
      ]),
    )
  const typo = await create('lon-genough')
  expect([typo.code, typo.said]).toEqual([1, expect.stringMatching(/The two are not the same\./)])
  const { code, said } = await create(password)
  expect([code, said]).toEqual([
    0,
    expect.stringMatching(/ada@example\.com is an administrator now/),
  ])
  expect(typo.said + said).not.toContain(password)
  const user = await openAccounts(world.database).logIn('ada@example.com', password)
  expect(user).toMatchObject({ role: 'admin' })
})

test('a terminal is shown what is waited for, and then the answer alone', async () => {
  await world.database.query("UPDATE shards SET flush = 'paused'")
  const body = { book_id: book, user_id: 'ann' }
  await world.call('POST', 'coupons/assign', { as: world.service, body })
  const { code, said } = await drain(true)
  expect([code, said]).toEqual([4, expect.stringMatching(/waiting: shard 0: the flush is paused/)])
  // What was drawn is gone: the cursor is shown again, and only the answer follows.
  const [, answer] = /\u001b\[\?25h(.*)$/s.exec(said)!
  expect(answer!.trim()).toMatch(/^Not drained in time:\s+shard 0: the flush is paused$/)
})

test('where nobody watches there is the answer and nothing else', async () => {
  const { code, said } = await drain(false)
  expect([code, said]).toEqual([4, 'Not drained in time:\nshard 0: the flush is paused\n'])
})

test('Ctrl-C at a terminal ends it with 130, as what was not done', async () => {
  const { code, said } = await drain(true, '60s', answering([[/waiting:/, '\u0003']]))
  expect(code, said).toBe(130)
})

test('a rehearsal at a terminal is a table that grows by a line a second', async () => {
  await world.database.query("UPDATE shards SET flush = 'running', intake = 'open'")
  const crowd = ['--rate', '5', '--time', '1500ms', '--book', book, '--url', world.base, '--yes']
  const { code, said } = await run(true, ['simulate', ...crowd])
  const [head, first, ...rest] = said.split(/\r?\n/)
  expect([code, head]).toEqual([0, expect.stringMatching(/^ +came +requests .* p99 ms +refused$/)])
  expect(first).toMatch(/^ +\d+ +\d+/)
  expect(rest.slice(-2)).toEqual(['checked: equal', ''])
})

test('an error at a terminal ends it, and takes away what was drawn', async () => {
  await world.database.query("UPDATE shards SET flush = 'paused'")
  const body = { book_id: book, user_id: 'bob' }
  await world.call('POST', 'coupons/assign', { as: world.service, body })
  const { code, said } = await drain(true, '60s', (said) => {
    if (/waiting:/.test(said)) world.wire.set('cut')
  })
  world.wire.set('up')
  const [, answer] = /\u001b\[\?25h(.*)$/s.exec(said)!
  expect([code, answer!.trim()]).toEqual([69, expect.stringMatching(/^PostgreSQL does not answer/)])
})
