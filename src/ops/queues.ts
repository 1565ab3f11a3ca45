import { audit } from '../ledger/audit.ts'
import type { QueueDesk } from '../queues.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

type Where = Pick<Ops, 'database'>

/** Has every failed job done again; how many there were. */
export async function retryQueues({ database }: Where, desk: QueueDesk, by: By): Promise<number> {
  const failed = (await desk.list()).reduce((sum, queue) => sum + queue.failed, 0)
  // Beforehand, as of a coupon: whoever dies in the middle cannot say any more why it was done.
  await audit(database, { ...by, action: 'queues.retry', target: 'queues', detail: { failed } })
  return desk.retry()
}

/** Removes the jobs that are over; how many there were. */
export async function cleanQueues({ database }: Where, desk: QueueDesk, by: By): Promise<number> {
  const over = await desk.over()
  await audit(database, { ...by, action: 'queues.clean', target: 'queues', detail: { over } })
  return desk.clean()
}
