// Goal: handshake, authentication, sequence numbers and keep-alive as sections 1.5, 3.4, 3.11, 3.12 and 4 have them; each refusal
// leaves the connection StandAlone with a reason that an administrator can act on.
// Method: one engine and a peer whose packets are written by hand.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, type HostOptions, sectorsOf } from '../../test/support/engine-driver.ts'
import {
  COPRIME_FEATURES,
  connectedScene,
  type PeerOptions,
  type Scene,
  ScriptedPeer,
} from '../../test/support/scripted-peer.ts'
import { SimDigests } from '../sim/digests.ts'
import { D_UPTODATE, DP_SEND_WRITE_ACK } from '../wire/drbd/constants.ts'
import type { Packet } from '../wire/drbd/packets.ts'

const COPRIME: PeerOptions = { features: { features: COPRIME_FEATURES } }

/** Up to and including the burst of the peer; nothing is said about the outcome. */
function handshake(hostOptions: HostOptions, peerOptions: PeerOptions): Scene {
  const host = new EngineHost(hostOptions)
  const peer = new ScriptedPeer(host)
  host.attach()
  peer.openStreams(peerOptions)
  peer.sendFeatures()
  peer.introduce()
  return { host, peer }
}

/** StandAlone for good; the reason names all of `words`. */
function assertStandAlone({ host, peer }: Scene, ...words: readonly string[]): void {
  const status = host.engine.status()
  assert.equal(status.connection, 'StandAlone', status.connectionReason)
  for (const word of words)
    assert.ok(status.connectionReason?.includes(word), `"${word}" in: ${status.connectionReason}`)
  peer.dialling = false
  host.advance(120_000)
  assert.deepEqual([peer.closed.has(peer.data), peer.closed.has(peer.meta)], [true, true])
  assert.deepEqual([host.engine.status().connection, peer.dialling], ['StandAlone', false], 'no further attempt')
}

/** Dropped, and tried again. */
function assertRetries({ host, peer }: Scene): void {
  assert.equal(host.engine.connection.established, false)
  assert.deepEqual([peer.closed.has(peer.data), peer.closed.has(peer.meta)], [true, true])
  host.advance(1500)
  assert.equal(host.engine.status().connection, 'WFConnection')
}

describe('versions', () => {
  for (const [min, max] of [
    [70, 80],
    [80, 85],
    [102, 110],
    [85, 0],
  ] as const) {
    it(`${min} to ${max}: refused, both ranges are named`, () => {
      const scene = handshake({}, { features: { protocolMin: min, protocolMax: max } })
      assertStandAlone(scene, '86', '101', String(min), String(max || min))
    })
  }

  for (const [min, max, agreed] of [
    [80, 86, 86],
    [86, 99, 99],
    [101, 110, 101],
    [86, 101, 101],
    [95, 0, 95],
  ] as const) {
    it(`${min} to ${max}: ${agreed} is spoken`, () => {
      const { host } = handshake({}, { features: { protocolMin: min, protocolMax: max } })
      assert.equal(host.engine.connection.apv, agreed)
      assert.equal(host.engine.status().connection, 'Connected', host.engine.connection.reason)
    })
  }

  it('features are those that both have', () => {
    const { host } = handshake({}, { features: { features: 0xffff_fffd } })
    assert.equal(host.engine.connection.features, (15 | (1 << 24)) & ~2)
  })

  it('another first packet: StandAlone (section 4, step 4)', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams()
    peer.onData({ type: 'P_STATE', volume: 0, state: 0 })
    assertStandAlone({ host, peer }, 'P_STATE')
  })

  it('no answer within four ping-timeouts: tried again', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams()
    host.advance(1999)
    assert.equal(peer.closed.size, 0)
    host.advance(1)
    assertRetries({ host, peer })
  })
})

