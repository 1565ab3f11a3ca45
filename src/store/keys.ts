/** Every key name of the store, and nobody else's business. All keys of a shard share its tag. */
const tag = (shard: number) => `{s${shard}}`

export const keys = {
  /** HASH epoch, phase, n, facts, flushed, watermark, intake: see ARCHITECTURE.md. */
  meta: (shard: number) => `${tag(shard)}:meta`,
  /** STREAM of entries `<epoch>-<n>`. */
  journal: (shard: number) => `${tag(shard)}:journal`,
  /** STRING the reply of one script call, 2 minutes, for a retry after a lost reply. */
  op: (shard: number, op: string) => `${tag(shard)}:op:${op}`,
  /** HASH policy, version, left, held, redeemed, void. */
  book: (shard: number, book: string) => `${tag(shard)}:book:${book}`,
  /** SET of the codes nobody has. */
  stock: (shard: number, book: string) => `${tag(shard)}:stock:${book}`,
  /** HASH code -> max_redemptions where it differs from the book's. */
  uses: (shard: number, book: string) => `${tag(shard)}:uses:${book}`,
  /** HASH user -> coupons held in the book; the empty field is the sentinel. */
  users: (shard: number, book: string) => `${tag(shard)}:users:${book}`,
  /** HASH code -> packed record, of a void code its book alone; the empty field is the sentinel. */
  coupons: (shard: number) => `${tag(shard)}:coupons`,
  /** HASH redemption id -> code, a tab before it once rolled back; the empty field is the sentinel. */
  redemptions: (shard: number) => `${tag(shard)}:redemptions`,
  /** STRING lock token, gone at the lock's deadline. */
  lock: (shard: number, code: string) => `${tag(shard)}:lock:${code}`,
  /** HASH client Idempotency-Key digest -> answer, of one UTC day; kept for two. */
  answers: (shard: number, day: number) => `${tag(shard)}:keys:${day}`,
  /** Everything of a shard, for SCAN. */
  all: (shard: number) => `${tag(shard)}:*`,
} as const
