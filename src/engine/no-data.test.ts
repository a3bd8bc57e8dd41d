// Goal: a Primary that can reach no UpToDate data does what on-no-data-accessible says: errors at once, or nothing until there
// are data again, and then each request has its effect once. Method: one engine and a peer whose packets are written by hand.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, GENERATION, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import { COPRIME_FEATURES, connectedScene, type Scene } from '../../test/support/scripted-peer.ts'
import {
  C_CONNECTED,
  D_DISKLESS,
  D_UPTODATE,
  R_PRIMARY,
  SS_IN_TRANSIENT_STATE,
  SS_SUCCESS,
} from '../wire/drbd/constants.ts'
import { encodeCookies } from './in-doubt.ts'
import { REQUEST_PRIMARY } from './state-rules.ts'

const COPRIME = { features: { features: COPRIME_FEATURES } }
const SUSPEND = { settings: { onNoDataAccessible: 'suspend-io' } } as const
/** What the peer makes of the loss of our disk. */
const NEXT_GENERATION = 0x2222_0000_0000_0000n

/** A Primary whose disk has failed: all it has is the peer's. */
function disklessScene(policy: 'io-error' | 'suspend-io'): Scene {
  const scene = connectedScene({ settings: { onNoDataAccessible: policy } }, COPRIME)
  const { host, peer } = scene
  host.hold = ({ text }) => text === 'disk.write 64+1'
  const id = host.write(64, sectorsOf(1, 64))
  const packet = peer.one('P_DATA')
  host.complete('disk.write 64+1', IO_ERROR)
  host.hold = () => false
  peer.ack('P_WRITE_ACK', packet)
  assert.equal(host.answer(id), 'open', 'the metadata of the peer may not know yet that it is the only one who has it')
  peer.sendUuids({ current: NEXT_GENERATION, bitmap: GENERATION })
  assert.equal(host.answer(id), 'done')
  assert.deepEqual([host.volume.status().disk, host.volume.status().peerDisk], ['Diskless', 'UpToDate'])
  peer.take()
  return scene
}

const suspendedOf = (host: EngineHost): readonly string[] => host.volume.status().suspended

function reconnect({ peer }: Scene, current = NEXT_GENERATION): void {
  peer.openStreams({ ...COPRIME, uuids: { current, bitmap: GENERATION }, state: { pdsk: D_DISKLESS } })
  peer.sendFeatures()
  peer.introduce()
}

describe('on-no-data-accessible io-error', () => {
  it('requests of a diskless Primary fail when the peer is lost, and so do later ones', () => {
    const { host, peer } = disklessScene('io-error')
    const before = [host.write(8, sectorsOf(1, 8)), host.read(16, 1), host.flush()]
    assert.deepEqual(peer.taken('P_DATA').length, 2)
    peer.disconnect()
    const after = [host.write(8, sectorsOf(1, 8)), host.read(16, 1), host.flush()]
    for (const id of [...before, ...after]) assert.equal(host.answer(id), 'io')
    assert.deepEqual(suspendedOf(host), [])
  })
})