describe('the settings of both hosts (3.12, 3.13)', () => {
  const cases: readonly (readonly [string, HostOptions['settings'], PeerOptions, readonly string[]])[] = [
    ['protocol', {}, { protocol: { protocol: 1 } }, ['protocol', 'C', 'A']],
    ['protocol that does not exist', {}, { protocol: { protocol: 77 } }, ['protocol', 'C', '77']],
    ['after-sb-0pri', { afterSb0p: 3 }, { protocol: { afterSb0p: 4 } }, ['after-sb-0pri', '3', '4']],
    ['after-sb-0pri discard-local on both', { afterSb0p: 5 }, { protocol: { afterSb0p: 5 } }, ['after-sb-0pri', '5']],
    ['after-sb-0pri discard-remote on both', { afterSb0p: 6 }, { protocol: { afterSb0p: 6 } }, ['after-sb-0pri', '6']],
    ['after-sb-1pri', { afterSb1p: 7 }, { protocol: { afterSb1p: 8 } }, ['after-sb-1pri', '7', '8']],
    ['after-sb-2pri', { afterSb2p: 9 }, { protocol: { afterSb2p: 10 } }, ['after-sb-2pri', '9', '10']],
    ['allow-two-primaries', {}, { protocol: { twoPrimaries: 0 } }, ['allow-two-primaries', 'yes', 'no']],
    [
      'allow-two-primaries the other way round',
      { allowTwoPrimaries: false },
      { protocol: { twoPrimaries: 1 } },
      ['allow-two-primaries', 'no here', 'yes on the peer'],
    ],
    ['data-integrity-alg', {}, { protocol: { integrityAlg: 'sha1' } }, ['data-integrity-alg', '(none)', 'sha1']],
    [
      'data-integrity-alg in another spelling',
      { dataIntegrityAlg: 'sha1' },
      { protocol: { integrityAlg: 'SHA1' } },
      ['data-integrity-alg', 'sha1', 'SHA1'],
    ],
    ['verify-alg', { verifyAlg: 'sha1' }, { syncParam: { verifyAlg: 'md5' } }, ['verify-alg', 'sha1', 'md5']],
    ['csums-alg', { csumsAlg: 'sha1' }, { syncParam: { csumsAlg: '' } }, ['csums-alg', 'sha1', '(none)']],
  ]
  for (const [name, settings, peerOptions, words] of cases) {
    it(`${name}: StandAlone, both settings are named`, () => {
      assertStandAlone(handshake({ settings: settings ?? {} }, peerOptions), ...words)
    })
  }

  for (const [own, peer] of [
    [5, 6],
    [6, 5],
  ] as const) {
    it(`after-sb-0pri ${own} here and ${peer} there are mirrored: accepted`, () => {
      const { host } = handshake({ settings: { afterSb0p: own } }, { protocol: { afterSb0p: peer } })
      assert.equal(host.engine.status().connection, 'Connected', host.engine.connection.reason)
    })
  }

  it('verify-alg differs from a peer of version 88, in P_SYNC_PARAM', () => {
    const host = new EngineHost({ settings: { verifyAlg: 'sha1' } })
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams({ features: { protocolMax: 88 } })
    peer.sendFeatures()
    peer.onData({ type: 'P_SYNC_PARAM', volume: 0, resyncRateKib: 250, verifyAlg: 'md5' })
    assertStandAlone({ host, peer }, 'verify-alg', 'sha1', 'md5')
  })
})

