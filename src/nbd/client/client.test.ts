// Goal: our client takes every reply that a server may send, refuses every other, and completes each command once.
// Method: a server's bytes made by hand.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { counted, u16, u32, u64 } from '../../../test/support/nbd-peer.ts'
import { NbdClient, type NbdClientOptions, type NbdClientResult } from './client.ts'
import type { NbdClientError } from './errors.ts'

const BLOCK_STATUS = 7
const DONE = 1
const GREETING = Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), u16(3)])

class HandMadeServer {
  readonly client: NbdClient
  sent = Buffer.alloc(0)
  closed = false
  ready = false
  failure: NbdClientError | undefined

  constructor(options: Partial<NbdClientOptions> = {}) {
    this.client = new NbdClient({
      exportName: 'r0',
      ...options,
      out: {
        send: (chunks) => {
          this.sent = Buffer.concat([this.sent, ...chunks])
        },
        queuedBytes: 0,
        wantsFlush: () => {},
        close: () => {
          this.closed = true
        },
      },
      onReady: () => {
        this.ready = true
      },
      onFailed: (error) => {
        assert.equal(this.failure, undefined, 'failed twice')
        this.failure = error
      },
    })
  }

  push(...parts: Uint8Array[]): this {
    this.client.onData(new Uint8Array(Buffer.concat(parts)))
    this.client.flushOutput()
    return this
  }

  /** What the client sent since the last call. */
  take(): Buffer {
    const sent = this.sent
    this.sent = Buffer.alloc(0)
    return sent
  }

  enter(): this {
    this.push(GREETING, reply(8, 1), reply(10, 4, u32(77), Buffer.from('base:allocation')), reply(10, 1))
    this.push(reply(7, 3, u16(0), u64(1 << 20), u16(0x5ed)), reply(7, 1))
    assert.equal(this.ready, true)
    this.take()
    return this
  }
}

function reply(option: number, type: number, ...data: Uint8Array[]): Buffer {
  const all = Buffer.concat(data)
  return Buffer.concat([Buffer.from('0003e889045565a9', 'hex'), u32(option), u32(type), u32(all.length), all])
}

const simple = (cookie: number, error: number): Buffer => Buffer.concat([u32(0x67446698), u32(error), u64(cookie)])

function chunk(cookie: number, flags: number, type: number, ...payload: Uint8Array[]): Buffer {
  const all = Buffer.concat(payload)
  return Buffer.concat([u32(0x668e33ef), u16(flags), u16(type), u64(cookie), u32(all.length), all])
}

interface Outcome {
  count: number
  error: NbdClientError | undefined
  result: NbdClientResult
}

function read(server: HandMadeServer, offset: number, length: number): Outcome {
  const outcome: Outcome = { count: 0, error: undefined, result: {} }
  server.client.read(offset, length, (error, result) => {
    outcome.count += 1
    outcome.error = error
    outcome.result = result
  })
  return outcome
}

