import { failpoint } from '../failpoint.ts'
import { audit, auditRows, type Deed } from '../ledger/audit.ts'
import { getJob } from '../ledger/jobs.ts'
import type { Queues } from '../queues.ts'
import { type Certificate, isGenuine } from './certificate.ts'
import { setFlush, setIntake } from './control.ts'
import { doctor } from './doctor.ts'
import { type Asked, changeJob, listJobs, requestJob } from './jobs.ts'
import type { Ops } from './ops.ts'
import { discardParked, parkedFact, parkedFacts, retryParked } from './parked.ts'
import { planRebuild, requestRebuild } from './rebuild.ts'
import { status } from './status.ts'
import { timeline } from './timeline.ts'

/** The verbs that routes call, bound to this process' own connections. `backlog`: BACKLOG_FACTS; `managed`: REDIS_MANAGED. */
export function openOps(
  ops: Ops,
  { backlog, managed }: { backlog: number; managed: boolean },
  { enqueue }: Pick<Queues, 'enqueue'>,
) {
  const bind =
    <A extends unknown[], R>(verb: (ops: Ops, ...args: A) => R) =>
    (...args: A) =>
      verb(ops, ...args)
  return {
    status: () => status(ops, backlog),
    doctor: () => doctor(ops, managed),
    isGenuine: (certificate: Certificate) => isGenuine(ops.database, certificate),
    setIntake: bind(setIntake),
    setFlush: bind(setFlush),
    timeline: bind(timeline),
    parkedFacts: bind(parkedFacts),
    parkedFact: bind(parkedFact),
    retryParked: bind(retryParked),
    discardParked: bind(discardParked),
    planRebuild: bind(planRebuild),
    requestRebuild: bind(requestRebuild),
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
