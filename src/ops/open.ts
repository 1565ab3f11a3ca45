import { auditRows } from '../ledger/audit.ts'
import { setFlush, setIntake } from './control.ts'
import { changeJob, listJobs } from './jobs.ts'
import type { Ops } from './ops.ts'
import { discardParked, parkedFacts, retryParked } from './parked.ts'
import { planRebuild, requestRebuild } from './rebuild.ts'
import { status } from './status.ts'
import { timeline } from './timeline.ts'

/** The verbs that routes call, bound to this process' own connections. `backlog`: BACKLOG_FACTS. */
export function openOps(ops: Ops, backlog: number) {
  const bind =
    <A extends unknown[], R>(verb: (ops: Ops, ...args: A) => R) =>
    (...args: A) =>
      verb(ops, ...args)
  return {
    status: () => status(ops, backlog),
    setIntake: bind(setIntake),
    setFlush: bind(setFlush),
    timeline: bind(timeline),
    parkedFacts: bind(parkedFacts),
    retryParked: bind(retryParked),
    discardParked: bind(discardParked),
    planRebuild: bind(planRebuild),
    requestRebuild: bind(requestRebuild),
    listJobs: bind(listJobs),
    changeJob: bind(changeJob),
    deeds: (page: Parameters<typeof auditRows>[1]) => auditRows(ops.database, page),
  }
}

export type OperatorVerbs = ReturnType<typeof openOps>
