import { type Command, Option } from 'commander'
import { CreateBookRequest, readTimes, usual } from '../http/book-view.ts'
import { type Book, getBook } from '../ledger/books.ts'
import { listBooks } from '../ledger/lists.ts'
import { endBook, makeBook, warmBook } from '../ops/books.ts'
import { bookState, setBook } from '../ops/control.ts'
import { type Problem, problem, problemDocument } from '../problems.ts'
import { count, id, reason } from './arguments.ts'
import { actor, withBoth, withOps } from './ops.ts'
import { say, tell } from './say.ts'

const line = (book: Book) =>
  `${book.book_id}  ${book.archived_at ? 'archived' : bookState(book)}  ` +
  `${book.kind} ${book.total_code_count}  ${book.name}`

type Change = 'open' | 'pause' | 'close' | 'archive'
type Asked = { reason: string; yes?: boolean }

export function bookVerbs(program: Command): void {
  const books = program
    .command('books')
    .description('books of coupons')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- books list\n')
  books
    .command('list')
    .description('the newest first')
    .option('--archived', 'archived ones too')
    .option('--limit <n>', 'at most so many', count, 50)
    .addHelpText('before', 'Example:\n  $ npm run stampede -- books list --archived\n')
    .action(list)
  books
    .command('create')
    .description('make a book; codes are added over the API')
    .requiredOption('--name <name>')
    .option('--owner <id>', 'whose it is', 'operator')
    .addOption(new Option('--kind <kind>').choices(['codes', 'counter']).default('codes'))
    .option('--units <n>', 'of a counter book', count)
    .option('--max-redemptions <n>', 'of each code', count)
    .option('--max-per-user <n>', 'coupons a user may hold', count)
    .option('--opens <time>', 'ISO 8601')
    .option('--closes <time>', 'ISO 8601')
    .addOption(new Option('--durability <level>').choices(['redis', 'postgres']))
    .option('--paused', 'nothing is given out before it is opened')
    .option('--reason <text>', 'why: it stands in the audit log', reason)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- books create --name "Summer" --max-per-user 1 --paused\n',
    )
    .action(create)
  const change = (name: Change, what: string, yes = '') =>
    books
      .command(name)
      .description(what)
      .argument('<id>', 'its book_id', id)
      .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
      .addHelpText(
        'before',
        `Example:\n  $ npm run stampede -- books ${name} 83ff2693-cf4c-4ea8-a2c7-f3bb22244a1d --reason "as planned"${yes}\n`,
      )
      .action((bookId: string, options: Asked, command: Command) =>
        run(name, bookId, options, command),
      )
  change('open', 'let it give out coupons, also after it was drained')
  change('pause', 'let it assign nothing: 409 book-inactive; holders may still lock and redeem')
  change('close', 'end its sale now: nothing more is given out, what was given stays usable')
  change(
    'archive',
    'end it for ever: no verb works any more, its history stays readable',
    ' --yes',
  ).option('--yes', 'do it; without it you are shown what would end')
  books
    .command('warm')
    .description('look it over before its sale: ready, or why not')
    .argument('<id>', 'its book_id', id)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- books warm 83ff2693-cf4c-4ea8-a2c7-f3bb22244a1d\n',
    )
    .addHelpText('after', '\nEnds with 3 if it is not ready.')
    .action(warm)
}

/** The value, or an error that says what the problem is. */
function sound<T extends object>(value: T | Problem): T {
  if (!('problem' in value)) return value
  const { title, errors } = problemDocument(value, '', '') as {
    title: string
    errors?: { path: string; message: string }[]
  }
  const details = errors?.map(({ path, message }) => `${path} ${message}`).join('; ')
  throw new Error(details ? `${title}: ${details}` : title)
}

async function list(options: { archived?: boolean; limit: number }, command: Command) {
  const found = sound(
    await withOps(({ database }) =>
      listBooks(database, { archived: options.archived === true, limit: options.limit, skip: 0 }),
    ),
  )
  const books = found.slice(0, options.limit)
  say(command, books.map(line).join('\n') || 'There are none.', { books })
}

type Wanted = {
  name: string
  owner: string
  kind: string
  units?: number
  maxRedemptions?: number
  maxPerUser?: number
  opens?: string
  closes?: string
  durability?: string
  paused?: boolean
  reason?: string
}

async function create(options: Wanted, command: Command): Promise<void> {
  const asked = CreateBookRequest.safeParse({
    ...{ name: options.name, owner_id: options.owner, kind: options.kind },
    ...{ units: options.units, max_redemptions: options.maxRedemptions },
    ...{ max_assignments_per_user: options.maxPerUser, is_active: !options.paused },
    ...{ opens_at: options.opens, closes_at: options.closes, durability: options.durability },
  })
  if (!asked.success) {
    const { path, message } = asked.error.issues[0]!
    command.error(`error: ${path.join('.')}: ${message}`, { exitCode: 2 })
  }
  const policy = { ...usual, owner_id: 'operator', ...readTimes(asked.data) }
  const book = sound(
    await withOps((ops) => makeBook(ops, { ...policy, created_by: actor }, options.reason)),
  )
  say(command, line(book), book)
}

async function run(
  name: Change,
  bookId: string,
  { reason: why, yes }: Asked,
  command: Command,
): Promise<void> {
  if (name === 'archive' && !yes) return show(bookId, command)
  const by = { actor, reason: why }
  const change =
    name === 'open' || name === 'pause'
      ? withBoth<object | Problem>((ops) =>
          setBook(ops, bookId, name === 'open' ? 'active' : 'paused', by),
        )
      : withOps<object | Problem>((ops) => endBook(ops, bookId, name, by))
  const done: object = sound(await change)
  const past = { open: 'open', pause: 'paused', close: 'closed', archive: 'archived' }[name]
  say(command, `book ${bookId} is ${past}`, { ...done, book_id: bookId })
}

/** What archiving it would end. */
async function show(bookId: string, command: Command): Promise<void> {
  const book = sound(
    await withOps(
      async ({ database }) => (await getBook(database, bookId)) ?? problem('book-not-found'),
    ),
  )
  const what = `Nothing was changed. With --yes this book would end for ever:\n${line(book)}`
  say(command, what, { archived: false, book })
}

async function warm(bookId: string, _: unknown, command: Command): Promise<void> {
  const onProgress = (done: number, total: number) =>
    tell(`compared ${done} of ${total} codes`, { done, total })
  const found = sound(await withOps((ops) => warmBook(ops, bookId, onProgress)))
  if (!found.ready) process.exitCode = 3
  const text = found.ready
    ? `ready: ${found.left} left; giving all away takes ${found.memory} bytes of Redis`
    : ['not ready:', ...found.why_not.map((reason) => `! ${reason}`)].join('\n')
  say(command, [text, ...found.notes].join('\n'), found)
}
