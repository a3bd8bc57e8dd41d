// Goal: a resync makes both disks equal whatever happens beside it, and whatever is interrupted is done again: what must be
// durable first is (section 8).
// Method: one engine as source or target of a scripted peer; two engines, random writes during the resync, over seeds.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, GENERATION, type HostOptions, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import { COPRIME_FEATURES, type PeerOptions, type Scene, ScriptedPeer } from '../../test/support/scripted-peer.ts'
import { Prng } from '../base/prng.ts'
import { sameGeneration } from '../meta/uuids.ts'
import { SimDigests } from '../sim/digests.ts'
import {
  C_CONNECTED,
  C_PAUSED_SYNC_S,
  C_PAUSED_SYNC_T,
  C_SYNC_SOURCE,
  C_SYNC_TARGET,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  D_CONSISTENT,
  D_INCONSISTENT,
  D_OUTDATED,
  D_UPTODATE,
  DP_MAY_SET_IN_SYNC,
  DP_SEND_WRITE_ACK,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'
import { decodeStateWord } from '../wire/drbd/state-word.ts'

const COPRIME: PeerOptions = { features: { features: COPRIME_FEATURES } }
const NEWER = 0x7770n
const EMPTY = new Uint8Array(0)

/** A bitmap of 256 bits. */
function bitmapOf(...bits: number[]): Uint8Array {
  const bytes = new Uint8Array(32)
  for (const bit of bits) bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) | (1 << (bit & 7))
  return bytes
}

/** The engine is target; the peer has sent its state and the bitmap of the source. */
function targetUpToBitmap(
  bits: number[],
  options: HostOptions = {},
  hold: (text: string) => boolean = () => false,
  peerOptions: PeerOptions = COPRIME,
): Scene {
  const host = new EngineHost(options)
  const peer = new ScriptedPeer(host)
  host.attach()
  peer.openStreams({ ...peerOptions, uuids: { current: NEWER, bitmap: GENERATION, dirtyBits: bits.length } })
  peer.sendFeatures()
  peer.introduce()
  assert.equal(host.volume.state.conn, C_WF_BITMAP_T, host.engine.connection.reason)
  peer.sendState({ conn: C_WF_BITMAP_S, disk: D_UPTODATE, pdsk: D_CONSISTENT })
  peer.take()
  host.take()
  host.hold = (job) => hold(job.text)
  peer.onData({ type: 'P_BITMAP', volume: 0, payload: bitmapOf(...bits) })
  peer.onData({ type: 'P_BITMAP', volume: 0, payload: EMPTY })
  return { host, peer }
}

/** The engine is SyncTarget and has asked for its first blocks. */
function syncTarget(bits: number[], options: HostOptions = {}): Scene {
  const scene = targetUpToBitmap(bits, options)
  scene.peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
  scene.peer.sendState({ conn: C_SYNC_SOURCE, disk: D_UPTODATE, pdsk: D_INCONSISTENT })
  assert.equal(scene.host.volume.state.conn, C_SYNC_TARGET)
  return scene
}

function reply({ peer }: Scene, sector: number, payload: Uint8Array): void {
  const head = { volume: 0, sector, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff, sequence: 0, flags: 0 }
  peer.onData({ type: 'P_RS_DATA_REPLY', ...head, digest: EMPTY, payload })
}

