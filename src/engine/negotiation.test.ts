// Goal: what two volumes make of each other when they meet (4.1 to 4.5), up to the refusals.
// Method: one engine and a peer with sizes, generations and states written by hand. The tables of the generations have their
// own tests.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, GENERATION, type HostOptions, sectorsOf } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import {
  COPRIME_FEATURES,
  connectedScene,
  type PeerOptions,
  type Scene,
  ScriptedPeer,
} from '../../test/support/scripted-peer.ts'
import {
  C_CONNECTED,
  C_WF_CONNECTION,
  D_CONSISTENT,
  D_DISKLESS,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_UPTODATE,
  R_PRIMARY,
  R_SECONDARY,
  UF_DISCARD_MY_DATA,
  UF_SKIP_INITIAL_SYNC,
  UUID_JUST_CREATED,
} from '../wire/drbd/constants.ts'
import { decodeStateWord } from '../wire/drbd/state-word.ts'
import { PARTING_MS } from './limits.ts'

const COPRIME: PeerOptions = { features: { features: COPRIME_FEATURES } }

function meet(
  hostOptions: HostOptions,
  peerOptions: PeerOptions,
  prepare: (host: EngineHost) => void = () => {},
): Scene {
  const host = new EngineHost(hostOptions)
  const peer = new ScriptedPeer(host)
  host.attach()
  prepare(host)
  peer.openStreams(peerOptions)
  peer.sendFeatures()
  peer.introduce()
  return { host, peer }
}

function assertRefused({ host, peer }: Scene, pattern: RegExp): void {
  assert.equal(host.engine.status().connection, 'StandAlone')
  assert.match(host.engine.status().connectionReason ?? '', pattern)
  // What the peer still sends, while it comes to the same end, is not looked at.
  peer.sendState({ conn: C_CONNECTED, pdsk: D_UPTODATE })
  peer.onMeta({ type: 'P_PING', volume: 0 })
  assert.equal(host.engine.status().connection, 'StandAlone')
  host.advance(PARTING_MS)
  assert.deepEqual([peer.closed.has(peer.data), peer.closed.has(peer.meta)], [true, true])
}

describe('the burst of the handshake', () => {
  it('tells the peer how fast to resync as it is configured', () => {
    const resyncPace = { resyncRateKib: 7168, cPlanAhead: 0, cDelayTarget: 11, cFillTarget: 12, cMaxRateKib: 8192 }
    const { peer } = meet({ volumes: [{ settings: { resyncPace } }] }, {})
    const { resyncRateKib, cPlanAhead, cDelayTarget, cFillTarget, cMaxRateKib } = peer.one('P_SYNC_PARAM89')
    assert.deepEqual({ resyncRateKib, cPlanAhead, cDelayTarget, cFillTarget, cMaxRateKib }, resyncPace)
  })

  it('P_PROTOCOL, then for each volume parameters, P_SIZES, P_UUIDS, P_STATE; the state still says WFConnection', () => {
    const host = new EngineHost({ volumes: [{}, {}] })
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams()
    peer.take()
    peer.sendFeatures()
    const sent = peer.take()
    const volume = ['P_SYNC_PARAM89', 'P_SIZES', 'P_UUIDS', 'P_STATE']
    assert.deepEqual(
      sent.map(({ packet }) => packet.type),
      ['P_PROTOCOL', ...volume, ...volume],
    )
    assert.deepEqual(
      sent.map(({ packet }) => packet.volume),
      [0, 0, 0, 0, 0, 1, 1, 1, 1],
    )
    for (const { packet } of sent)
      if (packet.type === 'P_STATE') assert.equal(decodeStateWord(packet.state).conn, C_WF_CONNECTION)
  })

  it('without a disk: no P_UUIDS', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    peer.openStreams()
    peer.take()
    peer.sendFeatures()
    assert.deepEqual(peer.types(), ['P_PROTOCOL', 'P_SYNC_PARAM89', 'P_SIZES', 'P_STATE'])
  })

  it('on leaving WFReportParams the state is sent again', () => {
    const { host, peer } = meet({}, COPRIME)
    assert.equal(host.volume.state.conn, C_CONNECTED)
    const state = peer.taken('P_STATE').at(-1)
    assert.equal(decodeStateWord(state?.state ?? 0).conn, C_CONNECTED)
  })
})

