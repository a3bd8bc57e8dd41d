// Goal: the engine behind real bytes: requests are cut and put together again, what is in flight is bounded, streams that carry
// nonsense end, and nothing is called inside a call.
// Method: two replicas over links in memory; a peer whose bytes the test encodes; disks that hold back.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { GENERATION, type MemoryDisk, sectorsOf } from '../../test/support/engine-driver.ts'
import { type TestLink, type TestReplica, testReplica, World } from '../../test/support/replica-world.ts'
import { SimDigests } from '../sim/digests.ts'
import { encodePacket, type WireContext } from '../wire/drbd/codec.ts'
import { C_CONNECTED, D_UPTODATE, DP_SEND_WRITE_ACK, R_SECONDARY } from '../wire/drbd/constants.ts'
import { Framer } from '../wire/drbd/framer.ts'
import type { Packet } from '../wire/drbd/packets.ts'
import { encodeStateWord } from '../wire/drbd/state-word.ts'
import type { ClientError, ClientRequest } from './api.ts'

const MIB_SECTORS = 2048

interface Outcome {
  error?: ClientError | undefined
  data?: Uint8Array
  dataUnused?: boolean | undefined
  done: boolean
}

function submit({ replica }: TestReplica, request: ClientRequest): Outcome {
  const outcome: Outcome = { done: false }
  let inside = true
  replica.submit(request, (error, data, dataUnused) => {
    assert.equal(inside, false, 'no completion inside of submit')
    assert.equal(outcome.done, false, 'completed once')
    outcome.done = true
    outcome.error = error
    outcome.dataUnused = dataUnused
    if (data !== undefined) outcome.data = new Uint8Array(Buffer.concat(data))
  })
  inside = false
  return outcome
}

const write = (sector: number, data: Uint8Array, fua = false): ClientRequest => ({
  type: 'write',
  volume: 0,
  sector,
  data,
  fua,
})
const read = (sector: number, sectors: number): ClientRequest => ({ type: 'read', volume: 0, sector, sectors })
const disk = (side: TestReplica): MemoryDisk => (side.data[0] ?? assert.fail('a disk')).bytes

function single(options: Parameters<typeof testReplica>[1] = {}): { world: World; side: TestReplica } {
  const world = new World()
  const side = testReplica(world, options)
  side.replica.engine.volumes.forEach(({ number }) => {
    assert.equal(side.command({ type: 'attach', volume: number }), 0)
  })
  assert.equal(side.command({ type: 'primary', force: false }), 0)
  return { world, side }
}

function pair(options: Parameters<typeof testReplica>[1] = {}): { world: World; a: TestReplica; b: TestReplica } {
  const world = new World()
  const a = testReplica(world, options)
  const b = testReplica(world, options)
  a.network.peer = b.network
  b.network.peer = a.network
  for (const side of [a, b]) {
    assert.equal(side.command({ type: 'attach', volume: 0 }), 0)
    assert.equal(side.command({ type: 'connect', discardMyData: false }), 0)
  }
  for (let i = 0; i < 60 && a.replica.status().connection !== 'Connected'; i++) world.advance(1000)
  assert.equal(a.replica.status().connection, 'Connected')
  return { world, a, b }
}

