// A peer of one engine whose every packet the test writes by hand: it opens the streams, answers the handshake as it is told,
// and then sends nothing by itself but answers to pings. Kernel-like unless COPRIME_FEATURES are asked for.

import assert from 'node:assert/strict'
import type { SocketId } from '../../src/engine/events.ts'
import type { Uuids } from '../../src/meta/uuids.ts'
import {
  C_CONNECTED,
  C_WF_CONNECTION,
  D_UNKNOWN,
  D_UPTODATE,
  DP_SEND_WRITE_ACK,
  R_SECONDARY,
  R_UNKNOWN,
} from '../../src/wire/drbd/constants.ts'
import type { Packet, PacketOf } from '../../src/wire/drbd/packets.ts'
import { encodeStateWord, type StateWord } from '../../src/wire/drbd/state-word.ts'
import { EngineHost, GENERATION, type HostNetwork, type HostOptions, sectorsOf } from './engine-driver.ts'

export const KERNEL_FEATURES = 15
export const COPRIME_FEATURES = 15 | (1 << 24)

export interface PeerOptions {
  /** Whether the engine gets the resolve-conflicts flag; default yes. */
  readonly engineHoldsFlag?: boolean
  readonly features?: Partial<PacketOf<'P_CONNECTION_FEATURES'>>
  readonly protocol?: Partial<PacketOf<'P_PROTOCOL'>>
  readonly sizes?: Partial<PacketOf<'P_SIZES'>>
  readonly uuids?: Partial<Uuids & { dirtyBits: number; uuidFlags: number }> | 'none'
  readonly state?: Partial<StateWord>
  readonly syncParam?: Partial<PacketOf<'P_SYNC_PARAM89'>>
}

export interface SentByEngine {
  readonly stream: 'data' | 'meta'
  readonly packet: Packet
}

type AckType =
  | 'P_RECV_ACK'
  | 'P_WRITE_ACK'
  | 'P_RS_WRITE_ACK'
  | 'P_SUPERSEDED'
  | 'P_RETRY_WRITE'
  | 'P_NEG_ACK'
  | 'P_NEG_DREPLY'

export const WORD: StateWord = {
  role: R_SECONDARY,
  peer: R_UNKNOWN,
  conn: C_WF_CONNECTION,
  disk: D_UPTODATE,
  pdsk: D_UNKNOWN,
  susp: false,
  aftrIsp: false,
  peerIsp: false,
  userIsp: false,
  suspNod: false,
  suspFen: false,
}

export class ScriptedPeer implements HostNetwork {
  readonly host: EngineHost
  /** All that the engine sent and the test has not taken. */
  received: SentByEngine[] = []
  answersPings = true
  /** Last sequence number drawn, by volume. */
  readonly sequence = new Map<number, number>()
  data: SocketId = 0
  meta: SocketId = 0
  readonly closed = new Set<SocketId>()
  listening = false
  dialling = false
  #options: PeerOptions = {}
  readonly #queues: { readonly data: Packet[]; readonly meta: Packet[] } = { data: [], meta: [] }
  #nextSocket = 100

  constructor(host: EngineHost) {
    this.host = host
    host.network = this
  }

  // ---- the engine's side -----------------------------------------------------------------------------------------------

  connect(): void {
    this.dialling = true
  }

  cancel(): void {
    this.dialling = false
  }

  listen(): void {
    this.listening = true
  }

  unlisten(): void {
    this.listening = false
  }

  send(_host: EngineHost, socket: SocketId, packet: Packet): void {
    assert.ok(!this.closed.has(socket), `${packet.type} is sent on an open stream`)
    this.received.push({ stream: socket === this.meta ? 'meta' : 'data', packet })
    if (packet.type === 'P_PING' && this.answersPings) this.#queues.meta.push({ type: 'P_PING_ACK', volume: 0 })
  }

  close(_host: EngineHost, socket: SocketId): void {
    this.closed.add(socket)
  }

  // ---- the peer's side -------------------------------------------------------------------------------------------------

  /** Streams and handshake up to Connected on both sides. */
  connectFully(options: PeerOptions = {}): void {
    this.openStreams(options)
    this.sendFeatures()
    this.introduce()
    this.sendState({ conn: C_CONNECTED, pdsk: D_UPTODATE, ...options.state })
    assert.equal(this.host.engine.connection.established, true, this.host.engine.connection.reason)
  }

