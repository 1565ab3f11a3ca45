import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, expect, test } from 'vitest'
import { auditedWorld } from './audit.ts'
import { expectProblem, ledgerOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
const past = '2020-01-01T00:00:00.000Z'
let code: string
let tests = 0
beforeEach(() => {
  code = `REDEEM-${++tests}`
})

/** A book of this policy with a coupon that ann holds, and one that nobody has. */
async function held(policy: object = {}): Promise<string> {
  const book = await makeBook({ ...policy }, [code, `${code}-FREE`])
  await client().assignCode(code, 'ann')
  return book
}

test('redeem  uses a coupon for good; answered once the ledger has it with its metadata', async () => {
  const book = await held()
  const metadata = { till: 7, text: 'ü "quoted" \\ back\nslash', nested: { list: [1, null] } }
  const headers = { 'x-request-id': 'redeem-4711', 'user-agent': 'till/2' }
  const reply = await client().redeem(code, 'ann', { metadata, headers })
  const { rows } = await world().database.query('SELECT * FROM redemptions WHERE code = $1', [code])
  expect(reply.status).toBe(200)
  expect(reply.headers.get('durability')).toMatch(/^postgres; entry=\d\/1-\d+\/0$/)
  const { redemption_id, redeemed_at } = reply.body
  expect(reply.body).toEqual({
    success: true,
    code,
    user_id: 'ann',
    redeemed_at: expect.stringMatching(/Z$/),
    redemption_count: 1,
    remaining_redemptions: 0,
    metadata,
    redemption_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    book_id: book,
    state: 'REDEEMED',
  })
  expect(rows).toEqual([
    {
      redemption_id,
      code,
      book_id: book,
      user_id: 'ann',
      redeemed_at: new Date(redeemed_at),
      metadata,
      rolled_back_at: null,
      rolled_back_by: null,
    },
  ])
  const [, fact] = await ledgerOf(world(), code)
  expect(fact).toMatchObject({ kind: 'redeem', redemption_id, redemptions: 1, version: 2 })
  expect(fact.context).toEqual({
    actor: `key:${world().service.split('_')[1]}`,
    request_id: 'redeem-4711',
    address: '127.0.0.1',
    agent: 'till/2',
    metadata,
  })
  expectProblem(await client().redeem(code, 'ann'), 'coupon-redeemed')
})

test('redeem  uses a coupon as often as it may be used, and counts down', async () => {
  await held({ max_redemptions: 3 })
  const counts = []
  for (let i = 0; i < 3; i++) {
    const { body } = await client().redeem(code, 'ann', { durability: 'redis' })
    counts.push([body.redemption_count, body.remaining_redemptions, body.state])
  }
  expect(counts).toEqual([
    [1, 2, 'ASSIGNED'],
    [2, 1, 'ASSIGNED'],
    [3, 0, 'REDEEMED'],
  ])
  expectProblem(await client().redeem(code, 'ann'), 'coupon-redeemed')
})

test('redeem  goes by the code’s own limit, and without end where there is none', async () => {
  const book = await held()
  const upload = { codes: [`${code}-2`], max_redemptions: 2 }
  await world().call('POST', `books/${book}/codes/upload`, { as: world().admin, body: upload })
  await client().assignCode(`${code}-2`, 'ann')
  expect((await client().redeem(`${code}-2`, 'ann')).body.remaining_redemptions).toBe(1)
  expect((await client().redeem(`${code}-2`, 'ann')).body.state).toBe('REDEEMED')
  code = `${code}-NULL`
  await held({ max_redemptions: null })
  for (let i = 1; i <= 3; i++)
    expect((await client().redeem(code, 'ann', { durability: 'redis' })).body).toMatchObject({
      redemption_count: i,
      remaining_redemptions: null,
      state: 'ASSIGNED',
    })
})

test('redeem  stops at the limit per user and code', async () => {
  await held({ max_redemptions: 3, max_redemptions_per_user: 2 })
  await client().redeem(code, 'ann', { durability: 'redis' })
  await client().redeem(code, 'ann', { durability: 'redis' })
  expectProblem(await client().redeem(code, 'ann'), 'redemption-limit', { limit: 2 })
})

test('redeem  under policy strict needs the token of a live lock, even of the holder', async () => {
  await held()
  const { body } = await client().lock(code, 'ann')
  const { lock_token, locked_until } = body
  const without = await client().redeem(code, 'ann')
  expectProblem(without, 'coupon-locked', { locked_until })
  expect(Number(without.headers.get('retry-after'))).toBeGreaterThan(290)
  const wrong = await client().redeem(code, 'ann', { lock_token: 'guessed' })
  expectProblem(wrong, 'coupon-locked', { locked_until })
  expect((await client().redeem(code, 'ann', { lock_token })).status).toBe(200)
})

test('redeem  under policy strict goes by no lock where there is none, and by no dead token', async () => {
  await held({ lock_policy: 'strict' })
  const invented = await client().redeem(code, 'ann', { lock_token: 'invented' })
  expectProblem(invented, 'lock-expired')
  const { body } = await client().lock(code, 'ann', { lock_duration_seconds: 1 })
  expectProblem(await client().redeem(code, 'ann'), 'coupon-locked')
  await sleep(Date.parse(body.locked_until) - Date.now() + 20)
  const late = await client().redeem(code, 'ann', { lock_token: body.lock_token })
  expectProblem(late, 'lock-expired')
  expect((await client().redeem(code, 'ann')).status).toBe(200)
})

test('redeem  under policy holder asks for no token and ends the lock', async () => {
  await held({ lock_policy: 'holder', max_redemptions: 3 })
  await client().lock(code, 'ann')
  const reply = await client().redeem(code, 'ann')
  expect(reply.body.state).toBe('ASSIGNED')
  expect((await client().redeem(code, 'ann', { lock_token: 'any' })).status).toBe(200)
  expectProblem(await client().redeem(code, 'ben'), 'coupon-not-found')
})

test('redeem  under policy required needs a live lock and its token', async () => {
  await held({ lock_policy: 'required', max_redemptions: 2 })
  expectProblem(await client().redeem(code, 'ann'), 'lock-required')
  const invented = await client().redeem(code, 'ann', { lock_token: 'invented' })
  expectProblem(invented, 'lock-expired')
  const { body } = await client().lock(code, 'ann')
  expectProblem(await client().redeem(code, 'ann'), 'coupon-locked')
  const { lock_token } = body
  expect((await client().redeem(code, 'ann', { lock_token })).status).toBe(200)
  expectProblem(await client().redeem(code, 'ann', { lock_token }), 'lock-expired')
  expectProblem(await client().redeem(code, 'ann'), 'lock-required')
})

test('redeem  answers alike for a stranger’s coupon, one in stock and one there never was', async () => {
  await held()
  const blank = { request_id: '', instance: '' }
  const replies = [
    await client().redeem(code, 'ben'),
    await client().redeem(`${code}-FREE`, 'ben'),
    await client().redeem('NOSUCH', 'ben'),
  ]
  for (const reply of replies) expectProblem(reply, 'coupon-not-found')
  const bodies = replies.map(({ body }) => JSON.stringify({ ...body, ...blank }))
  expect(new Set(bodies).size).toBe(1)
})

test('redeem  works in an inactive book, not in an expired or archived one', async () => {
  const book = await held()
  await client().change(book, { is_active: false, opens_at: '2090-01-01T00:00:00Z' })
  await client().change(book, { expiration_date: past })
  expectProblem(await client().redeem(code, 'ann'), 'book-expired', { expiration_date: past })
  await client().change(book, { expiration_date: null })
  expect((await client().redeem(code, 'ann')).status).toBe(200)
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await client().redeem(code, 'ann'), 'book-archived')
})

