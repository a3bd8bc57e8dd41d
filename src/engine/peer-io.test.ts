// Goal: what the peer asks of this disk is done in its order, and acknowledged when it is true.
// Method: one engine and a peer whose packets are written by hand, kernel-like or one of ours.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import {
  COPRIME_FEATURES,
  connectedScene,
  type PeerOptions,
  type Scene,
  ScriptedPeer,
} from '../../test/support/scripted-peer.ts'
import { SimDigests } from '../sim/digests.ts'
import {
  C_CONNECTED,
  D_DISKLESS,
  D_UPTODATE,
  DP_DISCARD,
  DP_FLUSH,
  DP_FUA,
  DP_SEND_RECEIVE_ACK,
  DP_SEND_WRITE_ACK,
  DP_ZEROES,
} from '../wire/drbd/constants.ts'
import { encodeCookies } from './in-doubt.ts'
import { PEER_BYTES_MAX } from './limits.ts'

const COPRIME: PeerOptions = { features: { features: COPRIME_FEATURES } }
const EMPTY = new Uint8Array(0)

function scene(peerOptions: PeerOptions, hold: (text: string) => boolean = () => false): Scene {
  const both = connectedScene({}, peerOptions, 'secondary')
  both.host.hold = (job) => hold(job.text)
  return both
}

const disk = (text: string): boolean => text.startsWith('disk')