describe('sizes (4.1)', () => {
  it('the smaller disk decides, if nothing is lost by it', () => {
    const { host } = meet(
      { volumes: [{ superblock: 'fresh' }] },
      {
        sizes: { backingSectors: 1024, currentSectors: 1024 },
        state: { disk: D_INCONSISTENT },
        uuids: { current: UUID_JUST_CREATED },
      },
    )
    assert.equal(host.volume.sizeSectors, 1024)
    assert.equal(host.superblock.laSizeSectors, 1024)
  })

  it('a size that the administrator set on either side is a cap', () => {
    const fresh = { superblock: 'fresh' } as const
    const state = { disk: D_INCONSISTENT }
    const uuids = { current: UUID_JUST_CREATED }
    const own = meet({ volumes: [{ ...fresh, settings: { sizeSectors: 512 } }] }, { state, uuids })
    assert.equal(own.host.volume.sizeSectors, 512)
    const theirs = meet({ volumes: [fresh] }, { sizes: { userSectors: 768 }, state, uuids })
    assert.equal(theirs.host.volume.sizeSectors, 768)
  })

  it("the peer's disk is too small for the data here: StandAlone, both sizes are named", () => {
    assertRefused(meet({}, { sizes: { backingSectors: 1024, currentSectors: 1024 } }), /1024.*2048/)
  })

  it('a diskless Primary does not shrink', () => {
    const scene = meet({ volumes: [{ superblock: 'fresh' }] }, {})
    assert.notEqual(scene.host.engine.status().connection, 'StandAlone')
    const { host, peer } = meet({}, COPRIME, (one) => {
      one.promote()
    })
    host.admin({ type: 'detach', volume: 0, force: true })
    peer.sendSizes({ backingSectors: 1024, currentSectors: 1024 })
    assertRefused({ host, peer }, /1024.*2048/)
  })

  it('without a disk the size is that of the peer', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    peer.connectFully({ sizes: { currentSectors: 1536 } })
    assert.equal(host.volume.sizeSectors, 1536)
  })
})

describe('online resize (8.9)', () => {
  const GROWN = 4096

  /** A device of 2048 sectors on disks of 4096, by the option `size`; the engine is Primary. */
  function capped(role: 'primary' | 'secondary'): Scene {
    const volumes = [{ dataSectors: GROWN, superblock: { laSizeSectors: 2048 }, settings: { sizeSectors: 2048 } }]
    const sizes = { backingSectors: GROWN, userSectors: 2048, currentSectors: 2048 }
    const made = connectedScene({ volumes }, { sizes }, role)
    assert.equal(made.host.volume.sizeSectors, 2048)
    return made
  }

  it('asked for by the peer, which is Primary: the size is taken, the new space is resynced from there', () => {
    const { host, peer } = capped('secondary')
    peer.sendState({ conn: C_CONNECTED, role: R_PRIMARY, pdsk: D_UPTODATE })
    peer.take()
    peer.sendSizes({ backingSectors: GROWN, userSectors: 0, currentSectors: 0 })
    const { currentSectors, userSectors } = peer.one('P_SIZES')
    assert.deepEqual([currentSectors, userSectors], [GROWN, 0])
    assert.equal(host.volume.bitmap?.count, (GROWN - 2048) / 8)
    peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: 0x5550n })
    assert.equal(host.volume.status().connection, 'SyncTarget')
  })

  it('asked for here: the peer is asked for its size, and this Primary is the source', () => {
    const { host, peer } = capped('primary')
    assert.equal(host.admin({ type: 'resize', volume: 0, sizeSectors: 0, assumeClean: false })?.code, 0)
    assert.equal(peer.one('P_SIZES').currentSectors, 0)
    assert.deepEqual(peer.taken('P_SYNC_UUID'), [])
    peer.sendSizes({ backingSectors: GROWN, userSectors: 0, currentSectors: GROWN })
    assert.equal(peer.taken('P_SYNC_UUID').length, 1)
    assert.deepEqual([host.volume.status().connection, host.volume.sizeSectors], ['SyncSource', GROWN])
    assert.equal(host.admin({ type: 'resize', volume: 0, sizeSectors: 0, assumeClean: false })?.code, 130)
  })

  it('space that holds the same on both disks needs no resync', () => {
    const { host, peer } = capped('primary')
    host.admin({ type: 'resize', volume: 0, sizeSectors: 0, assumeClean: true })
    assert.equal(peer.one('P_SIZES').ddsFlags, 2)
    peer.sendSizes({ backingSectors: GROWN, userSectors: 0, currentSectors: GROWN, ddsFlags: 2 })
    assert.deepEqual([host.volume.status().connection, host.volume.bitmap?.count], ['Connected', 0])
    assert.equal(host.volume.sizeSectors, GROWN)
  })

  it('is refused without a Primary, without a peer, and for a smaller device', () => {
    const without = capped('secondary')
    assert.equal(without.host.admin({ type: 'resize', volume: 0, sizeSectors: 0, assumeClean: false })?.code, 131)
    const { host, peer } = capped('primary')
    assert.equal(host.admin({ type: 'resize', volume: 0, sizeSectors: 1024, assumeClean: false })?.code, 170)
    peer.sendSizes({ backingSectors: GROWN, userSectors: 1024, currentSectors: 2048 })
    assert.equal(host.volume.sizeSectors, 2048, 'a wish of the peer to shrink is not followed')
    peer.disconnect()
    assert.equal(host.admin({ type: 'resize', volume: 0, sizeSectors: 0, assumeClean: false })?.code, -15)
  })
})

