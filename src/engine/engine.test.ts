// Goal: fencing, promotion, demotion and the commands of the administrator; and nothing that a peer sends ends the process.
// Method: one engine and a scripted peer. The last part throws thousands of packets at the engine, decodable and otherwise
// senseless, in every phase, and then wants a fresh connection to work.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { packetsOf, packetTypes } from '../../test/support/drbd-packets.ts'
import { EngineHost, GENERATION, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import {
  COPRIME_FEATURES,
  connectedScene,
  type PeerOptions,
  type Scene,
  ScriptedPeer,
} from '../../test/support/scripted-peer.ts'
import { Prng } from '../base/prng.ts'
import { sameGeneration } from '../meta/uuids.ts'
import {
  C_CONNECTED,
  C_MASK,
  C_STARTING_SYNC_S,
  C_STARTING_SYNC_T,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  C_WF_SYNC_UUID,
  D_DISKLESS,
  D_INCONSISTENT,
  D_MASK,
  D_OUTDATED,
  D_UPTODATE,
  R_MASK,
  R_PRIMARY,
  R_SECONDARY,
} from '../wire/drbd/constants.ts'
import { type Packet, type PacketType, packetEntry } from '../wire/drbd/packets.ts'
import { encodeStateWord, type StateWord } from '../wire/drbd/state-word.ts'

const COPRIME: PeerOptions = { features: { features: COPRIME_FEATURES } }

/** The peer flushes: nothing that it acknowledged is in doubt any more. */
function makeStable({ host, peer }: Scene): void {
  const id = host.flush()
  peer.ack('P_WRITE_ACK', peer.one('P_DATA'), { sizeBytes: 0 })
  assert.equal(host.answer(id), 'done')
  host.take()
  peer.take()
}

describe('fencing resource-and-stonith', () => {
  const settings = { fencing: 'resource-and-stonith' } as const

  function lost(): { scene: Scene; write: number; read: number } {
    const scene = connectedScene({ settings }, COPRIME)
    makeStable(scene)
    scene.peer.disconnect()
    const write = scene.host.write(8, sectorsOf(8, 1))
    const read = scene.host.read(64, 8)
    return { scene, write, read }
  }

  it('nothing is answered or started, reads neither, until the handler says that the peer is fenced (7)', () => {
    const { scene, write, read } = lost()
    const { host } = scene
    assert.deepEqual(host.handlers, ['fence-peer'])
    assert.deepEqual(host.volume.status().suspended, ['fencing'])
    assert.deepEqual(host.take('disk.write', 'disk.read', 'P_DATA', 'client'), [])
    assert.deepEqual([host.answer(write), host.answer(read)], ['open', 'open'])
    host.hold = (job) => job.text === 'meta.write superblock'
    host.handlerDone(7)
    assert.deepEqual([host.answer(write), host.answer(read)], ['open', 'open'], 'the new UUID is not on disk yet')
    host.completeAll()
    assert.deepEqual([host.answer(write), host.answer(read)], ['done', 'done'])
    assert.equal(sameGeneration(host.superblock.bitmap, GENERATION), true)
    assert.equal(host.volume.status().peerDisk, 'Outdated')
  })

  it('a write in flight when the peer is lost is not answered either', () => {
    const { host, peer } = connectedScene({ settings }, COPRIME)
    const id = host.write(8, sectorsOf(8, 1))
    peer.disconnect()
    assert.equal(host.answer(id), 'open')
    host.handlerDone(7)
    assert.equal(host.answer(id), 'done')
  })

  for (const [exitCode, peerDisk, goesOn] of [
    [3, 'Inconsistent', true],
    [4, 'Outdated', true],
    [5, 'Outdated', true],
    [7, 'Outdated', true],
    [0, 'DUnknown', false],
    [1, 'DUnknown', false],
    [20, 'DUnknown', false],
    [127, 'DUnknown', false],
  ] as const) {
    it(`exit code ${exitCode}: ${goesOn ? 'goes on' : 'stays frozen'}`, () => {
      const { scene, write, read } = lost()
      scene.host.handlerDone(exitCode)
      assert.equal(scene.host.volume.status().peerDisk, peerDisk)
      const expected = goesOn ? 'done' : 'open'
      assert.deepEqual([scene.host.answer(write), scene.host.answer(read)], [expected, expected])
    })
  }

  it('exit code 6, the peer is Primary: this host outdates itself and answers nothing as done', () => {
    const { scene, write, read } = lost()
    const { host } = scene
    host.handlerDone(6)
    assert.equal(host.volume.status().disk, 'Outdated')
    assert.notEqual(host.answer(write), 'done')
    assert.notEqual(host.answer(read), 'done')
    assert.equal(sameGeneration(host.superblock.current, GENERATION), true, 'no new generation')
  })

  it('resume-io: the administrator vouches for it', () => {
    const { scene, write } = lost()
    scene.host.handlerDone(1)
    assert.deepEqual(scene.host.admin({ type: 'resume-io' }), { code: 0, text: '' })
    assert.equal(scene.host.answer(write), 'done')
    assert.equal(sameGeneration(scene.host.superblock.bitmap, GENERATION), true)
  })

  it('the peer is back before anybody went on: I/O goes on with it', () => {
    const { scene, write, read } = lost()
    const { host, peer } = scene
    peer.connectFully(COPRIME)
    assert.deepEqual(host.volume.status().suspended, [])
    assert.equal(host.answer(read), 'done')
    peer.ack('P_WRITE_ACK', peer.taken('P_DATA').at(-1) ?? assert.fail('the write is sent'))
    assert.equal(host.answer(write), 'done')
    assert.equal(sameGeneration(host.superblock.current, GENERATION), true, 'no new generation was needed')
  })

  it('the result of a handler that was started for an earlier loss says nothing about this one', () => {
    const { scene, write } = lost()
    const { host, peer } = scene
    peer.connectFully(COPRIME)
    peer.disconnect()
    const second = host.write(64, sectorsOf(8, 1))
    host.handlerDone(7)
    assert.equal(host.answer(second), 'open', 'the peer was there after the handler had begun: it may be alive')
    assert.notEqual(host.answer(write), 'done')
    assert.deepEqual(host.handlers, ['fence-peer', 'fence-peer'], 'the handler runs again, for this loss')
  })

  it('without a handler it stays frozen', () => {
    const { host, peer } = connectedScene({ settings: { ...settings, fencePeerHandler: false } }, COPRIME)
    peer.disconnect()
    const id = host.write(8, sectorsOf(8, 1))
    peer.advance(100)
    assert.deepEqual(host.handlers, [])
    assert.equal(host.answer(id), 'open')
  })

  it('a Secondary fences nobody', () => {
    const { host, peer } = connectedScene({ settings }, COPRIME, 'secondary')
    peer.disconnect()
    assert.deepEqual(host.handlers, [])
  })
})

describe('fencing resource-only', () => {
  it('asks the handler, and goes on meanwhile', () => {
    const { host, peer } = connectedScene({ settings: { fencing: 'resource-only' } }, COPRIME)
    peer.disconnect()
    assert.deepEqual(host.handlers, ['fence-peer'])
    assert.equal(host.answer(host.write(8, sectorsOf(8, 1))), 'done')
    host.handlerDone(4)
    assert.equal(host.volume.status().peerDisk, 'Outdated')
  })
})

describe('promotion', () => {
  it('"was Primary" is on disk before the answer', () => {
    const host = new EngineHost()
    host.attach()
    host.hold = (job) => job.text === 'meta.write superblock'
    const id = host.admin({ type: 'primary', force: false })
    assert.equal(id, undefined)
    host.completeAll()
    assert.deepEqual([...host.results.values()].at(-1), { code: 0, text: '' })
    assert.equal(host.superblock.flags & 2, 2)
  })

  it('alone with a fencing policy: only after the handler', () => {
    for (const [exitCode, code] of [
      [7, 0],
      [4, 0],
      [1, -7],
    ] as const) {
      const host = new EngineHost({ settings: { fencing: 'resource-only' } })
      host.attach()
      assert.equal(host.admin({ type: 'primary', force: false }), undefined)
      assert.deepEqual(host.handlers, ['fence-peer'])
      host.handlerDone(exitCode)
      const result = [...host.results.values()].at(-1)
      if (code === 0) assert.deepEqual(result, { code: 0, text: '' })
      else assert.ok(result !== undefined && result.code < 0, JSON.stringify(result))
    }
  })

  it('asks the peer, and is refused with its reason', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    host.event({ type: 'admin', id: 77, command: { type: 'primary', force: false } })
    peer.one('P_STATE_CHG_REQ')
    assert.equal(host.results.has(77), false)
    peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: -1 })
    assert.equal(host.results.get(77)?.code, -1)
    assert.equal(host.engine.role, R_SECONDARY)
  })

  it('tries again when both hosts change their state at once', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    host.event({ type: 'admin', id: 77, command: { type: 'primary', force: false } })
    peer.one('P_STATE_CHG_REQ')
    peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: -19 })
    peer.advance(200)
    peer.one('P_STATE_CHG_REQ')
    peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    assert.equal(host.results.get(77)?.code, 0)
  })

  it('both at once: both become Primary, one after the other', () => {
    const pair = new Pair()
    pair.connect('a')
    for (const host of [pair.a, pair.b])
      host.event({ type: 'admin', id: 1, command: { type: 'primary', force: false } })
    pair.network.run()
    pair.network.advance(1000)
    for (const host of [pair.a, pair.b]) assert.equal(host.results.get(1)?.code, 0, host.name)
  })

  it('the connection is lost while the peer is asked: an answer all the same', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    host.event({ type: 'admin', id: 77, command: { type: 'primary', force: false } })
    peer.disconnect()
    peer.advance(500)
    assert.equal(host.results.get(77)?.code, 0, 'alone, with fencing dont-care, it may')
  })
})

