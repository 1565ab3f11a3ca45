/**
 * A fingerprint of a book's codes and what became of them, by each store: 64 bits, the sum over all
 * codes, so that the order in which they are read does not matter. Books that are equal have equal
 * ones, also a day later or in a copy. Codes are compared with each other, not by this, so it need not
 * withstand anybody who wants to deceive it; it is a hundred times as fast as a digest that does.
 */
export class Digests {
  readonly #sums = { redis: new Uint32Array(2), postgres: new Uint32Array(2) }
  readonly #hash = new Uint32Array(2)

  /** Of one code as one store has it; `state` is its record, '' in stock. -1 takes it off again. */
  add(store: 'redis' | 'postgres', code: string, state: string, sign: 1 | -1 = 1): void {
    this.#mix(code, state)
    this.#sum(store, sign)
  }

  /** Of one code that is the same in both. */
  addBoth(code: string, state: string): void {
    this.#mix(code, state)
    this.#sum('redis', 1)
    this.#sum('postgres', 1)
  }

  #sum(store: 'redis' | 'postgres', sign: 1 | -1): void {
    const sums = this.#sums[store]
    sums[0]! += sign * this.#hash[0]!
    sums[1]! += sign * this.#hash[1]!
  }

  #mix(code: string, state: string): void {
    let [a, b] = [0xdeadbeef, 0x41c6ce57]
    for (const text of [code, state]) {
      for (let c = 0; c < text.length; c++) {
        const unit = text.charCodeAt(c)
        a = Math.imul(a ^ unit, 2654435761)
        b = Math.imul(b ^ unit, 1597334677)
      }
      a = Math.imul(a ^ (b >>> 16), 2246822507)
      b = Math.imul(b ^ (a >>> 13), 3266489909)
    }
    this.#hash[0] = a ^ (b >>> 15)
    this.#hash[1] = b ^ (a >>> 14)
  }

  /** 16 hexadecimal digits. */
  of(store: 'redis' | 'postgres'): string {
    return [...this.#sums[store]].map((half) => half.toString(16).padStart(8, '0')).join('')
  }
}
