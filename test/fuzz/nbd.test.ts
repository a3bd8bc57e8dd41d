// Goal: no bytes from a client can make the NBD session throw, hang, grow without bound or leak an open export; no bytes
// from a server can do so to our client; and whatever the cuts, client and session together are a correct disk.
// Method: seeded: random bytes, valid scripts with flipped, dropped and repeated bytes, random cuts, random completions;
// then a random workload against a model. COPRIME_LONG=1 runs many more seeds. A failure names its seed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../../src/base/prng.ts'
import { NbdClient, type NbdClientResult } from '../../src/nbd/client/client.ts'
import type { NbdClientError } from '../../src/nbd/client/errors.ts'
import { type NbdOutput, NbdSession } from '../../src/nbd/session.ts'
import { MemoryDisk, MemoryExports } from '../support/nbd-memory-export.ts'
import { counted, HandMadePeer, option, request, u16, u32 } from '../support/nbd-peer.ts'

const ROUNDS = process.env['COPRIME_LONG'] === '1' ? 5_000 : 300
const KIB = 1024
const DISK_BYTES = 256 * KIB
/** Limits small enough to be met all the time. */
const LIMITS = { requestsMax: 8, bytesMax: 64 * KIB, extentsMax: 5 }

function seeds(name: string, run: (prng: Prng) => void): void {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    try {
      run(new Prng(seed).fork(name))
    } catch (cause) {
      throw new Error(`seed ${seed} of '${name}'`, { cause })
    }
  }
}

function randomRequest(prng: Prng): Buffer {
  const type = prng.chance(1, 10) ? prng.intInclusive(0, 0xffff) : prng.pick([0, 1, 3, 4, 5, 6, 7])
  const length = prng.chance(1, 8) ? prng.u32() % (2 * DISK_BYTES) : 512 * prng.intInclusive(0, 40)
  const offset = prng.chance(1, 8) ? prng.u64() : 512 * prng.intInclusive(0, DISK_BYTES / 512)
  const flags = prng.chance(1, 4) ? prng.u32() & 0xffff : prng.u32() & 1
  const header = request({ type, flags, cookie: prng.u64(), offset, length })
  if (type !== 1) return header
  const payload = Buffer.alloc(length)
  prng.fill(payload.subarray(0, 64))
  return Buffer.concat([header, payload])
}

function randomOption(prng: Prng): Buffer {
  const name = prng.pick(['', 'r0', 'nobody', 'x'.repeat(5000)])
  switch (prng.intInclusive(0, 6)) {
    case 0:
      return option(3)
    case 1:
      return option(8)
    case 2:
      return option(6, counted(name), u16(2), u16(prng.u32() & 3), u16(1))
    case 3:
      return option(
        prng.pick([9, 10]),
        counted(name),
        u32(1),
        counted(prng.pick(['base:', 'base:allocation', 'q', 'qemu:'])),
      )
    case 4:
      return option(prng.u32() % 20, Buffer.alloc(prng.u32() % 100, prng.u32()))
    case 5:
      return option(5)
    default:
      return option(prng.u32(), Buffer.alloc(prng.u32() % 80_000))
  }
}

/** A session that would go well, up to GO and some requests. */
function randomScript(prng: Prng): Buffer {
  const parts: Buffer[] = [u32(prng.intInclusive(0, 3))]
  for (let i = prng.intInclusive(0, 4); i > 0; i--) parts.push(randomOption(prng))
  if (prng.chance(1, 2)) parts.push(option(8), option(10, counted('r0'), u32(1), counted('base:allocation')))
  parts.push(prng.chance(3, 4) ? option(7, counted('r0'), u16(0)) : option(1, Buffer.from('r0')))
  for (let i = prng.intInclusive(0, 30); i > 0; i--) parts.push(randomRequest(prng))
  return Buffer.concat(parts)
}

function damage(prng: Prng, bytes: Buffer): Buffer {
  let damaged = Buffer.from(bytes)
  for (let i = prng.intInclusive(1, 4); i > 0; i--) {
    const at = prng.intInclusive(0, damaged.length - 1)
    const length = prng.intInclusive(1, 8)
    switch (prng.intInclusive(0, 2)) {
      case 0:
        damaged[at] = (damaged[at] as number) ^ (1 << prng.intInclusive(0, 7))
        break
      case 1:
        damaged = Buffer.concat([damaged.subarray(0, at), damaged.subarray(at + length)])
        break
      default:
        damaged = Buffer.concat([damaged.subarray(0, at + length), damaged.subarray(at)])
    }
    if (damaged.length === 0) damaged = Buffer.alloc(1)
  }
  return damaged
}

