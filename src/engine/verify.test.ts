// Goal: online verify finds what differs and nothing else, whoever asks for it and whatever is written meanwhile (8.10).
// Method: one engine beside a scripted peer, as initiator and as target; two engines with blocks altered behind their backs and
// random writes from both, over seeds.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { sectorsOf } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import { connectedScene, type PeerOptions, type Scene } from '../../test/support/scripted-peer.ts'
import { Prng } from '../base/prng.ts'
import { SimDigests } from '../sim/digests.ts'
import { C_CONNECTED, C_VERIFY_S, C_VERIFY_T, D_UPTODATE } from '../wire/drbd/constants.ts'
import { REQUEST_VERIFY } from './state-rules.ts'

const BLOCK = 4096
const SECTORS = 2048
const SETTINGS = { verifyAlg: 'sha1', allowTwoPrimaries: true }
const VERIFY = { type: 'verify', volume: 0, startSector: 0, stopSector: undefined } as const

const digestOf = (data: Uint8Array): Uint8Array => new SimDigests().digest('sha1', data)

function scene(peerOptions: PeerOptions = {}): Scene {
  return connectedScene({ settings: SETTINGS }, { syncParam: { verifyAlg: 'sha1' }, ...peerOptions })
}

/** The peer has agreed: the engine asks for its blocks. */
function initiator(stopSector: number | undefined): Scene {
  const made = scene()
  const { host, peer } = made
  host.admin({ ...VERIFY, stopSector })
  const request = peer.one('P_STATE_CHG_REQ')
  assert.deepEqual([request.mask, request.value], [REQUEST_VERIFY.mask, REQUEST_VERIFY.value])
  peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
  assert.equal(host.volume.state.conn, C_VERIFY_S)
  return made
}

function reply({ peer }: Scene, block: number, data: Uint8Array): void {
  const head = { volume: 0, sector: block * 8, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff, sizeBytes: BLOCK }
  peer.onData({ type: 'P_OV_REPLY', ...head, digest: digestOf(data) })
}

function target(apvMax: number): Scene {
  const made = scene({ features: { protocolMax: apvMax } })
  made.peer.onData({ type: 'P_STATE_CHG_REQ', volume: 0, ...REQUEST_VERIFY })
  assert.equal(made.host.volume.state.conn, C_VERIFY_T)
  made.peer.take()
  return made
}

function ask({ peer }: Scene, block: number): void {
  const head = { volume: 0, sector: block * 8, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff }
  peer.onData({ type: 'P_OV_REQUEST', ...head, sizeBytes: BLOCK })
}

function result({ peer }: Scene, block: number, verdict: number): void {
  const sequence = peer.nextSequence()
  const head = { volume: 0, sector: block * 8, blockIdHi: 0, blockIdLo: verdict, sizeBytes: BLOCK, sequence }
  peer.onMeta({ type: 'P_OV_RESULT', ...head })
}

describe('initiator', () => {
  it('asks block by block, tells each result, and is done behind a ping', () => {
    const made = initiator(24)
    const { host, peer } = made
    assert.deepEqual(
      peer.taken('P_OV_REQUEST').map(({ sector, sizeBytes }) => [sector, sizeBytes]),
      [0, 8, 16].map((sector) => [sector, BLOCK]),
    )
    peer.answersPings = false
    reply(made, 1, sectorsOf(8, 0x55))
    reply(made, 0, host.data.read(0, BLOCK))
    reply(made, 2, host.data.read(2 * BLOCK, BLOCK))
    assert.deepEqual(
      peer.taken('P_OV_RESULT').map(({ sector, blockIdLo }) => [sector, blockIdLo]),
      [
        [8, 4712],
        [0, 4711],
        [16, 4711],
      ],
    )
    assert.equal(host.volume.state.conn, C_VERIFY_S)
    assert.deepEqual(peer.taken('P_STATE'), [])
    peer.onMeta({ type: 'P_PING_ACK', volume: 0 })
    assert.equal(host.volume.state.conn, C_CONNECTED)
    assert.equal(peer.taken('P_STATE').length, 1)
    assert.equal(host.volume.bitmap?.count, 1)
    assert.equal(host.volume.bitmap?.anySet(1, 2), true)
  })

  it('an own write to the block waits for the result, others do not', () => {
    const made = initiator(8)
    const { host, peer } = made
    const held = host.write(0, sectorsOf(1, 1))
    host.write(64, sectorsOf(1, 2))
    assert.deepEqual(
      peer.taken('P_DATA').map(({ sector }) => sector),
      [64],
    )
    reply(made, 0, host.data.read(0, BLOCK))
    assert.equal(peer.one('P_OV_RESULT').blockIdLo, 4711)
    assert.equal(peer.one('P_DATA').sector, 0)
    assert.equal(host.answer(held), 'open')
  })

  it('reads its own block only when what the peer wrote before is on the disk', () => {
    const made = initiator(8)
    const { host, peer } = made
    host.hold = (job) => job.text.startsWith('disk.write')
    const data = sectorsOf(8, 0x77)
    peer.write(0, data)
    reply(made, 0, data)
    assert.deepEqual(peer.taken('P_OV_RESULT'), [])
    host.completeAll()
    assert.equal(peer.one('P_OV_RESULT').blockIdLo, 4711)
  })

  it('the peer refuses: nothing begins', () => {
    const { host, peer } = scene()
    const id = 77
    host.event({ type: 'admin', id, command: VERIFY })
    peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: -8 })
    assert.equal(host.results.get(id)?.code, -8)
    assert.equal(host.volume.state.conn, C_CONNECTED)
  })

  it('without verify-alg, or without a peer, it is refused here', () => {
    const without = connectedScene()
    assert.equal(without.host.admin(VERIFY)?.code, -14)
    const { host, peer } = scene()
    peer.disconnect()
    assert.equal(host.admin(VERIFY)?.code, -6)
  })

  it('the connection is lost in the middle: held writes go on', () => {
    const { host, peer } = initiator(64)
    const write = host.write(0, sectorsOf(1, 1))
    peer.disconnect()
    assert.equal(host.answer(write), 'done')
    assert.equal(host.volume.io.quiet, true)
  })
})

