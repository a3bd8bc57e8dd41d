// Goal: every Network and Link does what runtime/ports.ts promises. Method: as in disk-contract.ts, with two networks, `a` and
// `b`, that are each other's peers.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Prng } from '../../src/base/prng.ts'
import { KIB, MIB } from '../../src/base/units.ts'
import type { Link, LinkHandler, Network } from '../../src/runtime/ports.ts'
import type { ContractWorld } from './harness.ts'

export interface LinkWorld extends ContractWorld {
  readonly a: Network
  readonly b: Network
  /** A second network on the address of `b`, as of another process. */
  readonly bAgain: Network
  /** Bytes that fit between sender and receiver at most; what is more than that stays in the sender's queue. */
  readonly bufferBytesMax: number
}

type Case = readonly [name: string, run: (world: LinkWorld) => Promise<void>]

export function linkContract(name: string, makeWorld: () => Promise<LinkWorld> | LinkWorld): void {
  for (const [what, run] of [...NETWORK_CASES, ...STREAM_CASES, ...END_CASES]) runCase(`${name}: ${what}`, false, run)
  for (const [what, run] of STREAM_CASES) runCase(`${name}, into memory of the handler: ${what}`, true, run)

  function runCase(title: string, direct: boolean, run: Case[1]): void {
    test(title, async () => {
      const world = await makeWorld()
      handlersHaveTargets = direct
      try {
        await run(world)
      } finally {
        for (const link of opened.splice(0)) link.close()
        await world.dispose()
      }
    })
  }
}

/** Of the running test: whether handlers say where they want what is received. */
let handlersHaveTargets = false

const CONNECT_MS = 5_000
const TARGET_BYTES = 3000

/** Links of the running test, closed at its end. */
const opened: Link[] = []

/** A handler that remembers, and checks that nothing comes inside a call to the link or after the end. */
class Recorder implements LinkHandler {
  readonly link: Link
  readonly chunks: Uint8Array[] = []
  receivedBytes = 0
  drains = 0
  closeReason: string | undefined
  onChunk: (chunk: Uint8Array) => void = () => {}
  target?: () => Uint8Array
  onFilled?: (lengthBytes: number) => void
  #target: Uint8Array | undefined
  #inCall = false
  #ownClose = false

  constructor(link: Link) {
    this.link = link
    opened.push(link)
    if (!handlersHaveTargets) return
    this.target = () => {
      this.#target = new Uint8Array(TARGET_BYTES)
      return this.#target
    }
    this.onFilled = (lengthBytes) => {
      this.onData((this.#target as Uint8Array).subarray(0, lengthBytes))
    }
  }

  attach(): this {
    this.call(() => this.link.setHandler(this))
    return this
  }

  call(what: () => void): void {
    this.#inCall = true
    what()
    this.#inCall = false
  }

  send(...chunks: Uint8Array[]): void {
    this.call(() => this.link.send(chunks))
  }

  close(): void {
    this.#ownClose = true
    this.call(() => this.link.close())
  }

  received(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.chunks))
  }

  onData(chunk: Uint8Array): void {
    this.#check('data')
    assert.ok(chunk.length > 0, 'a chunk has bytes')
    this.chunks.push(new Uint8Array(chunk)) // its memory is the link's again
    this.receivedBytes += chunk.length
    this.onChunk(chunk)
  }

  onDrain(): void {
    this.#check('drain')
    assert.equal(this.link.queuedBytes, 0, 'drained means nothing is queued')
    this.drains++
  }

  onClose(reason: string): void {
    this.#check('close')
    assert.notEqual(reason, '')
    this.closeReason = reason
  }

