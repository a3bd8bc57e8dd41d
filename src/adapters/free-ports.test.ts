// Goal: free ports are different, can be listened on, and are none that Linux gives to outgoing sockets. Method: loopback.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { type TestContext, test } from 'node:test'

import { freePorts } from './free-ports.ts'

test('free ports are different, below those of outgoing sockets, and can be listened on', async (context) => {
  const ports = await freePorts(20)
  assert.equal(new Set(ports).size, 20)
  const firstOutgoing = Number.parseInt(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'), 10)
  for (const port of ports) {
    if (firstOutgoing > 10_000) assert.ok(port < firstOutgoing, `${port} < ${firstOutgoing}`)
    await listen(context, port, '127.0.0.1')
  }
})

test('a port that is taken is not free, and an address of another host is an error', async (context) => {
  const [port = 0] = await freePorts(1)
  await listen(context, port, '127.0.0.1')
  await assert.rejects(listen(context, port, '127.0.0.1'), { code: 'EADDRINUSE' })
  await assert.rejects(freePorts(1, '192.0.2.1'), { code: 'EADDRNOTAVAIL' })
})

async function listen(context: TestContext, port: number, host: string): Promise<void> {
  const server = createServer()
  server.listen({ host, port })
  await once(server, 'listening')
  context.after(() => server.close())
}