describe('requests', () => {
  it('write, read, zero and flush over bytes; both disks are equal', () => {
    for (const settings of [{}, { dataIntegrityAlg: 'crc32c', cramHmacAlg: 'sha1', sharedSecret: 'x' }]) {
      const { world, a, b } = pair({ settings })
      assert.equal(a.command({ type: 'primary', force: false }), 0)
      const data = new Uint8Array(5 * 512).map((_, i) => i * 7)
      const outcomes = [submit(a, write(3, data)), submit(a, write(100, sectorsOf(9, 0xaa), true))]
      world.run()
      outcomes.push(submit(a, { type: 'zero', volume: 0, sector: 104, sectors: 2, unmap: true, fua: false }))
      outcomes.push(submit(a, { type: 'flush', volume: 0 }))
      world.run()
      const back = submit(a, read(3, 5))
      world.run()
      for (const outcome of [...outcomes, back]) assert.deepEqual([outcome.done, outcome.error], [true, undefined])
      assert.deepEqual(back.data, data)
      assert.deepEqual(disk(a).differences(disk(b)), [])
      assert.deepEqual(disk(b).read(104 * 512, 1024), sectorsOf(2, 0))
    }
  })

  it('packets that nobody watches cost nothing: not even a look at the clock', () => {
    const { world, a, b } = pair()
    assert.equal(a.command({ type: 'primary', force: false }), 0)
    const looksOfOneWrite = (): number => {
      const before = world.looksAtTheClock
      const outcome = submit(a, write(8, sectorsOf(8, 0x77)))
      world.run()
      assert.equal(outcome.done, true)
      return world.looksAtTheClock - before
    }
    looksOfOneWrite() // its extent of the activity log is hot from here on
    const unwatched = looksOfOneWrite()
    const seen: string[] = []
    for (const { replica } of [a, b])
      replica.watchPackets((direction, stream, { type }) => seen.push(`${direction} ${stream} ${type}`))
    assert.equal(looksOfOneWrite(), unwatched + 4)
    const passed = ['sent data P_DATA', 'received data P_DATA', 'sent meta P_WRITE_ACK', 'received meta P_WRITE_ACK']
    assert.deepEqual(seen, passed)
    for (const { replica } of [a, b]) replica.watchPackets(undefined)
    assert.equal(looksOfOneWrite(), unwatched)
    assert.equal(seen.length, passed.length)
  })

  it('large requests are cut into what fits one packet, and answered once, in order', () => {
    const { world, side } = single({ volumes: [{ dataSectors: 10 * MIB_SECTORS }] })
    const data = new Uint8Array(3 * 1024 * 1024 + 512).map((_, i) => (i >> 9) * 3)
    const written = submit(side, write(1, data))
    world.run()
    assert.deepEqual([written.done, written.error], [true, undefined])
    const writes = (side.data[0]?.log ?? []).filter((text) => text.startsWith('write'))
    assert.deepEqual(
      writes.map((text) => Number(text.split('+')[1])),
      [1 << 20, 1 << 20, 1 << 20, 512],
    )
    const back = submit(side, read(1, data.length / 512))
    world.run()
    assert.deepEqual(back.data, data)
  })

  it('says that the data of a write is unused only when neither disk nor link can still look at it', () => {
    for (const [protocol, unused] of [
      ['C', true],
      ['B', true],
      ['A', false], // it may still wait to be sent
    ] as const) {
      const { world, a } = pair({ settings: { protocol } })
      assert.equal(a.command({ type: 'primary', force: false }), 0)
      const outcome = submit(a, write(8, sectorsOf(8, 0x77)))
      world.run()
      assert.deepEqual([outcome.done, outcome.error, outcome.dataUnused], [true, undefined, unused])
    }
    const { world, a } = pair()
    assert.equal(a.command({ type: 'primary', force: false }), 0)
    const own = a.data[0] ?? assert.fail()
    own.hold = (text) => text.startsWith('write')
    const outcome = submit(a, write(8, sectorsOf(8, 0x77)))
    world.run()
    assert.deepEqual([own.held.length, outcome.done], [1, false])
    a.replica.command({ type: 'detach', volume: 0, force: true }, () => {})
    world.run()
    assert.deepEqual([outcome.done, outcome.error], [true, undefined], 'it is on the peer')
    assert.equal(outcome.dataUnused, false, 'the old disk is still at work on it')
  })

  it('pieces of a read that complete in another order are put together in order', () => {
    const { world, side } = single({ volumes: [{ dataSectors: 4 * MIB_SECTORS }] })
    const one = side.data[0] ?? assert.fail()
    for (let i = 0; i < 3; i++) one.bytes.write(i << 20, new Uint8Array(1 << 20).fill(i + 1))
    one.hold = (text) => text.startsWith('read')
    const outcome = submit(side, read(0, 3 * MIB_SECTORS))
    world.run()
    for (const operation of one.held.reverse()) operation.finish()
    world.run()
    for (let i = 0; i < 3; i++) assert.equal(outcome.data?.[(i << 20) + 5], i + 1)
  })

  it('a zero request is cut at 128 MiB', () => {
    const { world, side } = single({ volumes: [{ dataSectors: 300 * MIB_SECTORS }] })
    const outcome = submit(side, {
      type: 'zero',
      volume: 0,
      sector: 0,
      sectors: 300 * MIB_SECTORS,
      unmap: false,
      fua: false,
    })
    world.run()
    assert.deepEqual([outcome.done, outcome.error], [true, undefined])
    const zeroes = (side.data[0]?.log ?? []).filter((text) => text.startsWith('zero'))
    assert.deepEqual(
      zeroes.map((text) => Number(text.split('+')[1]) / 2 ** 20),
      [128, 128, 44],
    )
  })

  it('one piece that fails fails the request, after all pieces are done', () => {
    const { world, side } = single({ volumes: [{ dataSectors: 4 * MIB_SECTORS, settings: { onIoError: 'pass_on' } }] })
    const one = side.data[0] ?? assert.fail()
    one.hold = (text) => text.startsWith('read')
    const outcome = submit(side, read(0, 2 * MIB_SECTORS))
    world.run()
    one.hold = () => false
    one.held[0]?.finish({ code: 'io', message: 'bad' })
    world.run()
    assert.equal(outcome.done, false)
    one.held[1]?.finish()
    world.run()
    assert.equal(outcome.done, true)
  })

  it('out of range, and nothing at all', () => {
    const { world, side } = single()
    const cases = [
      read(2048, 1),
      read(-1, 1),
      read(0, 2049),
      write(0, new Uint8Array(100)),
      { ...read(0, 1), volume: 4 },
    ]
    const outcomes = cases.map((request) => submit(side, request))
    const nothing = submit(side, read(5, 0))
    world.run()
    for (const outcome of outcomes) assert.equal(outcome.error?.code, 'out-of-range')
    assert.deepEqual([nothing.done, nothing.error], [true, undefined])
  })

  it('a disk that fails and is closed leaves no request without an answer', () => {
    const { world, a } = pair()
    assert.equal(a.command({ type: 'primary', force: false }), 0)
    submit(a, write(0, sectorsOf(1, 1)))
    world.run()
    const one = a.data[0] ?? assert.fail()
    one.hold = (text) => text.startsWith('write') || text.startsWith('read')
    const outcomes = [
      submit(a, write(8, sectorsOf(8, 1))),
      submit(a, write(64, sectorsOf(8, 2))),
      submit(a, read(128, 8)),
    ]
    world.run()
    assert.equal(one.held.length, 3)
    one.held[0]?.finish({ code: 'io', message: 'bad sector' })
    world.advance(100)
    assert.equal(one.closed, true)
    assert.deepEqual(
      outcomes.map(({ done, error }) => [done, error?.code]),
      [
        [true, undefined],
        [true, undefined],
        [true, undefined],
      ],
    )
  })
})