describe('a write of the peer', () => {
  it('is acknowledged when it is on the disk, with block id and sector as they came', () => {
    const { host, peer } = scene(COPRIME, disk)
    const blockIdLo = peer.write(8, sectorsOf(8, 1))
    assert.deepEqual(peer.types(), [])
    host.complete('disk.write 8+8')
    const ack = peer.one('P_WRITE_ACK')
    assert.deepEqual([ack.sector, ack.blockIdHi, ack.blockIdLo, ack.sizeBytes], [8, 0xffff8880, blockIdLo, 4096])
    assert.deepEqual(host.data.read(4096, 4096), sectorsOf(8, 1))
  })

  it('writes that overlap reach the disk one after the other, others together', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(8, sectorsOf(8, 1))
    peer.write(12, sectorsOf(8, 2))
    peer.write(64, sectorsOf(8, 3))
    assert.deepEqual(host.take('disk'), ['disk.write 8+8', 'disk.write 64+8'])
    host.complete('disk.write 8+8')
    assert.deepEqual(host.take('disk'), ['disk.write 12+8'])
  })

  it('FUA and FLUSH with data: write, flush, acknowledgement (6.5)', () => {
    for (const flag of [DP_FUA, DP_FLUSH]) {
      const { host, peer } = scene(COPRIME, disk)
      peer.write(8, sectorsOf(8, 1), { flags: flag | DP_SEND_WRITE_ACK })
      host.complete('disk.write')
      assert.deepEqual(peer.types(), [])
      host.complete('disk.flush')
      assert.deepEqual(peer.types(), ['P_WRITE_ACK'])
    }
  })

  it('protocol B: the receipt at once', () => {
    const settings = { protocol: 'B', allowTwoPrimaries: false } as const
    const { host, peer } = connectedScene({ settings }, COPRIME, 'secondary')
    host.hold = (job) => disk(job.text)
    peer.write(8, sectorsOf(8, 1), { flags: DP_SEND_RECEIVE_ACK })
    assert.deepEqual(peer.types(), ['P_RECV_ACK'])
    host.complete('disk.write')
    assert.deepEqual(peer.types(), [])
  })

  it('an error: P_NEG_ACK, out of sync, the disk is given up and the peer is told', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(8, sectorsOf(8, 1))
    host.complete('disk.write', IO_ERROR)
    assert.equal(peer.types()[0], 'P_NEG_ACK')
    assert.equal(host.volume.status().disk, 'Diskless')
  })

  it('without a disk: P_NEG_ACK, and it counts in its epoch (6.2)', () => {
    const { host, peer } = scene({})
    host.admin({ type: 'detach', volume: 0, force: true })
    peer.take()
    peer.write(8, sectorsOf(8, 1))
    peer.barrier(5)
    const [ack, barrier] = peer.take()
    assert.equal(ack?.packet.type, 'P_NEG_ACK')
    assert.deepEqual(barrier?.packet, { type: 'P_BARRIER_ACK', volume: 0, barrier: 5, setSize: 1 })
  })

  it('P_TRIM, P_ZEROES and P_WSAME', () => {
    const { host, peer } = scene(COPRIME)
    host.data.write(0, sectorsOf(64, 7))
    const head = (sector: number) => ({
      volume: 0,
      sector,
      blockIdHi: 0,
      blockIdLo: sector,
      sequence: peer.nextSequence(),
      sizeBytes: 4096,
    })
    peer.onData({ type: 'P_TRIM', ...head(0), flags: DP_DISCARD | DP_SEND_WRITE_ACK })
    peer.onData({ type: 'P_ZEROES', ...head(8), flags: DP_ZEROES | DP_SEND_WRITE_ACK })
    peer.onData({ type: 'P_WSAME', ...head(16), flags: DP_SEND_WRITE_ACK, digest: EMPTY, payload: sectorsOf(1, 9) })
    assert.deepEqual(host.take('disk'), ['disk.zero 0+8', 'disk.zero 8+8', 'disk.write 16+8'])
    assert.deepEqual(
      host.data.read(0, 25 * 512),
      new Uint8Array([...sectorsOf(16, 0), ...sectorsOf(8, 9), ...sectorsOf(1, 7)]),
    )
    assert.deepEqual(
      peer.taken('P_WRITE_ACK').map(({ sizeBytes }) => sizeBytes),
      [4096, 4096, 4096],
    )
  })

  it('the only copy, the peer has no disk: log and bitmap first', () => {
    const { host, peer } = scene({
      ...COPRIME,
      uuids: 'none',
      sizes: { backingSectors: 0, currentSectors: 0 },
      state: { disk: D_DISKLESS, conn: C_CONNECTED, role: 1 },
    })
    peer.write(8, sectorsOf(8, 1))
    const order = host.take('meta.write log', 'disk.write', 'P_WRITE_ACK')
    assert.deepEqual(order, ['meta.write log', 'disk.write 8+8', 'P_WRITE_ACK'])
    assert.equal(host.volume.bitmap?.isSet(1), true)
  })

  it('too much that is not applied yet: the data stream is not read any further', () => {
    const { host, peer } = scene(COPRIME, disk)
    const { connection } = host.engine
    const mib = new Uint8Array(1024 * 1024)
    let writes = 0
    while (connection.mayReceive(peer.data) && writes < 100) {
      peer.write(0, mib)
      writes++
    }
    assert.equal(writes, PEER_BYTES_MAX / mib.length + 1)
    assert.equal(connection.mayReceive(peer.meta), true, 'acknowledgements go on')
    host.completeAll()
    assert.equal(connection.mayReceive(peer.data), true)
  })

  it('the connection is lost: what is at the disk completes without an answer, what waits is forgotten', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(8, sectorsOf(8, 1))
    peer.write(8, sectorsOf(8, 2))
    peer.disconnect()
    host.completeAll()
    assert.deepEqual(host.data.read(4096, 512), sectorsOf(1, 1))
    assert.deepEqual(peer.types(), [])
    assert.equal(host.volume.io.active.size, 0)
    assert.equal(host.volume.io.peer.pendingBytes, 0)
  })

  it('the disk is detached while it is in progress: refused, and nothing stays behind', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(8, sectorsOf(8, 1))
    host.admin({ type: 'detach', volume: 0, force: true })
    assert.deepEqual(peer.taken('P_NEG_ACK').length, 1)
    assert.equal(host.volume.io.active.size, 0)
    assert.equal(host.volume.io.peer.pendingBytes, 0)
  })
})

