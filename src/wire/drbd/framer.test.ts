// Goal: a stream of any shape, and of any bytes, gives packets or typed errors, and nothing is buffered that is too long.
// Method: section 2 of wire-protocol.md case by case; generated streams cut in every way; every truncation; random bytes.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { contexts, packetsOf, packetTypes } from '../../../test/support/drbd-packets.ts'
import { BufferPool } from '../../base/buffer-pool.ts'
import { AppError } from '../../base/errors.ts'
import { Prng } from '../../base/prng.ts'
import { encodePacket, type WireContext } from './codec.ts'
import { BadFieldError, Framer, FrameTooLargeError, WrongLengthError, WrongMagicError } from './framer.ts'
import { lengthBounds } from './packet.ts'
import { type KnownPacket, PACKETS, type Packet, type PacketOf, type PacketType, packetEntry } from './packets.ts'

const CONTEXT: WireContext = { apv: 101, features: 15, integrityBytes: 0 }
const at = (apv: number): WireContext => ({ ...CONTEXT, apv })
const HANDSHAKE = at(80)
const MIB = 1 << 20

function encode(packet: Packet, context: WireContext = CONTEXT): Uint8Array {
  const out: Uint8Array[] = []
  encodePacket(packet, context, out)
  return new Uint8Array(Buffer.concat(out)) // memory of its own
}

function framerWith(bytes: Uint8Array, context: WireContext = CONTEXT): Framer {
  const framer = new Framer(context)
  framer.push(bytes)
  return framer
}

const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))
const h100 = (command: number, lengthBytes: number, volume = 0): Uint8Array => {
  const header = Buffer.alloc(16)
  header.writeUInt32BE(0x8620ec20, 0)
  header.writeUInt16BE(volume, 4)
  header.writeUInt16BE(command, 6)
  header.writeUInt32BE(lengthBytes, 8)
  return new Uint8Array(header)
}

const write: PacketOf<'P_DATA'> = {
  type: 'P_DATA',
  volume: 1,
  sector: 800,
  blockIdHi: 1,
  blockIdLo: 2,
  sequence: 3,
  flags: 258,
  digest: new Uint8Array(0),
  payload: new Uint8Array(4096).map((_, i) => i),
}

// ---- headers --------------------------------------------------------------------------------------------------------

test('2.4: below version 100 both h80 and h95 are taken, at any length', () => {
  const state = { type: 'P_STATE', volume: 0, state: 0xd082 }
  for (const apv of [80, 86, 94, 95, 99]) {
    assert.deepEqual(framerWith(hex('83740267 000e 0004 0000d082'), at(apv)).next(), state)
    assert.deepEqual(framerWith(hex('835a 000e 00000004 0000d082'), at(apv)).next(), state)
  }
})

test('2.4: from version 100 on only h100 is taken, and below it never', () => {
  for (const apv of [100, 101]) {
    assert.throws(() => framerWith(hex('83740267 000e 0004 0000d082 00000000'), at(apv)).next(), WrongMagicError)
    assert.throws(() => framerWith(hex('835a 000e 00000004 0000d082 00000000'), at(apv)).next(), WrongMagicError)
  }
  for (const apv of [80, 99]) assert.throws(() => framerWith(h100(0x13, 0), at(apv)).next(), WrongMagicError)
  assert.throws(() => framerWith(Buffer.from('GET / HTTP/1.1\r\n')).next(), { code: 'E_WRONG_MAGIC' })
})

test('2.3: a pad that is not zero is refused', () => {
  const header = h100(0x13, 0)
  header[15] = 1
  assert.throws(() => framerWith(header).next(), { code: 'E_BAD_FIELD', message: 'header.pad: 1 is not 0' })
})

test('the volume is that of the header, and 0 where the header has none', () => {
  assert.equal(framerWith(h100(0x07, 0, 65535)).next()?.volume, 65535)
  assert.equal(framerWith(hex('83740267 0007 0000'), at(99)).next()?.volume, 0)
})

// ---- context --------------------------------------------------------------------------------------------------------

