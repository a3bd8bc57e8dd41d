// Goal: the NBD server listens where it should and says why it cannot, survives clients of every kind, and closes well;
// our client on a socket tells every failure. Method: real sockets on this machine, a disk in memory.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { MemoryDisk, MemoryExports } from '../../test/support/nbd-memory-export.ts'
import { counted, option, request, u16, u32 } from '../../test/support/nbd-peer.ts'
import { connectNbd } from './nbd-client.ts'
import { type NbdAddress, NbdServer, type NbdServerOptions } from './nbd-server.ts'

const MIB = 1024 * 1024
let folder = ''
let sequence = 0
const servers: NbdServer[] = []

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'nbd-server-'))
})
after(async () => {
  // After a failed test its server may still be open: it must not keep the run from ending.
  await Promise.all(servers.map((server) => server.close(0)))
  rmSync(folder, { recursive: true, force: true })
})

function freshPath(): string {
  sequence += 1
  return join(folder, `s${sequence}`)
}

const unix = (path: string): NbdAddress => ({ type: 'unix', path })
const exportsOf = (disk: MemoryDisk): MemoryExports => new MemoryExports({ r0: disk })
const later = (run: () => void): void => {
  setImmediate(run)
}

async function serve(
  disk: MemoryDisk,
  options: Partial<NbdServerOptions> = {},
): Promise<{ server: NbdServer; path: string; closed: string[] }> {
  const path = freshPath()
  const closed: string[] = []
  const server = new NbdServer({
    exports: exportsOf(disk),
    listen: [unix(path)],
    log: (_, message) => closed.push(message),
    ...options,
  })
  servers.push(server)
  await server.listen()
  return { server, path, closed }
}