describe('commands', () => {
  it('demotion waits for what is in flight, and until the peer has flushed; then "was Primary" is taken back', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    host.write(8, sectorsOf(8, 1))
    assert.equal(host.admin({ type: 'secondary' }), undefined)
    const packet = peer.one('P_DATA')
    peer.ack('P_WRITE_ACK', packet)
    assert.equal(host.engine.role, R_PRIMARY, 'what was written is made stable on both hosts first')
    const flush = peer.received.map((each) => each.packet).findLast((each) => each.type === 'P_DATA')
    assert.ok(flush?.type === 'P_DATA' && flush.payload.length === 0)
    peer.ack('P_WRITE_ACK', flush)
    assert.equal([...host.results.values()].at(-1)?.code, 0)
    assert.equal(host.engine.role, R_SECONDARY)
    assert.equal(host.superblock.flags & 2, 0)
  })

  it('a peer that is lost while it is to flush does not keep the demotion waiting', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    host.admin({ type: 'secondary' })
    peer.disconnect()
    assert.equal(host.engine.role, R_SECONDARY)
  })

  it('a device in use is not demoted', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.engine.deviceInUse = true
    assert.equal(host.admin({ type: 'secondary' })?.code, -12)
  })

  it('disconnect: the peer is asked, both streams are closed, StandAlone', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    host.event({ type: 'admin', id: 77, command: { type: 'disconnect', force: false } })
    peer.one('P_CONN_ST_CHG_REQ')
    peer.onMeta({ type: 'P_CONN_ST_CHG_REPLY', volume: 0, code: 1 })
    assert.equal(host.results.get(77)?.code, 0)
    assert.equal(host.engine.status().connection, 'StandAlone')
    assert.deepEqual([peer.closed.has(peer.data), peer.closed.has(peer.meta)], [true, true])
  })

  it('disconnect: the link dies while the peer is asked: StandAlone, no new attempt', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    host.event({ type: 'admin', id: 77, command: { type: 'disconnect', force: false } })
    peer.disconnect()
    host.advance(60_000)
    assert.equal(host.results.get(77)?.code, 0)
    assert.equal(host.engine.status().connection, 'StandAlone', 'the administrator was told that it is disconnected')
  })

  it('the peer disconnects: a reply, then the streams are closed, then this host looks for it again', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    peer.onData({ type: 'P_CONN_ST_CHG_REQ', volume: 0, mask: 0x1f0, value: 0x10 })
    assert.equal(peer.one('P_CONN_ST_CHG_REPLY').code, 1)
    assert.equal(host.engine.connection.established, false)
    host.advance(100)
    assert.equal(host.engine.status().connection, 'WFConnection')
  })

  it('down: demoted, disconnected, detached; everything is answered', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.write(8, sectorsOf(8, 1))
    assert.deepEqual(host.admin({ type: 'down' }), { code: 0, text: '' })
    assert.deepEqual(host.take('devices').at(-1), 'devices.close')
    assert.deepEqual([host.engine.status().connection, host.volume.status().disk], ['StandAlone', 'Diskless'])
    assert.deepEqual(host.admin({ type: 'attach', volume: 0 }), { code: 0, text: '' })
    assert.equal(host.volume.crashedPrimary, false)
  })

  for (const command of [
    { type: 'detach', volume: 0, force: false },
    { type: 'detach', volume: 0, force: true },
    { type: 'down' },
  ] as const) {
    const name = command.type === 'detach' && command.force ? 'detach --force' : command.type
    it(`${name} ends an attach whose devices are not open yet`, () => {
      const host = new EngineHost()
      host.holdDevices = true
      host.event({ type: 'admin', id: 77, command: { type: 'attach', volume: 0 } })
      assert.deepEqual(host.admin(command), { code: 0, text: '' })
      assert.equal(host.results.get(77)?.code, 118)
      host.openDevices(0)
      assert.equal(host.volume.status().disk, 'Diskless')
      assert.equal(host.take('devices').at(-1), 'devices.close')
      host.holdDevices = false
      host.attach()
      assert.equal(host.volume.status().disk, 'UpToDate')
    })

    it(`${name} ends an attach that reads its metadata`, () => {
      const host = new EngineHost()
      host.hold = (job) => job.text.startsWith('meta.read')
      host.event({ type: 'admin', id: 77, command: { type: 'attach', volume: 0 } })
      assert.deepEqual(host.admin(command), { code: 0, text: '' })
      assert.equal(host.results.get(77)?.code, 118)
      host.completeAll()
      assert.equal(host.volume.status().disk, 'Diskless')
      host.hold = () => false
      host.attach()
      assert.equal(host.volume.status().disk, 'UpToDate')
    })
  }

  it('attach, detach and attach again before the devices are open: they are opened once, and attached', () => {
    const host = new EngineHost()
    host.holdDevices = true
    host.event({ type: 'admin', id: 77, command: { type: 'attach', volume: 0 } })
    host.admin({ type: 'detach', volume: 0, force: true })
    host.event({ type: 'admin', id: 78, command: { type: 'attach', volume: 0 } })
    assert.deepEqual(host.take('devices'), ['devices.open'])
    host.openDevices(0)
    assert.deepEqual([host.results.get(77)?.code, host.results.get(78)?.code], [118, 0])
    assert.equal(host.volume.status().disk, 'UpToDate')
  })

  it('a forced detach during the last write of an attach: the attach is answered', () => {
    const host = new EngineHost()
    host.hold = (job) => job.text === 'meta.write superblock' && host.volume.store !== undefined
    host.event({ type: 'admin', id: 77, command: { type: 'attach', volume: 0 } })
    assert.equal(host.results.has(77), false)
    assert.deepEqual(host.admin({ type: 'detach', volume: 0, force: true }), { code: 0, text: '' })
    assert.equal(host.results.get(77)?.code, 118)
    assert.equal(host.volume.status().disk, 'Diskless')
  })

  it('down is answered also if the metadata can no longer be written', () => {
    const host = new EngineHost()
    host.attach()
    host.volume.markOutOfSync(0, 8)
    host.hold = (job) => job.text === 'meta.write bitmap'
    const result = host.admin({ type: 'down' })
    assert.equal(result, undefined)
    host.complete('meta.write bitmap', IO_ERROR)
    assert.equal(host.volume.status().disk, 'Diskless')
    assert.notEqual([...host.results.values()].length, 1, 'the command has an answer')
  })

  it('refusals carry the numbers of the driver', () => {
    const host = new EngineHost()
    assert.equal(host.admin({ type: 'attach', volume: 7 })?.code, 127)
    assert.equal(host.admin({ type: 'primary', force: false })?.code, -2)
    host.attach()
    assert.equal(host.admin({ type: 'attach', volume: 0 })?.code, 124)
    host.promote()
    assert.equal(host.admin({ type: 'connect', discardMyData: true })?.code, 123)
    assert.equal(host.admin({ type: 'connect', discardMyData: false })?.code, 0)
    assert.equal(host.admin({ type: 'connect', discardMyData: false })?.code, 125)
  })
})

