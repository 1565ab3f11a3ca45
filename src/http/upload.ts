import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { createGunzip } from 'node:zlib'
import { Busboy } from '@fastify/busboy'
import { inTime } from '../deadline.ts'
import { UnusableFile } from '../files/row.ts'
import type { Context } from './context.ts'

/** Less than this in so much waiting for the client, and it is cut: a trickle would hold a place for ever. */
export const pace = { ms: 10_000, bytes: 10_000 }
/** Parsed at a time: buyers whose requests came meanwhile wait for about a millisecond. */
const sliceBytes = 16_384
/** What a file may come to, unpacked. */
const fileBytesMax = 4 * 1024 ** 3

export class TooSlow extends Error {}
export class UnsupportedFile extends Error {}
/** A form has something beside its file, which nobody would read. */
export class StrayField extends Error {
  readonly field: string
  constructor(field: string) {
    super('the form has a field beside its file')
    this.field = (field || 'form').slice(0, 100)
  }
}

type Bytes = AsyncIterable<Buffer>
/** `isJson`: whoever sent it calls it that. */
export type Upload = { bytes: Bytes; isJson: boolean }

/**
 * The file of a request, while it arrives: its body, or the one file of a form; unpacked where it is
 * gzip, by its headers or by its first two bytes.
 */
export async function uploadOf(c: Context): Promise<Upload> {
  const { headers } = c.req.raw
  const encoding = headers.get('content-encoding')?.toLowerCase() ?? 'identity'
  if (encoding !== 'identity' && encoding !== 'gzip') throw new UnsupportedFile()
  const type = headers.get('content-type') ?? ''
  const isForm = /^multipart\/form-data\s*;/i.test(type)
  const sent = paced(bodyOf(c))
  const body = encoding === 'gzip' ? unpacked(sent) : sent
  const { bytes, name } = isForm ? await partOf(body, type) : { bytes: body, name: type }
  return {
    bytes: sliced(encoding === 'gzip' && !isForm ? bytes : sniffed(bytes)),
    isJson: isJson(name),
  }
}

const isJson = (name: string) => /(?:json|ndjson|jsonl|json-?lines)(?:\.gz)?(?:\s|;|$)/i.test(name)

/** A client that goes away is an error to whoever reads on; one that is refused is still answered. */
function bodyOf(c: Context): AsyncIterator<Buffer> {
  const { body } = c.req.raw
  const incoming = c.env?.incoming ?? (body ? Readable.fromWeb(body as never) : Readable.from([]))
  return (incoming as Readable).iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>
}

/** Only the time counts that we wait for the client, not the time that it waits for us. */
async function* paced(body: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  let waited = 0
  let came = 0
  for (;;) {
    const asked = performance.now()
    const next = await inTime(body.next(), pace.ms - waited, () => new TooSlow())
    if (next.done) return
    waited += performance.now() - asked
    came += next.value.length
    if (came >= pace.bytes) {
      waited = 0
      came = 0
    } else if (waited >= pace.ms) throw new TooSlow()
    yield next.value
  }
}

async function partOf(body: Bytes, type: string): Promise<{ bytes: Bytes; name: string }> {
  let form: InstanceType<typeof Busboy>
  try {
    form = new Busboy({
      headers: { 'content-type': type },
      limits: { files: 2, fields: 20, fieldSize: 1_000, headerSize: 8_192 },
    })
  } catch {
    throw new UnsupportedFile()
  }
  const found = Promise.withResolvers<{ bytes: Bytes; name: string }>()
  let part: Readable | undefined
  let refused: Error | undefined
  const fail = (error: Error) => {
    refused ??= error
    part?.destroy(error)
    found.reject(error)
  }
  form.on('file', (_field, stream, name, _encoding, mime) => {
    // The parser tells it that the form broke off, also where nobody reads it any more.
    stream.on('error', () => {})
    if (part) fail(new UnusableFile(1, 'the form has more than one file'))
    if (part) return void stream.resume()
    part = stream
    found.resolve({ bytes: whole(stream, feeding), name: `${mime}; ${name}` })
  })
  form.on('field', (name) => fail(new StrayField(name)))
  const feeding = pipeline(body, form).then(
    // The file may have been read to its end before what follows it was seen.
    () => {
      if (refused) throw refused
    },
    (error: Error) => {
      fail(understood(error))
      throw refused
    },
  )
  feeding.then(
    () => found.reject(new UnusableFile(1, 'the form has no file')),
    () => {},
  )
  return found.promise
}

/** What the parser of forms says of one is wrong with the file; all else is known by its own name. */
function understood(error: Error): Error {
  const kinds = [UnusableFile, StrayField, TooSlow]
  if (isBroken(error) || kinds.some((kind) => error instanceof kind)) return error
  return new UnusableFile(1, `the form is malformed: ${error.message}`)
}

/** A stream to its end, and then whatever became of who feeds it. */
async function* whole(stream: Readable, feeding: Promise<void>): AsyncGenerator<Buffer> {
  try {
    yield* stream as AsyncIterable<Buffer>
  } catch (error) {
    throw understood(error as Error)
  }
  await feeding
}

async function* unpacked(packed: Bytes): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: sliceBytes })
  const feeding = pipeline(packed, gunzip)
  feeding.catch(() => {})
  try {
    yield* gunzip as AsyncIterable<Buffer>
    await feeding
  } catch (error) {
    const isOfZlib = ((error as { code?: string }).code ?? '').startsWith('Z_')
    throw isOfZlib ? new UnusableFile(1, 'the file is not whole gzip') : error
  }
}

/** Unpacks what begins as gzip does, as no CSV or JSON can. */
async function* sniffed(bytes: Bytes): AsyncGenerator<Buffer> {
  const all = bytes[Symbol.asyncIterator]()
  let head = Buffer.alloc(0)
  while (head.length < 2) {
    const next = await all.next()
    if (next.done) break
    head = Buffer.concat([head, next.value])
  }
  async function* again(): AsyncGenerator<Buffer> {
    yield head
    for (let next = await all.next(); !next.done; next = await all.next()) yield next.value
  }
  yield* head[0] === 0x1f && head[1] === 0x8b ? unpacked(again()) : again()
}

async function* sliced(bytes: Bytes): AsyncGenerator<Buffer> {
  let sum = 0
  for await (const chunk of bytes)
    for (let from = 0; from < chunk.length; from += sliceBytes) {
      const slice = chunk.subarray(from, from + sliceBytes)
      sum += slice.length
      if (sum > fileBytesMax) throw new UnusableFile(1, `the file is over ${fileBytesMax} bytes`)
      yield slice
      await turn()
    }
}

/** The client went away in the middle. */
export const isBroken = (error: unknown): boolean =>
  /^(ECONNRESET|ERR_STREAM_PREMATURE_CLOSE|ABORT_ERR)$/.test(
    (error as { code?: string }).code ?? '',
  )
