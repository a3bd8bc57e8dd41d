// Goal: two hosts that look for each other find each other, whoever dials first and whatever crosses; exactly one of them holds
// the resolve-conflicts flag (1.2, 1.3).
// Method: the usual orders by hand; then random orders of dialling, delivery and closing over many seeds.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost } from '../../test/support/engine-driver.ts'
import { Pair } from '../../test/support/engine-network.ts'
import { ScriptedPeer } from '../../test/support/scripted-peer.ts'
import { Prng } from '../base/prng.ts'

function looking(): { host: EngineHost; peer: ScriptedPeer } {
  const host = new EngineHost()
  const peer = new ScriptedPeer(host)
  host.attach()
  host.admin({ type: 'connect', discardMyData: false })
  assert.deepEqual(host.take('socket'), ['socket.listen', 'socket.connect'])
  return { host, peer }
}

describe('Connector', () => {
  it('dials data, is dialled for meta: it holds the flag', () => {
    const { host, peer } = looking()
    host.event({ type: 'socket.connected', socket: 1 })
    assert.deepEqual(host.take('P_'), ['P_INITIAL_DATA'])
    host.event({ type: 'socket.accepted', socket: 2 })
    host.event({ type: 'socket.packet', socket: 2, packet: { type: 'P_INITIAL_META', volume: 0 } })
    host.advance(99)
    assert.deepEqual(host.take('P_'), [], 'the pair has to survive a short while')
    host.advance(1)
    assert.deepEqual(host.take('P_'), ['P_CONNECTION_FEATURES'])
    assert.equal(host.engine.connection.resolveConflicts, true)
    assert.equal(peer.listening, false)
  })

  it('is dialled for data, dials meta at once: it does not', () => {
    const { host } = looking()
    host.event({ type: 'socket.connect-failed', reason: 'refused' })
    host.event({ type: 'socket.accepted', socket: 2 })
    host.event({ type: 'socket.packet', socket: 2, packet: { type: 'P_INITIAL_DATA', volume: 0 } })
    assert.deepEqual(host.take('socket.connect', 'socket.cancel'), ['socket.connect'])
    host.event({ type: 'socket.connected', socket: 3 })
    assert.deepEqual(host.take('P_'), ['P_INITIAL_META'])
    host.advance(100)
    assert.deepEqual(host.take('P_'), ['P_CONNECTION_FEATURES'])
    assert.equal(host.engine.connection.resolveConflicts, false)
  })

  it('the peer opens both streams', () => {
    const { host } = looking()
    for (const [socket, type] of [
      [2, 'P_INITIAL_DATA'],
      [3, 'P_INITIAL_META'],
    ] as const) {
      host.event({ type: 'socket.accepted', socket })
      host.event({ type: 'socket.packet', socket, packet: { type, volume: 0 } })
    }
    host.advance(100)
    assert.deepEqual(host.take('P_', 'socket.cancel'), ['socket.cancel-connect', 'P_CONNECTION_FEATURES'])
    assert.equal(host.engine.connection.resolveConflicts, true)
  })

  it('this host opens both streams, connect-int apart', () => {
    const { host } = looking()
    host.event({ type: 'socket.connected', socket: 1 })
    host.take()
    host.advance(12_000)
    assert.deepEqual(host.take('socket'), ['socket.connect'])
    host.event({ type: 'socket.connected', socket: 2 })
    assert.deepEqual(host.take('P_'), ['P_INITIAL_META'])
    host.advance(100)
    assert.deepEqual(host.take('P_'), ['P_CONNECTION_FEATURES'])
  })

  it('a stranger that says nothing is closed after four ping-timeouts, one that says something else at once', () => {
    const { host, peer } = looking()
    host.event({ type: 'socket.accepted', socket: 7 })
    host.advance(1999)
    assert.equal(peer.closed.has(7), false)
    host.advance(1)
    assert.equal(peer.closed.has(7), true)
    assert.match(host.logs.at(-1) ?? '', /stranger on the replication port: no packet came within 2000 ms/)
    host.event({ type: 'socket.accepted', socket: 8 })
    host.event({ type: 'socket.packet', socket: 8, packet: { type: 'P_PING', volume: 0 } })
    assert.equal(peer.closed.has(8), true)
    host.event({ type: 'socket.accepted', socket: 9 })
    host.event({ type: 'socket.garbage', socket: 9, reason: 'wrong magic' })
    assert.equal(peer.closed.has(9), true)
    assert.equal(host.engine.status().connection, 'WFConnection')
  })

  it('many strangers fill few lines of the log', () => {
    const { host } = looking()
    const lines = (): number => host.logs.filter((line) => line.includes('stranger')).length
    for (let socket = 100; socket < 200; socket++) {
      host.event({ type: 'socket.accepted', socket })
      host.event({ type: 'socket.garbage', socket, reason: 'wrong magic' })
    }
    assert.equal(lines(), 20)
    host.advance(60_000)
    host.event({ type: 'socket.accepted', socket: 200 })
    host.event({ type: 'socket.garbage', socket: 200, reason: 'wrong magic' })
    assert.match(host.logs.at(-1) ?? '', /wrong magic; it was closed \(and 80 more of this kind before\)/)
  })

  it('meta before data is closed', () => {
    const { host, peer } = looking()
    host.event({ type: 'socket.accepted', socket: 7 })
    host.event({ type: 'socket.packet', socket: 7, packet: { type: 'P_INITIAL_META', volume: 0 } })
    assert.equal(peer.closed.has(7), true)
  })

  it('crossed data streams: the older one is closed', () => {
    const { host, peer } = looking()
    host.event({ type: 'socket.connected', socket: 1 })
    host.event({ type: 'socket.accepted', socket: 2 })
    host.event({ type: 'socket.packet', socket: 2, packet: { type: 'P_INITIAL_DATA', volume: 0 } })
    assert.deepEqual([peer.closed.has(1), peer.closed.has(2)], [true, false])
    host.take()
    host.advance(1000)
    assert.deepEqual(host.take('socket'), ['socket.connect'])
  })

  it('a refused dial is tried again after connect-int, give or take a seventh', () => {
    const { host } = looking()
    host.event({ type: 'socket.connect-failed', reason: 'refused' })
    host.advance(8000)
    assert.deepEqual(host.take('socket'), [])
    host.advance(3500)
    assert.deepEqual(host.take('socket'), ['socket.connect'])
  })

  it('the data stream dies while the pair is on probation, and comes again: the pair is complete', () => {
    const { host } = looking()
    host.event({ type: 'socket.connected', socket: 1 })
    host.event({ type: 'socket.accepted', socket: 2 })
    host.event({ type: 'socket.packet', socket: 2, packet: { type: 'P_INITIAL_META', volume: 0 } })
    host.advance(50)
    host.event({ type: 'socket.closed', socket: 1, reason: 'reset' })
    host.advance(1000)
    assert.equal(host.take('socket.connect').length, 1)
    host.event({ type: 'socket.connected', socket: 3 })
    host.take()
    host.advance(60_000)
    assert.deepEqual(host.take('P_'), ['P_CONNECTION_FEATURES'], 'both streams are there: the handshake begins')
  })

  it('the same, and the peer dials the data stream', () => {
    const { host } = looking()
    host.event({ type: 'socket.connected', socket: 1 })
    host.event({ type: 'socket.accepted', socket: 2 })
    host.event({ type: 'socket.packet', socket: 2, packet: { type: 'P_INITIAL_META', volume: 0 } })
    host.event({ type: 'socket.closed', socket: 1, reason: 'reset' })
    host.event({ type: 'socket.accepted', socket: 3 })
    host.event({ type: 'socket.packet', socket: 3, packet: { type: 'P_INITIAL_DATA', volume: 0 } })
    host.take()
    host.advance(60_000)
    assert.deepEqual(host.take('P_'), ['P_CONNECTION_FEATURES'])
  })

  it('disconnect while looking: everything is closed, late dials as well', () => {
    const { host, peer } = looking()
    host.event({ type: 'socket.accepted', socket: 4 })
    host.admin({ type: 'disconnect', force: false })
    assert.deepEqual(host.take('socket'), ['socket.unlisten', 'socket.cancel-connect', 'socket.close'])
    host.event({ type: 'socket.connected', socket: 5 })
    host.event({ type: 'socket.accepted', socket: 6 })
    assert.deepEqual([...peer.closed].sort(), [4, 5, 6])
    host.advance(60_000)
    assert.deepEqual(host.take('socket.connect'), [])
  })

  it('the port cannot be listened on: StandAlone with the reason', () => {
    const { host } = looking()
    host.event({ type: 'listen.failed', reason: 'address in use' })
    assert.deepEqual(
      [host.engine.status().connection, host.engine.status().connectionReason],
      ['StandAlone', 'address in use'],
    )
  })
})

