import { parseArgs } from 'node:util'
import { sweep } from '../../src/embedded/leftovers.ts'
import { fuzzTown } from './town.ts'

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '200000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})

/** `npm run fuzz`: requests made from /openapi.json; ends with 1 if an answer was not as it says. */
await sweep()
const begun = performance.now()
const { asked, byStatus, wrong, rssMb } = await fuzzTown(
  Number(values.requests),
  Number(values.seed),
  (line) => console.error(line),
)
const seconds = Math.round((performance.now() - begun) / 1000)
console.log(
  `${asked} requests (--seed ${values.seed}) in ${seconds} s: ${JSON.stringify(byStatus)}`,
)
console.log(
  `resident memory of the API: ${rssMb.early} MB after a quarter, ${rssMb.late} MB at the end`,
)
// Before its caches are full a process grows: only a long run can tell.
if (asked >= 100_000 && rssMb.late > 1.25 * rssMb.early)
  wrong.push('the memory of the API grew by more than a quarter')
for (const one of wrong) console.log(`! ${one}`)
process.exit(wrong.length > 0 ? 1 : 0)