test('2.4: the context changes between two packets that came in one chunk', () => {
  const features: Packet = { type: 'P_CONNECTION_FEATURES', volume: 0, protocolMin: 86, features: 15, protocolMax: 101 }
  const state: Packet = { type: 'P_STATE', volume: 2, state: 1 }
  const framer = framerWith(Buffer.concat([encode(features), encode(state)]), HANDSHAKE)
  assert.deepEqual(framer.next(), features)
  framer.setContext(CONTEXT)
  assert.deepEqual(framer.next(), state)
  assert.equal(framer.next(), undefined)
})

test('3.12: the digest size changes between two packets', () => {
  const first: Packet = { ...write, digest: new Uint8Array(4).fill(7) }
  const second: Packet = { ...write, digest: new Uint8Array(20).fill(8) }
  const integrity = (integrityBytes: number): WireContext => ({ ...CONTEXT, integrityBytes })
  const framer = framerWith(Buffer.concat([encode(first, integrity(4)), encode(second, integrity(20))]), integrity(4))
  assert.deepEqual(framer.next(), first)
  framer.setContext(integrity(20))
  assert.deepEqual(framer.next(), second)
})

test('a context set while a packet is incomplete holds for that packet', () => {
  const packet: Packet = { ...write, digest: new Uint8Array(20).fill(8) }
  const bytes = encode(packet, { ...CONTEXT, integrityBytes: 20 })
  const framer = framerWith(bytes.subarray(0, 100), { ...CONTEXT, integrityBytes: 20 })
  assert.equal(framer.next(), undefined)
  framer.setContext({ ...CONTEXT, integrityBytes: 20 + 512 })
  framer.push(bytes.subarray(100))
  const read = framer.next() as PacketOf<'P_DATA'>
  assert.equal(read.digest.length, 20 + 512)
  assert.equal(read.payload.length, 4096 - 512)
})

test('a length that was right is looked at again under the new context', () => {
  const framer = framerWith(h100(0x0d, 56))
  assert.equal(framer.next(), undefined)
  framer.setContext({ ...CONTEXT, features: 11 })
  assert.throws(() => framer.next(), WrongLengthError)
})

// ---- payloads -------------------------------------------------------------------------------------------------------

/** Puts the bytes where the framer wants them, in reads of at most `readBytes`; the packets that come of it. */
function receive(framer: Framer, bytes: Uint8Array, readBytes: number): { packets: Packet[]; targets: Uint8Array[] } {
  const packets: Packet[] = []
  const targets: Uint8Array[] = []
  for (let at = 0; at < bytes.length; ) {
    const target = framer.target()
    assert.ok(target.length > 0)
    targets.push(target)
    const part = bytes.subarray(at, at + Math.min(target.length, readBytes))
    target.set(part)
    framer.filled(part.length)
    at += part.length
    for (let packet = framer.next(); packet !== undefined; packet = framer.next()) packets.push(packet)
  }
  return { packets, targets }
}

test('a payload is copied out of what was received, into memory of the pool', () => {
  const pool = new BufferPool(MIB)
  const framer = new Framer(CONTEXT, pool)
  const chunk = encode(write)
  framer.push(chunk)
  chunk.fill(0)
  const packet = framer.next() as PacketOf<'P_DATA'>
  framer.push(new Uint8Array(5000)) // to where it was received
  assert.deepEqual(packet, write)
  const before = pool.freeBytes
  pool.give(packet.payload)
  assert.equal(pool.freeBytes, before + 4096, 'the payload is a buffer of the pool')
})

