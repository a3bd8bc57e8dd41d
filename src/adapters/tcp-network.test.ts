// Goal: what the contract suite (test/contract/link-contract.ts) cannot know of TCP: typed errors, addresses, one system call for
// each turn, the socket of an accepted connection. Method: loopback.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { type TestContext, test } from 'node:test'

import type { Link, LinkHandler } from '../runtime/ports.ts'
import { freePorts } from './free-ports.ts'
import { adoptAccepted, ReadBuffers, TcpLink } from './tcp-link.ts'
import { isConnectedToItself, type ListenError, TcpNetwork } from './tcp-network.ts'

async function listeningServer(context: TestContext, onSocket: (socket: net.Socket) => void): Promise<number> {
  const server = net.createServer({ pauseOnConnect: true }, onSocket)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  context.after(() => server.close())
  return (server.address() as net.AddressInfo).port
}

const at = (port: number, address = '127.0.0.1'): { address: string; port: number } => ({ address, port })

const hostOf = ({ address, port }: { address: string; port: number }): { host: string; port: number } => ({
  host: address,
  port,
})

const handler = (parts: Partial<LinkHandler>): LinkHandler => ({
  onData: () => {},
  onDrain: () => {},
  onClose: () => {},
  ...parts,
})

function listenError(network: (onListenError: (error: ListenError) => void) => TcpNetwork): Promise<ListenError> {
  return new Promise((resolve, reject) => {
    let typed: ListenError | undefined
    const listening = network((error) => {
      typed = error
    })
    listening.listen(
      () => {},
      (reason) => (typed === undefined ? reject(new Error(reason)) : resolve(typed)),
    )
  })
}

test('a busy port, a foreign address', async (context) => {
  const port = await listeningServer(context, (socket) => socket.destroy())
  const busy = await listenError((onListenError) => new TcpNetwork({ local: at(port), peer: at(1), onListenError }))
  assert.equal(busy.code, 'E_ADDRESS_IN_USE')
  assert.deepEqual(busy.details, { address: '127.0.0.1', port, systemCode: 'EADDRINUSE' })
  assert.match(busy.hint, /ss -ltnp/)
  const local = at(port, '192.0.2.1') // TEST-NET-1: nobody's
  const foreign = await listenError((onListenError) => new TcpNetwork({ local, peer: at(1), onListenError }))
  assert.equal(foreign.code, 'E_ADDRESS_NOT_LOCAL')
})

test('a refused connection names the address and the reason', async (context) => {
  const port = await listeningServer(context, () => {})
  const network = new TcpNetwork({ local: at(port), peer: at(1) })
  const reason = await new Promise<string>((resolve, reject) => network.connect(1000, reject, resolve))
  assert.match(reason, /^cannot connect to 127\.0\.0\.1:1: .*ECONNREFUSED/)
})

test('a socket that is connected to itself is told from one that is not', async (context) => {
  const [port = 0] = await freePorts(1)
  const own = net.connect({ ...hostOf(at(port)), localAddress: '127.0.0.1', localPort: port })
  context.after(() => own.destroy())
  await once(own, 'connect')
  assert.equal(isConnectedToItself(own), true)
  const other = net.connect(hostOf(at(await listeningServer(context, (socket) => socket.destroy()))))
  context.after(() => other.destroy())
  await once(other, 'connect')
  assert.equal(isConnectedToItself(other), false)
})

test("a connection from another address than the peer's is refused and told, unless any will do", async (context) => {
  const refused: string[] = []
  for (const [peer, from, anySource] of [
    ['127.0.0.5', '127.0.0.5', false],
    ['127.0.0.5', '127.0.0.6', false],
    ['127.0.0.5', '127.0.0.6', true],
    ['::ffff:127.0.0.5', '127.0.0.5', false],
  ] as const) {
    const [port = 0] = await freePorts(1)
    const network = new TcpNetwork({
      local: at(port),
      peer: at(1, peer),
      anySource,
      onStranger: (address) => refused.push(address),
    })
    context.after(() => network.stopListening())
    const accepted = new Promise<string>((resolve, reject) => {
      network.listen((link) => {
        link.close()
        resolve('taken')
      }, reject)
    })
    const socket = await connectedFrom(port, from)
    const outcome = await Promise.race([accepted, once(socket, 'close').then(() => 'closed')])
    assert.equal(outcome, from === peer || anySource || peer.endsWith(from) ? 'taken' : 'closed', `${peer} ${from}`)
    socket.destroy()
  }
  assert.deepEqual(refused, ['127.0.0.6'])
})