  openStreams(options: PeerOptions = {}): void {
    this.#options = options
    const { host } = this
    if (host.engine.connection.conn === 0) host.admin({ type: 'connect', discardMyData: false })
    if (!this.listening) host.advance(1000)
    assert.ok(this.listening && this.dialling, 'the engine looks for its peer')
    this.data = this.#nextSocket++
    this.meta = this.#nextSocket++
    this.#queues.data.length = 0
    this.#queues.meta.length = 0
    this.sequence.clear()
    this.dialling = false
    if (options.engineHoldsFlag ?? true) {
      host.event({ type: 'socket.connected', socket: this.data })
      host.event({ type: 'socket.accepted', socket: this.meta })
      host.event({ type: 'socket.packet', socket: this.meta, packet: { type: 'P_INITIAL_META', volume: 0 } })
    } else {
      host.event({ type: 'socket.accepted', socket: this.data })
      host.event({ type: 'socket.packet', socket: this.data, packet: { type: 'P_INITIAL_DATA', volume: 0 } })
      host.event({ type: 'socket.connected', socket: this.meta })
    }
    host.advance(host.settings.socketCheckTimeoutMs)
    assert.equal(host.engine.connection.resolveConflicts, options.engineHoldsFlag ?? true)
  }

  sendFeatures(): void {
    this.onData({
      type: 'P_CONNECTION_FEATURES',
      volume: 0,
      protocolMin: 86,
      features: KERNEL_FEATURES,
      protocolMax: 101,
      ...this.#options.features,
    })
  }

