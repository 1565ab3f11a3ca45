import { type DestinationStream, type Logger, type LoggerOptions, pino } from 'pino'

/**
 * The log of a process. An error is told by what leads a programmer to its place and by nothing else:
 * ioredis hangs the command on it, codes and tokens and all, PostgreSQL a row's values, and drizzle
 * puts a query's parameters even into its message.
 */
export function openLog(name: string, level: string, to?: DestinationStream): Logger {
  const options: LoggerOptions = { name, level, serializers: { err: brief }, hooks: { logMethod } }
  return to ? pino(options, to) : pino(options)
}

/** Of an error that comes without a message, as close-with-grace's do, pino would take its own. */
const logMethod: NonNullable<LoggerOptions['hooks']>['logMethod'] = function (args, method) {
  const [first] = args as unknown[]
  const error = first instanceof Error ? first : (first as { err?: unknown } | undefined)?.err
  if (args.length > 1 || !(error instanceof Error)) return method.apply(this, args)
  const rest = error === first ? { err: error } : (first as object)
  method.call(this, rest, brief(error).message)
}

/** The innermost cause, which is whose message holds no parameters. */
function brief(error: unknown) {
  if (!(error instanceof Error)) return { message: typeof error }
  let inner = error
  while (inner.cause instanceof Error) inner = inner.cause
  const { name, code } = inner as Error & { code?: string }
  // Redis repeats what it was asked where it does not know the command.
  const message = inner.message.replace(/, with args beginning with: .*/s, '')
  const stack = error.stack?.split('\n').filter((line) => line.startsWith('    at '))
  return { name, message, code, stack: stack?.slice(0, 12).join('\n') }
}
