// Goal: each command does what doc/proto.md says: data, flags, errors, order of replies, the end of the session.
// Method: requests made by hand against the real session and a disk in memory whose completions the test decides.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MemoryDisk, MemoryExports } from '../../test/support/nbd-memory-export.ts'
import { HandMadePeer, request, u32 } from '../../test/support/nbd-peer.ts'
import { BufferPool } from '../base/buffer-pool.ts'

const READ = 0
const WRITE = 1
const DISC = 2
const FLUSH = 3
const TRIM = 4
const CACHE = 5
const WRITE_ZEROES = 6
const BLOCK_STATUS = 7
const FUA = 1
const NO_HOLE = 2
const DF = 4
const REQ_ONE = 8
const FAST_ZERO = 16
const EPERM = 1
const EIO = 5
const EINVAL = 22
const ENOSPC = 28
const EOVERFLOW = 75
const ENOTSUP = 95
const ESHUTDOWN = 108
const KIB = 1024
const MIB = 1024 * 1024

interface SetUp {
  peer: HandMadePeer
  disk: MemoryDisk
}

function setUp(how: { structured?: boolean; context?: boolean; sizeBytes?: number } = {}): SetUp {
  const disk = new MemoryDisk(how.sizeBytes ?? MIB)
  const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }) })
  peer.turn().enter(how)
  return { peer, disk }
}

const structured = (sizeBytes = MIB): SetUp => setUp({ structured: true, context: true, sizeBytes })

function pattern(lengthBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  for (let i = 0; i < lengthBytes; i++) bytes[i] = (i * 7 + (i >> 9) + seed) & 0xff
  return bytes
}

describe('READ', () => {
  test('simple: header and data', () => {
    const { peer, disk } = setUp()
    disk.bytes.set(pattern(8192, 1), 4096)
    disk.pieceBytesMax = 3 * 512
    peer.push(request({ type: READ, cookie: 0xfedc_ba98_7654_3210n, offset: 4096, length: 8192 }))
    assert.deepEqual(disk.requests, [{ type: 'read', volume: 0, sector: 8, sectors: 16 }])
    disk.complete()
    const reply = peer.turn().takeReply(8192)
    assert.equal(reply.structured, false)
    assert.equal(reply.cookie, 0xfedc_ba98_7654_3210n)
    assert.equal(reply.error, 0)
    assert.deepEqual(reply.payload, pattern(8192, 1))
    assert.equal(peer.received.length, 0)
  })

  test('structured: one data chunk, which is the last; the pieces go out without a copy', () => {
    const { peer, disk } = structured()
    disk.bytes.set(pattern(8192, 2), 512)
    disk.pieceBytesMax = 4096
    peer.push(request({ type: READ, flags: DF, cookie: 7n, offset: 512, length: 8192 }))
    const pieces = [disk.bytes.slice(512, 4608), disk.bytes.slice(4608, 8704)]
    disk.waiting[0]?.done(undefined, pieces)
    const sends = peer.sends.length
    peer.turn()
    assert.deepEqual(peer.sends[sends]?.slice(1), pieces)
    assert.equal(peer.sends[sends]?.[1], pieces[0])
    const reply = peer.takeReply()
    assert.deepEqual([reply.structured, reply.cookie, reply.flags, reply.type], [true, 7n, 1, 1])
    assert.equal(reply.payload.readBigUInt64BE(0), 512n)
    assert.deepEqual(reply.payload.subarray(8), pattern(8192, 2))
  })

  test('nothing: an answer without data', () => {
    const simple = setUp()
    simple.peer.push(request({ type: READ, cookie: 1n, offset: 512, length: 0 }))
    assert.equal(simple.peer.takeReply().error, 0)
    const { peer, disk } = structured()
    peer.push(request({ type: READ, cookie: 1n, offset: MIB, length: 0 }))
    const reply = peer.takeReply()
    assert.deepEqual([reply.structured, reply.type, reply.flags, reply.payload.length], [true, 0, 1, 0])
    assert.equal(disk.requests.length, 0)
  })

  test('too long: EINVAL, with DF EOVERFLOW', () => {
    const { peer } = structured(64 * MIB)
    peer.push(request({ type: READ, cookie: 1n, length: 32 * MIB + 512 }))
    assert.equal(peer.takeError(1n), EINVAL)
    peer.push(request({ type: READ, flags: DF, cookie: 2n, length: 32 * MIB + 512 }))
    assert.equal(peer.takeError(2n), EOVERFLOW)
    peer.push(request({ type: READ, flags: DF, cookie: 3n, length: 32 * MIB }))
    assert.equal(peer.received.length, 0, 'at the limit it is served')
  })

  test('DF without structured replies is EINVAL', () => {
    const { peer } = setUp()
    peer.push(request({ type: READ, flags: DF, cookie: 1n, length: 512 }))
    assert.equal(peer.takeError(1n), EINVAL)
  })
})

