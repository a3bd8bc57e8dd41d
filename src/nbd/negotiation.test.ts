// Goal: the handshake phase does what doc/proto.md says, option by option, and ends well on bad input.
// Method: bytes made by hand against the real session.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MemoryDisk, MemoryExports } from '../../test/support/nbd-memory-export.ts'
import { counted, HandMadePeer, OPTS_MAGIC, option, u16, u32, u64 } from '../../test/support/nbd-peer.ts'

const ACK = 1
const SERVER = 2
const INFO = 3
const META_CONTEXT = 4
const ERR_UNSUP = 0x8000_0001
const ERR_POLICY = 0x8000_0002
const ERR_INVALID = 0x8000_0003
const ERR_UNKNOWN = 0x8000_0006
const ERR_SHUTDOWN = 0x8000_0007
const ERR_TOO_BIG = 0x8000_0009
const MIB = 1024 * 1024
/** HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO */
const FLAGS = 0x1 | 0x4 | 0x8 | 0x20 | 0x40 | 0x100 | 0x400 | 0x800
const SEND_DF = 0x80

function setUp(): { peer: HandMadePeer; exports: MemoryExports; disk: MemoryDisk } {
  const disk = new MemoryDisk(MIB)
  const exports = new MemoryExports({ r0: disk, r1: new MemoryDisk(2 * MIB) })
  const peer = new HandMadePeer({ exports })
  return { peer, exports, disk }
}

function negotiating(clientFlags = 3): ReturnType<typeof setUp> {
  const all = setUp()
  all.peer.takeGreeting()
  all.peer.push(u32(clientFlags))
  return all
}

/** Types of the replies to one option, up to the last. */
function replyTypes(peer: HandMadePeer): number[] {
  const types: number[] = []
  while (peer.received.length > 0) types.push(peer.takeOptionReply().type)
  return types
}

describe('greeting and client flags', () => {
  test('the server speaks first', () => {
    const { peer } = setUp()
    assert.equal(peer.received.length, 0, 'nothing before the turn ends')
    assert.equal(peer.wantedFlushes, 1)
    peer.turn().takeGreeting()
  })

  test('unknown client flags close the connection', () => {
    for (const flags of [4, 0x8000_0000, 7]) {
      const { peer } = setUp()
      peer.push(u32(flags))
      assert.equal(peer.closed, true)
      assert.match(peer.session.status.closeReason ?? '', /unknown client flags/)
    }
  })

  test('an option without its magic number closes the connection', () => {
    const { peer } = negotiating()
    peer.push(Buffer.from('IHAVEOPS'), u32(3), u32(0))
    assert.equal(peer.closed, true)
    peer.push(option(3))
    assert.equal(peer.received.length, 0)
  })
})

describe('EXPORT_NAME', () => {
  const wanted = `${'0000000000100000'}${FLAGS.toString(16).padStart(4, '0')}`

  test('with NO_ZEROES: ten bytes', () => {
    const { peer } = negotiating(3)
    peer.push(option(1, Buffer.from('r0')))
    assert.equal(peer.take(10).toString('hex'), wanted)
    assert.equal(peer.received.length, 0)
    assert.equal(peer.session.status.exportName, 'r0')
  })

  test('without NO_ZEROES: 124 zeroes more', () => {
    const { peer } = negotiating(1)
    peer.push(option(1, Buffer.from('r0')))
    assert.equal(peer.take(134).toString('hex'), wanted + '00'.repeat(124))
    assert.equal(peer.received.length, 0)
  })

  test('a client that is not fixed newstyle can choose the default export', () => {
    const { peer } = negotiating(0)
    peer.push(option(1))
    assert.equal(peer.take(134).length, 134)
    assert.equal(peer.session.status.exportName, 'r0')
  })

  test('an unknown name or one that is too long closes: this option has no error reply', () => {
    for (const name of ['nobody', 'x'.repeat(4097), 'x'.repeat(70_000)]) {
      const { peer, disk } = negotiating()
      peer.push(option(1, Buffer.from(name)))
      assert.equal(peer.closed, true)
      assert.equal(peer.received.length, 0)
      assert.equal(disk.openCount, 0)
    }
  })
})