describe('negotiation', () => {
  test('what the client sends, byte by byte', () => {
    const server = new HandMadeServer()
    const option = (number: number, data: Buffer): string =>
      Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(data.length), data]).toString('hex')
    server.push(GREETING)
    assert.equal(server.take().toString('hex'), `00000003${option(8, Buffer.alloc(0))}`)
    server.push(reply(8, 1))
    const context = Buffer.concat([counted('r0'), u32(1), counted('base:allocation')])
    assert.equal(server.take().toString('hex'), option(10, context))
    server.push(reply(10, 1))
    const go = Buffer.concat([counted('r0'), u16(3), u16(3), u16(1), u16(2)])
    assert.equal(server.take().toString('hex'), option(7, go))
  })

  test('a server without the newer options: EXPORT_NAME, with its zeroes', () => {
    const server = new HandMadeServer()
    server.push(Buffer.from('NBDMAGICIHAVEOPT'), u16(1), reply(8, 0x8000_0001), reply(7, 0x8000_0001))
    assert.equal(server.take().subarray(-6, -2).toString('hex'), '00000002')
    server.push(u64(4096), u16(1), Buffer.alloc(123))
    assert.equal(server.ready, false)
    server.push(Buffer.alloc(1))
    assert.equal(server.ready, true)
  })

  test('what is not allowed ends it', () => {
    const cases: [Buffer[], string][] = [
      [[Buffer.from('NBDMAGICIHAVEOPS'), u16(3)], 'E_NBD_PROTOCOL'],
      [[Buffer.from('NBDMAGICIHAVEOPT'), u16(0)], 'E_NBD_PROTOCOL'],
      [[GREETING, Buffer.alloc(20)], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(9, 1)], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(8, 1, Buffer.alloc(70_000))], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(8, 1), reply(10, 4, u16(1))], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(8, 1), reply(10, 1), reply(7, 1)], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(8, 1), reply(10, 1), reply(7, 3, u16(0), u32(1))], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(8, 1), reply(10, 1), reply(7, 2)], 'E_NBD_PROTOCOL'],
      [[GREETING, reply(8, 1), reply(10, 1), reply(7, 0x8000_0006, Buffer.from('no'))], 'E_NBD_REFUSED'],
    ]
    cases.forEach(([bytes, code], i) => {
      const server = new HandMadeServer().push(...bytes)
      assert.equal(server.failure?.code, code, `case ${i}`)
      assert.equal(server.closed, true)
    })
  })
})

