// Looks whether the replication address is free before a replica is told to connect: the replica listens some time later,
// and a command must say at once, and with DRBD's number, what is wrong (config-and-tools.md 2.3, connect).

import { createServer } from 'node:net'

import { systemCodeOf } from '../adapters/disk-errors.ts'
import { driverErrorText } from '../engine/result-texts.ts'
import type { AdminResult } from '../runtime/api.ts'

const ADDRESS_IN_USE = 102
const INVALID_REQUEST = 162

/** undefined: free. */
export function replicationPortProblem(address: string, port: number): Promise<AdminResult | undefined> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.on('error', (error) => resolve(problemOf(error, address, port)))
    probe.listen({ host: address, port, exclusive: true }, () => probe.close(() => resolve(undefined)))
  })
}

function problemOf(error: Error, address: string, port: number): AdminResult {
  const where = address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
  switch (systemCodeOf(error)) {
    case 'EADDRINUSE':
      return {
        code: ADDRESS_IN_USE,
        text: driverErrorText(ADDRESS_IN_USE),
        detail: `${where}: another program, or a second daemon, listens there`,
      }
    case 'EADDRNOTAVAIL':
      return { code: INVALID_REQUEST, text: `IP ${address} not found on this host.` }
    default:
      return { code: INVALID_REQUEST, text: `cannot listen on ${where}: ${error.message}` }
  }
}