describe('INFO and GO', () => {
  test('INFO gives what was asked for and stays in negotiation', () => {
    const { peer, disk } = negotiating()
    peer.push(option(6, counted(''), u16(4), u16(1), u16(2), u16(3), u16(99)))
    const replies = [1, 2, 3, 4].map(() => peer.takeOptionReply())
    assert.deepEqual(
      replies.map((reply) => [reply.option, reply.type, reply.data.toString('hex')]),
      [
        [6, INFO, `00000000000000100000${FLAGS.toString(16).padStart(4, '0')}`],
        [6, INFO, '0003000002000000100002000000'],
        [6, INFO, `0001${Buffer.from('r0').toString('hex')}`],
        [6, INFO, `0002${Buffer.from('memory disk r0').toString('hex')}`],
      ],
    )
    assert.deepEqual(peer.takeOptionReply(), { option: 6, type: ACK, data: Buffer.alloc(0) })
    assert.equal(disk.openCount, 0)
    assert.equal(peer.session.status.phase, 'negotiation')
    peer.push(option(7, counted('r1'), u16(0)))
    assert.equal(peer.takeOptionReply().data.readBigUInt64BE(2), BigInt(2 * MIB))
    assert.deepEqual(replyTypes(peer), [INFO, ACK])
    assert.equal(peer.session.status.phase, 'transmission')
    assert.equal(peer.session.status.exportName, 'r1')
  })

  test('DF is announced with structured replies only; a read-only export announces no writes', () => {
    const { peer, disk } = negotiating()
    peer.push(option(8))
    assert.deepEqual(replyTypes(peer), [ACK])
    peer.push(option(6, counted('r0'), u16(0)))
    assert.equal(peer.takeOptionReply().data.readUInt16BE(10), FLAGS | SEND_DF)
    peer.received = Buffer.alloc(0)
    disk.readOnly = true
    peer.push(option(6, counted('r0'), u16(0)))
    assert.equal(peer.takeOptionReply().data.readUInt16BE(10), 0x1 | 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x400)
  })

  test('refusals: unknown, policy, shutdown, each with its text', () => {
    const { peer, exports } = negotiating()
    exports.refusals.set('secret', { refused: 'policy', text: 'not for you' })
    exports.refusals.set('old', { refused: 'shutdown', text: 'going down' })
    const wanted = { nobody: ERR_UNKNOWN, secret: ERR_POLICY, old: ERR_SHUTDOWN }
    for (const [name, type] of Object.entries(wanted)) {
      for (const number of [6, 7]) {
        peer.push(option(number, counted(name), u16(0)))
        const reply = peer.takeOptionReply()
        assert.deepEqual([reply.option, reply.type], [number, type])
        assert.ok(reply.data.length > 5)
      }
    }
    assert.equal(peer.closed, false)
  })

  test('malformed data is ERR_INVALID, a long name ERR_TOO_BIG; negotiation goes on', () => {
    const { peer } = negotiating()
    peer.push(option(7, u32(100), Buffer.from('r0'), u16(0)))
    peer.push(option(7, counted('r0'), u16(2), u16(0)))
    peer.push(option(7))
    peer.push(option(7, counted('\u0000'), u16(0), u16(0)))
    peer.push(option(7, u32(1), Buffer.from([0xff]), u16(0)))
    assert.deepEqual(replyTypes(peer), [ERR_INVALID, ERR_INVALID, ERR_INVALID, ERR_INVALID, ERR_INVALID])
    peer.push(option(7, counted('x'.repeat(4097)), u16(0)))
    assert.deepEqual(replyTypes(peer), [ERR_TOO_BIG])
    peer.push(option(7, counted('r0'), u16(0)))
    assert.deepEqual(replyTypes(peer), [INFO, INFO, ACK])
  })
})

