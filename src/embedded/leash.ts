import { type ChildProcess, spawn } from 'node:child_process'

/**
 * A server that outlives us keeps its port and its files, and nobody knows about it. We cannot act
 * after a SIGKILL, but the kernel closes our pipes: a shell waits at the other end and ends the
 * server, first politely, ten seconds later by force. A word on the pipe means "it is gone".
 */
const waits = `
trap '' INT TERM HUP
read -r word
[ -n "$word" ] && exit
sleep "$3"
kill -s "$2" "$1" || exit
for _ in 1 2 3 4 5 6 7 8 9 10; do
  sleep 1
  kill -0 "$1" || exit
  grep -q ') Z' "/proc/$1/stat" && exit # dead, in a container whose first process reaps nobody
done
kill -s KILL "$1"`

/** `graceSeconds` lets what depends on the server stop first. */
export function leash(child: ChildProcess, signal: 'TERM' | 'INT', graceSeconds = 0): void {
  if (child.pid === undefined) return
  const keeper = spawn(
    '/bin/sh',
    ['-c', waits, 'leash', `${child.pid}`, signal, `${graceSeconds}`],
    {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true, // a Ctrl-C in the terminal goes to our process group, not to this shell
    },
  )
  keeper.unref()
  const pipe = keeper.stdin as NonNullable<typeof keeper.stdin> & { unref(): void }
  pipe.unref()
  pipe.on('error', () => {}) // the shell was killed before us: the next start sweeps instead
  keeper.on('error', () => {})
  child.once('exit', () => pipe.end('gone\n'))
}