describe('admission', () => {
  it('data in flight is bounded; whoever waits is called when there is room', () => {
    const { world, side } = single({ settings: { inFlightBytesMax: 8192 } })
    const one = side.data[0] ?? assert.fail()
    submit(side, write(0, sectorsOf(1, 1)))
    world.run()
    one.hold = () => true
    assert.equal(side.replica.admits, true)
    submit(side, write(8, sectorsOf(8, 1)))
    submit(side, write(16, sectorsOf(8, 1)))
    assert.equal(side.replica.admits, false)
    assert.equal(side.replica.status().inFlightBytes, 8192)
    let calls = 0
    side.replica.onAdmission(() => calls++)
    world.run()
    assert.equal(calls, 0)
    one.held[0]?.finish()
    world.run()
    assert.deepEqual([calls, side.replica.admits], [1, true])
    one.held[1]?.finish()
    world.run()
    assert.equal(calls, 1, 'called once')
  })

  it('what the network has not taken counts, too', () => {
    const { world, a } = pair({ settings: { inFlightBytesMax: 8192 } })
    const link = a.network.links.find(({ closed }) => !closed) ?? assert.fail()
    link.queuedBytes = 8192
    assert.equal(a.replica.admits, false)
    let calls = 0
    a.replica.onAdmission(() => calls++)
    world.run()
    link.drained()
    assert.deepEqual([calls, a.replica.admits], [1, true])
  })
})

