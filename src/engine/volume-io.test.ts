// Goal: what a client may rely on: an answer comes when the contract (design, section 2) holds, never before, and always.
// Method: one engine and a peer whose packets are written by hand; the disk completes at the test's command.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, GENERATION, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import {
  COPRIME_FEATURES,
  connectedScene,
  KERNEL_FEATURES,
  type Scene,
  ScriptedPeer,
} from '../../test/support/scripted-peer.ts'
import { sameGeneration } from '../meta/uuids.ts'
import {
  C_CONNECTED,
  D_DISKLESS,
  D_FAILED,
  D_UPTODATE,
  DP_FLUSH,
  DP_FUA,
  DP_SEND_RECEIVE_ACK,
  DP_SEND_WRITE_ACK,
  FF_TRIM,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'
import { PEER_FLUSH_INTERVAL_MS, RETRY_ALONE_MS } from './limits.ts'

/** What the peer makes of the loss of our disk. */
const NEXT_GENERATION = 0x2222_0000_0000_0000n
const COPRIME = { features: { features: COPRIME_FEATURES } }
const coprimeScene = (): Scene => connectedScene({}, COPRIME)

it('disk counters are those of one volume', () => {
  const host = new EngineHost({ volumes: [{}, {}] })
  host.attach()
  host.promote()
  host.write(8, sectorsOf(8, 1), { volume: 1 })
  host.read(0, 16)
  const counters = [0, 1].map((index) => host.volumeAt(index).status().counters)
  assert.deepEqual(
    counters.map(({ diskReadBytes, diskWrittenBytes }) => [diskReadBytes, diskWrittenBytes]),
    [
      [8192, 0],
      [0, 4096],
    ],
  )
})

describe('when a write is answered', () => {
  it('protocol C: own disk and the peer, in either order', () => {
    for (const diskFirst of [true, false]) {
      const { host, peer } = coprimeScene()
      host.hold = () => true
      const id = host.write(8, sectorsOf(8, 1))
      const packet = peer.one('P_DATA')
      assert.equal(packet.flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK), DP_SEND_WRITE_ACK)
      if (diskFirst) host.complete('disk.write')
      else peer.ack('P_WRITE_ACK', packet)
      assert.equal(host.answer(id), 'open')
      if (diskFirst) peer.ack('P_WRITE_ACK', packet)
      else host.complete('disk.write')
      assert.equal(host.answer(id), 'done')
    }
  })

  it('protocol B: own disk and the receipt of the peer', () => {
    const { host, peer } = connectedScene(
      { settings: { protocol: 'B', allowTwoPrimaries: false } },
      COPRIME,
      'secondary',
    )
    peer.promoteEngine()
    const id = host.write(8, sectorsOf(8, 1))
    const packet = peer.one('P_DATA')
    assert.equal(packet.flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK), DP_SEND_RECEIVE_ACK)
    assert.equal(host.answer(id), 'open')
    peer.ack('P_RECV_ACK', packet)
    assert.equal(host.answer(id), 'done')
  })

  it('protocol A: own disk alone', () => {
    const { host, peer } = connectedScene({ settings: { protocol: 'A', allowTwoPrimaries: false } }, COPRIME)
    host.hold = () => true
    const id = host.write(8, sectorsOf(8, 1))
    assert.equal(peer.one('P_DATA').flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK), 0)
    assert.equal(host.answer(id), 'open')
    host.complete('disk.write')
    assert.equal(host.answer(id), 'done')
  })

  it('the peer could not write it: done if the own disk has it, its blocks are out of sync', () => {
    const { host, peer } = coprimeScene()
    const id = host.write(8, sectorsOf(8, 1))
    const packet = peer.one('P_DATA')
    peer.sendState({ conn: C_CONNECTED, disk: D_FAILED, pdsk: D_UPTODATE, peer: R_PRIMARY })
    peer.ack('P_NEG_ACK', packet, { sizeBytes: 4096 })
    assert.equal(host.answer(id), 'done')
    assert.equal(host.volume.bitmap?.isSet(1), true)
  })

  it('the own disk could not write it: done if the peer has it, and its metadata know that nobody else has', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk.write')
    const id = host.write(8, sectorsOf(8, 1))
    const packet = peer.one('P_DATA')
    host.complete('disk.write', IO_ERROR)
    assert.equal(host.answer(id), 'open')
    assert.equal(host.volume.status().disk, 'Diskless')
    peer.ack('P_WRITE_ACK', packet)
    assert.equal(host.answer(id), 'open')
    peer.sendUuids({ current: NEXT_GENERATION, bitmap: GENERATION })
    assert.equal(host.answer(id), 'done')
  })

  it('an error if the link is lost before the peer has told that', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk.write')
    const id = host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    host.complete('disk.write', IO_ERROR)
    assert.equal(host.answer(id), 'open')
    peer.disconnect()
    assert.equal(host.answer(id), 'io')
  })

  it('nobody could write it: an error', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.write(0, sectorsOf(1, 1))
    host.hold = (job) => job.text.startsWith('disk.write')
    const id = host.write(8, sectorsOf(8, 1))
    host.complete('disk.write', IO_ERROR)
    assert.equal(host.answer(id), 'io')
  })

  it('a full disk says so', () => {
    const host = new EngineHost({ volumes: [{ settings: { onIoError: 'pass_on' } }] })
    host.attach()
    host.promote()
    host.write(0, sectorsOf(1, 1))
    host.hold = (job) => job.text.startsWith('disk.write')
    const id = host.write(8, sectorsOf(8, 1))
    host.complete('disk.write', { code: 'no-space', message: 'full' })
    assert.equal(host.answer(id), 'no-space')
  })

  it('outside of the device, or not Primary: refused at once', () => {
    const { host } = coprimeScene()
    assert.equal(host.answer(host.write(2048, sectorsOf(1, 1))), 'out-of-range')
    assert.equal(host.answer(host.write(2047, sectorsOf(2, 1))), 'out-of-range')
    assert.equal(host.answer(host.read(-1, 1)), 'out-of-range')
    const secondary = connectedScene({}, COPRIME, 'secondary')
    assert.equal(secondary.host.answer(secondary.host.write(0, sectorsOf(1, 1))), 'not-primary')
  })
})

