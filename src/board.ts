import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import { HonoAdapter } from '@bull-board/hono'
import { serveStatic } from '@hono/node-server/serve-static'
import { Hono } from 'hono'
import type { Queues } from './queues.ts'

/** Where Bull Board is: src/http/board.ts says who may see it. */
export const boardPath = '/queues'

/** Answers a request below `boardPath`. `mayWrite`: false shows the same without its buttons. */
export type Board = (request: Request, mayWrite: boolean) => Response | Promise<Response>

/** Bull Board over our queues. It asks Redis when somebody looks, and never by itself. */
export function openBoard(queues: Pick<Queues, 'all'>): Board {
  let shown: unknown[] = []
  let boards: { write: Hono; read: Hono } | undefined

  /** Anew when a queue was replaced. */
  function current() {
    const all = queues.all()
    if (!boards || all.some((queue, q) => queue !== shown[q])) {
      shown = all
      boards = { write: make(all, true), read: make(all, false) }
    }
    return boards
  }
  return (request, mayWrite) => current()[mayWrite ? 'write' : 'read'].fetch(request)
}

function make(queues: ReturnType<Queues['all']>, mayWrite: boolean): Hono {
  const serverAdapter = new HonoAdapter(serveStatic).setBasePath(boardPath)
  createBullBoard({
    queues: queues.map(
      (queue) => new BullMQAdapter(queue, { readOnlyMode: !mayWrite, allowRetries: mayWrite }),
    ),
    serverAdapter,
    options: {
      uiConfig: {
        boardTitle: mayWrite ? 'Stampede queues' : 'Stampede queues (to look only)',
        hideDocsLink: true,
        miscLinks: [{ text: 'Sign out', url: `${boardPath}/sign-out` }],
      },
    },
  })
  return new Hono().route(boardPath, serverAdapter.registerPlugin() as unknown as Hono)
}