describe('streams', () => {
  it('what one turn sends on a stream leaves in one call', () => {
    const { world, a } = pair()
    assert.equal(a.command({ type: 'primary', force: false }), 0)
    submit(a, write(0, sectorsOf(1, 1)))
    world.run()
    const sends = (): number => a.network.links.reduce((sum, link) => sum + link.sends, 0)
    const before = sends()
    submit(a, write(0, new Uint8Array(512 * 1024)))
    assert.equal(sends() - before, 1)
  })

  it('bytes that are no packet: a stranger is closed, a peer is dropped and found again', () => {
    const { world, a, b } = pair()
    const peerEnd = b.network.links.find(({ closed }) => !closed) ?? assert.fail()
    peerEnd.send([new Uint8Array(64).fill(0x55)])
    world.run()
    assert.notEqual(a.replica.status().connection, 'Connected')
    for (let i = 0; i < 60 && a.replica.status().connection !== 'Connected'; i++) world.advance(1000)
    assert.equal(a.replica.status().connection, 'Connected')
    const lonely = single()
    lonely.side.replica.command({ type: 'connect', discardMyData: false }, () => {})
    lonely.world.run()
    const stranger = lonely.side.network.accept()
    stranger.send([new Uint8Array(64).fill(0x55)])
    lonely.world.run()
    assert.equal(stranger.other?.closed, true)
  })

  it('a stream that may not be read on is paused when a megabyte waits, and resumed', () => {
    const { world, side, data, send } = scriptedPeer({ apv: 101, features: 15 })
    const one = side.data[0] ?? assert.fail()
    one.hold = (text) => text.startsWith('write')
    const payload = new Uint8Array(1024 * 1024)
    for (let i = 1; i <= 70; i++)
      send({
        type: 'P_DATA',
        volume: 0,
        sector: 0,
        blockIdHi: 0,
        blockIdLo: i,
        sequence: i,
        flags: 256,
        digest: new Uint8Array(0),
        payload,
      })
    world.run()
    assert.equal(data.other?.paused, true)
    one.hold = () => false
    for (const operation of one.held.splice(0)) operation.finish()
    world.run()
    assert.equal(data.other?.paused, false)
  })
})