test('a large payload is received in its place, with what comes before and after it in the same reads', () => {
  for (const integrityBytes of [0, 20]) {
    const context = { ...CONTEXT, integrityBytes }
    const digest = new Uint8Array(integrityBytes).fill(7)
    const large = { ...write, digest, payload: new Uint8Array(MIB).map((_, i) => i * 7) }
    const small = { ...write, digest }
    const packets: Packet[] = [small, large, large, small, large]
    const bytes = new Uint8Array(Buffer.concat(packets.map((packet) => encode(packet, context))))
    for (const readBytes of [7001, 100_000, 5 * MIB]) {
      const framer = new Framer(context, new BufferPool(MIB))
      const received = receive(framer, bytes, readBytes)
      assert.ok(received.packets.length === packets.length)
      for (const [i, packet] of received.packets.entries()) assert.ok(sameData(packet, packets[i]), `packet ${i}`)
      const inPlace = received.packets.filter((packet) =>
        received.targets.some((target) => target.buffer === (packet as PacketOf<'P_DATA'>).payload.buffer),
      )
      assert.equal(inPlace.length, 3)
    }
  }
})

function sameData(one: Packet, other: Packet | undefined): boolean {
  const { payload, ...head } = one as PacketOf<'P_DATA'>
  const { payload: expected, ...expectedHead } = other as PacketOf<'P_DATA'>
  assert.deepEqual(head, expectedHead)
  return Buffer.compare(payload, expected) === 0
}

test('what is pushed while a payload is received in its place goes there as well', () => {
  const large = { ...write, payload: new Uint8Array(MIB).map((_, i) => i * 3) }
  const bytes = new Uint8Array(Buffer.concat([encode(large), encode(write)]))
  const framer = new Framer(CONTEXT, new BufferPool(MIB))
  const first = receive(framer, bytes.subarray(0, 200_000), 50_000)
  assert.deepEqual(first.packets, [])
  assert.equal(framer.bufferedBytes, 200_000)
  framer.setContext({ ...CONTEXT, integrityBytes: 20 }) // holds from the next packet on
  framer.push(bytes.subarray(200_000))
  assert.ok(sameData(framer.next() as Packet, large))
  framer.setContext(CONTEXT)
  assert.deepEqual(framer.next(), write)
})

test('packets that wait in the framer do not disturb a read that is under way', () => {
  const large = { ...write, payload: new Uint8Array(200_000 - (200_000 % 512)).map((_, i) => i * 5) }
  const bytes = new Uint8Array(Buffer.concat([encode(write), encode(large), encode(write)]))
  const framer = new Framer(CONTEXT, new BufferPool(MIB))
  framer.push(bytes.subarray(0, 60_000))
  const target = framer.target() // of a read that began before the packets are taken
  assert.deepEqual(framer.next(), write)
  assert.equal(framer.next(), undefined)
  target.set(bytes.subarray(60_000, 60_000 + target.length))
  const readBytes = Math.min(target.length, bytes.length - 60_000)
  framer.filled(readBytes)
  const rest = receive(framer, bytes.subarray(60_000 + readBytes), 30_000)
  const packets = [...packetsIn(framer), ...rest.packets]
  assert.equal(packets.length, 2)
  assert.ok(sameData(packets[0] as Packet, large))
  assert.deepEqual(packets[1], write)
})

function packetsIn(framer: Framer): Packet[] {
  const packets: Packet[] = []
  for (let packet = framer.next(); packet !== undefined; packet = framer.next()) packets.push(packet)
  return packets
}

test('bufferedBytes counts what has been pushed and not returned', () => {
  const bytes = encode(write)
  const framer = new Framer(CONTEXT)
  assert.equal(framer.bufferedBytes, 0)
  framer.push(bytes.subarray(0, 50))
  assert.equal(framer.next(), undefined)
  assert.equal(framer.bufferedBytes, 50)
  framer.push(bytes.subarray(50))
  framer.push(bytes.subarray(0, 3))
  assert.deepEqual(framer.next(), write)
  assert.equal(framer.bufferedBytes, 3)
  framer.push(new Uint8Array(0))
  assert.equal(framer.next(), undefined)
  assert.equal(framer.bufferedBytes, 3)
})

// ---- every packet, cut in every way ---------------------------------------------------------------------------------

const sampleOf = (type: PacketType, context: WireContext, seed: number): KnownPacket => {
  const [packet] = fc.sample(packetsOf(type, context), { numRuns: 1, seed })
  assert.ok(packet !== undefined)
  return packet
}

const readContextOf = (type: PacketType, context: WireContext): WireContext =>
  packetEntry(type).handshake ? HANDSHAKE : context