describe('authentication (3.11)', () => {
  const settings = { cramHmacAlg: 'sha1', sharedSecret: 'a secret' } as const
  const digests = new SimDigests()
  const hmac = (secret: string, message: Uint8Array): Uint8Array => digests.hmac('sha1', Buffer.from(secret), message)

  function challenged(): Scene & { readonly challenge: Uint8Array } {
    const host = new EngineHost({ settings })
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams({})
    peer.sendFeatures()
    const challenge = peer.one('P_AUTH_CHALLENGE').payload
    assert.equal(challenge.length, 64)
    return { host, peer, challenge }
  }

  const own = new Uint8Array(64).map((_, i) => i)
  const sendChallenge = ({ peer }: Scene, payload: Uint8Array): void =>
    peer.onData({ type: 'P_AUTH_CHALLENGE', volume: 0, payload })
  const sendResponse = ({ peer }: Scene, payload: Uint8Array): void =>
    peer.onData({ type: 'P_AUTH_RESPONSE', volume: 0, payload })

  it('right on both sides: connected', () => {
    const scene = challenged()
    sendChallenge(scene, own)
    assert.deepEqual(scene.peer.one('P_AUTH_RESPONSE').payload, hmac('a secret', own))
    assert.deepEqual(scene.peer.taken('P_PROTOCOL'), [], 'nothing is told before the answer is right')
    sendResponse(scene, hmac('a secret', scene.challenge))
    scene.peer.introduce()
    assert.equal(scene.host.engine.status().connection, 'Connected', scene.host.engine.connection.reason)
  })

  it('a longer challenge is answered as a whole', () => {
    const scene = challenged()
    const long = new Uint8Array(128).fill(3)
    sendChallenge(scene, long)
    assert.deepEqual(scene.peer.one('P_AUTH_RESPONSE').payload, hmac('a secret', long))
  })

  it('each connection has a challenge of its own', () => {
    const scene = challenged()
    scene.peer.disconnect()
    scene.host.advance(1500)
    scene.peer.openStreams({})
    scene.peer.sendFeatures()
    assert.notDeepEqual(scene.peer.one('P_AUTH_CHALLENGE').payload, scene.challenge)
  })

  it('wrong secret: StandAlone', () => {
    const scene = challenged()
    sendChallenge(scene, own)
    sendResponse(scene, hmac('another secret', scene.challenge))
    assertStandAlone(scene, 'authentication')
    assert.deepEqual(scene.peer.taken('P_PROTOCOL'), [], 'it was told nothing')
  })

  it('a response of a wrong length', () => {
    const scene = challenged()
    sendChallenge(scene, own)
    sendResponse(scene, new Uint8Array(0))
    assert.equal(scene.host.engine.connection.established, false)
    assert.deepEqual(scene.peer.taken('P_PROTOCOL'), [])
  })

  it('our own challenge comes back: StandAlone, and it is not answered', () => {
    for (const extra of [0, 10]) {
      const scene = challenged()
      const reflected = new Uint8Array(64 + extra)
      reflected.set(scene.challenge)
      sendChallenge(scene, reflected)
      assert.deepEqual(scene.peer.taken('P_AUTH_RESPONSE'), [])
      assertStandAlone(scene, 'challenge')
    }
  })

  for (const length of [0, 63, 129]) {
    it(`a challenge of ${length} bytes: StandAlone`, () => {
      const scene = challenged()
      sendChallenge(scene, new Uint8Array(length))
      assertStandAlone(scene, String(length))
    })
  }

  it('the peer has none: StandAlone, with a hint at the setting', () => {
    const scene = challenged()
    scene.peer.introduce()
    assertStandAlone(scene, 'cram-hmac-alg')
  })

  it('another packet instead of the response: tried again', () => {
    const scene = challenged()
    sendChallenge(scene, own)
    scene.peer.onData({
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
    assertRetries(scene)
  })

  it('only the peer has one: dropped, tried again', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.openStreams({})
    peer.sendFeatures()
    peer.onData({ type: 'P_AUTH_CHALLENGE', volume: 0, payload: own })
    assertRetries({ host, peer })
  })
})

describe('sequence numbers (3.4)', () => {
  it('gap-free from 1 over both streams, for each volume', () => {
    const { host, peer } = connectedScene({ volumes: [{}, {}] }, COPRIME, 'secondary')
    const sent: [number, number][] = []
    const collect = (): void => {
      for (const { packet } of peer.take())
        if ('sequence' in packet && packet.type !== 'P_RS_DATA_REPLY') sent.push([packet.volume, packet.sequence])
    }
    collect()
    host.event({ type: 'admin', id: 9, command: { type: 'primary', force: false } })
    for (let i = 0; i < 2; i++) peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: i, code: 1 })
    assert.equal(host.results.get(9)?.code, 0)
    for (let i = 0; i < 6; i++) {
      host.write(i * 8, sectorsOf(8, i), { volume: i % 2 })
      peer.write(512 + i * 8, sectorsOf(8, i), { volume: (i + 1) % 2 })
      if (i === 3)
        peer.onData({ type: 'P_RS_DATA_REQUEST', volume: 0, sector: 1024, blockIdHi: 0, blockIdLo: 0, sizeBytes: 4096 })
      for (const { packet } of peer.received)
        if (packet.type === 'P_DATA') peer.ack(i === 4 ? 'P_NEG_ACK' : 'P_WRITE_ACK', packet)
      collect()
    }
    host.flush()
    collect()
    for (const volume of [0, 1]) {
      const numbers = sent.filter(([of]) => of === volume).map(([, number]) => number)
      assert.deepEqual(
        numbers.sort((a, b) => a - b),
        numbers.map((_, i) => i + 1),
      )
      assert.ok(numbers.length >= 6)
    }
  })

  it('begin again with each connection', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    peer.disconnect()
    peer.connectFully(COPRIME)
    peer.take()
    peer.write(512, sectorsOf(8, 1))
    assert.equal(host.engine.connection.established, true)
    const ack = peer.taken('P_WRITE_ACK')
    assert.deepEqual(
      ack.map(({ sequence }) => sequence),
      [1],
    )
  })

  it('the holder of the flag waits for the packet with the number before', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    host.write(8, sectorsOf(8, 1))
    const own = peer.one('P_DATA')
    const ackNumber = peer.nextSequence()
    peer.write(64, sectorsOf(8, 2))
    peer.write(128, sectorsOf(8, 3))
    assert.deepEqual(host.take('disk.write'), ['disk.write 8+8'], 'the stream stands still')
    peer.ack('P_WRITE_ACK', own, { sequence: ackNumber })
    peer.onData({ type: 'P_UNPLUG_REMOTE', volume: 0 })
    assert.deepEqual(host.take('disk.write'), ['disk.write 64+8', 'disk.write 128+8'])
  })

  it('and drops the connection when it does not come within ping-timeout', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    peer.nextSequence()
    peer.write(64, sectorsOf(8, 2))
    host.advance(499)
    assert.equal(host.engine.connection.established, true)
    host.advance(1)
    assert.equal(host.engine.connection.established, false)
    assert.deepEqual(host.take('disk.write'), [])
  })

  it('the other host, and everybody without two Primaries, ignores the numbers', () => {
    for (const [settings, options] of [
      [{}, { ...COPRIME, engineHoldsFlag: false }],
      [{ allowTwoPrimaries: false }, COPRIME],
    ] as const) {
      const { host, peer } = connectedScene({ settings }, options, 'secondary')
      peer.write(64, sectorsOf(8, 2), { sequence: 9 })
      assert.deepEqual(host.take('disk.write'), ['disk.write 64+8'])
    }
  })

  it('numbers go round at 2^32', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    peer.ack(
      'P_NEG_ACK',
      { volume: 0, sector: 0, blockIdHi: 0, blockIdLo: 0 },
      { sequence: 0x7fff_ffff, sizeBytes: 512 },
    )
    peer.ack(
      'P_NEG_ACK',
      { volume: 0, sector: 0, blockIdHi: 0, blockIdLo: 0 },
      { sequence: 0xffff_fffe, sizeBytes: 512 },
    )
    peer.write(64, sectorsOf(1, 1), { sequence: 0xffff_ffff })
    peer.write(65, sectorsOf(1, 1), { sequence: 0 })
    peer.write(66, sectorsOf(1, 1), { sequence: 1 })
    assert.equal(host.take('disk.write').length, 3)
  })
})