/** A replica and a peer whose packets the test encodes; up to Connected. The replica holds the flag. */
function scriptedPeer(
  peer: { readonly apv: number; readonly features: number },
  options: Parameters<typeof testReplica>[1] = {},
): {
  world: World
  side: TestReplica
  data: TestLink
  send(packet: Packet): void
  sendMeta(packet: Packet): void
  received: Packet[]
} {
  const world = new World()
  const side = testReplica(world, { volumes: [{ dataSectors: 4096 }], ...options })
  for (const { number } of side.replica.engine.volumes)
    assert.equal(side.command({ type: 'attach', volume: number }), 0)
  assert.equal(side.command({ type: 'connect', discardMyData: false }), 0)
  const data = side.network.accept()
  const meta = side.network.accept()
  let context: WireContext = { apv: 80, features: 0, integrityBytes: 0 }
  const received: Packet[] = []
  const framers: Framer[] = []
  for (const link of [data, meta]) {
    const framer = new Framer(context)
    framers.push(framer)
    link.setHandler({
      onData: (chunk) => {
        framer.push(chunk)
        for (let packet = framer.next(); packet !== undefined; packet = framer.next()) {
          received.push(packet)
          if (packet.type === 'P_CONNECTION_FEATURES')
            context = { apv: Math.min(peer.apv, 101), features: peer.features & packet.features, integrityBytes: 0 }
          for (const one of framers) one.setContext(context)
        }
      },
      onDrain: () => {},
      onClose: () => {},
    })
  }
  const sendOn = (link: TestLink, packet: Packet): void => {
    const out: Uint8Array[] = []
    encodePacket(packet, context, out)
    link.send(out)
    world.run()
  }
  const send = (packet: Packet): void => sendOn(data, packet)
  sendOn(data, { type: 'P_INITIAL_DATA', volume: 0 })
  sendOn(meta, { type: 'P_INITIAL_META', volume: 0 })
  world.advance(100)
  send({ type: 'P_CONNECTION_FEATURES', volume: 0, protocolMin: 86, features: peer.features, protocolMax: peer.apv })
  send({
    type: 'P_PROTOCOL',
    volume: 0,
    protocol: 3,
    afterSb0p: 0,
    afterSb1p: 0,
    afterSb2p: 0,
    connFlags: 0,
    twoPrimaries: 1,
    integrityAlg: '',
  })
  const backingSectors = (side.data[0]?.sizeBytes ?? 0) / 512
  const limits = {
    physicalBlockBytes: 512,
    logicalBlockBytes: 512,
    alignmentOffset: 0,
    ioMin: 512,
    ioOpt: 0,
    discardEnabled: true,
    discardZeroesData: true,
    writeSameCapable: false,
  }
  const sizes = {
    backingSectors,
    userSectors: 0,
    currentSectors: backingSectors,
    maxBioBytes: 1 << 20,
    queueOrderType: 0,
    ddsFlags: 0,
  }
  send({ type: 'P_SIZES', volume: 0, ...sizes, ...((peer.features & 4) !== 0 ? { limits } : {}) })
  send({
    type: 'P_UUIDS',
    volume: 0,
    current: GENERATION,
    bitmap: 0n,
    history1: 0n,
    history2: 0n,
    dirtyBits: 0,
    uuidFlags: 0,
  })
  const word = {
    role: R_SECONDARY,
    peer: 0,
    disk: D_UPTODATE,
    pdsk: D_UPTODATE,
    susp: false,
    aftrIsp: false,
    peerIsp: false,
    userIsp: false,
    suspNod: false,
    suspFen: false,
  }
  for (const conn of [8, C_CONNECTED]) send({ type: 'P_STATE', volume: 0, state: encodeStateWord({ ...word, conn }) })
  return { world, side, data, send, sendMeta: (packet) => sendOn(meta, packet), received }
}

it('P_PROTOCOL_UPDATE holds from the next packet on, also within one segment (3.12)', () => {
  const { world, side, data } = scriptedPeer({ apv: 101, features: 15 })
  const payload = new Uint8Array(512).fill(9)
  const digest = new SimDigests().digest('sha1', payload)
  const update = { protocol: 3, afterSb0p: 0, afterSb1p: 0, afterSb2p: 0, connFlags: 0, twoPrimaries: 1 } as const
  const write = { volume: 0, blockIdHi: 0, blockIdLo: 77, sequence: 1, flags: DP_SEND_WRITE_ACK, payload } as const
  const out: Uint8Array[] = []
  const plain = { apv: 101, features: 15, integrityBytes: 0 }
  encodePacket({ type: 'P_PROTOCOL_UPDATE', volume: 0, ...update, integrityAlg: 'sha1' }, plain, out)
  const digested = { ...plain, integrityBytes: digest.length }
  encodePacket({ type: 'P_DATA', ...write, sector: 8, digest }, digested, out)
  data.send([Buffer.concat(out)])
  world.run()
  assert.deepEqual(side.data[0]?.bytes.read(8 * 512, 512), payload)
})