// ---- whatever the peer sends ------------------------------------------------------------------------------------------

const word = (patch: Partial<StateWord>): number =>
  encodeStateWord({
    role: 0,
    peer: 0,
    conn: 0,
    disk: 0,
    pdsk: 0,
    susp: false,
    aftrIsp: false,
    peerIsp: false,
    userIsp: false,
    suspNod: false,
    suspFen: false,
    ...patch,
  })

describe('senseless packets that were found to be dangerous', () => {
  const request = { volume: 0, sector: 0, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff, sizeBytes: 4096 }

  it('P_OV_REQUEST without a verify-alg: the connection ends, not the process', () => {
    const { peer } = connectedScene({}, COPRIME)
    peer.onData({ type: 'P_OV_REQUEST', ...request })
  })

  it('P_CSUM_RS_REQUEST without a csums-alg', () => {
    const { peer } = connectedScene({}, COPRIME)
    peer.onData({ type: 'P_CSUM_RS_REQUEST', ...request, digest: new Uint8Array(4) })
  })

  it('P_PROTOCOL_UPDATE with an algorithm that is not known here, then a write', () => {
    const { peer } = connectedScene({}, COPRIME)
    const update = { protocol: 3, afterSb0p: 0, afterSb1p: 0, afterSb2p: 0, connFlags: 0, twoPrimaries: 1 }
    peer.onData({ type: 'P_PROTOCOL_UPDATE', volume: 0, ...update, integrityAlg: 'rot13' })
    peer.write(8, sectorsOf(8, 1))
  })

  it('P_SIZES with another size while writes are not flushed: the size changes (8.9) or the connection ends', () => {
    const { host, peer } = connectedScene(
      { volumes: [{ dataSectors: 4096, superblock: { laSizeSectors: 2048 } }] },
      {
        ...COPRIME,
        sizes: { backingSectors: 2048, currentSectors: 2048 },
      },
    )
    assert.equal(host.volume.sizeSectors, 2048)
    host.write(8, sectorsOf(8, 1))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    peer.sendSizes({ backingSectors: 4096, currentSectors: 4096 })
  })

  it('a request to make this disk Diskless does not leave half of it behind', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    peer.onData({ type: 'P_STATE_CHG_REQ', volume: 0, mask: word({ pdsk: D_MASK }), value: word({ pdsk: D_DISKLESS }) })
    const { disk } = host.volume.state
    assert.equal(disk === D_DISKLESS, host.volume.store === undefined, `disk state ${disk}`)
  })

  it('a request for a connection state that has no meaning here leaves the connection consistent', () => {
    for (let conn = 0; conn < 32; conn++) {
      const { host, peer } = connectedScene({}, COPRIME, 'secondary')
      peer.onData({ type: 'P_STATE_CHG_REQ', volume: 0, mask: word({ conn: C_MASK }), value: word({ conn }) })
      const up = host.volume.state.conn >= C_CONNECTED
      const expected = host.engine.connection.established && conn !== 9
      if (expected)
        assert.equal(up, true, `conn ${conn}: the streams are up, the volume is in state ${host.volume.state.conn}`)
    }
  })
})