describe('LIST, ABORT, STARTTLS, unknown options', () => {
  test('LIST names every export with its description', () => {
    const { peer } = negotiating()
    peer.push(option(3))
    for (const name of ['r0', 'r1']) {
      const reply = peer.takeOptionReply()
      assert.equal(reply.type, SERVER)
      assert.equal(
        reply.data.toString('hex'),
        Buffer.concat([counted(name), Buffer.from(`memory disk ${name}`)]).toString('hex'),
      )
    }
    assert.deepEqual(replyTypes(peer), [ACK])
    peer.push(option(3, u32(0)))
    assert.deepEqual(replyTypes(peer), [ERR_INVALID])
  })

  test('ABORT is acknowledged, with or without data, and closes', () => {
    for (const data of [Buffer.alloc(0), Buffer.alloc(10), Buffer.alloc(100_000)]) {
      const { peer } = negotiating()
      peer.push(option(2, data), option(3))
      assert.deepEqual(replyTypes(peer), [ACK])
      assert.equal(peer.closed, true)
      assert.equal(peer.session.status.closeReason, undefined)
    }
  })

  test('STARTTLS is refused and the session goes on in clear', () => {
    const { peer } = negotiating()
    peer.push(option(5), option(5, u32(1)), option(3))
    assert.deepEqual(replyTypes(peer), [ERR_UNSUP, ERR_INVALID, SERVER, SERVER, ACK])
  })

  test('unknown options are ERR_UNSUP, whatever data they carry', () => {
    const { peer } = negotiating()
    peer.push(option(4), option(11), option(0xffff_ffff, Buffer.alloc(500)), option(77, Buffer.alloc(300_000)))
    assert.deepEqual(replyTypes(peer), [ERR_UNSUP, ERR_UNSUP, ERR_UNSUP, ERR_UNSUP])
    assert.equal(peer.closed, false)
  })

  test('option data: at the limit, above it (skipped), absurd (closes)', () => {
    const { peer } = negotiating()
    peer.push(option(7, Buffer.alloc(64 * 1024)))
    assert.deepEqual(replyTypes(peer), [ERR_INVALID])
    for (const number of [6, 7, 9, 10]) {
      peer.push(option(number, Buffer.alloc(64 * 1024 + 1)))
      assert.deepEqual(replyTypes(peer), [ERR_TOO_BIG])
    }
    peer.push(option(3, Buffer.alloc(MIB)))
    assert.deepEqual(replyTypes(peer), [ERR_INVALID])
    assert.equal(peer.closed, false)
    peer.push(OPTS_MAGIC, u32(3), u32(MIB + 1))
    assert.equal(peer.closed, true)
  })
})

