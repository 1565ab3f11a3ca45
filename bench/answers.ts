/** Where an answer to assign has its code and its user. All answers have the same layout. */
export type Sample = {
  length: number
  /** The text before the code: an answer that begins so is an acknowledgement. */
  head: string
  code?: [start: number, end: number]
  user?: [start: number, end: number]
}
export type Acknowledged = { code: string; user: string }

/** Reads the layout off a real answer. */
export function sampleOf(text: string, code: string, user: string): Sample {
  const place = (word: string): [number, number] => {
    const start = text.indexOf(word)
    return [start, start + word.length]
  }
  const [start] = place(code)
  return { length: text.length, head: text.slice(0, start), code: place(code), user: place(user) }
}

const width = ([start, end]: [number, number] = [0, 0]) => end - start

/**
 * Tells acknowledgements from refusals and keeps the code and user of each: at the price of two
 * copied slices, because this runs beside what it measures. (A kept slice would keep its answer.)
 */
export function readAnswers(sample: Sample) {
  const { length, head, code, user } = sample
  const row = width(code) + width(user)
  let rows = Buffer.allocUnsafe(row * 100_000)
  let accepted = 0
  let answers = 0
  const refused: Record<string, number> = {}

  function keep(text: string): void {
    const at = accepted * row
    if (at + row > rows.length) rows = Buffer.concat([rows], rows.length * 2)
    if (code) rows.write(text.slice(...code), at, 'latin1')
    if (user) rows.write(text.slice(...user), at + width(code), 'latin1')
    accepted++
  }

  return {
    /** Takes one answer and says whether it was an acknowledgement; late: not as durable as was asked. */
    read(text: string, status: number): boolean {
      answers++
      const accepted = status === 200 && text.length === length && text.startsWith(head)
      if (accepted) keep(text)
      else {
        const why = status === 202 ? 'late' : problemOf(text)
        refused[why] = (refused[why] ?? 0) + 1
      }
      return accepted
    },
    counts: () => ({ answers, accepted, refused }),
    acknowledged: (): Uint8Array => rows.subarray(0, accepted * row),
  }
}

function problemOf(text: string): string {
  try {
    return String(JSON.parse(text).code ?? 'unreadable')
  } catch {
    return 'unreadable'
  }
}

/** The rows that `readAnswers` kept, as the parent gets them. */
export function acknowledgedOf({ code, user }: Sample, rows: Uint8Array): Acknowledged[] {
  const row = width(code) + width(user)
  const text = Buffer.from(rows.buffer, rows.byteOffset, rows.length).toString('latin1')
  return Array.from({ length: row ? rows.length / row : 0 }, (_, i) => ({
    code: text.slice(i * row, i * row + width(code)),
    user: text.slice(i * row + width(code), (i + 1) * row),
  }))
}