describe('WRITE', () => {
  test('several in one chunk, completed in another order', () => {
    const { peer, disk } = setUp()
    const chunk = new Uint8Array(
      Buffer.concat([
        request({ type: WRITE, cookie: 1n, offset: 4096, length: 1024 }),
        pattern(1024, 3),
        request({ type: WRITE, flags: FUA, cookie: 2n, offset: 0, length: 512 }),
        pattern(512, 4),
      ]),
    )
    peer.session.onData(chunk)
    const [first, second] = disk.requests
    assert.ok(first?.type === 'write' && second?.type === 'write')
    assert.deepEqual([first.sector, first.fua, second.sector, second.fua], [8, false, 0, true])
    disk.complete(1)
    disk.complete(0)
    peer.turn()
    assert.deepEqual([peer.takeReply().cookie, peer.takeReply().cookie], [2n, 1n], 'in the order of completion')
    assert.deepEqual(Buffer.from(disk.bytes.subarray(4096, 5120)), pattern(1024, 3))
  })

  test('payloads are copied out of what was received; a header alone takes no memory', () => {
    const disk = new MemoryDisk(MIB)
    const taken: Uint8Array[] = []
    class CountingPool extends BufferPool {
      override take(lengthBytes: number): Uint8Array {
        taken.push(super.take(lengthBytes))
        return taken.at(-1) as Uint8Array
      }
    }
    const buffers = new CountingPool(MIB)
    const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), buffers }).turn().enter()
    peer.push(request({ type: WRITE, cookie: 1n, length: 4096 }))
    assert.equal(taken.length, 0)
    const whole = new Uint8Array(pattern(4096, 5))
    peer.session.onData(whole)
    whole.fill(0)
    assert.deepEqual(Buffer.from(taken[0] as Uint8Array), pattern(4096, 5))
    peer.push(request({ type: WRITE, cookie: 2n, length: 4096 }), pattern(4096, 6).subarray(0, 100))
    peer.push(pattern(4096, 6).subarray(100, 3000))
    peer.push(pattern(4096, 6).subarray(3000))
    assert.equal(taken.length, 2)
    assert.ok(disk.requests[1]?.type === 'write' && disk.requests[1].data === taken[1])
    assert.deepEqual(Buffer.from(taken[1] as Uint8Array), pattern(4096, 6))
  })

  test('the memory of a write is used again only if the export says that nobody looks at it', () => {
    const disk = new MemoryDisk(MIB)
    const buffers = new BufferPool(MIB)
    const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), buffers }).turn().enter()
    const writeOne = (cookie: bigint, dataUnused: boolean | undefined): void => {
      peer.push(request({ type: WRITE, cookie, length: 4096 }), pattern(4096, 5))
      const before = buffers.freeBytes
      disk.complete(0, dataUnused)
      assert.equal(buffers.freeBytes - before, dataUnused === true ? 4096 : 0)
    }
    writeOne(1n, true)
    writeOne(2n, false)
    writeOne(3n, undefined)
  })

  test('the memory of a read is used again only when everything has been sent', () => {
    const buffers = new BufferPool(MIB)
    class PooledDisk extends MemoryDisk {
      override submit(...[asked, done]: Parameters<MemoryDisk['submit']>): void {
        super.submit(asked, (error, data) => {
          const copies = data?.map((piece) => {
            const copy = buffers.take(piece.length)
            copy.set(piece)
            return copy
          })
          done(error, copies)
        })
      }
    }
    const disk = new PooledDisk(MIB)
    const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), buffers }).turn().enter()
    peer.push(request({ type: READ, cookie: 1n, length: 4096 }))
    disk.complete()
    const before = buffers.freeBytes
    peer.session.resume()
    assert.equal(buffers.freeBytes, before, 'gathered')
    peer.queuedBytes = 4096
    peer.turn()
    peer.session.resume()
    assert.equal(buffers.freeBytes, before, 'on its way')
    peer.queuedBytes = 0
    peer.session.resume()
    assert.equal(buffers.freeBytes, before + 4096)
    peer.session.resume()
    assert.equal(buffers.freeBytes, before + 4096, 'once')
  })

  test('the rest of a large payload can be received directly into its place', () => {
    const { peer, disk } = setUp()
    const data = pattern(512 * KIB, 7)
    peer.push(request({ type: WRITE, cookie: 1n, length: data.length }), data.subarray(0, 1000))
    let at = 1000
    let direct = 0
    for (; at < data.length; ) {
      const target = peer.session.target()
      if (target.length === data.length - at) direct++
      const lengthBytes = Math.min(target.length, 200_000, data.length - at)
      target.set(data.subarray(at, at + lengthBytes))
      peer.session.onFilled(lengthBytes)
      at += lengthBytes
    }
    assert.equal(direct, 3)
    disk.complete()
    assert.equal(peer.turn().takeReply().cookie, 1n)
    assert.deepEqual(Buffer.from(disk.bytes.subarray(0, data.length)), data)
  })

  test('of nothing: done at once', () => {
    const { peer, disk } = setUp()
    peer.push(request({ type: WRITE, cookie: 1n, offset: 512, length: 0 }), request({ type: FLUSH, cookie: 2n }))
    assert.equal(peer.takeReply().error, 0)
    assert.equal(disk.requests.length, 1)
    assert.equal(peer.session.status.requestsInFlight, 1)
  })

  test('refused: the payload is skipped, the connection goes on', () => {
    const { peer, disk } = structured(64 * MIB)
    const cases: [number, Parameters<typeof request>[0]][] = [
      [EINVAL, { type: WRITE, offset: 1, length: 512 }],
      [EINVAL, { type: WRITE, offset: 512, length: 100 }],
      [EINVAL, { type: WRITE, flags: NO_HOLE, length: 512 }],
      [EINVAL, { type: WRITE, flags: 0x8000, length: 512 }],
      [ENOSPC, { type: WRITE, offset: 64 * MIB - 512, length: 1024 }],
      [ENOSPC, { type: WRITE, offset: 0xffff_ffff_ffff_fe00n, length: 1024 }],
      [EINVAL, { type: WRITE, length: 32 * MIB + 512 }],
    ]
    cases.forEach(([error, fields], i) => {
      const cookie = BigInt(i)
      peer.push(
        request({ ...fields, cookie }),
        Buffer.alloc(fields.length ?? 0, 0x25),
        request({ type: CACHE, cookie: 99n }),
      )
      assert.equal(
        peer.takeError(cookie),
        error,
        JSON.stringify(cases[i]?.[1], (_, value) => String(value)),
      )
      assert.equal(peer.takeReply().cookie, 99n)
    })
    assert.equal(disk.requests.length, 0)
  })

  test('absurdly long: the connection is closed', () => {
    const { peer } = setUp()
    peer.push(request({ type: WRITE, cookie: 1n, length: 0xffff_fe00 }))
    assert.equal(peer.closed, true)
    assert.match(peer.session.status.closeReason ?? '', /4294966784 bytes/)
  })
})