describe('two hosts, random orders', () => {
  it('converge, with the flag on one of them', () => {
    const flags = new Set<boolean>()
    for (let seed = 1; seed <= 120; seed++) {
      const prng = new Prng(seed)
      const pair = new Pair({ a: {}, b: {} })
      const { network } = pair
      network.pick = (count) => prng.u32() % count
      pair.a.admin({ type: 'connect', discardMyData: false })
      network.run(prng.u32() % 4)
      pair.b.admin({ type: 'connect', discardMyData: false })
      network.run(prng.u32() % 6)
      const connected = (): boolean => [pair.a, pair.b].every((host) => host.engine.status().connection === 'Connected')
      for (let i = 0; i < 600 && !connected(); i++) {
        // Some things take their time: packets and connections stand still for a moment.
        const slow = prng.u32() % 4
        network.hold = ({ from, stream }) =>
          (slow === 1 && from === pair.a) || (slow === 2 && from === pair.b) || (slow === 3 && stream === 'new')
        network.mayDial = (host) => slow === 0 || (slow === 1) === (host === pair.a)
        network.advance(prng.u32() % 400)
        if (prng.chance(1, 40)) network.cut()
      }
      network.hold = () => false
      network.mayDial = () => true
      for (let i = 0; i < 60 && !connected(); i++) network.advance(2000)
      assert.equal(
        connected(),
        true,
        `seed ${seed}: a ${pair.a.engine.status().connection}, b ${pair.b.engine.status().connection}`,
      )
      const [a, b] = [pair.a.engine.connection.resolveConflicts, pair.b.engine.connection.resolveConflicts]
      assert.notEqual(a, b, `seed ${seed}`)
      flags.add(a)
    }
    assert.equal(flags.size, 2, 'either host gets the flag now and then')
  })
})