describe('keep-alive (1.5)', () => {
  it('a ping is answered at once', () => {
    const { peer } = connectedScene({}, COPRIME)
    peer.onMeta({ type: 'P_PING', volume: 0 })
    assert.deepEqual(peer.types(), ['P_PING_ACK'])
  })

  it('a silent connection is pinged after ping-int, again and again', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    peer.advance(9990)
    assert.deepEqual(peer.taken('P_PING'), [])
    peer.advance(20)
    assert.equal(peer.taken('P_PING').length, 1)
    peer.advance(60_000)
    assert.equal(peer.taken('P_PING').length, 6)
    assert.equal(host.engine.connection.established, true)
  })

  it('no answer within ping-timeout: the connection is dropped and tried again', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    peer.answersPings = false
    peer.advance(10_000)
    assert.equal(peer.taken('P_PING').length, 1)
    peer.advance(498)
    assert.equal(host.engine.connection.established, true)
    peer.advance(4)
    assertRetries({ host, peer })
  })

  it('traffic on the data stream puts the ping off', () => {
    const { peer } = connectedScene({}, COPRIME, 'secondary')
    for (let i = 0; i < 10; i++) {
      peer.advance(4000)
      peer.onData({ type: 'P_UNPLUG_REMOTE', volume: 0 })
    }
    assert.deepEqual(peer.taken('P_PING'), [])
  })
})