describe('a write that the peer does not have', () => {
  it('its blocks are out of sync before it starts', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.hold = (job) => job.text.startsWith('disk.write')
    host.write(8, sectorsOf(8, 1))
    assert.equal(host.jobs.length, 1)
    assert.equal(host.volume.bitmap?.isSet(1), true)
  })

  it('is answered only after the superblock with the new UUID is durable', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('meta')
    const id = host.write(8, sectorsOf(8, 1))
    assert.deepEqual(host.take('disk', 'P_DATA'), ['P_DATA', 'disk.write 8+8'])
    const before = host.superblock.current
    peer.disconnect()
    assert.equal(host.volume.status().connection, 'Unconnected')
    // Jobs before it (bitmap, earlier superblocks) and then the one with the new UUID.
    let rounds = 0
    while (sameGeneration(host.superblock.current, before)) {
      assert.equal(host.answer(id), 'open')
      assert.ok(host.jobs[0] !== undefined && rounds++ < 30, 'the new UUID gets to the disk')
      host.completeJob(host.jobs[0])
    }
    assert.equal(host.answer(id), 'open', 'written is not yet durable')
    assert.equal(sameGeneration(host.superblock.bitmap, GENERATION), true)
    host.completeAll()
    assert.equal(host.answer(id), 'done')
    assert.equal(host.volume.bitmap?.isSet(1), true)
  })

  it('a write that begins meanwhile waits, too', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text === 'meta.write superblock'
    peer.disconnect()
    host.take()
    const id = host.write(8, sectorsOf(8, 1))
    const read = host.read(0, 8)
    assert.deepEqual(host.take(), [])
    host.completeAll()
    assert.deepEqual([host.answer(id), host.answer(read)], ['done', 'done'])
  })

  it('the peer loses its disk: a new UUID here, known to the peer, before anything is answered', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text === 'meta.write superblock'
    peer.sendState({ conn: C_CONNECTED, disk: D_DISKLESS, pdsk: D_UPTODATE, peer: R_PRIMARY })
    const id = host.write(8, sectorsOf(8, 1))
    assert.equal(host.answer(id), 'open')
    assert.deepEqual(peer.taken('P_UUIDS'), [], 'what is not durable yet is not told')
    host.completeAll()
    const uuids = peer.one('P_UUIDS')
    assert.equal(sameGeneration(uuids.bitmap, GENERATION), true)
    assert.equal(host.answer(id), 'done')
    const order = host.take('P_UUIDS', `client.done ${id}`)
    assert.deepEqual(order, ['P_UUIDS', `client.done ${id}`])
  })

  it('frozen for fencing, then the peer is back without its disk: a new UUID is due all the same', () => {
    const { host, peer } = connectedScene({ settings: { fencing: 'resource-and-stonith' } }, COPRIME)
    const id = host.write(8, sectorsOf(8, 1))
    peer.disconnect()
    assert.equal(host.answer(id), 'open')
    peer.connectFully({
      ...COPRIME,
      uuids: 'none',
      sizes: { backingSectors: 0, currentSectors: 0 },
      state: { disk: D_DISKLESS, conn: C_CONNECTED },
    })
    assert.equal(host.answer(id), 'done')
    assert.equal(
      sameGeneration(host.superblock.current, GENERATION),
      false,
      'else the old disk of the peer passes for equal later, and this write may be lost',
    )
  })
})