describe('epochs of a kernel-like peer (6.4)', () => {
  it('the acknowledgements of an epoch come before that of its barrier', () => {
    const { host, peer } = scene({}, disk)
    peer.write(8, sectorsOf(8, 1))
    peer.write(16, sectorsOf(8, 1))
    peer.barrier(0x01000000)
    host.complete('disk.write 16+8')
    assert.deepEqual(peer.types(), ['P_WRITE_ACK'])
    host.complete('disk.write 8+8')
    const [ack, barrier] = peer.take()
    assert.equal(ack?.packet.type, 'P_WRITE_ACK')
    assert.deepEqual(barrier?.packet, { type: 'P_BARRIER_ACK', volume: 0, barrier: 0x01000000, setSize: 2 })
  })

  it('the next epoch is held until the former one is written', () => {
    const { host, peer } = scene({}, (text) => text.startsWith('disk.write'))
    peer.write(8, sectorsOf(8, 1))
    peer.write(16, sectorsOf(8, 1))
    peer.barrier(1)
    peer.write(64, sectorsOf(8, 2))
    peer.barrier(2)
    peer.write(128, sectorsOf(8, 3))
    assert.deepEqual(host.take('disk.write'), ['disk.write 8+8', 'disk.write 16+8'])
    host.complete('disk.write 16+8')
    assert.deepEqual(host.take('disk.write'), [])
    host.complete('disk.write 8+8')
    assert.deepEqual(host.take('disk.write'), ['disk.write 64+8'])
    host.complete('disk.write 64+8')
    assert.deepEqual(host.take('disk.write'), ['disk.write 128+8'])
  })

  it('and flushed: an epoch reaches stable storage before the next one may (6.4, write-ordering flush)', () => {
    const { host, peer } = scene({})
    peer.write(8, sectorsOf(8, 1))
    peer.barrier(1)
    peer.write(64, sectorsOf(8, 2))
    assert.deepEqual(host.take('disk'), ['disk.write 8+8', 'disk.flush', 'disk.write 64+8'])
  })

  it('also across volumes', () => {
    const { host, peer } = connectedScene({ volumes: [{}, {}] }, {}, 'secondary')
    host.hold = (job) => job.text.startsWith('disk.write')
    peer.write(8, sectorsOf(8, 1), { volume: 0 })
    peer.barrier(1)
    peer.write(64, sectorsOf(8, 2), { volume: 1 })
    assert.deepEqual(host.take('disk.write'), ['disk.write 8+8'])
    host.complete('disk.write 8+8')
    assert.deepEqual(host.take('disk.write'), ['disk.write 64+8'], 'volume 1 goes on when volume 0 is done')
  })

  it('an empty flush in the former epoch holds the next one, until it is done', () => {
    const { host, peer } = scene({}, disk)
    peer.write(0, EMPTY, { flags: DP_FLUSH | DP_SEND_WRITE_ACK })
    peer.barrier(1)
    peer.write(64, sectorsOf(8, 2))
    assert.deepEqual(host.take('disk'), ['disk.flush'])
    host.complete('disk.flush')
    assert.deepEqual(host.take('disk'), ['disk.flush'], 'that between two epochs')
    host.complete('disk.flush')
    assert.deepEqual(host.take('disk.write'), ['disk.write 64+8'])
  })

  it('one of ours is not held', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(8, sectorsOf(8, 1))
    peer.barrier(1)
    peer.write(64, sectorsOf(8, 2))
    assert.deepEqual(host.take('disk.write'), ['disk.write 8+8', 'disk.write 64+8'])
  })
})

describe('an empty flush of the peer', () => {
  it('waits for the writes before it, not for those after it; then flush; then the acknowledgement', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(8, sectorsOf(8, 1))
    peer.write(0, EMPTY, { flags: DP_FLUSH | DP_SEND_WRITE_ACK })
    peer.write(64, sectorsOf(8, 2))
    assert.deepEqual(host.take('disk'), ['disk.write 8+8', 'disk.write 64+8'])
    host.complete('disk.write 8+8')
    assert.deepEqual(host.take('disk'), ['disk.flush'])
    assert.deepEqual(peer.types(), ['P_WRITE_ACK'])
    host.complete('disk.flush')
    const ack = peer.one('P_WRITE_ACK')
    assert.deepEqual([ack.sector, ack.sizeBytes], [0, 0])
  })

  it('an error is a P_NEG_ACK, and the disk is given up', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.write(0, EMPTY, { flags: DP_FLUSH | DP_SEND_WRITE_ACK })
    host.complete('disk.flush', IO_ERROR)
    assert.equal(peer.types()[0], 'P_NEG_ACK')
    assert.equal(host.volume.status().disk, 'Diskless')
  })

  it('a flush that the peer cannot do ends the round of the other host', () => {
    const pair = new Pair()
    pair.connect('a')
    pair.a.event({ type: 'admin', id: 1, command: { type: 'primary', force: false } })
    pair.network.run()
    pair.b.hold = (job) => job.text === 'disk.flush'
    const flush = pair.a.flush()
    pair.network.run()
    pair.b.complete('disk.flush', IO_ERROR)
    pair.network.run()
    pair.network.advance(1000)
    assert.equal(pair.b.volume.status().disk, 'Diskless')
    assert.equal(pair.a.answer(flush), 'done')
  })
})