describe('FLUSH, TRIM, CACHE, WRITE_ZEROES', () => {
  test('become requests of the export', () => {
    const { peer, disk } = setUp()
    peer.push(
      request({ type: FLUSH, flags: FUA }),
      request({ type: TRIM, flags: FUA, offset: 4096, length: 8192 }),
      request({ type: WRITE_ZEROES, offset: 0, length: 512 }),
      request({ type: WRITE_ZEROES, flags: NO_HOLE | FUA, offset: 512, length: 512 }),
      request({ type: WRITE_ZEROES, flags: FAST_ZERO, offset: 1024, length: 512 }),
    )
    const zero = { type: 'zero', volume: 0 } as const
    assert.deepEqual(disk.requests, [
      { type: 'flush', volume: 0 },
      { ...zero, sector: 8, sectors: 16, unmap: true, fua: true },
      { ...zero, sector: 0, sectors: 1, unmap: true, fua: false },
      { ...zero, sector: 1, sectors: 1, unmap: false, fua: true },
      { ...zero, sector: 2, sectors: 1, unmap: true, fua: false },
    ])
    assert.equal(peer.received.length, 0, 'no answer before the completion')
    disk.completeAll()
    peer.turn()
    for (let i = 0; i < 5; i++) assert.equal(peer.takeReply().error, 0)
  })

  test('FAST_ZERO with NO_HOLE is ENOTSUP and changes nothing', () => {
    const { peer, disk } = structured()
    peer.push(request({ type: WRITE_ZEROES, flags: FAST_ZERO | NO_HOLE, cookie: 5n, length: 512 }))
    assert.equal(peer.takeError(5n), ENOTSUP)
    assert.equal(disk.requests.length, 0)
  })

  test('longer than the largest block: served piece by piece, one answer', () => {
    const { peer, disk } = setUp({ sizeBytes: 80 * MIB })
    peer.push(request({ type: TRIM, cookie: 9n, length: 80 * MIB }))
    const pieces: number[] = []
    while (disk.waiting.length > 0) {
      assert.equal(peer.turn().received.length, 0)
      const [waiting] = disk.waiting
      assert.ok(waiting?.request.type === 'zero')
      pieces.push(waiting.request.sector, waiting.request.sectors)
      disk.complete()
    }
    assert.deepEqual(pieces, [0, 65536, 65536, 65536, 131072, 32768])
    assert.equal(peer.turn().takeReply().cookie, 9n)
    peer.push(request({ type: WRITE_ZEROES, cookie: 10n, length: 40 * MIB }))
    disk.failures.set('zero', { code: 'io', message: 'bad disk' })
    disk.complete()
    disk.complete()
    assert.equal(peer.turn().takeError(10n), EIO, 'an error in the middle ends it')
    assert.equal(disk.waiting.length, 0)
  })

  test('CACHE is done at once, within bounds', () => {
    const { peer } = setUp()
    peer.push(
      request({ type: CACHE, cookie: 1n, length: MIB }),
      request({ type: CACHE, cookie: 2n, offset: 512, length: MIB }),
    )
    assert.equal(peer.takeReply().error, 0)
    assert.equal(peer.takeError(2n), EINVAL)
  })

  test('of nothing: done at once', () => {
    const { peer, disk } = setUp()
    for (const type of [TRIM, WRITE_ZEROES, CACHE]) {
      peer.push(request({ type, offset: MIB }))
      assert.equal(peer.takeReply().error, 0)
    }
    assert.equal(disk.requests.length, 0)
  })
})

