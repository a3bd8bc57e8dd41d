// Ports for servers of a lab, a bench or a test, which nobody has chosen by hand.
//
// They lie below the range from which Linux takes the port of an outgoing socket (ip_local_port_range). One from within that range is
// free only until somebody connects to anywhere: then the server that comes back to its port finds it in use, and a socket that
// dials it while nobody listens may be given the very same port, and is connected to itself.

import { randomInt } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

import { systemCodeOf } from './system-code.ts'

const FIRST_PORT = 10_000
/** Where Linux's range begins if nobody has changed it. */
const FIRST_OUTGOING_PORT = 32_768
const TRIES_MAX = 200

/** `count` different ports of a local address that nobody listens on. Fails with the system's error if there are none. */
export async function freePorts(count: number, address = '127.0.0.1'): Promise<number[]> {
  const found = new Set<number>()
  for (let tries = 1; found.size < count; tries++) {
    try {
      found.add(await listenOnce(drawPort(), address))
    } catch (error) {
      if (systemCodeOf(error) !== 'EADDRINUSE' || tries >= TRIES_MAX) throw error
    }
  }
  return [...found]
}

/** 0, any port, if the outgoing ones begin so low that nothing is left below them. */
function drawPort(): number {
  const end = firstOutgoingPort()
  return end > FIRST_PORT ? randomInt(FIRST_PORT, end) : 0
}

function firstOutgoingPort(): number {
  try {
    const first = Number.parseInt(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'), 10)
    return Number.isNaN(first) ? FIRST_OUTGOING_PORT : first
  } catch {
    return FIRST_OUTGOING_PORT // a system without that file
  }
}

function listenOnce(port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen({ host, port, exclusive: true }, () => {
      const bound = server.address()
      server.close(() => resolve(typeof bound === 'object' && bound !== null ? bound.port : port))
    })
  })
}