/** Feeds the bytes as an adapter would: only while the session wants data, completing requests now and then. */
function play(prng: Prng, bytes: Buffer): { peer: HandMadePeer; disk: MemoryDisk } {
  const disk = new MemoryDisk(DISK_BYTES)
  const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), limits: LIMITS })
  let at = 0
  let idleTurns = 0
  while (at < bytes.length && !peer.closed) {
    if (peer.session.wantsData) {
      const length = prng.chance(1, 3) ? prng.intInclusive(1, 40) : prng.intInclusive(1, 20_000)
      peer.session.onData(new Uint8Array(bytes.subarray(at, at + length)))
      at += length
      idleTurns = 0
    } else {
      idleTurns += 1
      assert.ok(idleTurns < 1000, 'the session wants no data and has nothing to do')
    }
    const { requestsInFlight, bytesInFlight } = peer.session.status
    assert.ok(requestsInFlight <= LIMITS.requestsMax, `${requestsInFlight} requests in flight`)
    assert.ok(bytesInFlight <= LIMITS.bytesMax + 2 * DISK_BYTES, `${bytesInFlight} bytes in flight`)
    if (prng.chance(1, 2)) peer.turn()
    if (disk.waiting.length > 0 && (idleTurns > 0 || prng.chance(1, 2))) {
      disk.complete(prng.intInclusive(0, disk.waiting.length - 1))
    }
    peer.turn().session.resume()
  }
  return { peer, disk }
}

function checkEnd(prng: Prng, peer: HandMadePeer, disk: MemoryDisk): void {
  if (prng.chance(1, 2)) peer.session.onEnd()
  if (prng.chance(1, 2)) peer.session.shutDown()
  if (prng.chance(1, 2)) disk.completeAll()
  peer.session.onClose()
  disk.completeAll()
  peer.turn()
  assert.equal(disk.openCount, 0, 'the export is still open')
  assert.equal(peer.session.status.requestsInFlight, 0)
  assert.equal(peer.session.status.phase, 'closed')
}

test('random bytes', () => {
  seeds('random', (prng) => {
    const bytes = Buffer.alloc(prng.intInclusive(1, 2000))
    prng.fill(bytes)
    const { peer, disk } = play(
      prng,
      prng.chance(1, 2) ? bytes : Buffer.concat([u32(3), option(7, counted(''), u16(0)), bytes]),
    )
    checkEnd(prng, peer, disk)
  })
})

test('valid sessions never end in a failure of ours', () => {
  let entered = 0
  seeds('valid', (prng) => {
    const { peer, disk } = play(prng, randomScript(prng))
    if (peer.session.status.exportName === 'r0') entered += 1
    checkEnd(prng, peer, disk)
  })
  assert.ok(entered > ROUNDS / 3, `only ${entered} of ${ROUNDS} came to transmission`)
})

test('damaged sessions', () => {
  seeds('damaged', (prng) => {
    const { peer, disk } = play(prng, damage(prng, randomScript(prng)))
    checkEnd(prng, peer, disk)
  })
})

// ---- client and session together ------------------------------------------------------------------------------------

interface Link {
  readonly client: NbdClient
  readonly disk: MemoryDisk
  /** Set when the client came to its end. */
  failure: NbdClientError | undefined
  ready: boolean
  /** Moves some bytes in either direction; false if there was nothing to do. */
  step(prng: Prng): boolean
  damageFromServer: ((bytes: Buffer) => Buffer) | undefined
}

class Pipe implements NbdOutput {
  queue = Buffer.alloc(0)
  closed = false
  flushWanted = false

  send(chunks: readonly Uint8Array[]): void {
    this.queue = Buffer.concat([this.queue, ...chunks])
  }

  get queuedBytes(): number {
    return this.queue.length
  }

  wantsFlush(): void {
    this.flushWanted = true
  }

  close(): void {
    this.closed = true
  }

  take(prng: Prng): Buffer {
    const length = prng.chance(1, 4) ? prng.intInclusive(1, 30) : prng.intInclusive(1, 300_000)
    const taken = this.queue.subarray(0, length)
    this.queue = this.queue.subarray(taken.length)
    return taken
  }
}