describe('on-no-data-accessible suspend-io', () => {
  it('holds requests while the peer is away, asks what became of those in flight, and sends what was not applied', () => {
    const scene = disklessScene('suspend-io')
    const { host, peer } = scene
    const inFlight = [host.write(8, sectorsOf(1, 8)), host.write(16, sectorsOf(1, 16)), host.read(24, 1)]
    const sent = peer.taken('P_DATA')
    assert.equal(sent.length, 2)
    peer.disconnect()
    assert.deepEqual(suspendedOf(host), ['no-data'])
    const later = [host.write(32, sectorsOf(1, 32)), host.read(8, 1), host.flush()]
    const all = [...inFlight, ...later]
    host.advance(60_000)
    assert.deepEqual(
      all.map((id) => host.answer(id)),
      all.map(() => 'open'),
    )

    reconnect(scene)
    assert.deepEqual(suspendedOf(host), [])
    const asked = peer.one('P_IN_DOUBT')
    assert.deepEqual(asked.payload, encodeCookies(sent.map((packet) => packet.blockIdLo)))
    assert.deepEqual(
      peer.taken('P_DATA').map((packet) => packet.sector),
      [32],
      'nothing that is in doubt goes out again before the answer',
    )
    peer.onData({ type: 'P_APPLIED', volume: 0, payload: encodeCookies([sent[0]?.blockIdLo ?? 0]) })
    assert.equal(host.answer(inFlight[0] as number), 'done')
    const again = peer.taken('P_DATA')
    assert.deepEqual(
      again.map((packet) => `${packet.sector}, ${packet.payload.length} bytes`),
      ['0, 0 bytes', '16, 512 bytes'],
      'the flush, and the one that was not applied',
    )
    for (const packet of again) peer.ack('P_WRITE_ACK', packet)
    assert.deepEqual([host.answer(inFlight[1] as number), host.answer(later[2] as number)], ['done', 'done'])
  })

  it('lets nobody become Primary on a peer that came back before what was in doubt is applied', () => {
    const scene = disklessScene('suspend-io')
    const { host, peer } = scene
    const id = host.write(8, sectorsOf(1, 8))
    peer.taken('P_DATA')
    peer.disconnect()
    reconnect(scene)
    const promotion = { type: 'P_STATE_CHG_REQ', volume: 0, ...REQUEST_PRIMARY } as const
    peer.take()
    peer.onData(promotion)
    assert.equal(peer.one('P_STATE_CHG_REPLY').code, SS_IN_TRANSIENT_STATE)
    peer.onData({ type: 'P_APPLIED', volume: 0, payload: encodeCookies([]) })
    peer.onData(promotion)
    assert.equal(peer.one('P_STATE_CHG_REPLY').code, SS_IN_TRANSIENT_STATE)
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    assert.equal(host.answer(id), 'done')
    peer.onData(promotion)
    assert.equal(peer.one('P_STATE_CHG_REPLY').code, SS_SUCCESS)
  })

  it('a write that failed on the last good disk is written when the disk is attached again, under its log', () => {
    const host = new EngineHost(SUSPEND)
    host.attach()
    host.promote()
    host.hold = ({ text }) => text.startsWith('disk.')
    const write = host.write(8, sectorsOf(1, 8))
    const read = host.read(64, 1)
    const flush = host.flush()
    host.complete('disk.write', IO_ERROR)
    assert.deepEqual(suspendedOf(host), ['no-data'])
    host.completeAll()
    host.hold = () => false
    assert.deepEqual([host.answer(write), host.answer(read), host.answer(flush)], ['open', 'open', 'open'])
    host.take()

    host.attach()
    assert.deepEqual(suspendedOf(host), [])
    assert.deepEqual([host.answer(write), host.answer(read), host.answer(flush)], ['done', 'done', 'done'])
    assert.deepEqual(host.data.read(8 * 512, 512), sectorsOf(1, 8))
    const order = host.take('disk.write', 'meta.write log')
    assert.ok(order.indexOf('meta.write log') < order.indexOf('disk.write 8+1'), order.join(', '))
  })

  it('resume-io gives up waiting: errors now and from now on, until there have been data again', () => {
    const scene = disklessScene('suspend-io')
    const { host, peer } = scene
    const held = [host.write(8, sectorsOf(1, 8)), host.flush()]
    peer.taken('P_DATA')
    peer.disconnect()
    held.push(host.write(16, sectorsOf(1, 16)), host.read(24, 1), host.flush())
    host.admin({ type: 'resume-io' })
    const after = [host.write(16, sectorsOf(1, 16)), host.read(24, 1), host.flush()]
    for (const id of [...held, ...after]) assert.equal(host.answer(id), 'io')
    reconnect(scene)
    const write = host.write(16, sectorsOf(1, 16))
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    assert.equal(host.answer(write), 'done')
    peer.disconnect()
    assert.deepEqual(suspendedOf(host), ['no-data'])
  })

  it("a write that the peer's failing disk refused waits for that disk", () => {
    const { host, peer } = disklessScene('suspend-io')
    const id = host.write(8, sectorsOf(1, 8))
    peer.ack('P_NEG_ACK', peer.one('P_DATA'), { sizeBytes: 512 })
    assert.equal(host.answer(id), 'open')
    peer.sendState({ conn: C_CONNECTED, disk: D_DISKLESS, pdsk: D_DISKLESS, peer: R_PRIMARY })
    assert.deepEqual([host.answer(id), suspendedOf(host)], ['open', ['no-data']])
    assert.deepEqual(peer.taken('P_DATA'), [])
    peer.sendUuids({ current: NEXT_GENERATION, bitmap: GENERATION })
    peer.sendState({ conn: C_CONNECTED, disk: D_UPTODATE, pdsk: D_DISKLESS, peer: R_PRIMARY })
    assert.deepEqual(suspendedOf(host), [])
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    assert.equal(host.answer(id), 'done')
  })

  it('does not hold a Primary that has data on one side', () => {
    const { host, peer } = connectedScene(SUSPEND, COPRIME)
    peer.disconnect()
    assert.deepEqual(suspendedOf(host), [])
    const id = host.write(8, sectorsOf(1, 8))
    assert.equal(host.answer(id), 'done')
  })
})

it('a disk may be attached while a flush is on its way to the peer', () => {
  const { host, peer } = disklessScene('io-error')
  const flush = host.flush()
  const packet = peer.one('P_DATA')
  host.admin({ type: 'attach', volume: 0 })
  assert.notEqual(host.volume.status().disk, 'Diskless')
  peer.ack('P_WRITE_ACK', packet)
  assert.equal(host.answer(flush), 'done')
})

describe('the data that clients saw last', () => {
  it('a diskless Primary takes up its own disk only in their generation: the peer went on with others', () => {
    const { host, peer } = disklessScene('suspend-io')
    const id = host.read(8, 1)
    peer.disconnect()
    assert.equal(host.admin({ type: 'attach', volume: 0 })?.code, 150)
    assert.equal(host.volume.status().disk, 'Diskless')
    assert.equal(host.answer(id), 'open')
  })

  it('and only a peer that has them: another generation ends in StandAlone', () => {
    const scene = disklessScene('suspend-io')
    const { host, peer } = scene
    peer.disconnect()
    reconnect(scene, 0x3333_0000_0000_0000n)
    assert.equal(host.engine.status().connection, 'StandAlone')
    assert.match(host.engine.status().connectionReason ?? '', /not those that clients of this host saw last/)
    assert.deepEqual(suspendedOf(host), ['no-data'])
  })
})