describe('ko-count (1.5)', () => {
  it('a write without an answer for ko-count times timeout ends the connection', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    host.write(8, sectorsOf(8, 1))
    peer.advance(41_000)
    assert.equal(host.engine.connection.established, true)
    peer.advance(3000)
    assert.equal(host.engine.connection.established, false)
    assert.match(host.engine.connection.reason ?? '', /42000/)
  })

  it('an empty flush without an answer, too', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    host.flush()
    peer.advance(44_000)
    assert.equal(host.engine.connection.established, false)
  })

  it('also if younger writes are answered all the time', () => {
    const { host, peer } = connectedScene({}, COPRIME)
    const flush = host.flush()
    peer.take()
    for (let i = 0; i < 50 && host.engine.connection.established; i++) {
      for (const packet of peer.taken('P_DATA')) if (packet.payload.length > 0) peer.ack('P_WRITE_ACK', packet)
      host.write(8 * (i % 20), sectorsOf(8, i))
      peer.advance(1000)
    }
    assert.equal(host.answer(flush), 'done', 'the connection ended, and this host went on alone')
  })

  it('0 switches it off', () => {
    const { host, peer } = connectedScene({ settings: { koCount: 0 } }, COPRIME)
    host.write(8, sectorsOf(8, 1))
    peer.advance(200_000)
    assert.equal(host.engine.connection.established, true)
  })
})

