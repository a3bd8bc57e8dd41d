// Goal: two hosts work together only under one order of writes; a refusal names both settings and what to change; under
// arbitration nothing is sent that a kernel would not know.
// Method: one engine and a peer whose packets are written by hand; two engines for what each of both says of the other.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, orderSettings } from '../../../test/support/engine-driver.ts'
import { Pair } from '../../../test/support/engine-network.ts'
import { COPRIME_FEATURES, ScriptedPeer } from '../../../test/support/scripted-peer.ts'
import type { OrderSettings, ResourceSettings } from '../../runtime/api.ts'
import type { PacketOf } from '../../wire/drbd/packets.ts'
import { orderMismatch, orderPacket } from './agreement.ts'

const C_STANDALONE = 0
const ORDER: PacketOf<'P_ORDER'> = {
  type: 'P_ORDER',
  volume: 0,
  order: 1,
  orderFlags: 0,
  coordinator: 0,
  extentsMax: 1237,
  extentBytes: 4 << 20,
}

function connecting(settings: Partial<Omit<ResourceSettings, 'volumes'>>, features = COPRIME_FEATURES): ScriptedPeer {
  const host = new EngineHost({ settings })
  const peer = new ScriptedPeer(host)
  host.attach()
  peer.openStreams({ features: { features } })
  peer.sendFeatures()
  return peer
}

const reasonOf = ({ host }: ScriptedPeer): string | undefined => {
  assert.equal(host.engine.connection.conn, C_STANDALONE)
  return host.engine.connection.reason
}