describe('reads', () => {
  it('wait for an overlapping write that the peer has not acknowledged; others do not', () => {
    const { host, peer } = coprimeScene()
    host.write(8, sectorsOf(8, 1))
    host.take()
    const overlapping = host.read(15, 2)
    const free = host.read(16, 8)
    assert.deepEqual([host.answer(overlapping), host.answer(free)], ['open', 'done'])
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    assert.equal(host.answer(overlapping), 'done')
    assert.deepEqual(host.answers.get(overlapping)?.data, new Uint8Array([...sectorsOf(1, 1), ...sectorsOf(1, 0)]))
  })

  it('wait for a write of the peer that is being applied', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk.write')
    peer.write(8, sectorsOf(8, 2))
    const id = host.read(8, 8)
    assert.equal(host.answer(id), 'open')
    host.complete('disk.write')
    assert.deepEqual(host.answers.get(id)?.data, sectorsOf(8, 2))
  })

  it('a write waits for an overlapping read, and a later read does not pass the write', () => {
    const { host } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk.read')
    host.read(8, 8)
    host.write(8, sectorsOf(1, 1))
    host.read(8, 1)
    assert.deepEqual(host.take(), ['disk.read 8+8'])
    host.complete('disk.read')
    assert.deepEqual(host.take('disk', 'P_DATA'), ['P_DATA', 'disk.write 8+1'])
  })

  it('an error of the own disk: the peer answers instead', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk.read')
    const id = host.read(8, 8)
    host.complete('disk.read', IO_ERROR)
    const request = peer.one('P_DATA_REQUEST')
    assert.deepEqual([request.sector, request.sizeBytes], [8, 4096])
    peer.onData({
      ...request,
      type: 'P_DATA_REPLY',
      sequence: 0,
      flags: 0,
      digest: new Uint8Array(0),
      payload: sectorsOf(8, 9),
    })
    assert.deepEqual(host.answers.get(id)?.data, sectorsOf(8, 9))
  })

  it('the peer cannot read either: an error', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk.read')
    const id = host.read(8, 8)
    host.complete('disk.read', IO_ERROR)
    peer.ack('P_NEG_DREPLY', peer.one('P_DATA_REQUEST'))
    assert.equal(host.answer(id), 'io')
  })
})