describe('streams that break', () => {
  it('data integrity: a digest that does not match drops the connection, nothing is written', () => {
    const { host, peer } = connectedScene({ settings: { dataIntegrityAlg: 'crc32c' } }, COPRIME, 'secondary')
    const payload = sectorsOf(8, 1)
    peer.write(8, payload, { digest: new SimDigests().digest('crc32c', payload) })
    assert.deepEqual(host.take('disk.write'), ['disk.write 8+8'])
    peer.write(16, payload, { digest: new Uint8Array([1, 2, 3, 4]) })
    assert.deepEqual(host.take('disk.write'), [])
    assertRetries({ host, peer })
  })

  it('P_PROTOCOL_UPDATE: what the peer sends from then on has the new digest, what is sent to it the old one (3.12)', () => {
    const { host, peer } = connectedScene({ settings: { dataIntegrityAlg: 'crc32c' } }, COPRIME)
    const digests = new SimDigests()
    const payload = sectorsOf(8, 1)
    const update = { protocol: 3, afterSb0p: 0, afterSb1p: 0, afterSb2p: 0, connFlags: 0, twoPrimaries: 1 } as const
    for (const integrityAlg of ['sha1', '']) {
      peer.onData({ type: 'P_PROTOCOL_UPDATE', volume: 0, ...update, integrityAlg })
      const digest = integrityAlg === '' ? new Uint8Array(0) : digests.digest(integrityAlg, payload)
      peer.write(8, payload, { digest })
      assert.deepEqual(host.take('disk.write'), ['disk.write 8+8'], integrityAlg)
      const id = host.write(64, payload)
      const sent = peer.one('P_DATA')
      assert.deepEqual(sent.digest, digests.digest('crc32c', payload))
      peer.ack('P_WRITE_ACK', sent)
      assert.equal(host.answer(id), 'done')
      host.take()
    }
    peer.onData({ type: 'P_PROTOCOL_UPDATE', volume: 0, ...update, integrityAlg: 'sha1' })
    peer.write(16, payload, { digest: digests.digest('crc32c', payload) })
    assert.deepEqual(host.take('disk.write'), [])
    assertRetries({ host, peer })
  })

  const wrong: readonly (readonly [string, 'data' | 'meta', Packet, 'again' | 'StandAlone'])[] = [
    ['an unknown packet on data', 'data', { type: 'unknown', volume: 0, command: 0x77, lengthBytes: 0 }, 'again'],
    ['an unknown packet on meta', 'meta', { type: 'unknown', volume: 0, command: 0x77, lengthBytes: 0 }, 'StandAlone'],
    [
      'a second P_CONNECTION_FEATURES',
      'data',
      { type: 'P_CONNECTION_FEATURES', volume: 0, protocolMin: 86, features: 0, protocolMax: 101 },
      'again',
    ],
    [
      'a write for a volume that is not here',
      'data',
      { type: 'P_TRIM', volume: 3, sector: 0, blockIdHi: 0, blockIdLo: 0, sequence: 1, flags: 0, sizeBytes: 512 },
      'again',
    ],
    [
      'an ack for a volume that is not here',
      'meta',
      { type: 'P_WRITE_ACK', volume: 3, sector: 0, blockIdHi: 0, blockIdLo: 0, sizeBytes: 512, sequence: 1 },
      'again',
    ],
    [
      'a read beyond the end',
      'data',
      { type: 'P_DATA_REQUEST', volume: 0, sector: 2048, blockIdHi: 0, blockIdLo: 0, sizeBytes: 512 },
      'again',
    ],
  ]
  for (const [name, stream, packet, outcome] of wrong) {
    it(`${name}: ${outcome === 'again' ? 'dropped and tried again' : 'StandAlone'} (1.6)`, () => {
      const { host, peer } = connectedScene({}, COPRIME, 'secondary')
      if (stream === 'data') peer.onData(packet)
      else peer.onMeta(packet)
      if (outcome === 'again') assertRetries({ host, peer })
      else assertStandAlone({ host, peer })
    })
  }

  it('a write beyond the end of the device, or larger than a packet may be: dropped, nothing is written', () => {
    for (const [sector, sectors] of [
      [2048, 1],
      [2041, 8],
      [0, 2049],
    ] as const) {
      const { host, peer } = connectedScene(
        { volumes: [{ dataSectors: sectors > 2048 ? 8192 : 2048 }] },
        COPRIME,
        'secondary',
      )
      peer.write(sector, new Uint8Array(sectors * 512))
      assert.deepEqual(host.take('disk.write'), [])
      assertRetries({ host, peer })
    }
  })

  it('state packets for a volume that is not here are skipped', () => {
    const { host, peer } = connectedScene({}, COPRIME, 'secondary')
    peer.onData({ type: 'P_STATE', volume: 3, state: 0 })
    peer.onData({ type: 'P_SYNC_PARAM89', volume: 3, resyncRateKib: 1, verifyAlg: 'x', csumsAlg: '' })
    assert.equal(host.engine.connection.established, true)
  })
})

describe('protocol below version 100', () => {
  it('protocol B: the receipt is sent although its packets carry no flags for it (gotcha 50)', () => {
    const settings = { protocol: 'B', allowTwoPrimaries: false } as const
    const { peer } = connectedScene({ settings }, { features: { protocolMax: 99 } }, 'secondary')
    peer.write(8, sectorsOf(8, 1), { flags: 0 })
    assert.deepEqual(peer.types(), ['P_RECV_ACK'])
  })

  it('protocol C: the write ack likewise', () => {
    const { peer } = connectedScene({}, { features: { protocolMax: 99 } }, 'secondary')
    peer.write(8, sectorsOf(8, 1), { flags: 0 })
    assert.deepEqual(peer.types(), ['P_WRITE_ACK'])
  })

  it('disconnecting uses the packets of a volume', () => {
    const { host, peer } = connectedScene({}, { features: { protocolMax: 99 } }, 'secondary')
    host.event({ type: 'admin', id: 77, command: { type: 'disconnect', force: false } })
    peer.one('P_STATE_CHG_REQ')
    peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    assert.equal(host.results.get(77)?.code, 0)
  })

  it('from 100 on the flags decide: no write ack without DP_SEND_WRITE_ACK', () => {
    const { peer } = connectedScene({}, COPRIME, 'secondary')
    peer.write(8, sectorsOf(8, 1), { flags: 0 })
    peer.write(16, sectorsOf(8, 1), { flags: DP_SEND_WRITE_ACK })
    assert.deepEqual(
      peer.taken('P_WRITE_ACK').map(({ sector }) => sector),
      [16],
    )
    assert.equal(D_UPTODATE, 8)
  })
})
