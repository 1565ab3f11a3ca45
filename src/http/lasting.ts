import type { Deps } from '../app.ts'
import type { Context, PrincipalKind } from './context.ts'

/**
 * Of answers that last: tells, whenever it is called, whether who asked would still be let in. Keys are
 * revoked, accounts deactivated and tokens run out in the meantime. It costs no more than what stands
 * before every request.
 */
export function letIn(
  { principals }: Pick<Deps, 'principals'>,
  c: Context,
  kinds: readonly PrincipalKind[],
): () => Promise<boolean> {
  const sent = c.req.raw.headers.get('authorization')
  return async () => {
    const who = await principals.of(sent)
    return !('problem' in who) && kinds.includes(who.kind)
  }
}
