let bytes = Buffer.alloc(8_192)
let words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
const halves = new Uint32Array(2)

/**
 * 64 bits that stand for two texts, in two halves that hold until the next call. Nothing is decided by
 * it that somebody might want to deceive, so it may be a hundred times as fast as a digest that withstands
 * that. Four bytes at a time: to ask a text for each of its characters takes many times as long where
 * it is a piece of a page.
 */
function hash(a: string, b: string): Uint32Array {
  const most = 3 * (a.length + b.length) + 8
  if (most > bytes.length) {
    bytes = Buffer.alloc(2 * (most - (most % 4)))
    words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
  }
  let length = bytes.write(a, 0)
  bytes[length++] = 0
  length += bytes.write(b, length)
  bytes.fill(0, length, length + 3)
  let [high, low] = [0xdeadbeef ^ length, 0x41c6ce57]
  for (let w = 0; w * 4 < length; w++) {
    const word = words[w]!
    high = Math.imul(turned(high ^ word, 13), 2654435761)
    low = Math.imul(turned(low ^ word, 15), 1597334677)
  }
  high = Math.imul(high ^ (low >>> 16), 2246822507)
  low = Math.imul(low ^ (high >>> 13), 3266489909)
  halves[0] = high ^ (low >>> 15)
  halves[1] = low ^ (high >>> 14)
  return halves
}

/** A product never brings high bits down: turned, they come into play. */
const turned = (word: number, by: number) => (word << by) | (word >>> (32 - by))

/**
 * A fingerprint of a book's codes and what became of them, by each store: 64 bits, the sum over all
 * codes, so that the order in which they are read does not matter. Books that are equal have equal
 * ones, also a day later or in a copy. Codes are compared with each other, not by this.
 */
export class Digests {
  readonly #sums = { redis: new Uint32Array(2), postgres: new Uint32Array(2) }

  /** Of one code as one store has it; `state` is its record, '' in stock. -1 takes it off again. */
  add(store: 'redis' | 'postgres', code: string, state: string, sign: 1 | -1 = 1): void {
    const [high, low] = hash(code, state)
    const sums = this.#sums[store]
    sums[0]! += sign * high!
    sums[1]! += sign * low!
  }

  /** Of one code that is the same in both. */
  addBoth(code: string, state: string): void {
    const both = hash(code, state)
    for (const sums of [this.#sums.redis, this.#sums.postgres]) {
      sums[0]! += both[0]!
      sums[1]! += both[1]!
    }
  }

  /** 16 hexadecimal digits. */
  of(store: 'redis' | 'postgres'): string {
    return [...this.#sums[store]].map((half) => half.toString(16).padStart(8, '0')).join('')
  }
}

/** More than this are not kept, to stay below 100 MB. */
const most = 4_000_000

/**
 * Which keys were met: 16 bytes a key. It may have forgotten some, and then says that it has not met them;
 * that it takes one key for another happens once in a trillion.
 */
export class Met {
  #slots = new Uint32Array(2 * 4_096)
  #count = 0

  add(key: string): void {
    if (this.#count >= most) return
    if (this.#count * 4 >= this.#slots.length) this.#grow()
    const [high, low] = hash(key, '')
    this.#put(high!, low! || 1)
  }

  has(key: string): boolean {
    const [high, low] = hash(key, '')
    return this.#slots[this.#find(high!, low! || 1) + 1] !== 0
  }

  /** Where it stands, or the free place that it would take; an odd half of 0 is a free place. */
  #find(high: number, low: number): number {
    const slots = this.#slots
    const mask = slots.length - 1
    let at = (low * 2) & mask
    while (slots[at + 1] !== 0 && (slots[at] !== high || slots[at + 1] !== low))
      at = (at + 2) & mask
    return at
  }

  #put(high: number, low: number): void {
    const at = this.#find(high, low)
    if (this.#slots[at + 1] === 0) this.#count++
    this.#slots[at] = high
    this.#slots[at + 1] = low
  }

  #grow(): void {
    const old = this.#slots
    this.#slots = new Uint32Array(2 * old.length)
    this.#count = 0
    for (let at = 0; at < old.length; at += 2)
      if (old[at + 1] !== 0) this.#put(old[at]!, old[at + 1]!)
  }
}