describe('refusals', () => {
  it('the streams of a failed handshake end when the peer ends one, and at once when a new attempt is asked for', () => {
    for (const how of ['peer', 'connect'] as const) {
      const { host, peer } = meet(
        { volumes: [{ superblock: { bitmap: 0x50n } }] },
        { uuids: { current: 0x7770n, bitmap: 0x50n } },
      )
      const { data, meta } = peer
      assert.deepEqual([host.engine.status().connection, peer.closed.size], ['StandAlone', 0])
      if (how === 'connect') host.admin({ type: 'connect', discardMyData: false })
      else {
        peer.closed.add(meta)
        host.event({ type: 'socket.closed', socket: meta, reason: 'closed' })
      }
      assert.deepEqual([peer.closed.has(data), peer.closed.has(meta)], [true, true])
    }
  })

  it('unrelated data', () => {
    const uuids = { current: 0x7770n, history1: 0x10n, history2: 0x20n }
    assertRefused(meet({ volumes: [{ superblock: { history1: 0x30n, history2: 0x40n } }] }, { uuids }), /unrelated/)
  })

  it('split brain', () => {
    const uuids = { current: 0x7770n, bitmap: 0x50n }
    assertRefused(meet({ volumes: [{ superblock: { bitmap: 0x50n } }] }, { uuids }), /split brain/i)
  })

  it('both are Primary, which is not allowed', () => {
    const settings = { allowTwoPrimaries: false }
    const scene = meet({ settings }, { state: { role: R_PRIMARY } }, (host) => host.promote())
    assertRefused(scene, /\S/)
  })

  it('this host is Primary, but the peer has the newer data', () => {
    const scene = meet({}, { uuids: { current: 0x7770n, bitmap: GENERATION } }, (host) => {
      host.promote()
      host.volume.setUuids({ current: GENERATION, bitmap: 0n, history1: 0n, history2: 0n })
    })
    assertRefused(scene, /Primary/)
  })

  it('both hosts are to discard their data', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    host.admin({ type: 'connect', discardMyData: true })
    peer.openStreams({ protocol: { connFlags: 1 } })
    peer.sendFeatures()
    peer.introduce()
    assertRefused({ host, peer }, /discard/)
  })

  it('a split brain that one side gives in to: a resync, no refusal', () => {
    const host = new EngineHost({ volumes: [{ superblock: { bitmap: 0x50n } }] })
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams({ uuids: { current: 0x7770n, bitmap: 0x50n, uuidFlags: UF_DISCARD_MY_DATA } })
    peer.sendFeatures()
    peer.introduce()
    assert.equal(host.volume.status().connection, 'WFBitMapS', host.engine.connection.reason)
  })

  it('the reason stays until the next attempt', () => {
    const scene = meet({}, { uuids: { current: 0x7770n, history1: 0x10n, history2: 0x20n } })
    const { host } = scene
    assert.equal(host.engine.status().connection, 'StandAlone')
    host.admin({ type: 'connect', discardMyData: false })
    assert.equal(host.engine.status().connectionReason, undefined)
  })
})

describe('P_STATE', () => {
  it('a peer without a disk: Connected, nothing is compared', () => {
    const { host } = meet(
      {},
      { uuids: 'none', sizes: { backingSectors: 0, currentSectors: 0 }, state: { disk: D_DISKLESS } },
    )
    assert.deepEqual([host.volume.status().connection, host.volume.status().peerDisk], ['Connected', 'Diskless'])
  })

  it('an attach of the peer on a live connection: compared then', () => {
    const { host, peer } = meet(
      {},
      { uuids: 'none', sizes: { backingSectors: 0, currentSectors: 0 }, state: { disk: D_DISKLESS } },
    )
    peer.sendSizes({})
    peer.sendUuids({})
    peer.sendState({ conn: C_CONNECTED, disk: D_NEGOTIATING, pdsk: 8 })
    assert.deepEqual([host.volume.status().connection, host.volume.status().peerDisk], ['Connected', 'UpToDate'])
  })

  it('an attach of the peer with unrelated data is refused, the connection stays', () => {
    const { host, peer } = meet(
      { volumes: [{ superblock: { history1: 0x30n, history2: 0x40n } }] },
      { uuids: 'none', sizes: { backingSectors: 0, currentSectors: 0 }, state: { disk: D_DISKLESS } },
    )
    peer.sendSizes({})
    peer.sendUuids({ current: 0x7770n, history1: 0x10n, history2: 0x20n })
    peer.sendState({ conn: C_CONNECTED, disk: D_NEGOTIATING, pdsk: 8 })
    assert.deepEqual([host.volume.status().connection, host.volume.status().peerDisk], ['Connected', 'Diskless'])
  })

  it('negotiating before any P_UUIDS (gotcha 20) harms nobody', () => {
    const { host } = meet({}, { uuids: 'none', state: { disk: D_NEGOTIATING } })
    assert.equal(host.engine.connection.established, true)
    assert.notEqual(host.volume.state.pdsk, D_CONSISTENT)
  })
})