describe('BLOCK_STATUS', () => {
  const extentsOf = (payload: Buffer): [number, number][] => {
    const extents: [number, number][] = []
    for (let at = 4; at < payload.length; at += 8)
      extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)])
    return extents
  }

  function written(): SetUp {
    const all = structured()
    all.disk.schedule = (run) => run()
    all.peer.push(request({ type: WRITE, offset: 8192, length: 4096 }), pattern(4096, 1))
    all.peer.takeReply()
    return all
  }

  test('data and holes, cut at the end of the request', () => {
    const { peer } = written()
    peer.push(request({ type: BLOCK_STATUS, cookie: 3n, offset: 4096, length: 12288 }))
    const reply = peer.takeReply()
    assert.deepEqual([reply.structured, reply.type, reply.flags, reply.cookie], [true, 5, 1, 3n])
    assert.equal(reply.payload.readUInt32BE(0), 1, 'the id from SET_META_CONTEXT')
    assert.deepEqual(extentsOf(reply.payload), [
      [4096, 3],
      [4096, 0],
      [4096, 3],
    ])
    peer.push(request({ type: BLOCK_STATUS, cookie: 4n, offset: 8704, length: 1024 }))
    assert.deepEqual(extentsOf(peer.takeReply().payload), [[1024, 0]])
  })

  test('REQ_ONE: exactly one', () => {
    const { peer } = written()
    peer.push(request({ type: BLOCK_STATUS, flags: REQ_ONE, length: MIB }))
    assert.deepEqual(extentsOf(peer.takeReply().payload), [[8192, 3]])
    peer.push(request({ type: BLOCK_STATUS, flags: REQ_ONE, offset: 12288, length: 512 }))
    assert.deepEqual(extentsOf(peer.takeReply().payload), [[512, 3]])
  })

  test('no more than the limit; neighbours of one state are joined; nothing known is data', () => {
    const disk = new MemoryDisk(MIB)
    const limits = { extentsMax: 3 }
    const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), limits })
    peer.turn().enter({ structured: true, context: true })
    const ask = (answer: { lengthBytes: number; hole: boolean }[]): [number, number][] => {
      disk.extents = () => answer
      peer.push(request({ type: BLOCK_STATUS, length: 65536 }))
      return extentsOf(peer.takeReply().payload)
    }
    const data = { lengthBytes: 4096, hole: false }
    const hole = { lengthBytes: 4096, hole: true }
    const three = [
      [8192, 0],
      [4096, 3],
      [4096, 0],
    ]
    assert.deepEqual(ask([data, data, hole, data, hole, data]), three)
    assert.deepEqual(ask([]), [[65536, 0]])
    assert.deepEqual(ask([{ lengthBytes: 2 ** 40, hole: true }]), [[65536, 3]])
  })

  test('without context, beyond the end, unaligned, of nothing: EINVAL', () => {
    const without = setUp({ structured: true })
    without.peer.push(request({ type: BLOCK_STATUS, cookie: 1n, length: 512 }))
    assert.equal(without.peer.takeError(1n), EINVAL)
    const { peer } = structured()
    peer.push(request({ type: BLOCK_STATUS, cookie: 1n, offset: MIB, length: 512 }))
    peer.push(request({ type: BLOCK_STATUS, cookie: 2n, offset: 100, length: 512 }))
    peer.push(request({ type: BLOCK_STATUS, cookie: 3n, offset: 0, length: 0 }))
    peer.push(request({ type: BLOCK_STATUS, flags: DF, cookie: 4n, offset: 0, length: 512 }))
    for (const cookie of [1n, 2n, 3n, 4n]) assert.equal(peer.takeError(cookie), EINVAL)
  })
})