describe('peers of older versions (2.5, gotcha 50)', () => {
  for (const [apv, most] of [
    [99, 128 * 1024],
    [94, 32 * 1024],
  ] as const) {
    it(`version ${apv}: a large write goes out in packets of at most ${most} bytes`, () => {
      const { world, side, sendMeta, received } = scriptedPeer({ apv, features: 0 })
      assert.equal(side.replica.status().connection, 'Connected')
      let code: number | undefined
      side.replica.command({ type: 'primary', force: false }, (result) => {
        code = result.code
      })
      world.run()
      sendMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
      assert.equal(code, 0)
      submit(side, write(0, new Uint8Array(512 * 1024)))
      world.run()
      const sizes = received.flatMap((packet) => (packet.type === 'P_DATA' ? [packet.payload.length] : []))
      assert.equal(
        sizes.reduce((sum, size) => sum + size, 0),
        512 * 1024,
      )
      assert.ok(Math.max(...sizes) <= most)
    })
  }

  it('version 99 with two volumes is refused', () => {
    const volumes = [{ dataSectors: 4096 }, { dataSectors: 4096 }]
    // The replica closes the link when it has seen the features, so the peer cannot go on with the handshake.
    assert.throws(() => scriptedPeer({ apv: 99, features: 0 }, { volumes }), /bytes are sent on an open link/)
  })

  it('without FF_WSAME a zero request goes out in packets of at most 4 MiB', () => {
    const { world, side, sendMeta, received } = scriptedPeer(
      { apv: 101, features: 1 | 8 },
      { volumes: [{ dataSectors: 16 * MIB_SECTORS }] },
    )
    side.replica.command({ type: 'primary', force: false }, () => {})
    world.run()
    sendMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    submit(side, { type: 'zero', volume: 0, sector: 0, sectors: 16 * MIB_SECTORS, unmap: false, fua: false })
    world.run()
    const sizes = received.flatMap((packet) => (packet.type === 'P_ZEROES' ? [packet.sizeBytes] : []))
    assert.ok(sizes.length > 0 && Math.max(...sizes) <= 4 * 1024 * 1024, sizes.join(', '))
  })
})

describe('life', () => {
  it('devices that cannot be opened: the number and the words of whoever tried', () => {
    const world = new World()
    const side = testReplica(world, { openError: { code: 104, message: 'no such file' } })
    let detail: string | undefined
    side.replica.command({ type: 'attach', volume: 0 }, (result) => {
      detail = `${result.code} ${result.detail}`
    })
    world.run()
    assert.equal(detail, '104 no such file')
  })

  it('one alarm at a time, for the earliest deadline', () => {
    const { world, a, b } = pair()
    world.run()
    assert.ok(world.alarms <= 2)
    assert.equal(b.replica.status().connection, 'Connected')
    world.advance(60_000)
    assert.equal(a.replica.status().connection, 'Connected')
  })

  it('fencing: the handler is run, and its exit code comes back', () => {
    const { world, a, b } = pair({ settings: { fencing: 'resource-and-stonith' } })
    assert.equal(a.command({ type: 'primary', force: false }), 0)
    b.replica.abandon()
    b.network.reachable = false
    for (const link of b.network.links) link.close()
    world.run()
    const outcome = submit(a, write(8, sectorsOf(1, 1)))
    world.advance(100)
    assert.deepEqual([outcome.done, outcome.error], [true, undefined])
    assert.equal(a.replica.status().volumes[0]?.peerDisk, 'Outdated')
  })

  it('abandoned: links and devices are closed, nobody is called any more', () => {
    const { world, a, b } = pair()
    assert.equal(a.command({ type: 'primary', force: false }), 0)
    const outcome = submit(a, write(8, sectorsOf(8, 1)))
    a.replica.abandon()
    world.advance(60_000)
    assert.equal(outcome.done, false)
    assert.equal(a.data[0]?.closed, true)
    assert.equal(a.network.listening, false)
    assert.notEqual(b.replica.status().connection, 'Connected')
  })
})