  /** P_PROTOCOL and the burst of each volume. */
  introduce(): void {
    const { host } = this
    this.onData({ ...protocolOf(host), ...this.#options.protocol })
    for (const { number } of host.engine.volumes) {
      const { connection } = host.engine
      if (connection.apv >= 89) this.onData(syncParamOf(host, number, this.#options.syncParam))
      else this.onData({ type: 'P_SYNC_PARAM', volume: number, resyncRateKib: 250, verifyAlg: '' })
      this.sendSizes(this.#options.sizes ?? {}, number)
      if (this.#options.uuids !== 'none') this.sendUuids(this.#options.uuids ?? {}, number)
      this.sendState(this.#options.state ?? {}, number)
    }
  }

  sendSizes(patch: Partial<PacketOf<'P_SIZES'>>, volume = 0): void {
    const sectors = this.host.diskAt(volume).data.sizeBytes / 512
    this.onData({
      type: 'P_SIZES',
      volume,
      backingSectors: sectors,
      userSectors: 0,
      currentSectors: sectors,
      maxBioBytes: 1024 * 1024,
      queueOrderType: 0,
      ddsFlags: 0,
      ...patch,
    })
  }

  sendUuids(patch: Partial<Uuids & { dirtyBits: number; uuidFlags: number }>, volume = 0): void {
    const uuids = { current: GENERATION, bitmap: 0n, history1: 0n, history2: 0n, dirtyBits: 0, uuidFlags: 0 }
    this.onData({ type: 'P_UUIDS', volume, ...uuids, ...patch })
  }

  sendState(patch: Partial<StateWord>, volume = 0): void {
    this.onData({ type: 'P_STATE', volume, state: encodeStateWord({ ...WORD, ...patch }) })
  }

  onData(packet: Packet): void {
    this.#queues.data.push(packet)
    this.#pump()
  }

  onMeta(packet: Packet): void {
    this.#queues.meta.push(packet)
    this.#pump()
  }

  /** Hands over what the engine is ready to take. */
  #pump(): void {
    for (let progress = true; progress; ) {
      progress = false
      for (const stream of ['data', 'meta'] as const) {
        const socket = this[stream]
        const queue = this.#queues[stream]
        while (queue.length > 0 && !this.closed.has(socket) && this.host.engine.connection.mayReceive(socket)) {
          progress = true
          this.host.event({ type: 'socket.packet', socket, packet: queue.shift() as Packet })
        }
      }
    }
  }

  /** Time passes; pings are answered meanwhile. */
  advance(ms: number): void {
    const until = this.host.nowMs + ms
    while (this.host.nowMs < until) {
      const next = Math.min(until, Math.max(this.host.engine.timers.earliestMs, this.host.nowMs))
      this.host.advance(next - this.host.nowMs)
      this.#pump()
    }
  }

  /** Makes the engine Primary, with the consent of this peer. */
  promoteEngine(): void {
    const id = 5_000_000
    this.host.event({ type: 'admin', id, command: { type: 'primary', force: false } })
    this.one('P_STATE_CHG_REQ')
    this.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    assert.equal(this.host.results.get(id)?.code, 0)
    this.host.take()
    this.take()
  }

  /** The cable is cut. */
  disconnect(): void {
    for (const socket of [this.data, this.meta]) {
      if (this.closed.has(socket)) continue
      this.closed.add(socket)
      this.host.event({ type: 'socket.closed', socket, reason: 'connection reset' })
    }
  }

  nextSequence(volume = 0): number {
    const next = (this.sequence.get(volume) ?? 0) + 1
    this.sequence.set(volume, next)
    return next
  }

  /** A write of the peer; returns its block id. */
  write(sector: number, payload: Uint8Array, patch: Partial<PacketOf<'P_DATA'>> = {}): number {
    const volume = patch.volume ?? 0
    const sequence = patch.sequence ?? this.nextSequence(volume)
    const blockIdLo = 0xabc000 + sequence
    this.onData({
      type: 'P_DATA',
      volume,
      sector,
      blockIdHi: 0xffff8880,
      blockIdLo,
      flags: DP_SEND_WRITE_ACK,
      digest: new Uint8Array(0),
      payload,
      ...patch,
      sequence,
    })
    return blockIdLo
  }

  barrier(barrier: number): void {
    this.onData({ type: 'P_BARRIER', volume: 0, barrier })
  }

  /** Answers a packet of the engine. */
  ack(
    type: AckType,
    to: { volume: number; sector: number; blockIdHi: number; blockIdLo: number },
    patch: Partial<PacketOf<'P_WRITE_ACK'>> = {},
  ): void {
    const { volume, sector, blockIdHi, blockIdLo } = to
    const common = { volume, sector, blockIdHi, blockIdLo, sizeBytes: 512 }
    this.onMeta({ ...common, sequence: this.nextSequence(volume), ...patch, type } as Packet)
  }

  // ---- what the engine sent --------------------------------------------------------------------------------------------

  /** Takes all packets received so far. */
  take(): SentByEngine[] {
    const { received } = this
    this.received = []
    return received
  }

  types(): string[] {
    return this.take().map(({ packet }) => packet.type)
  }

  /** Takes the packets of one type out of what was received. */
  taken<T extends Packet['type']>(type: T): PacketOf<T>[] {
    const found = this.received.filter(({ packet }) => packet.type === type)
    this.received = this.received.filter(({ packet }) => packet.type !== type)
    return found.map(({ packet }) => packet as PacketOf<T>)
  }

  /** The only packet of that type, taken out. */
  one<T extends Packet['type']>(type: T): PacketOf<T> {
    const all = this.received.map(({ packet }) => packet.type).join(', ')
    const found = this.taken(type)
    assert.equal(found.length, 1, `one ${type} among: ${all}`)
    return found[0] as PacketOf<T>
  }
}

export interface Scene {
  readonly host: EngineHost
  readonly peer: ScriptedPeer
}

/** The engine is attached and Connected, Primary unless told otherwise, and extent 0 is hot. */
export function connectedScene(
  options: HostOptions = {},
  peerOptions: PeerOptions = {},
  role: 'primary' | 'secondary' = 'primary',
): Scene {
  const host = new EngineHost(options)
  const peer = new ScriptedPeer(host)
  host.attach()
  peer.connectFully(peerOptions)
  if (role === 'primary') {
    peer.promoteEngine()
    const id = host.write(0, sectorsOf(8, 0xee))
    for (const write of peer.taken('P_DATA')) if (write.flags & DP_SEND_WRITE_ACK) peer.ack('P_WRITE_ACK', write)
    assert.equal(host.answer(id), 'done')
  }
  host.take()
  peer.take()
  return { host, peer }
}

export function protocolOf(host: EngineHost): PacketOf<'P_PROTOCOL'> {
  const { settings } = host
  return {
    type: 'P_PROTOCOL',
    volume: 0,
    protocol: { A: 1, B: 2, C: 3 }[settings.protocol],
    afterSb0p: settings.afterSb0p,
    afterSb1p: settings.afterSb1p,
    afterSb2p: settings.afterSb2p,
    connFlags: 0,
    twoPrimaries: settings.allowTwoPrimaries ? 1 : 0,
    integrityAlg: settings.dataIntegrityAlg,
  }
}

function syncParamOf(
  host: EngineHost,
  volume: number,
  patch: Partial<PacketOf<'P_SYNC_PARAM89'>> | undefined,
): PacketOf<'P_SYNC_PARAM89'> {
  const { verifyAlg, csumsAlg } = host.settings
  return { type: 'P_SYNC_PARAM89', volume, resyncRateKib: 250, verifyAlg, csumsAlg, ...patch }
}