describe('flush', () => {
  it('one empty P_DATA with DP_FLUSH and one flush of the own disk; answered after both', () => {
    for (const diskFirst of [true, false]) {
      const { host, peer } = coprimeScene()
      host.hold = () => true
      const id = host.flush()
      assert.deepEqual(host.take(), ['P_DATA', 'disk.flush'])
      const packet = peer.one('P_DATA')
      assert.equal(packet.payload.length, 0)
      assert.equal(packet.flags & (DP_FLUSH | DP_SEND_WRITE_ACK), DP_FLUSH | DP_SEND_WRITE_ACK)
      if (diskFirst) host.complete('disk.flush')
      else peer.ack('P_WRITE_ACK', packet, { sizeBytes: 0 })
      assert.equal(host.answer(id), 'open')
      if (diskFirst) peer.ack('P_WRITE_ACK', packet, { sizeBytes: 0 })
      else host.complete('disk.flush')
      assert.equal(host.answer(id), 'done')
    }
  })

  it('one round at a time; what comes meanwhile is served together by the next one', () => {
    const { host, peer } = coprimeScene()
    const ids = [host.flush(), host.flush(), host.flush()]
    assert.deepEqual(host.take('P_DATA', 'disk'), ['P_DATA', 'disk.flush'])
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'), { sizeBytes: 0 })
    assert.deepEqual(
      ids.map((id) => host.answer(id)),
      ['done', 'open', 'open'],
    )
    assert.deepEqual(host.take('P_DATA', 'disk'), ['P_DATA', 'disk.flush'])
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'), { sizeBytes: 0 })
    assert.deepEqual(
      ids.map((id) => host.answer(id)),
      ['done', 'done', 'done'],
    )
  })

  it('without a peer: the own disk alone', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.hold = () => true
    const id = host.flush()
    assert.equal(host.answer(id), 'open')
    host.complete('disk.flush')
    assert.equal(host.answer(id), 'done')
  })

  it('a flush under way when the peer is lost is answered when this host may go on alone', () => {
    const { host, peer } = connectedScene({ settings: { fencing: 'resource-and-stonith' } }, COPRIME)
    const id = host.flush()
    peer.disconnect()
    assert.equal(host.answer(id), 'open')
    host.handlerDone(7)
    assert.equal(host.answer(id), 'done')
  })

  it('the peer could not flush (P_NEG_ACK): the round comes to an end all the same', () => {
    const { host, peer } = coprimeScene()
    const id = host.flush()
    const packet = peer.one('P_DATA')
    peer.ack('P_NEG_ACK', packet, { sizeBytes: 0 })
    peer.sendState({ conn: C_CONNECTED, disk: D_DISKLESS, pdsk: D_UPTODATE, peer: R_PRIMARY })
    assert.equal(host.answer(id), 'done', 'this host has it durably, and its metadata says that the peer has not')
  })

  it('the own disk cannot flush, the peer can: done when its metadata know that, and the own disk is given up', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text === 'disk.flush'
    const id = host.flush()
    host.complete('disk.flush', IO_ERROR)
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'), { sizeBytes: 0 })
    assert.equal(host.answer(id), 'open')
    assert.equal(host.volume.status().disk, 'Diskless')
    peer.take()
    peer.sendUuids({ current: NEXT_GENERATION, bitmap: GENERATION })
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'), { sizeBytes: 0 })
    assert.equal(host.answer(id), 'done')
  })

  it('the same, asked for without a disk, and the link or the disk of the peer is lost before that: an error', () => {
    for (const lost of ['link', 'disk'] as const) {
      const { host, peer } = coprimeScene()
      host.admin({ type: 'detach', volume: 0, force: true })
      peer.take()
      const id = host.flush()
      peer.ack('P_WRITE_ACK', peer.one('P_DATA'), { sizeBytes: 0 })
      assert.equal(host.answer(id), 'open')
      if (lost === 'link') peer.disconnect()
      else peer.sendState({ conn: C_CONNECTED, disk: D_DISKLESS, pdsk: D_DISKLESS, peer: R_PRIMARY })
      assert.equal(host.answer(id), 'io')
    }
  })

  it('a while after a write the peer is asked to flush by itself', () => {
    const { host, peer } = coprimeScene()
    host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    peer.take()
    peer.advance(PEER_FLUSH_INTERVAL_MS)
    const flush = peer.one('P_DATA')
    assert.equal(flush.payload.length, 0)
    peer.ack('P_WRITE_ACK', flush, { sizeBytes: 0 })
    peer.advance(2 * PEER_FLUSH_INTERVAL_MS)
    assert.deepEqual(peer.taken('P_DATA'), [], 'nothing is left to make stable')
    peer.disconnect()
    assert.equal(host.volume.bitmap?.count, 0)
  })

  it('what was acknowledged and not flushed is out of sync when the peer is lost', () => {
    const { host, peer } = coprimeScene()
    host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    peer.disconnect()
    assert.equal(host.volume.bitmap?.isSet(1), true)
  })
})