  #check(what: string): void {
    assert.equal(this.#inCall, false, `${what} inside a call to the link`)
    assert.equal(this.#ownClose, false, `${what} after the own close`)
    assert.equal(this.closeReason, undefined, `${what} after the end`)
  }
}

async function connectPair(world: LinkWorld): Promise<{ client: Recorder; server: Recorder }> {
  const accepted: Link[] = []
  let up: Link | undefined
  world.b.listen(
    (link) => accepted.push(link),
    (reason) => assert.fail(reason),
  )
  await world.idle()
  world.a.connect(
    CONNECT_MS,
    (link) => {
      up = link
    },
    (reason) => assert.fail(reason),
  )
  await world.run(() => up !== undefined && accepted.length > 0, 'connection')
  world.b.stopListening()
  return { client: new Recorder(up as unknown as Link), server: new Recorder(accepted[0] as Link) }
}

async function attachedPair(world: LinkWorld): Promise<{ client: Recorder; server: Recorder }> {
  const { client, server } = await connectPair(world)
  return { client: client.attach(), server: server.attach() }
}

function drawn(seed: number, lengthBytes: number): Uint8Array {
  const prng = new Prng(seed)
  const words = new Uint32Array(Math.ceil(lengthBytes / 4))
  for (let i = 0; i < words.length; i++) words[i] = prng.u32()
  return new Uint8Array(words.buffer, 0, lengthBytes)
}

function same(actual: Uint8Array, expected: Uint8Array): void {
  assert.equal(actual.length, expected.length)
  if (Buffer.compare(actual, expected) === 0) return
  const at = actual.findIndex((byte, i) => byte !== expected[i])
  assert.fail(`differs at byte ${at}`)
}

const NETWORK_CASES: readonly Case[] = [
  [
    'connects in either direction, and several times',
    async (world) => {
      for (const [from, to] of [
        [world.a, world.b],
        [world.b, world.a],
      ] as const) {
        const links: Link[] = []
        const onLink = (link: Link): void => void links.push(link)
        const fail = (reason: string): void => assert.fail(reason)
        to.listen(onLink, fail)
        await world.idle()
        from.connect(CONNECT_MS, onLink, fail)
        from.connect(CONNECT_MS, onLink, fail)
        await world.run(() => links.length === 4, 'two connections')
        to.stopListening()
        for (const link of links) link.close()
      }
    },
  ],
  [
    'a connect that nobody answers fails, once',
    async (world) => {
      const reasons: string[] = []
      const { failedInside } = connectFailing(world.a, 100, reasons)
      assert.equal(failedInside(), false)
      await world.run(() => reasons.length > 0, 'failure')
      await world.idle()
      assert.equal(reasons.length, 1)
      assert.notEqual(reasons[0], '')
    },
  ],
  [
    'a connect that was cancelled calls nobody',
    async (world) => {
      const calls: string[] = []
      const record = (): void => void calls.push('called')
      world.a.connect(50, record, record).cancel()
      world.b.listen(
        (link) => link.close(),
        (reason) => assert.fail(reason),
      )
      await world.idle()
      const attempt = world.a.connect(50, record, record)
      attempt.cancel()
      attempt.cancel()
      await world.idle()
      assert.deepEqual(calls, [])
    },
  ],
  [
    'a listener that was stopped accepts nothing, and may listen again',
    async (world) => {
      const reasons: string[] = []
      world.b.listen(
        () => assert.fail('not listening'),
        (reason) => assert.fail(reason),
      )
      world.b.stopListening()
      world.b.stopListening()
      await world.idle()
      connectFailing(world.a, 100, reasons)
      await world.run(() => reasons.length === 1, 'failure')
      await attachedPair(world)
      connectFailing(world.a, 100, reasons)
      await world.run(() => reasons.length === 2, 'failure after the second stop')
    },
  ],
  [
    'stopped and started again within one turn, it listens',
    async (world) => {
      world.b.listen(
        () => assert.fail('this listener was stopped'),
        (reason) => assert.fail(reason),
      )
      world.b.stopListening()
      await attachedPair(world)
    },
  ],
  [
    'a busy address is a reported failure, not an exception',
    async (world) => {
      const fail = (): void => assert.fail('unexpected')
      world.b.listen(fail, fail)
      await world.idle()
      const reasons: string[] = []
      world.bAgain.listen(fail, (reason) => reasons.push(reason))
      assert.equal(reasons.length, 0, 'not inside the call')
      await world.run(() => reasons.length > 0, 'failure')
      world.b.stopListening()
      await world.idle()
      assert.equal(reasons.length, 1)
      const links: Link[] = []
      world.bAgain.listen((link) => links.push(link), fail)
      await world.idle()
      world.a.connect(CONNECT_MS, (link) => links.push(link), fail)
      await world.run(() => links.length === 2, 'connection to the one that came second')
      world.bAgain.stopListening()
    },
  ],
]

function connectFailing(network: Network, timeoutMs: number, reasons: string[]): { failedInside: () => boolean } {
  const before = reasons.length
  network.connect(
    timeoutMs,
    () => assert.fail('nobody listens'),
    (reason) => reasons.push(reason),
  )
  const inside = reasons.length > before
  return { failedInside: () => inside }
}

const STREAM_CASES: readonly Case[] = [
  [
    'bytes arrive in order, both ways at once, in whatever pieces',
    async (world) => {
      const { client, server } = await attachedPair(world)
      const prng = new Prng(1)
      const streams = [drawn(2, 700 * KIB), drawn(3, 500 * KIB)] as const
      const sendSome = (sender: Recorder, stream: Uint8Array, from: number): number => {
        const chunks: Uint8Array[] = []
        let at = from
        for (let i = prng.intInclusive(1, 5); i > 0 && at < stream.length; i--) {
          const next = Math.min(stream.length, at + prng.intInclusive(0, 9000))
          chunks.push(stream.subarray(at, next))
          at = next
        }
        sender.send(...chunks)
        return at
      }
      let [sentByClient, sentByServer] = [0, 0]
      await world.run(() => {
        sentByClient = sendSome(client, streams[0], sentByClient)
        sentByServer = sendSome(server, streams[1], sentByServer)
        return server.receivedBytes === streams[0].length && client.receivedBytes === streams[1].length
      }, 'both streams')
      same(server.received(), streams[0])
      same(client.received(), streams[1])
    },
  ],
  [
    'counts what is queued, and reports when it is gone',
    async (world) => {
      const { client, server } = await attachedPair(world)
      assert.equal(client.link.queuedBytes, 0)
      client.send(drawn(5, 1000), new Uint8Array(0), drawn(6, 24))
      assert.equal(client.link.queuedBytes, 1024)
      await world.run(() => client.drains > 0 && server.receivedBytes === 1024, 'drain')
      assert.equal(client.link.queuedBytes, 0)
      client.send(drawn(7, 10))
      await world.run(() => client.drains > 1, 'second drain')
    },
  ],
  ['a receiver that pauses holds up the sender, and loses nothing', backPressure],
  [
    'nothing arrives before there is a handler, nor while reading is paused',
    async (world) => {
      const { client, server } = await connectPair(world)
      client.attach()
      client.send(drawn(8, 5000))
      server.call(() => server.link.pauseReading())
      await world.idle()
      server.attach()
      await world.idle()
      assert.equal(server.receivedBytes, 0)
      server.call(() => server.link.resumeReading())
      await world.run(() => server.receivedBytes === 5000, 'what was sent before')
      same(server.received(), drawn(8, 5000))
    },
  ],
  [
    'reading can be paused from within onData',
    async (world) => {
      const { client, server } = await attachedPair(world)
      server.onChunk = () => server.link.pauseReading()
      client.send(drawn(9, 512 * KIB))
      while (server.receivedBytes < 512 * KIB) {
        const chunksBefore = server.chunks.length
        await world.run(() => server.chunks.length > chunksBefore, 'next chunk')
        await world.idle()
        assert.equal(server.chunks.length, chunksBefore + 1, 'one chunk for each resume')
        server.call(() => server.link.resumeReading())
      }
      same(server.received(), drawn(9, 512 * KIB))
    },
  ],
]

async function backPressure(world: LinkWorld): Promise<void> {
  const { client, server } = await attachedPair(world)
  server.call(() => server.link.pauseReading())
  const chunkBytes = 256 * KIB
  const totalBytes = alignUpTo(world.bufferBytesMax, chunkBytes) + 4 * MIB
  const chunk = drawn(10, chunkBytes)
  for (let sent = 0; sent < totalBytes; sent += chunkBytes) client.send(chunk)
  await world.idle()
  assert.equal(server.receivedBytes, 0)
  assert.equal(client.drains, 0)
  const queuedBytes = client.link.queuedBytes
  assert.ok(queuedBytes >= totalBytes - world.bufferBytesMax, `${queuedBytes} of ${totalBytes} are queued`)
  server.call(() => server.link.resumeReading())
  await world.run(() => server.receivedBytes === totalBytes, `${totalBytes} bytes`)
  await world.run(() => client.drains > 0, 'drain')
  assert.equal(client.link.queuedBytes, 0)
  const received = server.received()
  for (let at = 0; at < totalBytes; at += chunkBytes) same(received.subarray(at, at + chunkBytes), chunk)
}

const alignUpTo = (value: number, to: number): number => Math.ceil(value / to) * to

const END_CASES: readonly Case[] = [
  [
    'the other side hears of a close, once, and nothing after it',
    async (world) => {
      for (const closer of ['client', 'server'] as const) {
        const pair = await attachedPair(world)
        const other = pair[closer === 'client' ? 'server' : 'client']
        pair[closer].close()
        await world.run(() => other.closeReason !== undefined, 'onClose')
        // Of a link that is gone all calls are harmless.
        other.send(drawn(11, 100))
        other.call(() => {
          other.link.pauseReading()
          other.link.resumeReading()
        })
        assert.equal(other.link.queuedBytes, 0)
        await world.idle()
        other.close()
        pair[closer].close()
      }
    },
  ],
  [
    'nothing comes after the own close',
    async (world) => {
      const { client, server } = await attachedPair(world)
      client.send(drawn(12, MIB))
      server.send(drawn(13, MIB))
      client.close()
      assert.equal(client.link.queuedBytes, 0)
      client.send(drawn(14, 10))
      await world.run(() => server.closeReason !== undefined, 'onClose at the other side')
      await world.idle() // the recorder fails at any event of the client
      assert.equal(client.closeReason, undefined)
    },
  ],
  [
    'a close from within onData is the last event',
    async (world) => {
      const { client, server } = await attachedPair(world)
      server.onChunk = () => server.close()
      client.send(drawn(15, 4 * MIB))
      await world.run(() => client.closeReason !== undefined, 'onClose at the other side')
      assert.equal(server.chunks.length, 1)
    },
  ],
  [
    'a handler that comes after the end still hears of it',
    async (world) => {
      const { client, server } = await connectPair(world)
      client.close()
      await world.idle()
      server.attach()
      await world.run(() => server.closeReason !== undefined, 'onClose')
    },
  ],
]