function connect(prng: Prng): Link {
  const disk = new MemoryDisk(DISK_BYTES)
  const toClient = new Pipe()
  const toServer = new Pipe()
  const session = new NbdSession({ exports: new MemoryExports({ r0: disk }), out: toClient, limits: LIMITS })
  const client = new NbdClient({
    exportName: prng.pick(['', 'r0']),
    out: toServer,
    structuredReplies: prng.chance(2, 3),
    oldExportName: prng.chance(1, 3),
    onReady: () => {
      link.ready = true
    },
    onFailed: (error) => {
      link.failure = error
    },
  })
  const feed = (to: NbdSession | NbdClient, bytes: Buffer): void => {
    if (prng.chance(1, 2)) {
      to.onData(bytes)
      return
    }
    const target = to.target()
    const length = Math.min(bytes.length, target.length)
    target.set(bytes.subarray(0, length))
    to.onFilled(length)
    if (length < bytes.length) to.onData(bytes.subarray(length))
  }
  const link: Link = {
    client,
    disk,
    failure: undefined,
    ready: false,
    damageFromServer: undefined,
    step(random) {
      client.flushOutput()
      session.flushOutput()
      if (toServer.queue.length > 0 && session.wantsData) feed(session, toServer.take(random))
      else if (toClient.queue.length > 0) {
        const bytes = toClient.take(random)
        feed(client, link.damageFromServer === undefined ? bytes : link.damageFromServer(bytes))
        session.resume()
      } else if (disk.waiting.length > 0) disk.complete(random.intInclusive(0, disk.waiting.length - 1))
      else return false
      return true
    },
  }
  session.start()
  return link
}

test('client and session are a correct disk, whatever the cuts', () => {
  seeds('disk', (prng) => {
    const link = connect(prng)
    while (link.step(prng));
    assert.equal(link.ready, true)
    const model = new Uint8Array(DISK_BYTES)
    for (let i = 0; i < 12; i++) {
      const offset = 512 * prng.intInclusive(0, DISK_BYTES / 512 - 1)
      const length = 512 * prng.intInclusive(1, Math.min(400, (DISK_BYTES - offset) / 512))
      let result: NbdClientResult | undefined
      const done = (error: NbdClientError | undefined, value: NbdClientResult): void => {
        assert.equal(error, undefined)
        result = value
      }
      const what = prng.intInclusive(0, 3)
      if (what === 0) {
        const data = new Uint8Array(length)
        prng.fill(data)
        model.set(data, offset)
        link.client.write(offset, data, prng.chance(1, 2), done)
      } else if (what === 1) {
        model.fill(0, offset, offset + length)
        link.client.writeZeroes(offset, length, { noHole: prng.chance(1, 2) }, done)
      } else {
        link.client.read(offset, length, done)
      }
      while (link.step(prng));
      assert.ok(result !== undefined, 'no answer')
      if (what > 1) assert.deepEqual(result.data, model.slice(offset, offset + length))
    }
    assert.deepEqual(link.disk.bytes, model)
  })
})

test('a damaged server never breaks our client: every command ends', () => {
  seeds('server', (prng) => {
    const link = connect(prng)
    if (prng.chance(3, 4)) while (link.step(prng));
    let ended = 0
    const commands = link.ready ? prng.intInclusive(1, 10) : 0
    for (let i = 0; i < commands; i++) {
      const offset = 512 * prng.intInclusive(0, 100)
      const done = (): void => {
        ended += 1
      }
      if (prng.chance(1, 3)) link.client.blockStatus(offset, 8192, prng.chance(1, 2), done)
      else if (prng.chance(1, 2)) link.client.read(offset, 512 * prng.intInclusive(1, 200), done)
      else link.client.write(offset, new Uint8Array(512), false, done)
    }
    link.damageFromServer = (bytes) => (prng.chance(1, 2) ? damage(prng, bytes) : bytes)
    let steps = 0
    while (link.step(prng) && link.failure === undefined) {
      steps += 1
      assert.ok(steps < 10_000)
    }
    link.client.onClose('the test is over')
    assert.equal(ended, commands)
    assert.ok(link.failure !== undefined)
    assert.match(link.failure.code, /^E_NBD_/)
  })
})
