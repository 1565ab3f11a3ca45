import { failpoint } from '../failpoint.ts'
import type { Context } from '../journal/entry.ts'
import { audit, auditRows, type Deed } from '../ledger/audit.ts'
import { getJob } from '../ledger/jobs.ts'
import type { Queues } from '../queues.ts'
import { endBook } from './books.ts'
import { type Certificate, isGenuine } from './certificate.ts'
import { type By, setBook, setFlush, setIntake } from './control.ts'
import { doOnCoupon, type Shop, type Wanted } from './coupon.ts'
import { doctor } from './doctor.ts'
import { type Asked, changeJob, listJobs, requestJob } from './jobs.ts'
import { createKey, revokeKey } from './keys.ts'
import type { Ops } from './ops.ts'
import { discardParked, parkedFact, parkedFacts, retryPage, retryParked } from './parked.ts'
import { status } from './status.ts'
import { timeline } from './timeline.ts'

/** `backlog`: BACKLOG_FACTS; `managed`: REDIS_MANAGED; `waitMs`: DURABILITY_WAIT_MS. */
type Settings = { backlog: number; managed: boolean; waitMs: number }

/** The verbs that routes call, bound to this process' own connections, store and directory. */
export function openOps(
  ops: Ops,
  { backlog, managed, waitMs }: Settings,
  { enqueue }: Pick<Queues, 'enqueue'>,
  through: Pick<Shop, 'store' | 'directory'>,
) {
  const bind =
    <A extends unknown[], R>(verb: (ops: Ops, ...args: A) => R) =>
    (...args: A) =>
      verb(ops, ...args)
  return {
    status: () => status(ops, { backlog, managed }),
    doctor: () => doctor(ops, managed),
    isGenuine: (certificate: Certificate) => isGenuine(ops.database, certificate),
    setIntake: bind(setIntake),
    setFlush: bind(setFlush),
    setBook: bind(setBook),
    endBook: bind(endBook),
    createKey: bind(createKey),
    revokeKey: bind(revokeKey),
    doOnCoupon: (wanted: Wanted, by: By, context: Context) =>
      doOnCoupon({ ...through, database: ops.database }, wanted, by, { context, waitMs }),
    timeline: bind(timeline),
    parkedFacts: bind(parkedFacts),
    parkedFact: bind(parkedFact),
    retryPage: bind(retryPage),
    retryParked: bind(retryParked),
    discardParked: bind(discardParked),
    listJobs: bind(listJobs),
    changeJob: bind(changeJob),
    job: (jobId: string) => getJob(ops.database, jobId),
    async requestJob(asked: Asked) {
      const job = await requestJob(ops, asked)
      failpoint('jobs.before-enqueue')
      if (!('problem' in job)) await enqueue(job.job_id)
      return job
    },
    note: (deed: Deed) => audit(ops.database, deed),
    deeds: (page: Parameters<typeof auditRows>[1]) => auditRows(ops.database, page),
  }
}

export type OperatorVerbs = ReturnType<typeof openOps>