describe('STRUCTURED_REPLY and metadata contexts', () => {
  const base = counted('base:allocation')

  function structured(): ReturnType<typeof setUp> {
    const all = negotiating()
    all.peer.push(option(8))
    assert.deepEqual(replyTypes(all.peer), [ACK])
    return all
  }

  test('STRUCTURED_REPLY with data is ERR_INVALID and does not count', () => {
    const { peer } = negotiating()
    peer.push(option(8, u32(0)))
    assert.deepEqual(replyTypes(peer), [ERR_INVALID])
    peer.push(option(7, counted(''), u16(0)))
    assert.equal(peer.session.status.structuredReplies, false)
  })

  test('both need structured replies', () => {
    const { peer } = negotiating()
    peer.push(option(9, counted('r0'), u32(0)), option(10, counted('r0'), u32(1), base))
    assert.deepEqual(replyTypes(peer), [ERR_INVALID, ERR_INVALID])
  })

  test('LIST: everything, by wildcard, by name; foreign namespaces are passed over', () => {
    const { peer, disk } = structured()
    const cases: [string[], boolean][] = [
      [[], true],
      [['base:'], true],
      [['base:allocation'], true],
      [['base:nothing'], false],
      [['qemu:dirty-bitmap:x', 'x-test:'], false],
      [['qemu:', 'base:', 'base:allocation'], true],
    ]
    for (const [queries, found] of cases) {
      peer.push(option(9, counted('r0'), u32(queries.length), ...queries.map(counted)))
      if (found) {
        const reply = peer.takeOptionReply()
        assert.equal(reply.type, META_CONTEXT)
        assert.equal(reply.data.toString('latin1'), '\0\0\0\0base:allocation')
      }
      assert.deepEqual(replyTypes(peer), [ACK], queries.join())
    }
    assert.equal(disk.openCount, 0)
  })

  test('SET: only a full name selects', () => {
    const { peer } = structured()
    for (const queries of [[], ['base:'], ['base:other'], ['qemu:allocation-depth']]) {
      peer.push(option(10, counted('r0'), u32(queries.length), ...queries.map(counted)))
      assert.deepEqual(replyTypes(peer), [ACK], queries.join())
    }
    peer.push(option(10, counted('r0'), u32(3), counted('base:'), base, base))
    const reply = peer.takeOptionReply()
    assert.equal(reply.type, META_CONTEXT)
    assert.equal(reply.data.subarray(4).toString(), 'base:allocation')
    assert.deepEqual(replyTypes(peer), [ACK])
  })

  test('a query without namespace or a bad export is an error', () => {
    const { peer } = structured()
    for (const number of [9, 10]) {
      peer.push(option(number, counted('r0'), u32(1), counted('allocation')))
      peer.push(option(number, counted('r0'), u32(1), counted(':x')))
      peer.push(option(number, counted('nobody'), u32(1), base))
      peer.push(option(number, counted('r0'), u32(2), base))
      assert.deepEqual(replyTypes(peer), [ERR_INVALID, ERR_INVALID, ERR_UNKNOWN, ERR_INVALID])
    }
  })

  /** Whether BLOCK_STATUS works after these options and GO for r0. */
  function hasContext(...options: Buffer[]): boolean {
    const { peer } = structured()
    peer.push(...options, option(7, counted('r0'), u16(0)))
    while (peer.takeOptionReply().option !== 7);
    replyTypes(peer)
    peer.push(u32(0x25609513), u16(0), u16(7), u64(0), u64(0), u32(4096))
    return peer.takeReply().type === 5
  }

  test('the last SET decides, for its export only, also if it failed', () => {
    const set = option(10, counted('r0'), u32(1), base)
    assert.equal(hasContext(set), true)
    assert.equal(hasContext(), false)
    assert.equal(hasContext(option(9, counted('r0'), u32(1), base)), false, 'LIST selects nothing')
    assert.equal(hasContext(set, option(9, counted('r0'), u32(0))), true, 'LIST changes nothing')
    assert.equal(hasContext(set, option(10, counted('r0'), u32(0))), false)
    assert.equal(hasContext(set, option(10, counted('r1'), u32(1), base)), false)
    assert.equal(hasContext(set, option(10, counted('nobody'), u32(1), base)), false)
    assert.equal(hasContext(set, option(10, u32(5))), false)
    assert.equal(hasContext(set, option(10, Buffer.alloc(70_000))), false)
    assert.equal(hasContext(option(10, counted('r1'), u32(1), base), set), true)
  })
})

describe('cut and truncated input', () => {
  const script = Buffer.concat([
    u32(3),
    option(8),
    option(3),
    option(99, Buffer.alloc(40)),
    option(10, counted('r0'), u32(1), counted('base:allocation')),
    option(6, counted('r0'), u16(3), u16(1), u16(2), u16(3)),
    option(7, counted('r0'), u16(1), u16(3)),
  ])

  test('one byte at a time gives the same as all at once', () => {
    const whole = setUp().peer.push(script)
    const bytewise = setUp().peer.pushBytewise(script)
    assert.ok(whole.received.length > 300)
    assert.deepEqual(bytewise.received, whole.received)
    assert.equal(bytewise.session.status.phase, 'transmission')
  })

  test('every truncation: nothing is invented, the end is clean', () => {
    for (let length = 0; length < script.length; length++) {
      const { peer, disk } = setUp()
      peer.push(script.subarray(0, length))
      assert.equal(peer.closed, false)
      assert.equal(peer.session.status.phase, 'negotiation')
      peer.session.onEnd()
      peer.turn()
      assert.equal(peer.closed, true, `${length} bytes, then the end`)
      peer.session.onClose()
      assert.equal(disk.openCount, 0)
    }
  })
})