describe('target', () => {
  it('an own write to a block that was answered waits for the result', () => {
    const made = target(101)
    const { host, peer } = made
    ask(made, 3)
    assert.deepEqual(peer.one('P_OV_REPLY').digest, digestOf(new Uint8Array(BLOCK)))
    host.write(24, sectorsOf(1, 9))
    assert.deepEqual(peer.taken('P_DATA'), [])
    result(made, 3, 4712)
    assert.equal(peer.one('P_DATA').sector, 24)
    assert.equal(host.volume.bitmap?.anySet(3, 4), true)
    peer.sendState({ conn: C_CONNECTED, disk: D_UPTODATE, pdsk: D_UPTODATE })
    assert.equal(host.volume.state.conn, C_CONNECTED)
  })

  it('a write of the peer does not wait for the result', () => {
    const made = target(101)
    ask(made, 3)
    made.peer.take()
    made.peer.write(24, sectorsOf(1, 9))
    assert.equal(made.peer.taken('P_WRITE_ACK').length, 1)
  })

  it('at version 100, where no state tells the end, it counts the results down', () => {
    const made = target(100)
    const last = SECTORS / 8 - 1
    ask(made, last - 1)
    result(made, last - 1, 4711)
    assert.equal(made.host.volume.state.conn, C_VERIFY_T)
    ask(made, last)
    result(made, last, 4711)
    assert.equal(made.host.volume.state.conn, C_CONNECTED)
  })
})

describe('two engines', () => {
  for (let seed = 1; seed <= 30; seed++) {
    it(`finds the altered blocks and no other, seed ${seed}`, () => {
      const prng = new Prng(seed)
      const pair = new Pair({ both: { settings: SETTINGS } })
      pair.connect()
      pair.promoteBoth()
      const altered = [5, 6, 100, 255].filter(() => prng.chance(2, 3))
      const host = prng.chance(1, 2) ? pair.a : pair.b
      for (const block of altered) host.data.write(block * BLOCK, sectorsOf(1, 0xee))
      pair.network.pick = (count) => prng.intInclusive(0, count - 1)
      pair.network.completesHeldJobs = true
      for (const one of [pair.a, pair.b]) one.hold = (job) => job.text.startsWith('disk') && prng.chance(1, 2)
      const starter = prng.chance(1, 2) ? pair.a : pair.b
      // Clients write to whole blocks that nobody has altered.
      for (let i = 0; i < 90; i++) {
        if (i === 30) starter.event({ type: 'admin', id: 9_000_000, command: VERIFY })
        const writer = prng.chance(1, 2) ? pair.a : pair.b
        writer.write(prng.intInclusive(10, 90) * 8, sectorsOf(8, i))
        pair.network.run(prng.intInclusive(1, 8))
      }
      pair.network.run()
      pair.network.advance(5000)
      assert.equal(starter.results.get(9_000_000)?.code, 0)
      for (const { volume } of [pair.a, pair.b]) {
        assert.equal(volume.state.conn, C_CONNECTED)
        assert.equal(volume.bitmap?.count, altered.length)
        for (const block of altered) assert.equal(volume.bitmap?.anySet(block, block + 1), true)
      }
    })
  }
})