describe('errors', () => {
  test('every command: unaligned, beyond the end, unknown flags', () => {
    const { peer } = structured()
    const beyond: [number, number][] = [
      [READ, EINVAL],
      [TRIM, EINVAL],
      [CACHE, EINVAL],
      [WRITE_ZEROES, ENOSPC],
      [BLOCK_STATUS, EINVAL],
    ]
    for (const [type, error] of beyond) {
      peer.push(request({ type, cookie: 1n, offset: MIB - 512, length: 1024 }))
      assert.equal(peer.takeError(1n), error, `command ${type} beyond the end`)
      peer.push(request({ type, cookie: 1n, offset: 2n ** 63n, length: 512 }))
      assert.equal(peer.takeError(1n), error, `command ${type} far beyond the end`)
      peer.push(request({ type, cookie: 2n, offset: 256, length: 512 }))
      assert.equal(peer.takeError(2n), EINVAL)
      peer.push(request({ type, cookie: 3n, offset: 0, length: 511 }))
      assert.equal(peer.takeError(3n), EINVAL)
      for (let bit = 5; bit < 16; bit++) {
        peer.push(request({ type, flags: 1 << bit, cookie: 4n, length: 512 }))
        assert.equal(peer.takeError(4n), EINVAL)
      }
    }
    peer.push(request({ type: FLUSH, flags: NO_HOLE, cookie: 5n }))
    peer.push(request({ type: FLUSH, cookie: 5n, offset: 512 }), request({ type: FLUSH, cookie: 5n, length: 512 }))
    for (let i = 0; i < 3; i++) assert.equal(peer.takeError(5n), EINVAL)
  })

  test('unknown commands are EINVAL and the connection goes on', () => {
    const { peer } = setUp()
    for (const type of [8, 9, 100, 0xffff]) {
      peer.push(request({ type, cookie: 1n, length: 512 }))
      assert.equal(peer.takeError(1n), EINVAL)
    }
    assert.equal(peer.closed, false)
  })

  test('a read-only export: EPERM for everything that writes', () => {
    const { peer, disk } = structured()
    disk.readOnly = true
    peer.push(request({ type: WRITE, cookie: 1n, length: 512 }), Buffer.alloc(512))
    assert.equal(peer.takeError(1n), EPERM)
    for (const type of [TRIM, WRITE_ZEROES]) {
      peer.push(request({ type, cookie: 2n, length: 512 }))
      assert.equal(peer.takeError(2n), EPERM)
    }
    peer.push(request({ type: READ, length: 512 }), request({ type: FLUSH }))
    assert.equal(disk.requests.length, 2)
  })

  test('errors of the export, each to its number', () => {
    const { peer, disk } = structured()
    disk.schedule = (run) => run()
    const cases = [
      ['io', READ, EIO],
      ['no-space', WRITE_ZEROES, ENOSPC],
      ['out-of-range', READ, EINVAL],
      ['out-of-range', WRITE_ZEROES, ENOSPC],
      ['not-primary', FLUSH, EPERM],
      ['shutting-down', TRIM, ESHUTDOWN],
    ] as const
    const types = { [READ]: 'read', [WRITE_ZEROES]: 'zero', [FLUSH]: 'flush', [TRIM]: 'zero' } as const
    for (const [code, type, error] of cases) {
      disk.failures.set(types[type], { code, message: `because of ${code}` })
      peer.push(request({ type, cookie: 8n, length: type === FLUSH ? 0 : 512 }))
      const before = peer.received.toString('latin1')
      assert.ok(before.includes(`because of ${code}`), 'the message reaches the client')
      assert.equal(peer.takeError(8n), error)
    }
    assert.equal(peer.session.status.counters.errors, cases.length)
  })

  test('without structured replies: the number alone, and no data after a failed read', () => {
    const { peer, disk } = setUp()
    disk.failures.set('read', { code: 'io', message: 'bad' })
    peer.push(request({ type: READ, cookie: 1n, length: 4096 }))
    disk.complete()
    assert.equal(peer.turn().received.toString('hex'), '67446698000000050000000000000001')
  })

  test('a request without its magic number closes at once', () => {
    const { peer, disk } = setUp()
    peer.push(request({ type: READ, cookie: 1n, length: 512 }), Buffer.alloc(28))
    assert.equal(peer.closed, true)
    assert.equal(disk.openCount, 1, 'a request is still in flight')
    disk.complete()
    assert.equal(disk.openCount, 0)
    assert.equal(peer.received.length, 0)
  })
})

