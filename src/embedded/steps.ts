/** What `npm start` says while it starts: a line per step, with its time. */
export const say = (line: string) => console.log(line)

export async function step<T>(
  name: string,
  run: () => Promise<T>,
  about: (result: T) => string,
): Promise<T> {
  const start = performance.now()
  const result = await run()
  const ms = performance.now() - start
  const time = ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`
  say(`${name.padEnd(10)} ${about(result)} (${time})`)
  return result
}

/** An expected reason not to start: printed as it is, without a stack. */
export class CannotStart extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode = 1) {
    super(message)
    this.exitCode = exitCode
  }
}
