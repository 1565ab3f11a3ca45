import { type Command, Option } from 'commander'
import { getJob, type Job, type JobState, jobStates } from '../ledger/jobs.ts'
import { changeJob, listJobs } from '../ops/jobs.ts'
import { problemDocument } from '../problems.ts'
import { count, id, reason } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say } from './say.ts'

/** `jobs`: work that outlives its request, such as the generation of many codes. */
export function jobVerbs(program: Command): void {
  const jobs = program
    .command('jobs')
    .description('work that outlives its request')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- jobs list --state failed\n')
  jobs
    .command('list')
    .description('the newest first')
    .addOption(new Option('--state <state>', 'in this state').choices([...jobStates]))
    .option('--limit <n>', 'at most so many', count, 50)
    .addHelpText('before', 'Example:\n  $ npm run stampede -- jobs list --state failed\n')
    .action(list)
  jobs
    .command('show')
    .description('one job')
    .argument('<id>', 'its job_id', id)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- jobs show 7c9e6679-7425-40de-944b-e07fc1f90ae7\n',
    )
    .action(show)
  const change = (name: 'cancel' | 'retry', what: string) =>
    jobs
      .command(name)
      .description(what)
      .argument('<id>', 'its job_id', id)
      .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
      .addHelpText(
        'before',
        `Example:\n  $ npm run stampede -- jobs ${name} 7c9e6679-7425-40de-944b-e07fc1f90ae7 --reason "wrong book"\n`,
      )
      .action((jobId: string, options: { reason: string }, command: Command) =>
        run(name, jobId, options.reason, command),
      )
  change(
    'cancel',
    'end one that is queued or running, or put aside one that failed; what it did stays',
  )
  change('retry', 'have one that failed or was cancelled done again')
}

const line = ({ job_id, kind, state, done, total, created_at, error }: Job) =>
  `${job_id}  ${kind} ${state} ${done}/${total}  ${created_at.toISOString()}${error ? `  ${error}` : ''}`

async function list(options: { state?: JobState; limit: number }, command: Command) {
  const jobs = await withOps((ops) => listJobs(ops, options))
  say(command, jobs.map(line).join('\n') || 'There are none.', { jobs })
}

const none = (jobId: string) => new Error(`There is no job ${jobId}: see \`stampede jobs list\`.`)

async function show(jobId: string, _: unknown, command: Command): Promise<void> {
  const job = await withOps(({ database }) => getJob(database, jobId))
  if (!job) throw none(jobId)
  say(command, JSON.stringify(job, null, 2), job)
}

async function run(name: 'cancel' | 'retry', jobId: string, why: string, command: Command) {
  const wanted = name === 'cancel' ? 'cancelled' : 'queued'
  const job = await withOps((ops) => changeJob(ops, jobId, wanted, { actor, reason: why }))
  if ('problem' in job && job.problem === 'job-not-found') throw none(jobId)
  if ('problem' in job) throw new Error(problemDocument(job, '', '').detail)
  say(command, line(job), job)
}