describe('the end', () => {
  test('DISC: requests in flight are answered, then the connection is closed', () => {
    const { peer, disk } = setUp()
    peer.push(
      request({ type: READ, cookie: 1n, length: 512 }),
      request({ type: FLUSH, cookie: 2n }),
      request({ type: DISC }),
    )
    peer.push(request({ type: READ, cookie: 3n, length: 512 }))
    assert.equal(disk.requests.length, 2, 'nothing after DISC counts')
    assert.equal(peer.session.wantsData, false)
    disk.complete()
    peer.turn()
    assert.equal(peer.closed, false)
    assert.equal(disk.openCount, 1)
    disk.complete()
    assert.equal(peer.closed, true)
    assert.equal(peer.takeReply(512).cookie, 1n)
    assert.equal(peer.takeReply().cookie, 2n)
    assert.equal(disk.openCount, 0)
    assert.equal(peer.session.status.closeReason, undefined)
  })

  test('DISC with nothing in flight closes at once', () => {
    const { peer, disk } = setUp()
    peer.push(request({ type: DISC }))
    assert.equal(peer.closed, true)
    assert.equal(disk.openCount, 0)
    peer.session.onClose()
    assert.equal(disk.openCount, 0, 'told once')
  })

  test('the client half-closes: what it asked for is answered, an unfinished write is dropped', () => {
    const { peer, disk } = setUp()
    peer.push(
      request({ type: READ, cookie: 1n, length: 512 }),
      request({ type: WRITE, length: 4096 }),
      Buffer.alloc(100),
    )
    peer.session.onEnd()
    assert.equal(peer.turn().closed, false)
    disk.complete()
    assert.equal(peer.closed, true)
    assert.equal(peer.takeReply(512).cookie, 1n)
    assert.equal(disk.requests.length, 1)
    assert.equal(disk.openCount, 0)
  })

  test('the client half-closes while requests wait for room: they are still served', () => {
    const disk = new MemoryDisk(MIB)
    const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), limits: { requestsMax: 2 } })
      .turn()
      .enter()
    peer.push(...[1n, 2n, 3n, 4n, 5n].map((cookie) => request({ type: FLUSH, cookie })))
    peer.session.onEnd()
    assert.equal(disk.requests.length, 2)
    disk.completeAll()
    assert.equal(disk.requests.length, 5)
    assert.equal(peer.closed, true)
    for (const cookie of [1n, 2n, 3n, 4n, 5n]) assert.equal(peer.takeReply().cookie, cookie)
  })

  test('the client half-closes while the export admits nothing: an idle session ends, a waiting request stays', () => {
    const idle = setUp()
    idle.disk.admits = false
    idle.peer.session.onEnd()
    assert.equal(idle.peer.closed, true)
    const { peer, disk } = setUp()
    disk.admits = false
    peer.push(request({ type: FLUSH, cookie: 1n }))
    peer.session.onEnd()
    assert.equal(peer.closed, false)
    disk.admits = true
    peer.session.resume()
    disk.complete()
    assert.equal(peer.closed, true)
    assert.equal(peer.takeReply().cookie, 1n)
  })

  test('the connection breaks: completions are dropped, the export is told when the last is in', () => {
    const { peer, disk } = setUp()
    peer.push(request({ type: FLUSH }), request({ type: TRIM, length: MIB }), request({ type: WRITE, length: 512 }))
    peer.session.onClose()
    assert.equal(disk.openCount, 1)
    disk.complete()
    disk.complete()
    assert.equal(disk.openCount, 0)
    peer.turn()
    assert.equal(peer.received.length, 0)
    assert.equal(peer.session.status.phase, 'closed')
  })

  test('shut-down: new requests get ESHUTDOWN, those in flight their answer, then the connection is closed', () => {
    const { peer, disk } = structured()
    peer.push(request({ type: FLUSH, cookie: 1n }))
    peer.session.shutDown()
    assert.equal(peer.closed, false)
    peer.push(request({ type: READ, cookie: 2n, length: 512 }))
    peer.push(request({ type: WRITE, cookie: 3n, length: 512 }), Buffer.alloc(512))
    assert.equal(peer.takeError(2n), ESHUTDOWN)
    assert.equal(peer.takeError(3n), ESHUTDOWN)
    disk.complete()
    assert.equal(peer.takeReply().cookie, 1n)
    assert.equal(peer.closed, true)
    assert.equal(disk.requests.length, 1)
  })

  test('shut-down of an idle session, one in negotiation, one in the middle of a payload: closed at once', () => {
    const idle = setUp().peer
    idle.session.shutDown()
    assert.equal(idle.closed, true)
    const negotiating = new HandMadePeer({ exports: new MemoryExports({}) }).turn()
    negotiating.push(u32(3))
    negotiating.session.shutDown()
    assert.equal(negotiating.closed, true)
    const { peer, disk } = setUp()
    peer.push(request({ type: WRITE, length: 4096 }), Buffer.alloc(5))
    peer.session.shutDown()
    assert.equal(peer.closed, true)
    assert.equal(disk.openCount, 0)
  })
})

