import { isIPv4, isIPv6 } from 'node:net'

/** `10.0.0.0/8`, `::1`: undefined if it is neither an address nor a range of them. */
export function readRange(text: string): { address: string; prefix: number } | undefined {
  const [address = '', bits, ...more] = text.split('/')
  const most = isIPv4(address) ? 32 : isIPv6(address) ? 128 : undefined
  if (most === undefined || more.length > 0) return undefined
  if (bits === undefined) return { address, prefix: most }
  const prefix = Number(bits)
  return /^\d{1,3}$/.test(bits) && prefix <= most ? { address, prefix } : undefined
}