describe('FUA', () => {
  it('write, flush, then done here; DP_FUA for the peer', () => {
    const { host, peer } = coprimeScene()
    host.hold = () => true
    const id = host.write(8, sectorsOf(8, 1), { fua: true })
    const packet = peer.one('P_DATA')
    assert.equal(packet.flags & DP_FUA, DP_FUA)
    peer.ack('P_WRITE_ACK', packet)
    assert.deepEqual(host.take(), ['P_DATA', 'disk.write 8+8'])
    host.complete('disk.write')
    assert.deepEqual(host.take(), ['disk.flush'])
    assert.equal(host.answer(id), 'open')
    host.complete('disk.flush')
    assert.equal(host.answer(id), 'done')
  })

  it('the same for a zero request', () => {
    const { host, peer } = coprimeScene()
    const id = host.zero(8, 8, { fua: true })
    assert.deepEqual(host.take('disk'), ['disk.zero 8+8', 'disk.flush'])
    const packet = peer.one('P_ZEROES')
    assert.equal(packet.flags & DP_FUA, DP_FUA)
    peer.ack('P_WRITE_ACK', packet)
    assert.equal(host.answer(id), 'done')
  })
})

describe('zero requests by what the peer can do (3.5)', () => {
  it('P_TRIM without FF_WZEROES', () => {
    const { host, peer } = connectedScene({}, { features: { features: FF_TRIM } })
    host.zero(8, 8)
    assert.equal(peer.one('P_TRIM').sizeBytes, 4096)
  })

  it('data without FF_TRIM and FF_WZEROES: a peer that did not announce it need not know the packet', () => {
    const { host, peer } = connectedScene({}, { features: { features: 0 } })
    host.zero(8, 8)
    assert.deepEqual(peer.types(), ['P_DATA'])
  })
})

describe('acknowledgements that fit nothing', () => {
  for (const type of [
    'P_WRITE_ACK',
    'P_RECV_ACK',
    'P_RS_WRITE_ACK',
    'P_SUPERSEDED',
    'P_RETRY_WRITE',
    'P_NEG_DREPLY',
  ] as const) {
    it(`${type} for an unknown request drops the connection`, () => {
      const { host, peer } = coprimeScene()
      peer.ack(type, { volume: 0, sector: 8, blockIdHi: 0, blockIdLo: 4711 })
      assert.equal(host.engine.connection.established, false)
      assert.match(host.engine.connection.reason ?? '', new RegExp(type))
    })
  }

  it('the right block id with another sector', () => {
    const { host, peer } = coprimeScene()
    host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', { ...peer.one('P_DATA'), sector: 9 })
    assert.equal(host.engine.connection.established, false)
  })

  it('P_NEG_ACK for an unknown request marks the range, no more (3.4)', () => {
    const { host, peer } = coprimeScene()
    peer.ack('P_NEG_ACK', { volume: 0, sector: 16, blockIdHi: 0, blockIdLo: 4711 }, { sizeBytes: 4096 })
    assert.equal(host.engine.connection.established, true)
    assert.equal(host.volume.bitmap?.isSet(2), true)
  })
})