describe('cut and truncated input', () => {
  const script = Buffer.concat([
    request({ type: WRITE, cookie: 1n, offset: 4096, length: 1024 }),
    pattern(1024, 9),
    request({ type: READ, cookie: 2n, offset: 4096, length: 1024 }),
    request({ type: WRITE, cookie: 3n, offset: 1, length: 512 }),
    pattern(512, 10),
    request({ type: BLOCK_STATUS, cookie: 4n, length: MIB }),
    request({ type: WRITE_ZEROES, cookie: 5n, length: 8192 }),
    request({ type: DISC }),
  ])

  test('one byte at a time gives the same as all at once', () => {
    const results = [true, false].map((whole) => {
      const { peer, disk } = structured()
      disk.schedule = (run) => run()
      if (whole) peer.push(script)
      else peer.pushBytewise(script)
      assert.equal(peer.closed, true)
      return { received: peer.received, bytes: disk.bytes, requests: disk.requests.length }
    })
    assert.deepEqual(results[0], results[1])
    assert.ok((results[0]?.received.length ?? 0) > 1100)
  })

  test('every truncation, then the end: clean', () => {
    for (let length = 0; length < script.length; length += 3) {
      const { peer, disk } = structured()
      disk.schedule = (run) => run()
      peer.push(script.subarray(0, length))
      peer.session.onEnd()
      assert.equal(peer.closed, true, `${length} bytes`)
      assert.equal(disk.openCount, 0)
    }
  })
})