describe('target', () => {
  it('the merged bitmap is durable before it is sent, and so before the first block is asked for', () => {
    const { host, peer } = targetUpToBitmap([3], {}, (text) => text === 'meta.write bitmap')
    assert.deepEqual(peer.types(), [])
    host.completeAll()
    assert.deepEqual(peer.types(), ['P_COMPRESSED_BITMAP'])
    assert.equal(host.volume.status().connection, 'WFSyncUUID')
  })

  it('"Inconsistent" is durable before the first block is asked for', () => {
    const { host, peer } = targetUpToBitmap([3])
    peer.take()
    host.hold = (job) => job.text === 'meta.write superblock'
    peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
    assert.deepEqual(peer.taken('P_RS_THIN_REQ'), [])
    host.completeAll()
    assert.equal(host.superblock.flags & 1, 0)
    assert.equal(host.superblock.current, 0x5550n)
    assert.deepEqual(
      peer.taken('P_RS_THIN_REQ').map(({ sector, sizeBytes }) => [sector, sizeBytes]),
      [[24, 4096]],
    )
  })

  for (const [version, bytesMax] of [
    [94, 32 * 1024],
    [99, 128 * 1024],
    [101, 1024 * 1024],
  ] as const) {
    it(`no request is larger than an answer of version ${version}`, () => {
      const all = Array.from({ length: 256 }, (_, bit) => bit)
      const peerOptions = { features: { features: 0, protocolMax: version } }
      const { peer } = targetUpToBitmap(all, {}, undefined, peerOptions)
      peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
      const sizes = peer.taken('P_RS_DATA_REQUEST').map(({ sizeBytes }) => sizeBytes)
      assert.equal(Math.max(...sizes), bytesMax)
    })
  }

  describe('with csums-alg', () => {
    const settings = { csumsAlg: 'sha1' }
    const digests = new SimDigests()

    it('asks with the checksum of its own data; equal ones are in sync without a transfer', () => {
      const { host, peer } = syncTarget([3, 200], { settings })
      const asked = peer.taken('P_CSUM_RS_REQUEST')
      assert.deepEqual(
        asked.map(({ sector, digest }) => [sector, Buffer.from(digest).toString('hex')]),
        [24, 1600].map((sector) => {
          const own = host.data.read(sector * 512, 4096)
          return [sector, Buffer.from(digests.digest('sha1', own)).toString('hex')]
        }),
      )
      assert.deepEqual(peer.taken('P_RS_THIN_REQ'), [])
      const head = { volume: 0, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff }
      peer.onMeta({ type: 'P_RS_IS_IN_SYNC', ...head, sector: 24, sizeBytes: 4096, sequence: peer.nextSequence() })
      assert.equal(host.volume.bitmap?.count, 1)
      assert.deepEqual(peer.taken('P_RS_WRITE_ACK'), [])
      reply({ host, peer }, 1600, sectorsOf(8, 0x11))
      assert.equal(peer.taken('P_RS_WRITE_ACK').length, 1)
      assert.equal(host.volume.state.conn, C_CONNECTED)
      assert.equal(host.volume.state.disk, D_UPTODATE)
    })

    it('a write of the peer waits until the checksum is read', () => {
      const { host, peer } = targetUpToBitmap([3], { settings })
      host.hold = (job) => job.text.startsWith('disk.read')
      peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
      peer.sendState({ conn: C_SYNC_SOURCE, disk: D_UPTODATE, pdsk: D_INCONSISTENT })
      host.take()
      peer.write(24, sectorsOf(8, 0x22), { flags: DP_SEND_WRITE_ACK | DP_MAY_SET_IN_SYNC })
      assert.deepEqual(host.take('disk.write'), [])
      host.completeAll()
      assert.deepEqual(host.take('disk.write'), ['disk.write 24+8'])
    })

    it('own data that cannot be read are asked for without a checksum', () => {
      const volumes = [{ settings: { onIoError: 'pass_on' } }] as const
      const { host, peer } = targetUpToBitmap([3], { settings, volumes })
      host.hold = (job) => job.text.startsWith('disk.read')
      peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
      host.complete('disk.read', IO_ERROR)
      assert.equal(peer.taken('P_RS_THIN_REQ').length, 1)
    })

    it('the connection is lost while a checksum is read: nothing is left behind', () => {
      const { host, peer } = targetUpToBitmap([3], { settings })
      host.hold = (job) => job.text.startsWith('disk.read')
      peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
      peer.disconnect()
      host.completeAll()
      assert.equal(host.volume.io.quiet, true)
    })
  })

  it('a pause, asked for here or by the peer, stops the requests; both must end before it goes on', () => {
    const { host, peer } = syncTarget([3, 200])
    peer.take()
    assert.equal(host.admin({ type: 'pause-sync', volume: 0 })?.code, 0)
    assert.equal(host.admin({ type: 'pause-sync', volume: 0 })?.code, 134)
    assert.equal(host.volume.state.conn, C_PAUSED_SYNC_T)
    assert.equal(decodeStateWord(peer.one('P_STATE').state).userIsp, true)
    peer.sendState({ conn: C_PAUSED_SYNC_S, disk: D_UPTODATE, pdsk: D_INCONSISTENT, userIsp: true })
    assert.equal(host.admin({ type: 'resume-sync', volume: 0 })?.code, 0)
    assert.equal(host.admin({ type: 'resume-sync', volume: 0 })?.code, 157)
    reply({ host, peer }, 24, sectorsOf(8, 0x11))
    reply({ host, peer }, 1600, sectorsOf(8, 0x11))
    assert.equal(host.volume.state.conn, C_PAUSED_SYNC_T, 'what was asked for is taken')
    peer.sendState({ conn: C_SYNC_SOURCE, disk: D_UPTODATE, pdsk: D_INCONSISTENT })
    assert.equal(host.volume.state.conn, C_CONNECTED)
    assert.equal(host.admin({ type: 'resume-sync', volume: 0 })?.code, 135)
  })

  it('adjacent blocks are one request, aligned to its size', () => {
    const { peer } = syncTarget([1, 2, 3, 4, 5, 6, 7, 200])
    assert.deepEqual(
      peer.taken('P_RS_THIN_REQ').map(({ sector, sizeBytes }) => [sector / 8, sizeBytes / 4096]),
      [
        [1, 1],
        [2, 2],
        [4, 4],
        [200, 1],
      ],
    )
  })

  describe('at a dynamic rate (resync-pacer.ts)', () => {
    const resyncPace = { resyncRateKib: 250, cPlanAhead: 20, cDelayTarget: 10, cFillTarget: 100, cMaxRateKib: 102_400 }
    const options: HostOptions = { volumes: [{ settings: { resyncPace } }] }
    const all = Array.from({ length: 256 }, (_, bit) => bit)
    const asked = ({ peer }: Scene): number[] => peer.taken('P_RS_THIN_REQ').map(({ sizeBytes }) => sizeBytes / 1024)

    it('it begins with little, and each answer in time lets it ask for more', () => {
      // The peer leaves the values as they are.
      const scene = targetUpToBitmap(all, options, undefined, { ...COPRIME, syncParam: resyncPace })
      scene.peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
      scene.host.advance(2)
      assert.deepEqual(asked(scene), [32])
      scene.host.advance(2)
      reply(scene, 0, sectorsOf(64, 1))
      assert.deepEqual(asked(scene), [32, 32])
    })

    it('what the peer tells counts, from version 95 on all of it', () => {
      const scene = targetUpToBitmap(all, options, undefined, { ...COPRIME, syncParam: { cPlanAhead: 0 } })
      const told = { verifyAlg: '', csumsAlg: '', ...resyncPace, cPlanAhead: 0, resyncRateKib: 64 }
      scene.peer.onData({ type: 'P_SYNC_PARAM89', volume: 0, ...told })
      scene.peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
      scene.host.advance(1000)
      const kib = asked(scene).reduce((sum, one) => sum + one, 0)
      assert.equal(kib, 64, 'in a second')
    })
  })

  it('the end: ping; data, bitmap and superblock are durable; only then UpToDate is told', () => {
    const scene = syncTarget([3])
    const { host, peer } = scene
    peer.take()
    peer.answersPings = false
    reply(scene, 24, sectorsOf(8, 7))
    assert.deepEqual(peer.types(), ['P_RS_WRITE_ACK', 'P_PING'])
    assert.deepEqual(host.data.read(24 * 512, 4096), sectorsOf(8, 7))
    host.hold = (job) => job.text === 'meta.write superblock'
    host.take()
    peer.onMeta({ type: 'P_PING_ACK', volume: 0 })
    assert.deepEqual(host.take('disk', 'meta.write'), ['disk.flush', 'meta.write bitmap', 'meta.write superblock'])
    assert.deepEqual(peer.taken('P_STATE'), [])
    host.completeAll()
    const state = decodeStateWord(peer.one('P_STATE').state)
    assert.deepEqual([state.conn, state.disk], [C_CONNECTED, D_UPTODATE])
    assert.equal(sameGeneration(host.superblock.current, NEWER), true)
    assert.equal(host.volume.bitmap?.count, 0)
  })

  it('a hole of the source stays a hole, or is zeroed', () => {
    const { host, peer } = syncTarget([3, 9])
    host.data.write(24 * 512, sectorsOf(8, 7))
    for (const sector of [24, 72]) peer.onData({ type: 'P_RS_DEALLOCATED', volume: 0, sector, sizeBytes: 4096 })
    assert.deepEqual(host.take('disk.zero', 'disk.write'), ['disk.zero 24+8'])
    assert.equal(peer.taken('P_RS_WRITE_ACK').length, 2)
  })

  it('a block that the source cannot read: the resync ends, this disk is not UpToDate', () => {
    const { host, peer } = syncTarget([3])
    peer.onMeta({
      type: 'P_NEG_RS_DREPLY',
      volume: 0,
      sector: 24,
      blockIdHi: 0,
      blockIdLo: 0,
      sizeBytes: 4096,
      sequence: peer.nextSequence(),
    })
    assert.equal(host.volume.status().connection, 'Connected')
    assert.equal(host.volume.status().disk, 'Inconsistent')
    assert.equal(host.volume.bitmap?.isSet(3), true)
  })

  it('an answer that nobody asked for is not written', () => {
    const scene = syncTarget([3])
    reply(scene, 64, sectorsOf(8, 1))
    reply(scene, 24, sectorsOf(16, 1))
    assert.deepEqual(scene.host.take('disk.write'), [])
    reply(scene, 24, sectorsOf(8, 1))
    reply(scene, 24, sectorsOf(8, 2))
    assert.deepEqual(scene.host.take('disk.write'), ['disk.write 24+8'], 'once')
  })

  it('the connection is lost in the middle: the block that was not written stays out of sync', () => {
    const scene = syncTarget([3, 9])
    const { host, peer } = scene
    reply(scene, 24, sectorsOf(8, 1))
    peer.disconnect()
    assert.equal(host.volume.bitmap?.isSet(9), true)
    assert.equal(host.volume.bitmap?.isSet(3), false)
    assert.equal(host.volume.status().disk, 'Inconsistent')
    assert.equal(host.volume.io.active.size, 0)
  })

  it('a write of the peer that comes behind an answer is applied behind it, and nobody waits for ever (8.4)', () => {
    const scene = syncTarget([0, 1, 2, 3])
    const { host, peer } = scene
    peer.promoteEngine()
    const flags = DP_SEND_WRITE_ACK | DP_MAY_SET_IN_SYNC
    peer.write(8, sectorsOf(8, 0xa1), { flags })
    assert.deepEqual(peer.types(), ['P_RS_WRITE_ACK'], 'block 1 is in sync now, and may be read here')
    host.hold = (job) => job.text.startsWith('disk.read')
    const read = host.read(8, 8)
    assert.equal(host.jobs.length, 1)
    const answer = new Uint8Array([...sectorsOf(8, 0x50), ...sectorsOf(8, 0xa1), ...sectorsOf(16, 0x50)])
    reply(scene, 0, answer)
    peer.write(16, sectorsOf(8, 0xb2), { flags })
    host.completeAll()
    assert.equal(host.answer(read), 'done')
    assert.deepEqual(host.data.read(16 * 512, 4096), sectorsOf(8, 0xb2), 'the newer data')
    assert.deepEqual(host.data.read(0, 4096), sectorsOf(8, 0x50), 'the answer was written')
    assert.equal(peer.taken('P_RS_WRITE_ACK').length, 2)
  })

  it('a write error: P_NEG_ACK, and the disk is given up', () => {
    const scene = syncTarget([3])
    const { host, peer } = scene
    host.hold = (job) => job.text.startsWith('disk.write')
    reply(scene, 24, sectorsOf(8, 1))
    host.complete('disk.write', IO_ERROR)
    assert.equal(peer.taken('P_NEG_ACK').length, 1)
    assert.equal(host.volume.status().disk, 'Diskless')
  })

  it('reads of blocks that are out of sync are answered by the source', () => {
    const { host, peer } = syncTarget([3, 9])
    peer.promoteEngine()
    const local = host.read(128, 8)
    const remote = host.read(24, 8)
    assert.deepEqual([host.answer(local), host.answer(remote)], ['done', 'open'])
    const request = peer.one('P_DATA_REQUEST')
    peer.onData({ ...request, type: 'P_DATA_REPLY', sequence: 0, flags: 0, digest: EMPTY, payload: sectorsOf(8, 6) })
    assert.deepEqual(host.answers.get(remote)?.data, sectorsOf(8, 6))
  })
})