describe('P_ORDER', () => {
  it('goes out behind P_PROTOCOL, with all that both must agree on', () => {
    const order = orderSettings('auto', { writeNowAcks: true, coordinator: 'peer', extentBytes: 65536, extentsMax: 16 })
    const peer = connecting({ order })
    const types = peer.received.map(({ packet }) => packet.type)
    assert.deepEqual(
      types.slice(-6),
      ['P_PROTOCOL', 'P_ORDER', 'P_BOOT_ID', 'P_SYNC_PARAM89', 'P_SIZES', 'P_UUIDS', 'P_STATE'].slice(-6),
    )
    assert.equal(types[types.indexOf('P_ORDER') - 1], 'P_PROTOCOL')
    assert.deepEqual(peer.one('P_ORDER'), {
      type: 'P_ORDER',
      volume: 0,
      order: 3,
      orderFlags: 1,
      coordinator: 2,
      extentsMax: 16,
      extentBytes: 65536,
    })
  })

  it('is not sent under arbitration, to no peer', () => {
    for (const features of [15, COPRIME_FEATURES]) {
      const peer = connecting({}, features)
      assert.deepEqual(peer.taken('P_ORDER'), [])
      peer.introduce()
      assert.equal(peer.host.engine.connection.established, true)
    }
  })

  it('agreed: both connect', () => {
    const peer = connecting({ order: orderSettings('coordinator') })
    peer.onData({
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
    peer.onData(ORDER)
    peer.sendSizes({})
    peer.sendUuids({})
    peer.sendState({})
    assert.equal(peer.host.volume.status().connection, 'Connected')
  })

  it('from a peer that did not announce the extension: an error', () => {
    const peer = connecting({}, 15)
    peer.onData(ORDER)
    assert.match(peer.host.engine.connection.reason ?? '', /P_ORDER from a peer that did not announce/)
  })
})

describe('P_BOOT_ID', () => {
  it('goes to a peer of ours under every order, and never to a kernel', () => {
    assert.equal(connecting({}).one('P_BOOT_ID').type, 'P_BOOT_ID')
    assert.equal(connecting({ order: orderSettings('auto') }).one('P_BOOT_ID').type, 'P_BOOT_ID')
    assert.deepEqual(connecting({}, 15).taken('P_BOOT_ID'), [])
  })

  it('from a peer that did not announce the extension: an error', () => {
    const peer = connecting({}, 15)
    peer.onData({ type: 'P_BOOT_ID', volume: 0, bootId: 1n, instance: 0n })
    assert.match(peer.host.engine.connection.reason ?? '', /P_BOOT_ID from a peer that did not announce/)
  })
})

describe('refusals', () => {
  it('a kernel peer', () => {
    assert.equal(
      reasonOf(connecting({ order: orderSettings('coordinator') }, 15)),
      'incompatible "global-write-order" settings: coordinator here, but the peer (a kernel, or another program) knows arbitration only; set global-write-order arbitration here',
    )
  })

  it('protocol A and B', () => {
    for (const protocol of ['A', 'B'] as const) {
      const settings = { protocol, allowTwoPrimaries: false, order: orderSettings('auto') }
      assert.equal(
        reasonOf(connecting(settings)),
        `global-write-order auto needs protocol C, here it is ${protocol}; set protocol C, or global-write-order arbitration`,
      )
    }
  })

  it('a peer that says nothing of it', () => {
    const peer = connecting({ order: orderSettings('lock-extents') })
    peer.introduce()
    assert.equal(
      reasonOf(peer),
      'incompatible "global-write-order" settings: lock-extents here, arbitration (or a version that knows no other) on the peer; make both configurations equal',
    )
  })

  it('two hosts: both are StandAlone and each names both settings, whoever is first', () => {
    for (const [a, b] of [
      ['coordinator', 'arbitration'],
      ['arbitration', 'auto'],
      ['lock-extents', 'coordinator'],
    ] as const) {
      const pair = new Pair({
        a: { settings: { order: orderSettings(a) } },
        b: { settings: { order: orderSettings(b) } },
      })
      for (const host of [pair.a, pair.b]) host.admin({ type: 'connect', discardMyData: false })
      pair.network.run()
      pair.network.advance(300)
      for (const host of [pair.a, pair.b]) {
        const { conn, reason } = host.engine.connection
        assert.equal(conn, C_STANDALONE, `${host.name}: ${reason}`)
        assert.match(
          reason ?? '',
          new RegExp(`${host === pair.a ? a : b} here, ${host === pair.a ? b : a}.* on the peer`),
        )
      }
    }
  })
})

describe('what must be equal', () => {
  const of = (own: OrderSettings, peer: OrderSettings): string | undefined => orderMismatch(own, orderPacket(peer))

  it('write-now-acks and the coordinator where there is one, the size of extents where there are locks', () => {
    for (const name of ['coordinator', 'lock-extents', 'auto'] as const) {
      const own = orderSettings(name)
      assert.equal(of(own, own), undefined)
      const acks = of(own, { ...own, writeNowAcks: true })
      const named = of(own, { ...own, coordinator: 'local' })
      const size = of(own, { ...own, extentBytes: 65536 })
      assert.deepEqual(
        [acks !== undefined, named !== undefined, size !== undefined],
        [name !== 'lock-extents', name !== 'lock-extents', name !== 'coordinator'],
      )
    }
  })

  it('the coordinator is the same host for both', () => {
    const [local, peer] = [
      orderSettings('coordinator', { coordinator: 'local' }),
      orderSettings('coordinator', { coordinator: 'peer' }),
    ]
    assert.equal(of(local, peer), undefined)
    assert.equal(of(peer, local), undefined)
    assert.match(of(local, local) ?? '', /"coordinator" settings: this host here, the peer on the peer/)
  })

  it('dl-extents need not be equal, numbers that nobody knows are refused', () => {
    const own = orderSettings('lock-extents')
    assert.equal(of(own, { ...own, extentsMax: 16 }), undefined)
    assert.match(orderMismatch(own, { ...ORDER, order: 9 }) ?? '', /lock-extents here, order 9 on the peer/)
    assert.match(orderMismatch(orderSettings('coordinator'), { ...ORDER, coordinator: 7 }) ?? '', /something unknown/)
  })
})