test('redeem  is for users themselves, who need no body', async () => {
  await held()
  const ben = await world().signUp()
  await client().assignCode(`${code}-FREE`, ben.id)
  const own = await client().redeem(`${code}-FREE`, undefined, { as: ben.token, bare: true })
  expect(own.body).toMatchObject({ state: 'REDEEMED', user_id: ben.id, metadata: null })
  expectProblem(await client().redeem(code, undefined, { as: ben.token }), 'coupon-not-found')
  expectProblem(await client().redeem(code, 'ann', { as: ben.token }), 'forbidden')
  const nobody = await client().redeem(code, undefined)
  expectProblem(nobody, 'invalid-request', { errors: [{ path: 'user_id' }] })
})

test('redeem  answers from Redis alone where request or book say so; the request counts more', async () => {
  await held({ durability: 'redis', max_redemptions: null })
  const level = async (options = {}) =>
    (await client().redeem(code, 'ann', options)).headers.get('durability')!.split(';')[0]
  expect(await level()).toBe('redis')
  expect(await level({ durability: 'postgres' })).toBe('postgres')
  code = `${code}-BOOK`
  await held({ max_redemptions: null })
  expect(await level()).toBe('postgres')
  expect(await level({ durability: 'redis' })).toBe('redis')
})

test('redeem  answers the same again for the same Idempotency-Key, also when used up since', async () => {
  await held({ max_redemptions: 2 })
  const metadata = { order: 1 }
  const first = await client().redeem(code, 'ann', { key: 'k', metadata })
  await client().redeem(code, 'ann')
  const again = await client().redeem(code, 'ann', { key: 'k', metadata })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.headers.get('durability')).toBe(first.headers.get('durability'))
  expect(again.body).toEqual(first.body)
  const other = await client().redeem(code, 'ann', { key: 'k', metadata: { order: 2 } })
  expectProblem(other, 'idempotency-key-reused')
})

const ask = (user: string, redemption = '', token = '') => ({
  code,
  user,
  token,
  redemption: redemption || crypto.randomUUID(),
})

test('redeem  gives the last use to the first of several that come in one call', async () => {
  const book = await held({ max_redemptions: 2 })
  const outcomes = await client().together('redeem', book, [
    ask('ben'),
    ask('ann'),
    ask('ann'),
    ask('ann'),
  ])
  expect(outcomes.map(word)).toEqual(['coupon-not-found', 'done', 'done', 'coupon-redeemed'])
})

test('redeem  ends the lock for the next in the same call', async () => {
  const book = await held({ max_redemptions: 2 })
  const { body } = await client().lock(code, 'ann')
  const outcomes = await client().together('redeem', book, [
    ask('ann'),
    ask('ann', '', body.lock_token),
    ask('ann', '', body.lock_token),
    ask('ann'),
  ])
  expect(outcomes.map(word)).toEqual(['coupon-locked', 'done', 'lock-expired', 'done'])
})

test('redeem  does once what came twice in one call under the same Idempotency-Key', async () => {
  const book = await held({ max_redemptions: 3 })
  const outcomes = await client().together('redeem', book, [
    { ...ask('ann'), key: 'a', hash: 'same' },
    { ...ask('ann'), key: 'a', hash: 'same' },
    { ...ask('ann'), key: 'a', hash: 'other' },
  ])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
  expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
})
