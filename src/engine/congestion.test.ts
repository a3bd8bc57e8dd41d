// Goal: a link that is too slow does not hold clients up: this host goes Ahead, tells the peer what it misses, and resyncs it
// when all is acknowledged (section 8.11); nothing is lost whatever happens meanwhile.
// Method: one engine and a scripted peer that withholds its acknowledgements; two engines with a link that stands still.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, sectorsOf } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import { connectedScene, type Scene, ScriptedPeer } from '../../test/support/scripted-peer.ts'
import { Prng } from '../base/prng.ts'
import type { ResourceSettings } from '../runtime/api.ts'
import {
  C_AHEAD,
  C_BEHIND,
  C_CONNECTED,
  C_SYNC_SOURCE,
  D_CONSISTENT,
  D_OUTDATED,
  D_UPTODATE,
  DP_SEND_WRITE_ACK,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'
import { decodeStateWord } from '../wire/drbd/state-word.ts'
import { AHEAD_REST_MS } from './limits.ts'

const FILL_SECTORS = 32
const settings = {
  protocol: 'A',
  congestion: { policy: 'pull-ahead', fillSectors: FILL_SECTORS, extents: 67 },
} as const satisfies Partial<ResourceSettings>

/** Connected and Primary, extent 0 is hot, nothing is in flight. */
function scene(patch: Partial<ResourceSettings> = {}): Scene {
  const host = new EngineHost({ settings: { ...settings, ...patch } })
  const peer = new ScriptedPeer(host)
  host.attach()
  peer.connectFully()
  peer.promoteEngine()
  fill({ host, peer }, 1)
  acknowledge({ host, peer })
  host.take()
  peer.take()
  return { host, peer }
}

/** Acknowledges every epoch that is closed on the wire. */
function acknowledge({ peer }: Scene): void {
  let size = 0
  for (const { packet } of peer.received) {
    if (packet.type === 'P_DATA') size++
    if (packet.type !== 'P_BARRIER') continue
    peer.onMeta({ type: 'P_BARRIER_ACK', volume: 0, barrier: packet.barrier, setSize: size })
    size = 0
  }
}

/** Writes of 8 sectors, each answered to its client before the next. */
function fill({ host }: Scene, count: number, from = 0): void {
  for (let i = 0; i < count; i++) assert.equal(host.answer(host.write((from + i) * 8, sectorsOf(8, i + 1))), 'done')
}

describe('a congested link, on-congestion pull-ahead', () => {
  it('the write that meets congestion-fill in flight stays here: P_STATE, the barrier, P_OUT_OF_SYNC', () => {
    const { host, peer } = scene()
    fill({ host, peer }, 4)
    assert.equal(host.volume.state.conn, C_CONNECTED)
    peer.take()
    fill({ host, peer }, 2, 4)
    assert.equal(host.volume.state.conn, C_AHEAD)
    assert.deepEqual(peer.types(), ['P_STATE', 'P_OUT_OF_SYNC', 'P_OUT_OF_SYNC'])
    assert.deepEqual([host.volume.state.disk, host.volume.state.pdsk], [D_UPTODATE, D_CONSISTENT])
    assert.equal(host.volume.bitmap?.count, 2)
  })

  it('the state that is sent says Ahead, and the last epoch is closed behind it', () => {
    const made = scene()
    const { host, peer } = made
    host.hold = (job) => job.text.startsWith('disk.write')
    for (let i = 0; i < 5; i++) host.write(i * 8, sectorsOf(8, 1))
    const types = peer.received.map(({ packet }) => packet.type)
    assert.deepEqual(types, ['P_DATA', 'P_DATA', 'P_DATA', 'P_DATA', 'P_STATE', 'P_BARRIER', 'P_OUT_OF_SYNC'])
    assert.equal(decodeStateWord(peer.one('P_STATE').state).conn, C_AHEAD)
    host.completeAll()
  })

  it('what is acknowledged does not count', () => {
    const made = scene()
    for (let i = 0; i < 5; i++) {
      fill(made, 3)
      acknowledge(made)
      made.peer.take()
    }
    assert.equal(made.host.volume.state.conn, C_CONNECTED)
    assert.equal(made.host.volume.io.congestion.sectorsInFlight, 0)
  })

  it('congestion-extents: so many extents with writes in flight', () => {
    const extents = 3
    const volumes = [{ dataSectors: 8 * 8192 }]
    const host = {
      settings: { ...settings, congestion: { policy: 'pull-ahead', fillSectors: 0, extents } },
      volumes,
    } as const
    const made = connectedScene(host)
    for (let i = 1; i < extents; i++) made.host.write(i * 8192, sectorsOf(8, 1))
    assert.equal(made.host.volume.state.conn, C_CONNECTED)
    made.host.write(5 * 8192, sectorsOf(8, 1))
    assert.equal(made.host.volume.state.conn, C_AHEAD)
  })

  it('back: a rest after the last acknowledgement P_SYNC_UUID, without bitmaps; writes go to the peer again', () => {
    const made = scene()
    const { host, peer } = made
    fill(made, 6)
    peer.advance(5 * AHEAD_REST_MS)
    assert.equal(host.volume.state.conn, C_AHEAD, 'not before all is acknowledged')
    acknowledge(made)
    peer.take()
    peer.advance(AHEAD_REST_MS - 1)
    assert.deepEqual(peer.types(), [])
    peer.advance(200)
    assert.deepEqual(peer.types(), ['P_SYNC_UUID'])
    assert.equal(host.volume.state.conn, C_SYNC_SOURCE)
    assert.notEqual(host.superblock.bitmap, 0n, 'durable: the peer needs a resync')
    const id = host.write(800, sectorsOf(8, 9))
    const sent = peer.one('P_DATA')
    assert.notEqual(sent.flags & DP_SEND_WRITE_ACK, 0)
    peer.ack('P_WRITE_ACK', sent)
    assert.equal(host.answer(id), 'done')
  })

  it('a resync request that was under way is cancelled', () => {
    const made = scene()
    fill(made, 5)
    made.peer.take()
    const common = { volume: 0, sector: 0, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff, sizeBytes: 4096 }
    made.peer.onData({ type: 'P_RS_DATA_REQUEST', ...common })
    assert.deepEqual(made.peer.types(), ['P_RS_CANCEL'])
  })

  it('the state of a peer that is Behind is no new loss', () => {
    const made = scene()
    fill(made, 5)
    made.peer.sendState({ conn: C_BEHIND, disk: D_OUTDATED, pdsk: D_UPTODATE, peer: R_PRIMARY })
    assert.equal(made.host.volume.state.conn, C_AHEAD)
    assert.equal(made.host.volume.state.pdsk, D_CONSISTENT)
    assert.equal(made.host.volume.uuids.bitmap, 0n, 'no new generation')
  })

  it('a state that the peer sent before it knew does not end a resync that has not begun', () => {
    const made = scene()
    fill(made, 5)
    made.peer.sendState({ conn: C_CONNECTED, disk: D_UPTODATE, pdsk: D_UPTODATE, peer: R_PRIMARY })
    made.peer.advance(100)
    assert.equal(made.host.volume.state.conn, C_AHEAD)
  })

  it('the link is lost while Ahead: a new generation, and the blocks stay out of sync', () => {
    const made = scene()
    fill(made, 6)
    made.peer.disconnect()
    assert.notEqual(made.host.superblock.bitmap, 0n)
    assert.ok((made.host.volume.bitmap?.count ?? 0) >= 2)
    fill(made, 2, 20)
  })

  it('a flush while Ahead is for the own disk', () => {
    const made = scene()
    fill(made, 6)
    made.peer.take()
    assert.equal(made.host.answer(made.host.flush()), 'done')
    assert.deepEqual(made.peer.types(), [])
  })

  it('a demotion waits until the need of a resync is durable', () => {
    const made = scene()
    const { host, peer } = made
    fill(made, 6)
    const id = 777
    host.event({ type: 'admin', id, command: { type: 'secondary' } })
    assert.equal(host.results.get(id), undefined)
    acknowledge(made)
    peer.advance(AHEAD_REST_MS + 200)
    for (const flush of peer.taken('P_DATA')) {
      if ((flush.flags & DP_SEND_WRITE_ACK) !== 0) peer.ack('P_WRITE_ACK', flush, { sizeBytes: 0 })
    }
    assert.equal(host.results.get(id)?.code, 0)
    assert.notEqual(host.superblock.bitmap, 0n)
  })

  for (const [name, without] of [
    ['protocol C', { ...settings, protocol: 'C' }],
    ['no policy', { protocol: 'A' }],
  ] as const) {
    it(`${name}: nobody goes Ahead`, () => {
      const made = connectedScene({ settings: without })
      for (let i = 0; i < 20; i++) made.host.write(i * 8, sectorsOf(8, 1))
      assert.equal(made.host.volume.state.conn, C_CONNECTED)
    })
  }

  it('a peer older than version 96 knows no Ahead', () => {
    const made = connectedScene({ settings }, { features: { protocolMax: 95, features: 0 } })
    for (let i = 0; i < 20; i++) made.host.write(i * 8, sectorsOf(8, 1))
    assert.equal(made.host.volume.state.conn, C_CONNECTED)
  })
})

describe('a congested link, on-congestion disconnect', () => {
  it('the connection is given up, the client goes on alone', () => {
    const made = scene({ congestion: { policy: 'disconnect', fillSectors: FILL_SECTORS, extents: 67 } })
    for (let i = 0; i < 6; i++) made.host.write(i * 8, sectorsOf(8, 1))
    made.host.advance(0)
    assert.equal(made.host.volume.status().connection, 'StandAlone')
    assert.notEqual(made.host.superblock.bitmap, 0n)
    assert.equal(made.host.answer(made.host.write(0, sectorsOf(8, 2))), 'done')
  })
})

describe('two of ours', () => {
  for (let seed = 1; seed <= 20; seed++) {
    it(`seed ${seed}: the link stands still again and again under random writes; both disks are equal in the end`, () => {
      const prng = new Prng(seed)
      const pair = new Pair({ both: { settings } })
      pair.connect('a')
      pair.a.event({ type: 'admin', id: 1_000_000, command: { type: 'primary', force: false } })
      pair.network.run()
      let ahead = 0
      for (let round = 0; round < 6; round++) {
        pair.network.hold = () => true
        const writes = round === 0 ? 12 : prng.intInclusive(1, 12)
        for (let i = 0; i < writes; i++) {
          const sectors = prng.pick(round === 0 ? [8] : [1, 8, 16])
          const id = pair.a.write(prng.intInclusive(0, 2048 - sectors), sectorsOf(sectors, round * 20 + i))
          assert.equal(pair.a.answer(id), 'done', 'a client never waits for the link')
        }
        if (pair.a.volume.state.conn === C_AHEAD) ahead++
        pair.network.hold = () => false
        if (prng.chance(1, 6)) pair.network.cut()
        pair.network.run()
        if (prng.chance(1, 2)) pair.network.advance(prng.intInclusive(1, 1500))
      }
      pair.network.advance(20_000)
      assert.ok(ahead > 0, 'it was Ahead at least once')
      for (const host of [pair.a, pair.b]) {
        assert.equal(host.volume.status().connection, 'Connected')
        assert.equal(host.volume.state.disk, D_UPTODATE)
        assert.equal(host.volume.bitmap?.count, 0)
      }
      assert.deepEqual(pair.a.data.differences(pair.b.data), [])
    })
  }
})
