// Addresses: which of what the scanner takes for one can be used, which are equal, which are loopback.

/** The address as the system spells it, or undefined if there is no such address (the scanner takes 999.0.0.1). */
export function normalizedAddress(family: 'ipv4' | 'ipv6', host: string): string | undefined {
  return family === 'ipv4' ? normalizedIpv4(host) : isIpv6(host) ? host.toLowerCase() : undefined
}

export const isLoopback = (host: string): boolean => /^127\./.test(host) || host === '::1'

function normalizedIpv4(host: string): string | undefined {
  const octets = host.split('.').map(Number)
  return octets.length === 4 && octets.every((octet) => octet <= 255) ? octets.join('.') : undefined
}

function isIpv6(host: string): boolean {
  const address = host.split('%')[0] as string
  const halves = address.split('::')
  if (halves.length > 2) return false
  const groups = halves.flatMap((half) => (half === '' ? [] : half.split(':')))
  const tail = groups.at(-1)
  let count = groups.length
  if (tail?.includes('.')) {
    if (normalizedIpv4(tail) === undefined || address.endsWith('::')) return false
    groups.pop()
    count++ // four octets are two groups
  }
  if (!groups.every((group) => /^[0-9A-Fa-f]{1,4}$/.test(group))) return false
  return halves.length === 2 ? count <= 7 : count === 8
}
