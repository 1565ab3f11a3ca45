import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { readRange } from '../ranges.ts'
import type { Context } from './context.ts'

/** Tells from which address a request came; undefined where nobody can know. */
export type AddressOf = (c: Context) => string | undefined

const socketAddress: AddressOf = (c) => c.env?.incoming?.socket.remoteAddress

/**
 * The address of the socket's other end, and never a header's word: unless that end is a proxy of
 * `trusted` (addresses and CIDRs). Then it is the last hop of X-Forwarded-For that none of these
 * proxies is; what stands further left was written by whoever asked.
 */
export function createAddressOf(trusted: readonly string[]): AddressOf {
  if (trusted.length === 0) return socketAddress
  const proxies = new BlockList()
  for (const one of trusted) {
    const { address, prefix } = readRange(one)!
    proxies.addSubnet(address, prefix, isIPv4(address) ? 'ipv4' : 'ipv6')
  }
  const isProxy = (address: string) => proxies.check(address, isIPv4(address) ? 'ipv4' : 'ipv6')

  return (c) => {
    const peer = socketAddress(c)
    if (peer === undefined) return undefined
    let known = plain(peer)
    if (!isProxy(known)) return peer
    const hops = c.req.raw.headers.get('x-forwarded-for')?.split(',') ?? []
    while (isProxy(known)) {
      const hop = readHop(hops.pop())
      if (hop === undefined) break
      known = hop
    }
    return known
  }
}

/** A hop may name its port: `192.0.2.1:4711`, `[2001:db8::1]:4711`. */
function readHop(text: string | undefined): string | undefined {
  const bare = text?.trim().replace(/^\[([^\]]+)\](?::\d+)?$/, '$1')
  if (bare === undefined) return undefined
  const address = /^[\d.]+:\d+$/.test(bare) ? bare.slice(0, bare.indexOf(':')) : bare
  return isIP(address) === 0 ? undefined : plain(address)
}

/** An IPv4 address that came over an IPv6 socket is the same address. */
const plain = (address: string) => address.replace(/^::ffff:(?=[\d.]+$)/i, '')

/**
 * What a limit of addresses counts: an IPv4 address, or the /64 of an IPv6 one, for within its /64 a
 * machine takes whichever address it likes.
 */
export function addressGroup(address: string): string {
  const bare = plain(address)
  if (!isIPv6(bare)) return bare
  const [head = '', tail] = bare.split('%', 1)[0]!.split('::')
  const groups = (part: string | undefined) => (part ? part.split(':') : [])
  const left = groups(head)
  const right = groups(tail)
  // A dotted end stands for two groups; it never reaches the first four.
  const short = 8 - left.length - right.length - (bare.includes('.') ? 1 : 0)
  const all =
    tail === undefined ? left : [...left, ...Array(Math.max(0, short)).fill('0'), ...right]
  return `${all
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`
}