describe('two new disks', () => {
  it('two used disks: a promotion by force while both are Inconsistent makes the other one the target', () => {
    const pair = new Pair({ both: { volumes: [{ superblock: 'fresh' }] } })
    for (const [i, host] of [pair.a, pair.b].entries()) {
      host.volume.allZero = false
      host.data.write(8 * 512, sectorsOf(8, i + 1))
    }
    pair.connect('a')
    assert.equal(pair.b.volume.state.disk, D_INCONSISTENT)
    pair.a.event({ type: 'admin', id: 1_000_000, command: { type: 'primary', force: true } })
    pair.network.run()
    pair.network.advance(5000)
    for (const host of [pair.a, pair.b]) {
      assert.equal(host.volume.state.conn, C_CONNECTED)
      assert.equal(host.volume.state.disk, D_UPTODATE)
    }
    assert.deepEqual(pair.a.data.differences(pair.b.data), [])
    assert.deepEqual(pair.b.data.read(8 * 512, 4096), sectorsOf(8, 1), 'the data of the one that was promoted')
  })

  it('all zero on both sides, both of ours: UpToDate at once, no block is copied', () => {
    const pair = new Pair({ both: { volumes: [{ superblock: 'fresh' }] } })
    pair.connect('b')
    for (const host of [pair.a, pair.b]) {
      assert.deepEqual([host.volume.status().disk, host.volume.status().peerDisk], ['UpToDate', 'UpToDate'])
      assert.equal(host.volume.bitmap?.count, 0)
    }
    assert.equal(pair.a.superblock.current, pair.b.superblock.current)
    assert.notEqual(pair.a.superblock.current, UUID_JUST_CREATED)
  })

  it('towards a kernel-like peer: Inconsistent until the administrator decides', () => {
    const { host } = meet(
      { volumes: [{ superblock: 'fresh' }] },
      { state: { disk: D_INCONSISTENT }, uuids: { current: UUID_JUST_CREATED, uuidFlags: 4 } },
    )
    assert.deepEqual([host.volume.status().connection, host.volume.status().disk], ['Connected', 'Inconsistent'])
    assert.equal(host.engine.role, R_SECONDARY)
  })

  it('the peer skips the initial sync (4.3)', () => {
    const { host, peer } = meet(
      { volumes: [{ superblock: 'fresh' }] },
      { state: { disk: D_INCONSISTENT }, uuids: { current: UUID_JUST_CREATED, uuidFlags: 4 } },
    )
    peer.sendUuids({ current: 0x9990n, bitmap: UUID_JUST_CREATED, uuidFlags: UF_SKIP_INITIAL_SYNC })
    assert.deepEqual([host.volume.status().disk, host.volume.bitmap?.count], ['UpToDate', 0])
    assert.equal(host.superblock.current, 0x9990n)
    assert.equal(peer.taken('P_UUIDS').at(-1)?.current, 0x9990n, 'and the peer is told')
  })

  it('new-current-uuid --clear-bitmap skips it from here', () => {
    const { host, peer } = meet(
      { volumes: [{ superblock: 'fresh' }] },
      { state: { disk: D_INCONSISTENT }, uuids: { current: UUID_JUST_CREATED, uuidFlags: 4 } },
    )
    peer.take()
    host.admin({ type: 'new-current-uuid', volume: 0, clearBitmap: true })
    assert.deepEqual(peer.taken('P_UUIDS'), [], 'a state of the peer is still under way')
    peer.sendState({ conn: C_CONNECTED, disk: D_INCONSISTENT, pdsk: D_INCONSISTENT })
    const uuids = peer.one('P_UUIDS')
    assert.equal(uuids.uuidFlags & UF_SKIP_INITIAL_SYNC, UF_SKIP_INITIAL_SYNC)
    assert.equal(host.volume.status().disk, 'UpToDate')
  })
})