async function waitFor(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000
  while (!condition()) {
    assert.ok(Date.now() < deadline, `waited in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

async function refusal(listen: readonly NbdAddress[]): Promise<string> {
  const server = new NbdServer({ exports: exportsOf(new MemoryDisk(4096)), listen })
  try {
    await server.listen()
  } catch (error) {
    assert.ok(error instanceof Error && 'code' in error && 'hint' in error)
    assert.ok(String(error.hint).length > 10)
    return String(error.code)
  }
  await server.close()
  return 'listening'
}

describe('listening', () => {
  test('unix and TCP at once, port 0 resolved, both closed again', async () => {
    const path = freshPath()
    const server = new NbdServer({
      exports: exportsOf(new MemoryDisk(MIB)),
      listen: [unix(path), { type: 'tcp', host: '127.0.0.1', port: 0 }, { type: 'tcp', host: '::1', port: 0 }],
    })
    const addresses = await server.listen()
    assert.equal(addresses.length, 3)
    for (const address of addresses) {
      const target = address.type === 'unix' ? { socketPath: address.path } : { host: address.host, port: address.port }
      const client = await connectNbd(target)
      assert.equal(client.sizeBytes, MIB)
      await client.disconnect()
    }
    await server.close()
    assert.equal(existsSync(path), false)
    await assert.rejects(connectNbd({ socketPath: path }), { code: 'E_NBD_DISCONNECTED' })
  })

  test('a stale socket is replaced, a living one is not', async () => {
    const path = freshPath()
    const stale = createServer().listen(path)
    await once(stale, 'listening')
    // Closing would unlink it: what a killed process leaves is made by moving it away meanwhile.
    renameSync(path, `${path}.kept`)
    await new Promise((resolve) => stale.close(resolve))
    renameSync(`${path}.kept`, path)
    assert.equal(lstatSync(path).isSocket(), true)
    const server = new NbdServer({ exports: exportsOf(new MemoryDisk(MIB)), listen: [unix(path)] })
    await server.listen()
    assert.equal(await refusal([unix(path)]), 'E_LISTEN_IN_USE')
    const client = await connectNbd({ socketPath: path })
    await client.disconnect()
    await server.close()
  })

  test('a file in the way is left alone', async () => {
    const path = freshPath()
    writeFileSync(path, 'precious')
    assert.equal(await refusal([unix(path)]), 'E_LISTEN_NOT_A_SOCKET')
    assert.equal(existsSync(path), true)
  })

  test('path too long, no folder, no permission', async () => {
    const room = 107 - Buffer.byteLength(folder) - 1
    assert.equal(await refusal([unix(join(folder, 'x'.repeat(room)))]), 'listening')
    assert.equal(await refusal([unix(join(folder, 'x'.repeat(room + 1)))]), 'E_LISTEN_PATH_TOO_LONG')
    assert.equal(await refusal([unix(join(folder, 'é'.repeat(room / 2 + 1)))]), 'E_LISTEN_PATH_TOO_LONG')
    assert.equal(await refusal([unix(join(folder, 'nowhere', 's'))]), 'E_LISTEN_NO_FOLDER')
    const closed = join(folder, 'closed')
    mkdirSync(closed)
    chmodSync(closed, 0o555)
    const asRoot = process.geteuid?.() === 0
    if (asRoot) {
      chmodSync(folder, 0o755)
      process.seteuid?.(65534) // root may write everywhere
    }
    try {
      assert.equal(await refusal([unix(join(closed, 's'))]), 'E_LISTEN_PERMISSION')
    } finally {
      if (asRoot) process.seteuid?.(0)
    }
  })

  test('a busy port and a foreign address; nothing stays open after a failure', async () => {
    const { server } = await serve(new MemoryDisk(4096), { listen: [{ type: 'tcp', host: '127.0.0.1', port: 0 }] })
    const [address] = server.status.addresses
    assert.ok(address?.type === 'tcp' && address.port > 0)
    const path = freshPath()
    assert.equal(await refusal([unix(path), address]), 'E_LISTEN_IN_USE')
    assert.equal(existsSync(path), false)
    assert.equal(await refusal([{ type: 'tcp', host: '203.0.113.7', port: 0 }]), 'E_LISTEN_NO_SUCH_ADDRESS')
    await server.close()
  })
})

for (const directReads of [true, false]) {
  describe(`transfer, directReads ${directReads}`, () => {
    test('many requests of all sizes at once come back right', async () => {
      const disk = new MemoryDisk(32 * MIB, later)
      disk.pick = (count) => (disk.requests.length * 7) % count
      const { server, path } = await serve(disk, { directReads })
      const client = await connectNbd({ socketPath: path, exportName: 'r0' })
      const sizes = [512, 4096, 65536, 65536 + 512, 1 * MIB, 3 * MIB + 512]
      const writes: Promise<void>[] = []
      const places: { offset: number; data: Uint8Array }[] = []
      let offset = 0
      for (let i = 0; offset < 28 * MIB; i++) {
        const data = new Uint8Array(sizes[i % sizes.length] as number)
        for (let j = 0; j < data.length; j += 61) data[j] = (i * 31 + j) & 0xff
        places.push({ offset, data })
        writes.push(client.write(offset, data))
        offset += data.length
      }
      await Promise.all(writes)
      await client.flush()
      const read = await Promise.all(places.map(({ offset: at, data }) => client.read(at, data.length)))
      read.forEach((data, i) => {
        assert.ok(Buffer.from(data).equals(places[i]?.data as Uint8Array), `request ${i}`)
      })
      const [status] = server.status.connections
      assert.equal(status?.counters.writes, places.length)
      assert.equal(status?.counters.writtenBytes, offset)
      assert.equal(status?.counters.readBytes, offset)
      assert.ok((status?.receivedBytes ?? 0) > offset && (status?.sentBytes ?? 0) > offset)
      await client.disconnect()
      await waitFor('the server forgets the client', () => server.status.connections.length === 0)
      assert.equal(disk.openCount, 0)
      await server.close()
    })

    test('a client that does not read: memory stays bounded, and all goes on when it reads', async () => {
      const disk = new MemoryDisk(MIB, later)
      const { server, path } = await serve(disk, { directReads, limits: { bytesMax: 4 * MIB } })
      const socket = createConnection({ path })
      socket.pause()
      socket.write(Buffer.concat([u32(3), option(7, counted(''), u16(0))]))
      const requests = Buffer.concat(
        Array.from({ length: 400 }, (_, i) => request({ type: 0, cookie: BigInt(i), length: MIB })),
      )
      socket.write(requests)
      await waitFor('the server is full', () => (server.status.connections[0]?.queuedBytes ?? 0) >= 4 * MIB)
      await new Promise((resolve) => setTimeout(resolve, 30))
      const status = server.status.connections[0]
      assert.ok((status?.queuedBytes ?? 0) + (status?.bytesInFlight ?? 0) <= 5 * MIB + 400 * 16, JSON.stringify(status))
      assert.ok(disk.requests.length < 20)
      let received = 0
      socket.on('data', (chunk) => {
        received += chunk.length
      })
      socket.resume()
      const wanted = 400 * (MIB + 16) + 18 + 32 + 34 + 20
      await waitFor('all replies', () => received >= wanted)
      assert.equal(received, wanted)
      socket.destroy()
      await server.close()
    })

    test('a disk that is slow: the server stops reading, payloads in flight stay as they came', async () => {
      const disk = new MemoryDisk(32 * MIB)
      const { server, path } = await serve(disk, { directReads, limits: { bytesMax: 2 * MIB, requestsMax: 1000 } })
      const client = await connectNbd({ socketPath: path })
      const sizes = [4096, 512, 12288, 65536, 3 * 65536]
      const writes: Promise<void>[] = []
      const wanted = Buffer.alloc(32 * MIB)
      let offset = 0
      for (let i = 0; offset + 3 * 65536 <= wanted.length; i++) {
        const lengthBytes = sizes[i % sizes.length] as number
        wanted.fill((i % 255) + 1, offset, offset + lengthBytes)
        writes.push(client.write(offset, wanted.subarray(offset, offset + lengthBytes)))
        offset += lengthBytes
        if (i % 20 === 0) await new Promise((resolve) => setImmediate(resolve)) // several reads, not one
      }
      await waitFor('the server is full', () => (server.status.connections[0]?.bytesInFlight ?? 0) >= 2 * MIB)
      await new Promise((resolve) => setTimeout(resolve, 30))
      const receivedBytes = server.status.connections[0]?.receivedBytes ?? 0
      assert.ok(receivedBytes < 4 * MIB, `${receivedBytes} bytes were read`)
      disk.completeAll()
      disk.schedule = later
      while (disk.waiting.length > 0) disk.complete()
      await Promise.all(writes)
      assert.ok(Buffer.from(disk.bytes).equals(wanted), 'a payload changed while it was in flight')
      await client.disconnect()
      await server.close()
    })

    test('half-closed by the client: everything it asked for is answered', async () => {
      const disk = new MemoryDisk(MIB, later)
      const { server, path } = await serve(disk, { directReads })
      const socket = createConnection({ path, allowHalfOpen: true })
      const script = [u32(3), option(7, counted(''), u16(0)), request({ type: 0, length: 4096 }), request({ type: 3 })]
      socket.end(Buffer.concat(script))
      let received = 0
      socket.on('data', (chunk) => {
        received += chunk.length
      })
      await once(socket, 'end')
      assert.equal(received, 18 + 32 + 34 + 20 + 16 + 4096 + 16)
      await server.close()
    })

    test('an export that stops admitting and starts again', async () => {
      const disk = new MemoryDisk(MIB, later)
      const { server, path } = await serve(disk, { directReads })
      const client = await connectNbd({ socketPath: path })
      await client.flush()
      disk.admits = false
      const write = client.write(0, new Uint8Array(4096))
      const flush = client.flush()
      await new Promise((resolve) => setTimeout(resolve, 30))
      assert.equal(disk.requests.length, 1)
      disk.admits = true
      server.reviewAdmission()
      await Promise.all([write, flush])
      await client.disconnect()
      await server.close()
    })
  })
}

describe('clients that misbehave', () => {
  test('one too many is turned away, and may come again later', async () => {
    const { server, path } = await serve(new MemoryDisk(MIB), { connectionsMax: 2 })
    const first = await connectNbd({ socketPath: path })
    const second = await connectNbd({ socketPath: path })
    await assert.rejects(connectNbd({ socketPath: path }), { code: 'E_NBD_DISCONNECTED' })
    assert.equal(server.status.refusedCount, 1)
    await first.disconnect()
    await waitFor('room', () => server.status.connections.length === 1)
    const third = await connectNbd({ socketPath: path })
    await Promise.all([second.disconnect(), third.disconnect()])
    await server.close()
  })

  test('one that never agrees is dropped after the time-out, one that did is not', async () => {
    const { server, path, closed } = await serve(new MemoryDisk(MIB, later), { handshakeTimeoutMs: 50 })
    const good = await connectNbd({ socketPath: path })
    const silent = createConnection({ path })
    silent.resume()
    await once(silent, 'close')
    await waitFor('the log', () => closed.some((line) => line.includes('no agreement within 50 ms')))
    await good.flush()
    await good.disconnect()
    await server.close()
  })

  test('nonsense closes that connection only; so does a client that vanishes with requests in flight', async () => {
    const disk = new MemoryDisk(MIB)
    const { server, path, closed } = await serve(disk)
    const good = await connectNbd({ socketPath: path })
    const bad = createConnection({ path })
    bad.resume()
    bad.write('GET / HTTP/1.1\r\n\r\n')
    await once(bad, 'close')
    await waitFor('the log', () => closed.some((line) => line.includes('unknown client flags')))
    const vanishing = await connectNbd({ socketPath: path })
    const lost = vanishing.write(0, new Uint8Array(512))
    const lostError = assert.rejects(lost, { code: 'E_NBD_DISCONNECTED' })
    await waitFor('the write', () => disk.waiting.length === 1)
    vanishing.destroy()
    await lostError
    await new Promise((resolve) => setTimeout(resolve, 20))
    assert.equal(disk.openCount, 2, 'its write is still in flight')
    disk.completeAll()
    assert.equal(disk.openCount, 1)
    await waitFor('the server to forget it', () => server.status.connections.length === 1)
    disk.schedule = later
    await good.flush()
    await good.disconnect()
    await server.close()
  })
})

describe('close', () => {
  test('answers what is in flight, refuses what is new, waits for both', async () => {
    const disk = new MemoryDisk(MIB)
    const { server, path } = await serve(disk)
    const client = await connectNbd({ socketPath: path })
    const write = client.write(0, new Uint8Array(512).fill(7))
    await waitFor('the write', () => disk.waiting.length === 1)
    let closedAt = 0
    const closing = server.close().then(() => {
      closedAt = Date.now()
    })
    await assert.rejects(client.flush(), { code: 'E_NBD_COMMAND', errorName: 'ESHUTDOWN' })
    await assert.rejects(connectNbd({ socketPath: path }), { code: 'E_NBD_DISCONNECTED' })
    assert.equal(closedAt, 0)
    disk.completeAll()
    await write
    await closing
    assert.equal(disk.bytes[511], 7)
    await assert.rejects(client.flush(), { code: 'E_NBD_DISCONNECTED' })
  })

  test('does not wait for ever', async () => {
    const disk = new MemoryDisk(MIB)
    const { server, path } = await serve(disk)
    const client = await connectNbd({ socketPath: path })
    const lost = assert.rejects(client.flush(), { code: 'E_NBD_DISCONNECTED' })
    await waitFor('the flush', () => disk.waiting.length === 1)
    const began = Date.now()
    await server.close(50)
    assert.ok(Date.now() - began < 2000)
    await lost
    disk.completeAll()
    assert.equal(disk.openCount, 0)
  })
})

describe('our client', () => {
  test('says what the server objects to', async () => {
    const disk = new MemoryDisk(MIB, later)
    const { server, path } = await serve(disk)
    await assert.rejects(connectNbd({ socketPath: path, exportName: 'nobody' }), {
      code: 'E_NBD_REFUSED',
      message: /no export 'nobody'/,
    })
    await assert.rejects(connectNbd({ socketPath: path, exportName: 'nobody', oldExportName: true }), {
      code: 'E_NBD_DISCONNECTED',
    })
    for (const structuredReplies of [true, false]) {
      const client = await connectNbd({ socketPath: path, structuredReplies, oldExportName: !structuredReplies })
      await assert.rejects(client.read(MIB, 512), { code: 'E_NBD_COMMAND', errorName: 'EINVAL' })
      await assert.rejects(client.write(MIB, new Uint8Array(512)), { errorName: 'ENOSPC' })
      await assert.rejects(client.writeZeroes(0, 512, { noHole: true, fastZero: true }), { errorName: 'ENOTSUP' })
      await client.write(4096, new Uint8Array(4096).fill(1), { fua: true })
      await client.trim(8192, 4096)
      await client.cache(0, 4096)
      if (structuredReplies) {
        assert.deepEqual(await client.blockStatus(0, 12288), [
          { lengthBytes: 4096, status: 3 },
          { lengthBytes: 4096, status: 0 },
          { lengthBytes: 4096, status: 3 },
        ])
      } else {
        await assert.rejects(client.blockStatus(0, 12288), { errorName: 'EINVAL' })
      }
      await client.writeZeroes(4096, 4096)
      assert.deepEqual(await client.read(4096, 4096), Buffer.alloc(4096))
      await client.disconnect()
      await assert.rejects(client.flush(), { code: 'E_NBD_DISCONNECTED' })
    }
    await server.close()
  })

  test('gives up on a server that is none, or silent', async () => {
    const sockets: Socket[] = []
    const path = freshPath()
    let answer = 'HTTP/1.1 400 Bad Request\r\n\r\n'
    const other = createServer((socket) => {
      sockets.push(socket)
      socket.on('error', () => {})
      if (answer !== '') socket.write(answer)
    }).listen(path)
    await once(other, 'listening')
    await assert.rejects(connectNbd({ socketPath: path }), { code: 'E_NBD_PROTOCOL' })
    answer = ''
    await assert.rejects(connectNbd({ socketPath: path, timeoutMs: 50 }), { code: 'E_NBD_DISCONNECTED' })
    for (const socket of sockets) socket.destroy()
    other.close()
  })
})