describe('source', () => {
  /** Primary, wrote block 3 alone; the peer is back. */
  function source(): Scene {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    host.promote()
    host.write(24, sectorsOf(8, 1))
    peer.openStreams(COPRIME)
    peer.sendFeatures()
    peer.introduce()
    peer.sendState({ conn: C_WF_BITMAP_T, disk: D_OUTDATED, pdsk: D_UPTODATE, peer: R_PRIMARY })
    assert.equal(host.volume.state.conn, C_WF_BITMAP_S, host.engine.connection.reason)
    return { host, peer }
  }

  it('sends its bitmap at once, then P_SYNC_UUID before the state of the resync (gotcha 25)', () => {
    const { peer } = source()
    assert.equal(peer.taken('P_COMPRESSED_BITMAP').length, 1)
    peer.take()
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: bitmapOf(3, 9) })
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: EMPTY })
    assert.equal(peer.types()[0], 'P_SYNC_UUID')
  })

  it('a write between the bitmaps is told as out of sync, and answered when the resync has begun', () => {
    const { host, peer } = source()
    peer.take()
    const id = host.write(64, sectorsOf(8, 2))
    assert.deepEqual(peer.types(), ['P_OUT_OF_SYNC'])
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: bitmapOf(3, 8) })
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: EMPTY })
    assert.equal(host.answer(id), 'done')
    assert.equal(host.volume.bitmap?.isSet(8), true)
  })

  it('a write during the resync goes to the target with its data, and may clear its bits', () => {
    const { host, peer } = source()
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: bitmapOf(3) })
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: EMPTY })
    peer.take()
    const id = host.write(24, sectorsOf(8, 2))
    const packet = peer.one('P_DATA')
    assert.equal(packet.flags & DP_MAY_SET_IN_SYNC, DP_MAY_SET_IN_SYNC)
    peer.ack('P_RS_WRITE_ACK', packet)
    assert.equal(host.answer(id), 'done')
    assert.equal(host.volume.bitmap?.isSet(3), false)
  })

  it('the end: bits are cleared as blocks are acknowledged; both generations are the same in the end', () => {
    const { host, peer } = source()
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: bitmapOf(3) })
    peer.onData({ type: 'P_BITMAP', volume: 0, payload: EMPTY })
    const ack = { volume: 0, sector: 24, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff }
    peer.ack('P_RS_WRITE_ACK', ack, { sizeBytes: 4096 })
    assert.equal(host.volume.bitmap?.count, 0)
    peer.sendState({ conn: C_CONNECTED, disk: D_UPTODATE, pdsk: D_UPTODATE, peer: R_PRIMARY })
    assert.equal(host.volume.status().connection, 'Connected')
    assert.equal(host.superblock.bitmap, 0n)
    assert.equal(host.volume.status().peerDisk, 'UpToDate')
  })
})