describe('replies', () => {
  test('a read in several chunks, in any order, with a hole; other replies between', () => {
    const server = new HandMadeServer().enter()
    const first = read(server, 4096, 2048)
    const second = read(server, 0, 512)
    server.push(
      chunk(0, 0, 1, u64(5632), Buffer.alloc(512, 3)),
      chunk(1, DONE, 1, u64(0), Buffer.alloc(512, 9)),
      chunk(0, 0, 2, u64(4608), u32(1024)),
      chunk(0, 0, 1, u64(4096), Buffer.alloc(512, 1)),
    )
    assert.deepEqual([first.count, second.count], [0, 1])
    assert.ok(Buffer.alloc(512, 9).equals(second.result.data as Uint8Array))
    server.push(chunk(0, DONE, 0))
    assert.equal(first.count, 1)
    const wanted = Buffer.concat([Buffer.alloc(512, 1), Buffer.alloc(1024), Buffer.alloc(512, 3)])
    assert.ok(wanted.equals(first.result.data as Uint8Array))
  })

  test('errors: simple, structured, with an offset, of an unknown kind', () => {
    const server = new HandMadeServer().enter()
    const outcomes = [0, 1, 2, 3].map(() => read(server, 0, 512))
    const text = Buffer.from('bad')
    server.push(
      simple(0, 5),
      chunk(1, DONE, 0x8001, u32(22), u16(3), text),
      chunk(2, 0, 0x8002, u32(5), u16(0), u64(0)),
      chunk(2, DONE, 0),
      chunk(3, DONE, 0x8fff, u32(999), u16(3), text, u32(1)),
    )
    assert.deepEqual(
      outcomes.map(({ count, error }) => [count, error?.message]),
      [
        [1, 'EIO'],
        [1, 'EINVAL: bad'],
        [1, 'EIO'],
        [1, 'EINVAL: bad'],
      ],
    )
    assert.equal(server.failure, undefined)
  })

  test('block status: only the context that was agreed', () => {
    const server = new HandMadeServer().enter()
    let extents: NbdClientResult['extents']
    server.client.blockStatus(0, 8192, false, (_, result) => {
      extents = result.extents
    })
    server.push(chunk(0, 0, 5, u32(77), u32(8192), u32(3)), chunk(0, DONE, 5, u32(78), u32(8192), u32(1)))
    assert.deepEqual(extents, [{ lengthBytes: 8192, status: 3 }])
  })

  test('what is not allowed fails every command in flight, once', () => {
    const data = Buffer.alloc(512)
    const cases: [string, Buffer][] = [
      ['no magic number', Buffer.alloc(16)],
      ['an unknown cookie', simple(9, 0)],
      ['a foreign cookie', Buffer.concat([u32(0x67446698), u32(0), u64(1n << 32n)])],
      ['a simple reply to a read', simple(0, 0)],
      ['data before the read', chunk(0, DONE, 1, u64(0), data)],
      ['data behind the read', chunk(0, DONE, 1, u64(4096), data, Buffer.alloc(1))],
      ['data for a block status', chunk(1, DONE, 1, u64(0), data)],
      ['no data at all', chunk(0, DONE, 1, u64(4096))],
      ['too little data', chunk(0, DONE, 1, u64(4096), data.subarray(0, 511))],
      ['success without data', chunk(0, DONE, 0)],
      ['the same data twice', Buffer.concat([chunk(0, 0, 1, u64(4096), data), chunk(0, DONE, 1, u64(4096), data)])],
      ['a hole behind the read', chunk(0, DONE, 2, u64(4096), u32(513))],
      ['a hole of the wrong length', chunk(0, DONE, 2, u64(4096), u32(512), u32(0))],
      ['NONE with payload', chunk(0, DONE, 0, u32(0))],
      ['an error that is none', chunk(0, DONE, 0x8001, u32(0), u16(0))],
      ['an error message beyond the chunk', chunk(0, DONE, 0x8001, u32(5), u16(9), u32(0))],
      ['block status for a read', chunk(0, DONE, 5, u32(77), u32(512), u32(0))],
      ['an empty extent', chunk(1, DONE, 5, u32(77), u32(0), u32(0))],
      ['an unknown chunk', chunk(0, DONE, 99)],
      ['an endless chunk', Buffer.concat([u32(0x668e33ef), u16(0), u16(5), u64(1), u32(0xffff_ffff)])],
    ]
    for (const [what, bytes] of cases) {
      const server = new HandMadeServer().enter()
      const outcome = read(server, 4096, 512)
      let status = 0
      server.client.command(BLOCK_STATUS, 0, 0, 512, () => {
        status += 1
      })
      server.push(bytes)
      assert.equal(server.failure?.code, 'E_NBD_PROTOCOL', what)
      assert.deepEqual([outcome.count, outcome.error?.code, status], [1, 'E_NBD_PROTOCOL', 1], what)
      assert.equal(server.closed, true)
      server.client.onClose('later')
      server.push(bytes)
      assert.equal(outcome.count, 1)
    }
  })

  test('a simple session: data follows the reply', () => {
    const server = new HandMadeServer({ structuredReplies: false })
    server.push(GREETING, reply(7, 3, u16(0), u64(1 << 20), u16(1)), reply(7, 1)).take()
    const outcome = read(server, 512, 1024)
    server.client.flushOutput()
    assert.equal(server.take().toString('hex'), `2560951300000000${'00'.repeat(8)}${'00'.repeat(6)}020000000400`)
    server.push(simple(0, 0), Buffer.alloc(1000, 7))
    assert.equal(outcome.count, 0)
    server.push(Buffer.alloc(24, 7))
    assert.ok(Buffer.alloc(1024, 7).equals(outcome.result.data as Uint8Array))
    const structured = read(server, 0, 512)
    server.push(chunk(1, DONE, 1, u64(0), Buffer.alloc(512)))
    assert.equal(structured.error?.code, 'E_NBD_PROTOCOL')
  })

  test('after the end and before the beginning: E_NBD_DISCONNECTED', () => {
    const server = new HandMadeServer()
    assert.equal(read(server, 0, 512).error?.code, 'E_NBD_DISCONNECTED')
    server.enter()
    const outcome = read(server, 0, 512)
    server.client.disconnect()
    assert.equal(outcome.error?.code, 'E_NBD_DISCONNECTED')
    assert.equal(server.take().subarray(28).toString('hex'), `2560951300000002${'00'.repeat(20)}`)
    assert.equal(server.closed, true)
    assert.equal(read(server, 0, 512).error?.code, 'E_NBD_DISCONNECTED')
  })
})