/** Tries until somebody listens. */
async function connectedFrom(port: number, localAddress: string): Promise<net.Socket> {
  for (;;) {
    const socket = net.connect({ host: '127.0.0.1', port, localAddress })
    socket.on('error', () => {})
    socket.resume()
    const up = await Promise.race([once(socket, 'connect').then(() => true), once(socket, 'close').then(() => false)])
    if (up) return socket
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

test('an address that does not answer times out', async () => {
  // TEST-NET-1: nobody answers; a machine without a route says so at once, which is a failure as well.
  const network = new TcpNetwork({ local: at(1), peer: at(7788, '192.0.2.1') })
  const startMs = performance.now()
  const reason = await new Promise<string>((resolve, reject) => network.connect(100, reject, resolve))
  assert.match(reason, /^cannot connect to 192\.0\.2\.1:7788: (timed out|.*E[A-Z]+)/)
  assert.ok(performance.now() - startMs < 3000)
})

test('outgoing connections come from the local address if asked for', async (context) => {
  const addresses: (string | undefined)[] = []
  const port = await listeningServer(context, (socket) => {
    addresses.push(socket.remoteAddress)
    socket.destroy()
  })
  for (const bindOutgoing of [true, false]) {
    const network = new TcpNetwork({ local: at(1, '127.0.0.7'), peer: at(port), bindOutgoing })
    const link = await new Promise<Link>((resolve, reject) => network.connect(1000, resolve, reject))
    await new Promise<string>((resolve) => link.setHandler(handler({ onClose: resolve })))
  }
  assert.deepEqual(addresses, ['127.0.0.7', '127.0.0.1'])
})

/** Counts what reaches the socket: each call is one attempt of the kernel to take it all. */
function countWrites(socket: net.Socket): { calls: number; chunks: number } {
  const counts = { calls: 0, chunks: 0 }
  const inner = socket as unknown as {
    _write: (chunk: unknown, encoding: string, done: () => void) => void
    _writev: (chunks: unknown[], done: () => void) => void
  }
  const { _write, _writev } = inner
  inner._write = (chunk, encoding, done) => {
    counts.calls++
    counts.chunks++
    _write.call(socket, chunk, encoding, done)
  }
  inner._writev = (chunks, done) => {
    counts.calls++
    counts.chunks += chunks.length
    _writev.call(socket, chunks, done)
  }
  return counts
}

test('what is sent within one turn leaves in one call', async (context) => {
  const port = await listeningServer(context, (socket) => socket.resume())
  const socket = net.connect(port, '127.0.0.1')
  await once(socket, 'connect')
  const counts = countWrites(socket)
  const link = new TcpLink(socket, undefined)
  context.after(() => link.close())
  const drained = new Promise<void>((resolve) => link.setHandler(handler({ onDrain: resolve })))
  for (let i = 0; i < 10; i++) link.send([new Uint8Array(16), new Uint8Array(4096)])
  await Promise.resolve().then(() => link.send([new Uint8Array(16)]))
  assert.equal(link.queuedBytes, 10 * 4112 + 16)
  await drained
  assert.deepEqual(counts, { calls: 1, chunks: 21 })
  assert.equal(link.queuedBytes, 0)
})

test('what was sent right before a close still arrives, and then the end', async (context) => {
  let received = 0
  const ended = new Promise<void>((resolve) => {
    void listeningServer(context, (socket) => {
      socket.on('data', (chunk) => {
        received += chunk.length
      })
      socket.on('end', resolve)
      socket.resume()
    }).then(async (port) => {
      const network = new TcpNetwork({ local: at(1), peer: at(port) })
      const link = await new Promise<Link>((up, failed) => network.connect(1000, up, failed))
      link.setHandler(handler({}))
      link.send([new Uint8Array(24), new Uint8Array(100)])
      link.close()
      link.send([new Uint8Array(1)])
      assert.equal(link.queuedBytes, 0)
    })
  })
  await ended
  assert.equal(received, 124)
})

test('a large backlog leaves piece by piece, so that queuedBytes follows', async (context) => {
  let received = 0
  const port = await listeningServer(context, (socket) => {
    socket.on('data', (chunk) => {
      received += chunk.length
    })
    socket.resume()
  })
  const socket = net.connect(port, '127.0.0.1')
  await once(socket, 'connect')
  const counts = countWrites(socket)
  const link = new TcpLink(socket, undefined)
  context.after(() => link.close())
  const drained = new Promise<void>((resolve) => link.setHandler(handler({ onDrain: resolve })))
  link.send(Array.from({ length: 80 }, () => new Uint8Array(100_000)))
  await drained
  assert.equal(counts.chunks, 80)
  assert.ok(counts.calls >= 8, `${counts.calls} calls for 8 MB`)
  const deadlineMs = performance.now() + 5000
  while (received < 8_000_000 && performance.now() < deadlineMs) await new Promise((resolve) => setImmediate(resolve))
  assert.equal(received, 8_000_000)
})

test('the socket of an accepted connection reads into buffers of ours, or stays as it is', async (context) => {
  for (const lacking of [false, true]) {
    const accepted = new Promise<net.Socket>((resolve) => {
      void listeningServer(context, resolve).then((port) => {
        const client = net.connect(port, '127.0.0.1', () => client.end('hello'))
      })
    })
    const socket = await accepted
    const holder = socket as unknown as { _handle: object }
    if (lacking) Object.defineProperty(holder._handle, 'useUserBuffer', { value: undefined })
    const buffers = new ReadBuffers()
    const adopted = adoptAccepted(socket, buffers)
    assert.equal(adopted === undefined, lacking)
    const link = adopted === undefined ? new TcpLink(socket, undefined) : new TcpLink(adopted, buffers)
    const chunks: Uint8Array[] = []
    const reason = await new Promise<string>((resolve) => {
      link.setHandler(handler({ onData: (chunk) => chunks.push(new Uint8Array(chunk)), onClose: resolve }))
    })
    assert.equal(Buffer.concat(chunks).toString(), 'hello')
    assert.equal(reason, 'closed by peer')
  }
})

test('a reset by the peer closes the link with the reason', async (context) => {
  const port = await listeningServer(context, (socket) => setTimeout(() => socket.resetAndDestroy(), 10))
  const network = new TcpNetwork({ local: at(1), peer: at(port) })
  const link = await new Promise<Link>((resolve, reject) => network.connect(1000, resolve, reject))
  const reason = await new Promise<string>((resolve) => link.setHandler(handler({ onClose: resolve })))
  assert.match(reason, /ECONNRESET/)
})

test('a link that broke before it had a handler says so when it has one, and not inside the call', async (context) => {
  const peers: net.Socket[] = []
  const port = await listeningServer(context, (socket) => peers.push(socket))
  const network = new TcpNetwork({ local: at(1), peer: at(port) })
  const link = await new Promise<Link>((resolve, reject) => network.connect(1000, resolve, reject))
  while (peers.length === 0) await new Promise((resolve) => setImmediate(resolve))
  peers[0]?.resetAndDestroy()
  const deadlineMs = performance.now() + 5000
  while ((await sendIsTaken(link)) && performance.now() < deadlineMs) {}
  const reasons: string[] = []
  link.setHandler(handler({ onClose: (reason) => reasons.push(reason) }))
  assert.deepEqual(reasons, [])
  while (reasons.length === 0 && performance.now() < deadlineMs) await new Promise((resolve) => setImmediate(resolve))
  assert.equal(reasons.length, 1)
  assert.match(reasons[0] ?? '', /EPIPE|ECONNRESET/)
})

/** False once the link knows that it is broken. */
async function sendIsTaken(link: Link): Promise<boolean> {
  link.send([new Uint8Array(100)])
  const taken = link.queuedBytes > 0
  await new Promise((resolve) => setTimeout(resolve, 2))
  return taken
}