describe('two hosts', () => {
  const PRIMARY = { type: 'primary', force: false } as const

  /** `a` wrote alone, `b` comes back. */
  function apart(both: HostOptions = {}): Pair {
    const pair = new Pair({ both })
    pair.connect('a')
    pair.a.event({ type: 'admin', id: 1, command: PRIMARY })
    pair.network.run()
    pair.network.cut()
    pair.network.mayDial = () => false
    pair.network.run()
    for (const sector of [0, 24, 600, 1000, 1500]) pair.a.write(sector, sectorsOf(8, 1 + (sector & 0x7f)))
    assert.ok((pair.a.volume.bitmap?.count ?? 0) >= 5)
    return pair
  }

  function assertEqualInTheEnd(pair: Pair, what: string): void {
    for (let i = 0; i < 20; i++) pair.network.advance(2000)
    for (const host of [pair.a, pair.b]) {
      const { disk, connection, outOfSyncBlocks } = host.volume.status()
      assert.deepEqual([disk, connection, outOfSyncBlocks], ['UpToDate', 'Connected', 0], `${what}: ${host.name}`)
    }
    assert.deepEqual(pair.a.data.differences(pair.b.data), [], what)
    assert.equal(sameGeneration(pair.a.superblock.current, pair.b.superblock.current), true, what)
  }

  it('come to the same disk and the same generation, and count what was transferred, holes and all', () => {
    const pair = apart()
    pair.a.zero(1600, 16, { unmap: true })
    const blocks = pair.a.volume.bitmap?.count ?? 0
    pair.network.mayDial = () => true
    assertEqualInTheEnd(pair, 'plain')
    for (const { volume } of [pair.a, pair.b]) {
      const { resyncBytes, resyncHoleBytes } = volume.status()
      assert.equal(resyncBytes, blocks * 4096)
      assert.equal(resyncHoleBytes, 2 * 4096)
    }
  })

  it('under protocols A and B as well, with writes during the resync', () => {
    for (const protocol of ['A', 'B'] as const) {
      const pair = apart({ settings: { protocol, allowTwoPrimaries: false } })
      pair.network.mayDial = () => true
      pair.b.hold = (job) => job.text.startsWith('disk.write')
      pair.network.advance(3000)
      assert.equal(pair.a.volume.status().connection, 'SyncSource')
      const ids = [64, 160, 600, 1200].map((sector) => pair.a.write(sector, sectorsOf(8, 0x77)))
      pair.network.run()
      pair.b.hold = () => false
      pair.b.completeAll()
      pair.network.run()
      assertEqualInTheEnd(pair, `protocol ${protocol}`)
      for (const id of ids) assert.equal(pair.a.answer(id), 'done')
      assert.ok(
        pair.a.logs.filter((line) => line.startsWith('connection lost')).length <= 1,
        'the link is lost only once',
      )
    }
  })

  for (const command of ['invalidate', 'invalidate-remote'] as const) {
    it(`${command}: every block is copied`, () => {
      const pair = new Pair()
      pair.connect('a')
      pair.a.event({ type: 'admin', id: 1, command: PRIMARY })
      pair.network.run()
      pair.a.write(8, sectorsOf(8, 1))
      pair.network.run()
      const host = command === 'invalidate' ? pair.b : pair.a
      pair.b.data.write(64 * 512, sectorsOf(1, 0xff))
      host.event({ type: 'admin', id: 7, command: { type: command, volume: 0 } })
      pair.network.run()
      assert.equal(host.results.get(7)?.code, 0)
      assertEqualInTheEnd(pair, command)
      assert.deepEqual(pair.b.data.read(64 * 512, 512), sectorsOf(1, 0))
    })
  }

  for (const csumsAlg of ['', 'sha1']) {
    it(`with two Primaries, cuts and random writes beside the resync${csumsAlg === '' ? '' : ' by checksums'}: equal in the end, every request answered`, () => {
      for (let seed = 1; seed <= 30; seed++) {
        const prng = new Prng(seed)
        const pair = apart({ settings: { csumsAlg } })
        const { a, b, network } = pair
        network.mayDial = () => true
        for (const host of [a, b]) host.hold = (job) => prng.chance(1, 2) && job.text.startsWith('disk')
        network.completesHeldJobs = true
        network.pick = (count) => prng.u32() % count
        const requests: [EngineHost, number][] = []
        let promoted = false
        for (let i = 0; i < 60; i++) {
          const host = prng.chance(1, 2) || b.engine.role !== R_PRIMARY ? a : b
          const sector = prng.u32() % 1600
          const sectors = 1 + (prng.u32() % 16)
          requests.push([
            host,
            prng.chance(1, 4) ? host.read(sector, sectors) : host.write(sector, sectorsOf(sectors, i)),
          ])
          network.run(prng.u32() % 25)
          if (prng.chance(1, 3)) network.advance(prng.u32() % 300)
          const connected = b.engine.connection.established && b.volume.state.conn >= C_CONNECTED && !network.isBreaking
          if (!promoted && connected && prng.chance(1, 4)) {
            promoted = true
            b.event({ type: 'admin', id: 999_999, command: PRIMARY })
          }
          if (!promoted && prng.chance(1, 30)) network.cut()
        }
        network.run()
        assertEqualInTheEnd(pair, `seed ${seed}`)
        for (const [host, id] of requests)
          assert.equal(host.answer(id), 'done', `seed ${seed}: request ${id} on ${host.name}`)
        for (const host of [a, b]) assert.equal(host.volume.io.active.size, 0)
      }
    })
  }
})