describe('protocol B during a resync', () => {
  it('takes both acknowledgements that it asked for (gotcha 11)', () => {
    const settings = { protocol: 'B', allowTwoPrimaries: false } as const
    const host = new EngineHost({ settings })
    const peer = new ScriptedPeer(host)
    host.attach()
    host.promote()
    host.write(64, sectorsOf(8, 1)) // alone: a new generation, one block out of sync
    const generation = host.volume.uuids
    peer.openStreams(COPRIME)
    peer.sendFeatures()
    peer.introduce()
    peer.sendState({ conn: 14, disk: 5, pdsk: D_UPTODATE })
    assert.equal(generation.bitmap !== 0n, true)
    for (const packet of peer.taken('P_COMPRESSED_BITMAP')) peer.onData(packet)
    for (const packet of peer.taken('P_BITMAP')) peer.onData(packet)
    assert.equal(host.volume.status().connection, 'SyncSource', host.engine.connection.reason)
    const id = host.write(8, sectorsOf(8, 1))
    const packet = peer.one('P_DATA')
    assert.equal(packet.flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK), DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK)
    peer.ack('P_RECV_ACK', packet)
    peer.ack('P_RS_WRITE_ACK', packet, { sizeBytes: 4096 })
    assert.equal(host.answer(id), 'done')
    assert.equal(host.engine.connection.established, true, host.engine.connection.reason)
  })
})

describe('the own disk fails with more than one operation under way', () => {
  function failing(): { scene: Scene; first: number; second: number; read: number } {
    const scene = coprimeScene()
    const { host } = scene
    host.hold = (job) => job.text.startsWith('disk')
    const first = host.write(8, sectorsOf(8, 1))
    const second = host.write(16, sectorsOf(8, 2))
    const read = host.read(32, 8)
    host.complete('disk.write 8+8', IO_ERROR)
    return { scene, first, second, read }
  }

  it('a write at the disk is answered when the peer has it', () => {
    const { scene, first, second } = failing()
    const { host, peer } = scene
    assert.equal(host.volume.status().disk, 'Diskless')
    for (const packet of peer.taken('P_DATA')) peer.ack('P_WRITE_ACK', packet)
    peer.sendUuids({ current: NEXT_GENERATION, bitmap: GENERATION })
    assert.equal(host.answer(first), 'done')
    assert.equal(host.answer(second), 'done', 'its disk operation completes never: the device was closed (ports.ts)')
  })

  it('a read at the disk is answered by the peer', () => {
    const { scene, read } = failing()
    const { host, peer } = scene
    const request = peer.one('P_DATA_REQUEST')
    peer.onData({
      ...request,
      type: 'P_DATA_REPLY',
      sequence: 0,
      flags: 0,
      digest: new Uint8Array(0),
      payload: sectorsOf(8, 9),
    })
    assert.equal(host.answer(read), 'done')
  })

  it('a write of the peer at the disk is refused, and the range is free again', () => {
    const { host, peer } = coprimeScene()
    host.hold = (job) => job.text.startsWith('disk')
    peer.write(64, sectorsOf(8, 3))
    const first = host.write(8, sectorsOf(8, 1))
    const own = peer.one('P_DATA')
    host.complete('disk.write 8+8', IO_ERROR)
    peer.ack('P_WRITE_ACK', own)
    peer.sendUuids({ current: NEXT_GENERATION, bitmap: GENERATION })
    assert.equal(host.answer(first), 'done')
    assert.deepEqual(
      peer.taken('P_NEG_ACK').map(({ sector }) => sector),
      [64],
    )
    const later = host.write(64, sectorsOf(8, 4))
    for (const packet of peer.taken('P_DATA')) peer.ack('P_WRITE_ACK', packet)
    assert.equal(host.answer(later), 'done')
  })
})