test('one byte at a time: each packet appears with its last byte', () => {
  for (const context of [at(86), at(95), { ...CONTEXT, integrityBytes: 20 }]) {
    for (const [seed, type] of packetTypes.entries()) {
      const packet = sampleOf(type, context, seed)
      const bytes = encode(packet, context)
      const framer = new Framer(readContextOf(type, context))
      for (const [index, byte] of bytes.entries()) {
        assert.equal(framer.next(), undefined, `${type} after ${index} of ${bytes.length} bytes`)
        framer.push(Uint8Array.of(byte))
      }
      assert.deepEqual(framer.next(), packet)
      assert.equal(framer.bufferedBytes, 0)
    }
  }
})

test('every truncation: no packet, no error, nothing consumed; and then the packet', () => {
  for (const [seed, type] of packetTypes.entries()) {
    const packet = sampleOf(type, CONTEXT, seed)
    const bytes = encode(packet)
    for (let cut = 0; cut < bytes.length; cut++) {
      const framer = framerWith(bytes.subarray(0, cut), readContextOf(type, CONTEXT))
      assert.equal(framer.next(), undefined)
      assert.equal(framer.bufferedBytes, cut)
      framer.push(bytes.subarray(cut))
      assert.deepEqual(framer.next(), packet)
    }
  }
})

test('streams of any packets, cut at any place, give the same packets', () => {
  const streams = contexts.chain((context) => {
    const types = packetTypes.filter((type) => !packetEntry(type).handshake)
    const one = fc.constantFrom(...types).chain((type) => packetsOf(type, context))
    return fc.record({ context: fc.constant(context), packets: fc.array(one, { maxLength: 12 }), seed: fc.nat() })
  })
  fc.assert(
    fc.property(streams, ({ context, packets, seed }) => {
      const bytes = Buffer.concat(packets.map((packet) => encode(packet, context)))
      const prng = new Prng(seed)
      const framer = new Framer(context)
      const seen: Packet[] = []
      for (let from = 0; from < bytes.length; ) {
        const to = from + prng.pick([1, 2, 9, 24, 100, 3000])
        framer.push(new Uint8Array(bytes.subarray(from, to)))
        from = to
        for (let packet = framer.next(); packet !== undefined; packet = framer.next()) seen.push(packet)
      }
      assert.deepEqual(seen, packets)
      assert.equal(framer.bufferedBytes, 0)
    }),
    { numRuns: 150 },
  )
})

// ---- lengths --------------------------------------------------------------------------------------------------------

test('one byte too many or too few is refused at the header, for every packet', () => {
  for (const entry of PACKETS) {
    const { lengthBytesMin, lengthBytesMax } = lengthBounds(entry, CONTEXT)
    const tooMuch = lengthBytesMin === lengthBytesMax ? WrongLengthError : FrameTooLargeError
    assert.throws(() => framerWith(h100(entry.command, lengthBytesMax + 1)).next(), tooMuch, entry.type)
    if (lengthBytesMin > 0) {
      assert.throws(() => framerWith(h100(entry.command, lengthBytesMin - 1)).next(), WrongLengthError, entry.type)
    }
    assert.throws(() => framerWith(h100(entry.command, 0xffff_ffff)).next(), tooMuch, entry.type)
  }
})

test('2.5: data of the largest size is taken, 512 bytes more are not', () => {
  const limits = [
    [94, 32768],
    [99, 131072],
    [100, MIB],
    [101, MIB],
  ] as const
  for (const [apv, dataBytes] of limits) {
    const packet = { ...write, volume: 0, payload: new Uint8Array(dataBytes).fill(3) }
    assert.deepEqual(framerWith(encode(packet, at(apv)), at(apv)).next(), packet)
    const tooLong = 24 + dataBytes + 512
    const h95 = Buffer.alloc(8)
    h95.writeUInt32BE(0x835a0000, 0)
    h95.writeUInt32BE(tooLong, 4)
    assert.throws(() => framerWith(apv >= 100 ? h100(0, tooLong) : h95, at(apv)).next(), {
      code: 'E_FRAME_TOO_LARGE',
      details: { packet: 'P_DATA', lengthBytes: tooLong, lengthBytesMax: 24 + dataBytes },
    })
  }
})

