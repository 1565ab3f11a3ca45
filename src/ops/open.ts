import { failpoint } from '../failpoint.ts'
import type { Context } from '../journal/entry.ts'
import { audit, auditRows, type Deed } from '../ledger/audit.ts'
import { getJob } from '../ledger/jobs.ts'
import { listUsers, type UserFilter } from '../ledger/users.ts'
import { type Problem, problem } from '../problems.ts'
import { type QueueDesk, type Queues, QueuesAway } from '../queues.ts'
import { changeAccount, createAccount, deleteAccount, replacePassword } from './accounts.ts'
import { endBook } from './books.ts'
import { type Certificate, isGenuine } from './certificate.ts'
import { type By, setBook, setFlush, setIntake } from './control.ts'
import { doOnCoupon, type Shop, type Wanted } from './coupon.ts'
import { doctor, queueItem } from './doctor.ts'
import { type Asked, changeJob, isOperators, listJobs, requestJob } from './jobs.ts'
import { createKey, revokeKey } from './keys.ts'
import { acceptLosses, losses } from './loss.ts'
import type { Ops } from './ops.ts'
import { discardParked, parkedFact, parkedFacts, retryPage, retryParked } from './parked.ts'
import { cleanQueues, retryQueues } from './queues.ts'
import { planRebuild } from './rebuild.ts'
import { status } from './status.ts'
import { timeline } from './timeline.ts'

/** `backlog`: BACKLOG_FACTS; `managed`: REDIS_MANAGED; `waitMs`: DURABILITY_WAIT_MS. */
type Settings = { backlog: number; managed: boolean; waitMs: number }

/** The verbs that routes call, bound to this process' own connections, store and directory. */
export function openOps(
  ops: Ops,
  { backlog, managed, waitMs }: Settings,
  { enqueue, desk }: Pick<Queues, 'enqueue' | 'desk'>,
  through: Pick<Shop, 'store' | 'directory'>,
) {
  const bind =
    <A extends unknown[], R>(verb: (ops: Ops, ...args: A) => R) =>
    (...args: A) =>
      verb(ops, ...args)
  /** Of a verb that cannot do without Redis: that it is away is no bug, and a route can say it. */
  const withRedis =
    <A extends unknown[], R>(verb: (ops: Ops, ...args: A) => Promise<R>) =>
    async (...args: A): Promise<R | Problem> => {
      try {
        return await verb(ops, ...args)
      } catch (error) {
        if (ops.redis.status === 'ready') throw error
        return problem('not-ready')
      }
    }
  /** With the queues for as long as it takes; where their Redis is away, so that a route can say it. */
  async function atDesk<T>(work: (its: QueueDesk) => Promise<T>): Promise<T | Problem> {
    const its = desk()
    try {
      return await work(its)
    } catch (error) {
      if (error instanceof QueuesAway) return problem('not-ready')
      throw error
    } finally {
      await its.close()
    }
  }
  return {
    status: () => status(ops, { backlog, managed }),
    async doctor() {
      const [items, ofQueue] = await Promise.all([
        doctor(ops, managed),
        atDesk((its) => queueItem(its)),
      ])
      return 'problem' in ofQueue ? items : [...items, ofQueue]
    },
    isGenuine: (certificate: Certificate) => isGenuine(ops.database, certificate),
    setIntake: bind(setIntake),
    setFlush: bind(setFlush),
    setBook: bind(setBook),
    endBook: bind(endBook),
    listAccounts: (filter: UserFilter) => listUsers(ops.database, filter),
    createAccount: bind(createAccount),
    changeAccount: bind(changeAccount),
    deleteAccount: bind(deleteAccount),
    replacePassword: bind(replacePassword),
    createKey: bind(createKey),
    revokeKey: bind(revokeKey),
    doOnCoupon: (wanted: Wanted, by: By, context: Context) =>
      doOnCoupon({ ...through, database: ops.database }, wanted, by, { context, waitMs }),
    timeline: withRedis(timeline),
    parkedFacts: bind(parkedFacts),
    parkedFact: bind(parkedFact),
    retryPage: bind(retryPage),
    retryParked: bind(retryParked),
    discardParked: bind(discardParked),
    listJobs: bind(listJobs),
    changeJob: bind(changeJob),
    isOperators,
    job: (jobId: string) => getJob(ops.database, jobId),
    async requestJob(asked: Asked) {
      const job = await requestJob(ops, asked)
      failpoint('jobs.before-enqueue')
      if (!('problem' in job)) await enqueue(job.job_id)
      return job
    },
    queues: () => atDesk(async (its) => ({ queues: await its.list(), over: await its.over() })),
    failedInQueues: (limit: number) => atDesk((its) => its.failed(limit)),
    retryQueues: (by: By) => atDesk((its) => retryQueues(ops, its, by)),
    cleanQueues: (by: By) => atDesk((its) => cleanQueues(ops, its, by)),
    losses: withRedis(losses),
    acceptLosses: bind(acceptLosses),
    planRebuild: withRedis(planRebuild),
    note: (deed: Deed) => audit(ops.database, deed),
    deeds: (page: Parameters<typeof auditRows>[1]) => auditRows(ops.database, page),
  }
}

export type OperatorVerbs = ReturnType<typeof openOps>