describe('reads of the peer', () => {
  const request = (sector: number) => ({ volume: 0, sector, blockIdHi: 1, blockIdLo: 2, sizeBytes: 4096 })

  it('P_DATA_REQUEST: data with block id and sector as they came, sequence 0', () => {
    const { host, peer } = scene(COPRIME)
    host.data.write(4096, sectorsOf(8, 5))
    peer.onData({ type: 'P_DATA_REQUEST', ...request(8) })
    const reply = peer.one('P_DATA_REPLY')
    assert.deepEqual([reply.sector, reply.blockIdHi, reply.blockIdLo, reply.sequence], [8, 1, 2, 0])
    assert.deepEqual(reply.payload, sectorsOf(8, 5))
  })

  it('waits for an overlapping write of this host that is not complete on both', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    host.write(8, sectorsOf(8, 6))
    const own = peer.one('P_DATA')
    peer.onData({ type: 'P_DATA_REQUEST', ...request(8) })
    assert.deepEqual(peer.types(), [])
    peer.ack('P_WRITE_ACK', own)
    assert.deepEqual(peer.one('P_DATA_REPLY').payload, sectorsOf(8, 6))
  })

  it('no UpToDate disk, or an error: a negative reply', () => {
    const { host, peer } = scene(COPRIME, disk)
    peer.onData({ type: 'P_DATA_REQUEST', ...request(8) })
    host.complete('disk.read', IO_ERROR)
    assert.equal(peer.one('P_NEG_DREPLY').sector, 8)
    peer.onData({ type: 'P_RS_DATA_REQUEST', ...request(8) })
    assert.equal(peer.one('P_NEG_RS_DREPLY').sector, 8)
  })

  it('thin: a hole and zeroes are told as such', () => {
    const { host, peer } = scene(COPRIME)
    host.data.write(64 * 512, sectorsOf(8, 0))
    host.data.write(128 * 512, sectorsOf(8, 4))
    for (const sector of [8, 64, 128]) peer.onData({ type: 'P_RS_THIN_REQ', ...request(sector) })
    assert.deepEqual(peer.types(), ['P_RS_DEALLOCATED', 'P_RS_DEALLOCATED', 'P_RS_DATA_REPLY'])
    assert.deepEqual(host.take('disk'), ['disk.read 64+8', 'disk.read 128+8'])
  })

  it('checksums: equal blocks are in sync, others come as data', () => {
    const { host, peer } = connectedScene({ settings: { csumsAlg: 'sha1' } }, COPRIME, 'secondary')
    host.data.write(4096, sectorsOf(8, 5))
    const digest = new SimDigests().digest('sha1', sectorsOf(8, 5))
    peer.onData({ type: 'P_CSUM_RS_REQUEST', ...request(8), digest })
    peer.onData({ type: 'P_CSUM_RS_REQUEST', ...request(16), digest })
    assert.deepEqual(peer.types(), ['P_RS_IS_IN_SYNC', 'P_RS_DATA_REPLY'])
  })

  it('verify: the digest of the own block', () => {
    const { host, peer } = connectedScene({ settings: { verifyAlg: 'sha1' } }, COPRIME, 'secondary')
    host.data.write(4096, sectorsOf(8, 5))
    peer.onData({ type: 'P_OV_REQUEST', ...request(8) })
    assert.deepEqual(peer.one('P_OV_REPLY').digest, new SimDigests().digest('sha1', sectorsOf(8, 5)))
  })
})

describe('writes in doubt', () => {
  it('the peer asks which were applied; the answer waits for the disk', () => {
    const { host, peer } = scene(COPRIME, (text) => text.startsWith('disk.write'))
    const applied = peer.write(8, sectorsOf(8, 1))
    const slow = peer.write(64, sectorsOf(8, 2))
    host.complete('disk.write 8+8')
    peer.disconnect()
    peer.connectFully({ ...COPRIME, state: { conn: C_CONNECTED, pdsk: D_UPTODATE } })
    peer.take()
    peer.onData({ type: 'P_IN_DOUBT', volume: 0, payload: encodeCookies([applied, slow, 4711]) })
    assert.deepEqual(peer.types(), [], 'one of them is still at the disk')
    host.complete('disk.write 64+8')
    assert.deepEqual(peer.one('P_APPLIED').payload, encodeCookies([applied, slow]))
  })

  it('the question of a kernel-like peer is a mistake', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.connectFully({})
    peer.onData({ type: 'P_IN_DOUBT', volume: 0, payload: EMPTY })
    assert.equal(host.engine.connection.established, false)
  })
})