test('3.5: data that is no multiple of 512 bytes is refused at the header', () => {
  assert.throws(() => framerWith(h100(0x00, 24 + 511)).next(), { code: 'E_WRONG_LENGTH' })
  assert.throws(() => framerWith(h100(0x02, 24 + 512), { ...CONTEXT, integrityBytes: 20 }).next(), WrongLengthError)
  assert.equal(framerWith(h100(0x02, 44 + 512), { ...CONTEXT, integrityBytes: 20 }).next(), undefined)
  assert.throws(() => framerWith(h100(0x04, 4079)).next(), WrongLengthError)
})

test('3.14: P_SIZES of the other length than the features ask for is refused', () => {
  assert.throws(() => framerWith(h100(0x0d, 32)).next(), WrongLengthError)
  assert.throws(() => framerWith(h100(0x0d, 56), { ...CONTEXT, features: 11 }).next(), WrongLengthError)
})

test('after an error the same error comes again, and nothing was consumed', () => {
  const framer = framerWith(Buffer.concat([h100(0x13, 1), encode(write)]))
  for (let i = 0; i < 3; i++) assert.throws(() => framer.next(), WrongLengthError)
  const bad = encode({ type: 'P_DATA_REQUEST', volume: 0, sector: 0, blockIdHi: 0, blockIdLo: 0, sizeBytes: 512 })
  bad[16] = 0xff
  const second = framerWith(bad)
  for (let i = 0; i < 3; i++) assert.throws(() => second.next(), BadFieldError)
  assert.equal(second.bufferedBytes, bad.length)
})

// ---- fields ---------------------------------------------------------------------------------------------------------

test('values that the protocol does not allow are refused by name', () => {
  const request = encode({
    type: 'P_RS_DATA_REQUEST',
    volume: 0,
    sector: 0,
    blockIdHi: 0,
    blockIdLo: 0,
    sizeBytes: 4096,
  })
  const trim = encode({
    type: 'P_TRIM',
    volume: 0,
    sector: 0,
    blockIdHi: 0,
    blockIdLo: 0,
    sequence: 1,
    flags: 64,
    sizeBytes: 0,
  })
  const protocol = encode({
    type: 'P_PROTOCOL',
    volume: 0,
    protocol: 3,
    afterSb0p: 0,
    afterSb1p: 0,
    afterSb2p: 0,
    connFlags: 0,
    twoPrimaries: 0,
    integrityAlg: 'sha1',
  })
  const sync = encode({ type: 'P_SYNC_PARAM89', volume: 0, resyncRateKib: 1, verifyAlg: '', csumsAlg: '' }, at(89))
  const cases: (readonly [Uint8Array, number, string, string, WireContext])[] = [
    [request, 32, '00000000', 'P_RS_DATA_REQUEST.sizeBytes', CONTEXT],
    [request, 32, '00000201', 'P_RS_DATA_REQUEST.sizeBytes', CONTEXT],
    [request, 32, '00100200', 'P_RS_DATA_REQUEST.sizeBytes', CONTEXT],
    [request, 16, '00200000', 'P_RS_DATA_REQUEST.sector', CONTEXT],
    [trim, 40, '08000200', 'P_TRIM.sizeBytes', CONTEXT],
    [trim, 40, '00000100', 'P_TRIM.sizeBytes', CONTEXT],
    [protocol, 44, '01', 'P_PROTOCOL.integrityAlg', CONTEXT],
    [protocol, 41, '00', 'P_PROTOCOL.integrityAlg', CONTEXT],
    [protocol, 41, 'c3', 'P_PROTOCOL.integrityAlg', CONTEXT],
    [sync, 12, '61'.repeat(64), 'P_SYNC_PARAM89.verifyAlg', at(89)],
    [sync, 76, '0a', 'P_SYNC_PARAM89.csumsAlg', at(89)],
  ]
  for (const [good, offset, change, field, context] of cases) {
    assert.ok(framerWith(good, context).next() !== undefined)
    const bad = Uint8Array.from(good)
    bad.set(hex(change), offset)
    assert.throws(
      () => framerWith(bad, context).next(),
      (error) => error instanceof BadFieldError && error.details.field === field,
      `${field} ${change}`,
    )
  }
})

