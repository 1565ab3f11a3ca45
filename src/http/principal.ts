import type { Problem } from '../problems.ts'
import type { Principal } from './context.ts'

/** Tells who sent an Authorization header. Synchronous for a credential that was seen just now. */
export type Principals = {
  of(authorization: string | null): Principal | Problem | Promise<Principal | Problem>
}