describe('towards a kernel-like peer', () => {
  it('with data-integrity-alg a flush travels without a digest, which the kernel would not survive', () => {
    const settings = { dataIntegrityAlg: 'sha1' }
    const { host, peer } = connectedScene({ settings })
    const id = host.flush()
    const sent = peer.take().map(({ packet }) => packet)
    assert.deepEqual(
      sent.map((packet) => [packet.type, 'integrityAlg' in packet ? packet.integrityAlg : '-']),
      [
        ['P_PROTOCOL_UPDATE', ''],
        ['P_DATA', '-'],
        ['P_PROTOCOL_UPDATE', 'sha1'],
      ],
    )
    const [, flush] = sent
    assert.ok(flush?.type === 'P_DATA' && flush.digest.length === 0 && (flush.flags & DP_FLUSH) !== 0)
    peer.ack('P_WRITE_ACK', flush, { sizeBytes: 0 })
    assert.equal(host.answer(id), 'done')
    host.write(8, sectorsOf(8, 1))
    assert.equal(peer.one('P_DATA').digest.length, 20)
  })

  it('below version 100, where that cannot be told, none is sent; what is acknowledged counts as stable', () => {
    const settings = { dataIntegrityAlg: 'sha1' }
    const { host, peer } = connectedScene({ settings }, { features: { protocolMax: 99, features: 0 } })
    const id = host.flush()
    assert.deepEqual(peer.types(), [])
    assert.equal(host.answer(id), 'done')
    assert.equal(host.volume.stability?.anyMarked, false)
  })

  it('a write that is to be sent again goes out after a while if no write of the peer comes that restarts it', () => {
    const { host, peer } = connectedScene({ settings: { allowTwoPrimaries: true } }, { engineHoldsFlag: false })
    const id = host.write(8, sectorsOf(8, 1))
    peer.ack('P_RETRY_WRITE', peer.one('P_DATA'))
    peer.advance(RETRY_ALONE_MS - 1)
    assert.deepEqual(peer.taken('P_DATA'), [])
    peer.advance(1)
    const again = peer.one('P_DATA')
    assert.equal(again.sector, 8)
    peer.ack('P_WRITE_ACK', again)
    assert.equal(host.answer(id), 'done')
  })

  it('a completion closes the epoch; its acknowledgement with the right number is taken', () => {
    const { host, peer } = connectedScene({}, { features: { features: KERNEL_FEATURES } }, 'secondary')
    peer.promoteEngine()
    host.write(8, sectorsOf(8, 1))
    host.write(16, sectorsOf(8, 1))
    const writes = peer.taken('P_DATA')
    assert.equal(writes.length, 2)
    assert.deepEqual(peer.taken('P_BARRIER'), [])
    for (const write of writes) peer.ack('P_WRITE_ACK', write)
    const { barrier } = peer.one('P_BARRIER')
    peer.onMeta({ type: 'P_BARRIER_ACK', volume: 0, barrier, setSize: 2 })
    assert.equal(host.engine.connection.established, true)
    host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    assert.notEqual(peer.one('P_BARRIER').barrier, barrier)
  })

  for (const [name, wrong] of [
    ['number', { barrier: 99, setSize: 1 }],
    ['set_size', { barrier: 1, setSize: 2 }],
  ] as const) {
    it(`a wrong ${name} in a barrier ack drops the connection`, () => {
      const { host, peer } = connectedScene({}, {}, 'secondary')
      peer.promoteEngine()
      host.write(8, sectorsOf(8, 1))
      peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
      assert.equal(peer.one('P_BARRIER').barrier, 1)
      peer.onMeta({ type: 'P_BARRIER_ACK', volume: 0, ...wrong })
      assert.equal(host.engine.connection.established, false)
      assert.match(host.engine.connection.reason ?? '', /barrier ack/)
    })
  }

  it('superseded writes count in set_size or not', () => {
    for (const setSize of [1, 2]) {
      const { host, peer } = connectedScene({}, {}, 'secondary')
      peer.promoteEngine()
      host.write(8, sectorsOf(8, 1))
      host.write(16, sectorsOf(8, 1))
      const [first, second] = peer.taken('P_DATA')
      assert.ok(first !== undefined && second !== undefined)
      peer.ack('P_SUPERSEDED', first)
      peer.ack('P_WRITE_ACK', second)
      const { barrier } = peer.one('P_BARRIER')
      peer.onMeta({ type: 'P_BARRIER_ACK', volume: 0, barrier, setSize })
      assert.equal(host.engine.connection.established, true, `set_size ${setSize}`)
    }
  })
})