describe('fuzz: packets with random fields, in any order and phase', () => {
  const context = { apv: 101, features: COPRIME_FEATURES, integrityBytes: 0 }
  const arbitrary = fc.constantFrom(...packetTypes).chain((type) => packetsOf(type, context))

  /** Bends the fields that would get every packet refused at the first look: volume, range, block ids in flight. */
  function aimed(packet: Packet, prng: Prng, peer: ScriptedPeer): Packet {
    const bent: Record<string, unknown> = { ...packet }
    if (prng.chance(19, 20)) bent['volume'] = 0
    if ('sector' in packet && prng.chance(9, 10)) bent['sector'] = prng.u32() % 2048
    if ('sizeBytes' in packet && prng.chance(9, 10)) bent['sizeBytes'] = 512 * (prng.u32() % 65)
    if ('sequence' in packet && prng.chance(9, 10)) bent['sequence'] = peer.nextSequence()
    if ('blockIdLo' in packet && prng.chance(1, 2)) bent['blockIdLo'] = prng.u32() % 40
    if (packet.type === 'P_STATE' && prng.chance(1, 2)) bent['state'] = plausibleState(prng)
    if ('mask' in packet && prng.chance(1, 2)) {
      bent['mask'] = word({
        role: prng.pick([0, R_MASK]),
        peer: prng.pick([0, R_MASK]),
        conn: prng.pick([0, C_MASK]),
        disk: prng.pick([0, D_MASK]),
        pdsk: prng.pick([0, D_MASK]),
      })
      bent['value'] = plausibleState(prng) & (bent['mask'] as number)
    }
    if (packet.type === 'P_UUIDS' && prng.chance(1, 2)) {
      const uuids = [0n, 4n, GENERATION, GENERATION | 1n, 0x77n]
      for (const slot of ['current', 'bitmap', 'history1', 'history2']) bent[slot] = prng.pick(uuids)
      bent['uuidFlags'] = prng.pick([0, 1, 2, 4, 8, 0x10000])
    }
    if (packet.type === 'P_SIZES' && prng.chance(3, 4))
      Object.assign(bent, {
        backingSectors: prng.pick([0, 2048, 4096]),
        userSectors: prng.pick([0, 0, 2048, 1024]),
        currentSectors: prng.pick([0, 2048]),
      })
    return bent as unknown as Packet
  }

  const plausibleState = (prng: Prng): number =>
    word({
      role: prng.pick([R_PRIMARY, R_SECONDARY]),
      peer: prng.pick([0, R_PRIMARY, R_SECONDARY]),
      conn: prng.pick([
        8,
        9,
        C_CONNECTED,
        C_STARTING_SYNC_S,
        C_STARTING_SYNC_T,
        C_WF_BITMAP_S,
        C_WF_BITMAP_T,
        15,
        16,
        17,
        18,
        19,
        20,
        21,
        22,
        23,
        prng.u32() & 31,
      ]),
      disk: prng.pick([D_DISKLESS, D_INCONSISTENT, D_OUTDATED, D_UPTODATE, D_UPTODATE, prng.u32() & 15]),
      pdsk: prng.pick([D_DISKLESS, D_INCONSISTENT, D_UPTODATE, prng.u32() & 15]),
      aftrIsp: prng.chance(1, 20),
      userIsp: prng.chance(1, 20),
    })

  const RUNS = 150
  const PACKETS_PER_RUN = 60

  it(`${RUNS * PACKETS_PER_RUN} packets never throw out of step, and a fresh connection works afterwards`, () => {
    const packets = fc.sample(arbitrary, { numRuns: RUNS * PACKETS_PER_RUN, seed: 20 })
    for (let run = 0; run < RUNS; run++) {
      const prng = new Prng(run + 1)
      const recent: string[] = []
      try {
        fuzzOnce(run, prng, packets.slice(run * PACKETS_PER_RUN, (run + 1) * PACKETS_PER_RUN), recent)
      } catch (cause) {
        throw new Error(
          `run ${run} of the fuzz test, after:\n${recent.slice(-12).join('\n')}\n${(cause as Error).stack}`,
          { cause },
        )
      }
    }
  })

  function fuzzOnce(run: number, prng: Prng, packets: readonly Packet[], recent: string[]): void {
    const host = new EngineHost({
      settings: {
        fencing: prng.pick(['dont-care', 'resource-and-stonith']),
        verifyAlg: prng.pick(['', 'crc32c']),
        csumsAlg: prng.pick(['', 'sha1']),
      },
      volumes: [{ dataSectors: prng.pick([2048, 4096]), superblock: prng.pick(['fresh', { laSizeSectors: 2048 }]) }],
    })
    const peer = new ScriptedPeer(host)
    if (prng.chance(9, 10)) host.attach()
    const phase = prng.pick([0, 1, 2, 3, 3, 4, 4, 4])
    peer.openStreams({ engineHoldsFlag: prng.chance(1, 2), features: { features: prng.pick([15, COPRIME_FEATURES]) } })
    if (phase > 0) peer.sendFeatures()
    if (phase > 1) peer.introduce()
    if (phase > 2) peer.sendState({ conn: C_CONNECTED, pdsk: D_UPTODATE })
    if (phase > 3) {
      host.event({ type: 'admin', id: 9, command: { type: 'primary', force: true } })
      peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    }
    for (const packet of packets) {
      const sent = aimed(packet, prng, peer)
      recent.push(
        JSON.stringify(sent, (_, value) =>
          typeof value === 'bigint' ? `${value}n` : value instanceof Uint8Array ? `${value.length} bytes` : value,
        ),
      )
      const { socket } = packetEntry(sent.type as PacketType)
      if ((socket === 'data') !== prng.chance(1, 10)) peer.onData(sent)
      else peer.onMeta(sent)
      if (prng.chance(1, 3)) answerSensibly(host, peer, prng)
      if (prng.chance(1, 6)) host.write(prng.u32() % 2000, sectorsOf(1 + (prng.u32() % 16), run & 0xff))
      if (prng.chance(1, 8)) host.read(prng.u32() % 2000, 8)
      if (prng.chance(1, 12)) host.flush()
      if (prng.chance(1, 12)) peer.advance(prng.u32() % 3000)
      if (!host.engine.connection.established && prng.chance(1, 3)) reconnect(host, peer)
    }
    worksAgain(host, peer)
  }

  /** Now and then what is due, so that the engine gets beyond the first steps of a resync, and its requests come to an end. */
  function answerSensibly(host: EngineHost, peer: ScriptedPeer, prng: Prng): void {
    const { conn } = host.volume.state
    const empty = new Uint8Array(0)
    if (conn === C_WF_BITMAP_S || conn === C_WF_BITMAP_T) {
      const payload = new Uint8Array(32)
      for (let i = 0; i < 4; i++) payload[prng.u32() % 32] = prng.u32() & 0xff
      peer.onData({ type: 'P_BITMAP', volume: 0, payload })
      peer.onData({ type: 'P_BITMAP', volume: 0, payload: empty })
    } else if (conn === C_WF_SYNC_UUID) peer.onData({ type: 'P_SYNC_UUID', volume: 0, uuid: prng.u64() })
    for (const { packet } of peer.take()) {
      if (prng.chance(1, 3)) continue
      if (packet.type === 'P_DATA' || packet.type === 'P_ZEROES')
        peer.ack(prng.pick(['P_WRITE_ACK', 'P_RS_WRITE_ACK', 'P_SUPERSEDED', 'P_RETRY_WRITE', 'P_NEG_ACK']), packet)
      else if (packet.type === 'P_RS_THIN_REQ' || packet.type === 'P_DATA_REQUEST') {
        const type = packet.type === 'P_DATA_REQUEST' ? 'P_DATA_REPLY' : 'P_RS_DATA_REPLY'
        const payload = sectorsOf(packet.sizeBytes / 512, 0x5a)
        peer.onData({ ...packet, type, sequence: 0, flags: 0, digest: empty, payload })
      } else if (packet.type === 'P_STATE_CHG_REQ')
        peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: prng.pick([1, 2, -1, -19, 0]) })
    }
  }

  function reconnect(host: EngineHost, peer: ScriptedPeer): void {
    peer.disconnect()
    host.advance(2000)
    if (host.engine.connection.conn !== 0 && !(peer.listening && peer.dialling)) return
    peer.openStreams({})
    peer.sendFeatures()
    peer.introduce()
  }

  /** Whatever happened: the host forgets its peer and its disk, and a new life begins with a working connection. */
  function worksAgain(host: EngineHost, peer: ScriptedPeer): void {
    host.admin({ type: 'disconnect', force: true })
    peer.disconnect()
    host.handlerDone(7)
    host.admin({ type: 'resume-io' })
    if (host.engine.role === R_PRIMARY) host.admin({ type: 'secondary' })
    // The first one may count as outdated by what the peer has told of its generations, until an administrator knows better.
    for (let disks = 0; ; disks++) {
      host.admin({ type: 'detach', volume: 0, force: true })
      assert.equal(host.volume.status().disk, 'Diskless')
      host.disks[0] = new EngineHost().diskAt(0)
      assert.equal(host.admin({ type: 'attach', volume: 0 })?.code, 0, 'the disk can be attached again')
      if (disks > 0) break
      host.admin({ type: 'primary', force: true })
      host.handlerDone(7)
      assert.equal(host.volume.status().disk, 'UpToDate')
      assert.equal(host.admin({ type: 'secondary' })?.code, 0)
    }
    peer.take()
    peer.connectFully(COPRIME)
    assert.equal(host.volume.state.conn, C_CONNECTED, host.engine.connection.reason)
    const generation = host.volume.bitmap?.count
    assert.equal(generation, 0)
    peer.write(8, sectorsOf(8, 5))
    assert.deepEqual(host.data.read(8 * 512, 4096), sectorsOf(8, 5))
    assert.equal(peer.taken('P_WRITE_ACK').length, 1)
  }
})