test('3.5: the largest discard is 128 MiB', () => {
  const head = { volume: 0, sector: 0, blockIdHi: 0, blockIdLo: 0, sequence: 1, flags: 64 }
  const packet: Packet = { type: 'P_TRIM', ...head, sizeBytes: 128 * MIB }
  assert.deepEqual(framerWith(encode(packet)).next(), packet)
})

// ---- unknown packets ------------------------------------------------------------------------------------------------

test('an unknown packet is a value, its payload is skipped without being kept', () => {
  const framer = framerWith(h100(0x30, 100_000, 7))
  assert.deepEqual(framer.next(), { type: 'unknown', volume: 7, command: 0x30, lengthBytes: 100_000 })
  for (let i = 0; i < 100; i++) {
    assert.equal(framer.next(), undefined)
    assert.equal(framer.bufferedBytes, 0)
    framer.push(new Uint8Array(1000))
  }
  framer.push(encode(write))
  assert.deepEqual(framer.next(), write)
  assert.equal(framer.bufferedBytes, 0)
})

test('an unknown packet without a payload, between two others', () => {
  const framer = framerWith(Buffer.concat([encode(write), hex('8620ec20 0000 0005 00000000 00000000'), encode(write)]))
  assert.deepEqual(framer.next(), write)
  assert.deepEqual(framer.next(), { type: 'unknown', volume: 0, command: 5, lengthBytes: 0 })
  assert.deepEqual(framer.next(), write)
})

// ---- anything -------------------------------------------------------------------------------------------------------

function countPackets(framer: Framer): number {
  let packets = 0
  try {
    for (let packet = framer.next(); packet !== undefined; packet = framer.next()) packets++
  } catch (error) {
    if (!(error instanceof AppError)) throw error
  }
  return packets
}

test('random bytes give packets and typed errors only', () => {
  fc.assert(
    fc.property(contexts, fc.uint8Array({ maxLength: 300 }), (context, bytes) => {
      countPackets(framerWith(bytes, context))
    }),
    { numRuns: 500 },
  )
})

test('random bodies behind right headers give packets and typed errors only', () => {
  const prng = new Prng(8)
  let packets = 0
  for (const entry of PACKETS) {
    for (let round = 0; round < 40; round++) {
      const context = { apv: prng.pick([100, 101]), features: prng.u32() & 15, integrityBytes: prng.pick([0, 4, 20]) }
      const { lengthBytesMin, lengthBytesMax, multipleOf } = lengthBounds(entry, context)
      const span = Math.floor(Math.min(lengthBytesMax - lengthBytesMin, 4096) / multipleOf)
      const body = new Uint8Array(lengthBytesMin + multipleOf * prng.intInclusive(0, span))
      prng.fill(body)
      if (prng.chance(1, 2)) body.fill(0, 0, 2) // a sector that is small enough
      packets += countPackets(framerWith(Buffer.concat([h100(entry.command, body.length), body]), context))
    }
  }
  assert.ok(packets > 700, `only ${packets} bodies were accepted`)
})

test('packets with one byte changed give packets and typed errors only', () => {
  const prng = new Prng(9)
  let packets = 0
  for (const [seed, type] of packetTypes.entries()) {
    const bytes = encode(sampleOf(type, CONTEXT, seed))
    for (let round = 0; round < 60; round++) {
      const changed = Uint8Array.from(bytes)
      changed[prng.intInclusive(0, Math.min(changed.length, 100) - 1)] = prng.u32() & 0xff
      packets += countPackets(framerWith(changed, readContextOf(type, CONTEXT)))
    }
  }
  assert.ok(packets > 700, `only ${packets} packets were accepted`)
})
