// The connection to the peer: streams, handshake, keep-alive, and the way of every packet to its volume
// (wire-protocol.md sections 1, 3.4, 4, 9.7). Per-volume meaning is in negotiation.ts, peer-io.ts and resync.ts.

import type { ResyncPace } from '../runtime/api.ts'
import type { DiskError } from '../runtime/ports.ts'
import type { WireContext } from '../wire/drbd/codec.ts'
import {
  C_DISCONNECTING,
  C_NETWORK_FAILURE,
  C_PROTOCOL_ERROR,
  C_STANDALONE,
  C_TEAR_DOWN,
  C_TIMEOUT,
  C_UNCONNECTED,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  C_WF_CONNECTION,
  C_WF_REPORT_PARAMS,
  C_WF_SYNC_UUID,
  D_FAILED,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_OUTDATED,
  dataBytesMax,
  FF_COPRIME_ORDER,
  FF_THIN_RESYNC,
  FF_TRIM,
  FF_WSAME,
  FF_WZEROES,
  R_PRIMARY,
  SS_CONCURRENT_ST_CHG,
  SS_SUCCESS,
} from '../wire/drbd/constants.ts'
import type { Packet, PacketOf } from '../wire/drbd/packets.ts'
import { decodeStateWord, encodeStateWord } from '../wire/drbd/state-word.ts'
import { BarrierAcks } from './barrier-acks.ts'
import { Connector, type SocketPair } from './connector.ts'
import type { Engine } from './engine.ts'
import { type EpochHost, type ReceivedEpoch, ReceivedEpochs, SentEpochs } from './epochs.ts'
import type { SocketId } from './events.ts'
import {
  PARTING_MS,
  PEER_BYTES_MAX,
  PROTOCOL_MAX,
  PROTOCOL_MIN,
  RECONNECT_AFTER_LOSS_MS,
  RECONNECT_PAUSE_MS,
  REQUEST_BYTES_MAX,
  SILENT_STREAM_MS,
  ZERO_BYTES_MAX,
  ZERO_BYTES_MAX_OLD_PEER,
} from './limits.ts'
import { orderMismatch, orderPacket, orderProblem } from './order/agreement.ts'
import { nameOf, PacketRouter } from './packet-router.ts'
import { sameBytes } from './peer-io.ts'
import {
  REQUEST_DISCONNECT,
  REQUEST_DISCONNECT_OUTDATE_PEER,
  REQUEST_DISCONNECT_OUTDATE_SELF,
  type StateChange,
  translatePeerView,
  validate,
} from './state-rules.ts'
import type { Volume } from './volume.ts'

const PROTOCOL_NUMBER = { A: 1, B: 2, C: 3 } as const
const OWN_FEATURES = FF_TRIM | FF_THIN_RESYNC | FF_WSAME | FF_WZEROES | FF_COPRIME_ORDER
const CHALLENGE_BYTES = 64
const EMPTY = new Uint8Array(0)
/** States in which the next word is the peer's. */
const AWAITS_PEER: ReadonlySet<number> = new Set([C_WF_REPORT_PARAMS, C_WF_BITMAP_S, C_WF_BITMAP_T, C_WF_SYNC_UUID])

type Phase = 'idle' | 'connecting' | 'features' | 'challenge' | 'response' | 'established'

interface PendingChange {
  readonly volume: Volume | undefined
  readonly done: (code: number) => void
  readonly sinceMs: number
}

export class Connection implements EpochHost {
  readonly #engine: Engine
  readonly #connector: Connector
  readonly epochs: SentEpochs
  readonly receivedEpochs: ReceivedEpochs
  readonly #barrierAcks: BarrierAcks
  #phase: Phase = 'idle'
  /** State of the connection as a whole: 0..9, and 9 for as long as it is established. */
  conn = C_STANDALONE
  /** Why it is StandAlone, or why the last attempt failed. */
  reason: string | undefined
  #data: SocketId | undefined
  #meta: SocketId | undefined
  /** Streams of a handshake that has failed, on their way out; what still comes in is not looked at. */
  readonly #parting = new Set<SocketId>()
  resolveConflicts = false
  apv = 80
  features = 0
  /** Grows with each connection: what belongs to an older one means nothing any more. */
  session = 0
  discardMyData = false
  #challenge: Uint8Array = EMPTY
  #peerOrder: PacketOf<'P_ORDER'> | undefined
  /** Of the peer as it was seen last, also by an earlier connection. */
  #peerStart: { readonly bootId: bigint; readonly instance: bigint } | undefined
  peerIntegrityAlg = ''
  readonly #router: PacketRouter
  /** Callbacks of pings in the order sent; undefined: keep-alive. */
  readonly #pings: ((() => void) | undefined)[] = []
  #keepAliveOut = false
  #keepAliveSentMs = 0
  #lastMetaMs = 0
  #lastDataMs = 0
  #pendingChange: PendingChange | undefined
  #tearingDown = false
  /** Set while an own disconnect waits for the peer's consent: carries it out. */
  #leaving: ((consent: boolean) => void) | undefined

  constructor(engine: Engine) {
    this.#engine = engine
    this.#connector = new Connector(engine, (pair) => this.#onPair(pair))
    this.#router = new PacketRouter(engine, this)
    this.epochs = new SentEpochs(this)
    this.receivedEpochs = new ReceivedEpochs(this)
    this.#barrierAcks = new BarrierAcks(engine.timers, (packet) => this.sendMeta(packet))
  }

  // ---- what was agreed -----------------------------------------------------------------------------------------------------

  get established(): boolean {
    return this.#phase === 'established'
  }

  get coprimePeer(): boolean {
    return (this.features & FF_COPRIME_ORDER) !== 0
  }

  /** Whether this host decides the order of all writes, if anybody does. */
  get coordinates(): boolean {
    const { coordinator } = this.#engine.settings.order
    return coordinator === 'flag' ? this.resolveConflicts : coordinator === 'local'
  }

  get strictEpochs(): boolean {
    return !this.coprimePeer
  }

  get endsEpochsEarly(): boolean {
    return this.strictEpochs || this.#engine.settings.congestion !== undefined
  }

  get hasZeroes(): boolean {
    return (this.features & FF_WZEROES) !== 0
  }

  get hasThinResync(): boolean {
    return (this.features & FF_THIN_RESYNC) !== 0
  }

  /** Largest write that the peer takes; larger ones are cut by the runtime. */
  get writeBytesMax(): number {
    return this.established ? Math.min(dataBytesMax(this.apv), REQUEST_BYTES_MAX) : REQUEST_BYTES_MAX
  }

  /** Largest zero request; 0: the peer has none, zeroes are written as data. */
  get zeroBytesMax(): number {
    if (!this.established) return ZERO_BYTES_MAX
    if ((this.features & (FF_TRIM | FF_WZEROES)) === 0) return 0
    return this.hasQueueLimits ? ZERO_BYTES_MAX : ZERO_BYTES_MAX_OLD_PEER
  }

  takes(write: { readonly data: Uint8Array | undefined; readonly sectors: number }): boolean {
    return write.sectors * 512 <= (write.data === undefined ? this.zeroBytesMax : this.writeBytesMax)
  }

  get hasQueueLimits(): boolean {
    return (this.features & FF_WSAME) !== 0
  }

  get maxEpochSize(): number {
    return this.#engine.settings.maxEpochSize
  }

  get handshakeContext(): WireContext {
    return { apv: 80, features: 0, integrityBytes: 0 }
  }

  integrityDigest(data: Uint8Array): Uint8Array {
    const { dataIntegrityAlg } = this.#engine.settings
    return dataIntegrityAlg === '' ? EMPTY : this.#engine.digests.digest(dataIntegrityAlg, data)
  }

  /** Towards a kernel peer the order of its epochs is kept on disk (6.4). */
  epochMayProceed(epoch: ReceivedEpoch): boolean {
    return this.coprimePeer || epoch.lost || this.receivedEpochs.isOldest(epoch)
  }

  /** An epoch of the peer is complete: for a kernel the disks are flushed before the next one may be written. */
  flushBetweenEpochs(done: () => void): void {
    const volumes = this.#engine.volumes.filter((volume) => volume.state.disk >= D_INCONSISTENT)
    let open = volumes.length
    if (open === 0) done()
    for (const volume of volumes) {
      const op = {
        onDisk: (error: DiskError | undefined): void => {
          if (error !== undefined) volume.onDataError(error, 'flush')
          if (--open === 0) done()
        },
      }
      this.#engine.emit({ type: 'disk.flush', volume: volume.number, op })
    }
  }

  sendBarrierAck(barrier: number, setSize: number, withdrawn: boolean): void {
    this.#barrierAcks.add(barrier, setSize, this.#engine.nowMs, withdrawn && !this.coprimePeer)
  }

  onEpochAdvance(): void {
    for (const volume of this.#engine.volumes) volume.io.pumpNeeded = true
  }

  /** The data stream is not to be read any further for now. */
  get dataBlocked(): boolean {
    if (this.#router.isHolding) return true
    let bytes = 0
    for (const volume of this.#engine.volumes) bytes += volume.io.peer.pendingBytes
    return bytes > PEER_BYTES_MAX
  }

  // ---- sending -------------------------------------------------------------------------------------------------------------

  sendData(packet: Packet): void {
    if (this.#data !== undefined) this.#engine.emit({ type: 'socket.send', socket: this.#data, packet })
  }

  /**
   * Whether a flush can be told to this peer at all. A kernel that checks digests does not survive an empty write (its receiver
   * ends in an oops, observed with 8.4.11); from version 100 on the digests of one direction can be switched off for it.
   */
  get flushesPeer(): boolean {
    return this.coprimePeer || this.#engine.settings.dataIntegrityAlg === '' || this.apv >= 100
  }

  sendFlush(packet: PacketOf<'P_DATA'>): void {
    const { dataIntegrityAlg } = this.#engine.settings
    if (this.coprimePeer || dataIntegrityAlg === '') {
      this.sendData(packet)
      return
    }
    this.#sendDigestsBy('')
    this.sendData({ ...packet, digest: EMPTY })
    this.#sendDigestsBy(dataIntegrityAlg)
  }

  /** From the next packet on. */
  #sendDigestsBy(integrityAlg: string): void {
    const socket = this.#data
    if (socket === undefined) return
    this.sendData({ ...this.#ownProtocol('P_PROTOCOL_UPDATE'), integrityAlg })
    const integrityBytes = integrityAlg === '' ? 0 : (this.#engine.digests.sizeBytes(integrityAlg) ?? 0)
    const context = { apv: this.apv, features: this.features, integrityBytes }
    this.#engine.emit({ type: 'socket.send-context', socket, context })
  }

  sendMeta(packet: Packet): void {
    if (this.#meta !== undefined) this.#engine.emit({ type: 'socket.send', socket: this.#meta, packet })
  }

  /** A ping of our own whose answer carries everything sent before it through the peer. */
  pingThen(done: () => void): void {
    if (this.#meta === undefined) return
    this.#pings.push(done)
    this.sendMeta({ type: 'P_PING', volume: 0 })
  }

  // ---- connecting ------------------------------------------------------------------------------------------------------------

  connect(discardMyData: boolean): void {
    this.#part()
    this.discardMyData = discardMyData
    this.reason = undefined
    this.#setConn(C_UNCONNECTED, 'connect')
    this.#startConnecting()
  }

  #startConnecting(): void {
    this.#phase = 'connecting'
    this.#tearingDown = false
    this.#setConn(C_WF_CONNECTION, 'looking for the peer')
    this.#connector.start()
  }

  onConnected(socket: SocketId): void {
    this.#connector.onConnected(socket)
  }

  onConnectFailed(reason: string): void {
    this.reason ??= reason
    this.#connector.onConnectFailed()
  }

  onAccepted(socket: SocketId): void {
    this.#connector.onAccepted(socket)
  }

  onClosed(socket: SocketId, reason: string): void {
    if (this.#parting.delete(socket)) this.#part()
    else if (socket === this.#data || socket === this.#meta) {
      if (this.#tearingDown) return
      this.fail(C_NETWORK_FAILURE, `the connection was closed: ${reason}`)
    } else this.#connector.onClosed(socket, reason)
  }

  #onPair(pair: SocketPair): void {
    const { timers, nowMs, settings } = this.#engine
    this.#data = pair.data
    this.#meta = pair.meta
    this.resolveConflicts = pair.resolveConflicts
    this.#phase = 'features'
    this.session++
    this.apv = 80
    this.features = 0
    timers.set('handshake', nowMs + 4 * settings.pingTimeoutMs, () =>
      this.fail(C_NETWORK_FAILURE, 'the peer did not answer the handshake in time'),
    )
    this.sendData({
      type: 'P_CONNECTION_FEATURES',
      volume: 0,
      protocolMin: PROTOCOL_MIN,
      features: OWN_FEATURES,
      protocolMax: PROTOCOL_MAX,
    })
  }

  /** Drops the connection and tries again. */
  fail(conn: number, reason: string): void {
    const established = this.#phase === 'established'
    const leaving = this.#leaving
    if (leaving !== undefined) {
      this.#leaving = undefined
      this.#pendingChange = undefined
      leaving(false)
      return
    }
    if (this.#phase === 'idle' || (this.#data === undefined && this.#meta === undefined)) return
    this.#engine.log(established ? 'warn' : 'info', `connection lost: ${reason}`)
    this.reason = reason
    this.#closeStreams()
    this.#setConn(conn, reason)
    this.#setConn(C_UNCONNECTED, 'trying again')
    const { timers, nowMs } = this.#engine
    timers.set('reconnect', nowMs + (established ? RECONNECT_AFTER_LOSS_MS : RECONNECT_PAUSE_MS), () =>
      this.#startConnecting(),
    )
  }

  /** `on-congestion disconnect`: a link that is too slow is given up, its clients go on. */
  onCongested(): void {
    if (this.established) this.giveUp('the link is congested, and on-congestion is disconnect')
  }

  /** Drops the connection for good: only the administrator connects again. */
  giveUp(reason: string): void {
    this.#engine.log('error', `connection given up (StandAlone): ${reason}`)
    this.reason = reason
    if (this.#engine.volumes.some((volume) => volume.state.conn === C_WF_REPORT_PARAMS)) this.#letPeerDecide()
    this.#goStandAlone(reason)
  }

  /**
   * The peer has all that it needs to come to the same end, but may not have looked at it yet. No packet tells it: if the
   * streams ended now, a kernel would take that for a network failure and try for ever. So they stay open for a moment.
   */
  #letPeerDecide(): void {
    for (const socket of [this.#data, this.#meta]) if (socket !== undefined) this.#parting.add(socket)
    this.#data = undefined
    this.#meta = undefined
    const { timers, nowMs } = this.#engine
    timers.set('parting', nowMs + PARTING_MS, () => this.#part())
  }

  #part(): void {
    this.#engine.timers.clear('parting')
    for (const socket of this.#parting) this.#engine.emit({ type: 'socket.close', socket })
    this.#parting.clear()
  }

  protocolError(reason: string): void {
    this.fail(C_PROTOCOL_ERROR, reason)
  }

  #goStandAlone(reason: string): void {
    this.#engine.timers.clear('reconnect')
    this.#connector.stop()
    this.#closeStreams()
    if (this.conn === C_STANDALONE) return
    this.#setConn(C_DISCONNECTING, reason)
    this.#setConn(C_STANDALONE, reason)
    this.discardMyData = false
  }

  #closeStreams(): void {
    const { timers } = this.#engine
    for (const name of ['handshake', 'keep-alive', 'sequence', 'requests']) timers.clear(name)
    for (const socket of [this.#data, this.#meta])
      if (socket !== undefined) this.#engine.emit({ type: 'socket.close', socket })
    this.#data = undefined
    this.#meta = undefined
    this.#phase = 'idle'
    this.#router.reset()
    this.#pings.length = 0
    this.#keepAliveOut = false
    this.session++
    this.epochs.reset()
    this.receivedEpochs.reset()
    this.#barrierAcks.reset()
    const pending = this.#pendingChange
    this.#pendingChange = undefined
    pending?.done(0)
  }

  #setConn(conn: number, reason: string): void {
    this.conn = conn
    for (const volume of this.#engine.volumes) volume.change({ conn }, reason)
    this.#engine.statusChanged()
  }

  // ---- packets -----------------------------------------------------------------------------------------------------------------

  /**
   * Whether the next packet of a stream may be taken now: the stream may be undecided yet (the peer's settling time was
   * shorter than ours), its packet format not agreed, or its order have to wait.
   */
  isMeta(socket: SocketId): boolean {
    return socket === this.#meta
  }

  mayReceive(socket: SocketId): boolean {
    if (socket === this.#data) return !this.dataBlocked
    if (socket === this.#meta) return this.#phase === 'established'
    return this.#parting.has(socket) || this.#connector.isStranger(socket)
  }

  onPacket(socket: SocketId, packet: Packet): void {
    if (this.#parting.has(socket)) return
    if (socket !== this.#data && socket !== this.#meta) {
      this.#connector.onPacket(socket, packet)
      return
    }
    const now = this.#engine.nowMs
    if (socket === this.#data) {
      this.#lastDataMs = now
      if (this.#phase === 'established') this.#router.onDataPacket(packet)
      else this.#onHandshakePacket(packet)
    } else {
      this.#lastMetaMs = now
      this.#router.onMetaPacket(packet)
    }
  }

  onGarbage(socket: SocketId, reason: string): void {
    if (socket === this.#data || socket === this.#meta) this.protocolError(reason)
    else if (this.#parting.has(socket)) this.#part()
    else {
      this.#connector.tellOfStranger(reason)
      this.#engine.emit({ type: 'socket.close', socket })
      this.#connector.onClosed(socket, reason)
    }
  }

  // ---- handshake ---------------------------------------------------------------------------------------------------------------

  #onHandshakePacket(packet: Packet): void {
    switch (this.#phase) {
      case 'features':
        if (packet.type === 'P_CONNECTION_FEATURES') this.#onFeatures(packet)
        else this.giveUp(`the peer began the handshake with ${nameOf(packet)} instead of P_CONNECTION_FEATURES`)
        break
      case 'challenge':
        if (packet.type === 'P_AUTH_CHALLENGE') this.#onChallenge(packet.payload)
        else this.giveUp(`authentication: the peer sent ${nameOf(packet)}; cram-hmac-alg is set here, is it set there?`)
        break
      case 'response':
        this.#onResponse(packet)
        break
      default:
        this.protocolError(`${nameOf(packet)} outside of a connection`)
    }
  }

  #onFeatures(packet: PacketOf<'P_CONNECTION_FEATURES'>): void {
    const peerMax = packet.protocolMax || packet.protocolMin
    if (PROTOCOL_MAX < packet.protocolMin || PROTOCOL_MIN > peerMax) {
      this.giveUp(
        `incompatible protocol versions: this host speaks ${PROTOCOL_MIN} to ${PROTOCOL_MAX}, the peer ${packet.protocolMin} to ${peerMax}`,
      )
      return
    }
    const engine = this.#engine
    this.apv = Math.min(PROTOCOL_MAX, peerMax)
    if (this.apv < 100 && engine.volumes.some((volume) => volume.number !== 0)) {
      this.giveUp(`the peer speaks version ${this.apv}: below 100 a resource has volume 0 only`)
      return
    }
    this.features = OWN_FEATURES & packet.features
    const problem = orderProblem(engine.settings, this.coprimePeer)
    if (problem !== undefined) {
      this.giveUp(problem)
      return
    }
    this.#setContext()
    if (engine.settings.cramHmacAlg !== '') {
      this.#phase = 'challenge'
      this.#challenge = randomBytes(CHALLENGE_BYTES, () => engine.entropy.u32())
      this.sendData({ type: 'P_AUTH_CHALLENGE', volume: 0, payload: this.#challenge })
    } else this.#begin()
  }

  #setContext(): void {
    const { settings, digests } = this.#engine
    const integrityBytes = settings.dataIntegrityAlg === '' ? 0 : (digests.sizeBytes(settings.dataIntegrityAlg) ?? 0)
    const context = { apv: this.apv, features: this.features, integrityBytes }
    for (const socket of [this.#data, this.#meta])
      if (socket !== undefined) this.#engine.emit({ type: 'socket.context', socket, context })
  }

  /**
   * The peer's administrator changed its options (3.12): from its next packet on it uses this integrity algorithm. The
   * others have no part in what it sends; the next handshake compares them.
   */
  onProtocolUpdate(packet: PacketOf<'P_PROTOCOL_UPDATE'>): void {
    const integrityBytes = packet.integrityAlg === '' ? 0 : this.#engine.digests.sizeBytes(packet.integrityAlg)
    if (integrityBytes === undefined) {
      this.protocolError(`the peer changes data-integrity-alg to ${packet.integrityAlg}, which is not known here`)
      return
    }
    this.#engine.log('info', 'the peer changed its net options: they have to be equal here at the next connect')
    this.peerIntegrityAlg = packet.integrityAlg
    const context = { apv: this.apv, features: this.features, integrityBytes }
    if (this.#data !== undefined) this.#engine.emit({ type: 'socket.receive-context', socket: this.#data, context })
  }

  #onChallenge(challenge: Uint8Array): void {
    if (challenge.length < CHALLENGE_BYTES || challenge.length > 2 * CHALLENGE_BYTES) {
      this.giveUp(`authentication: a challenge of ${challenge.length} bytes`)
      return
    }
    if (sameBytes(challenge.subarray(0, CHALLENGE_BYTES), this.#challenge)) {
      this.giveUp('authentication: the peer returned our own challenge')
      return
    }
    this.#phase = 'response'
    this.sendData({ type: 'P_AUTH_RESPONSE', volume: 0, payload: this.#hmac(challenge) })
  }

  #onResponse(packet: Packet): void {
    if (packet.type !== 'P_AUTH_RESPONSE')
      this.fail(C_PROTOCOL_ERROR, `authentication: the peer sent ${nameOf(packet)} instead of its response`)
    else if (!sameBytes(packet.payload, this.#hmac(this.#challenge)))
      this.giveUp('authentication of the peer failed: the shared-secret differs')
    else this.#begin()
  }

  #hmac(message: Uint8Array): Uint8Array {
    const { settings, digests } = this.#engine
    return digests.hmac(settings.cramHmacAlg, asciiBytes(settings.sharedSecret), message)
  }

  /** Step 8 on: tell everything, then listen. */
  #begin(): void {
    const { settings, timers, nowMs, volumes } = this.#engine
    timers.clear('handshake')
    this.#phase = 'established'
    this.#lastMetaMs = nowMs
    this.#lastDataMs = nowMs
    this.peerIntegrityAlg = settings.dataIntegrityAlg
    this.sendData({ ...this.#ownProtocol('P_PROTOCOL'), connFlags: this.discardMyData ? 1 : 0 })
    this.#peerOrder = undefined
    if (settings.order.name !== 'arbitration') this.sendData(orderPacket(settings.order))
    if (this.coprimePeer)
      this.sendData({ type: 'P_BOOT_ID', volume: 0, bootId: this.#engine.bootId, instance: this.#engine.instance })
    for (const volume of volumes) volume.negotiation.introduce()
    this.#setConn(C_WF_REPORT_PARAMS, 'handshake')
    this.reason = undefined
    this.#armKeepAlive(settings.pingIntMs)
    this.#armRequestTimeout()
  }

  #ownProtocol<T extends 'P_PROTOCOL' | 'P_PROTOCOL_UPDATE'>(type: T): PacketOf<T> {
    const { settings } = this.#engine
    return {
      type,
      volume: 0,
      protocol: PROTOCOL_NUMBER[settings.protocol],
      afterSb0p: settings.afterSb0p,
      afterSb1p: settings.afterSb1p,
      afterSb2p: settings.afterSb2p,
      connFlags: 0,
      twoPrimaries: settings.allowTwoPrimaries ? 1 : 0,
      integrityAlg: settings.dataIntegrityAlg,
    } as PacketOf<T>
  }

  onProtocol(packet: PacketOf<'P_PROTOCOL'>): void {
    const { settings } = this.#engine
    const mirrored = (policy: number): number => (policy === 5 ? 6 : policy === 6 ? 5 : policy)
    const differs = (what: string, own: string | number, peer: string | number): void =>
      this.giveUp(`incompatible "${what}" settings: ${own} here, ${peer} on the peer; make both configurations equal`)
    const own = PROTOCOL_NUMBER[settings.protocol]
    if (packet.protocol !== own) differs('protocol', settings.protocol, 'ABC'[packet.protocol - 1] ?? packet.protocol)
    else if (mirrored(packet.afterSb0p) !== settings.afterSb0p)
      differs('after-sb-0pri', settings.afterSb0p, packet.afterSb0p)
    else if (packet.afterSb1p !== settings.afterSb1p) differs('after-sb-1pri', settings.afterSb1p, packet.afterSb1p)
    else if (packet.afterSb2p !== settings.afterSb2p) differs('after-sb-2pri', settings.afterSb2p, packet.afterSb2p)
    else if ((packet.connFlags & 1) !== 0 && this.discardMyData)
      this.giveUp('both hosts were told to discard their data (--discard-my-data)')
    else if ((packet.twoPrimaries === 1) !== settings.allowTwoPrimaries)
      differs(
        'allow-two-primaries',
        settings.allowTwoPrimaries ? 'yes' : 'no',
        packet.twoPrimaries === 1 ? 'yes' : 'no',
      )
    else if (packet.integrityAlg !== settings.dataIntegrityAlg)
      differs('data-integrity-alg', settings.dataIntegrityAlg || '(none)', packet.integrityAlg || '(none)')
  }

  onOrder(packet: PacketOf<'P_ORDER'>): void {
    this.#peerOrder = packet
    if (this.coprimePeer) this.orderIsAgreed()
    else this.protocolError('P_ORDER from a peer that did not announce our extension')
  }

  /** Comes before the peer's state: whoever waits for the peer hears first that it has lost its memory. */
  onBootId({ bootId, instance }: PacketOf<'P_BOOT_ID'>): void {
    if (!this.coprimePeer) {
      this.protocolError('P_BOOT_ID from a peer that did not announce our extension')
      return
    }
    const known = this.#peerStart
    this.#peerStart = { bootId, instance }
    if (known === undefined) return
    for (const { io } of this.#engine.volumes) {
      if (known.bootId !== bootId) io.flushes.onPeerRebooted()
      if (known.instance !== instance) io.peer.onPeerRestarted()
    }
  }

  /** Looked at when the peer's state is there, which comes after its P_ORDER. If not, the connection is given up. */
  orderIsAgreed(): boolean {
    const mismatch = orderMismatch(this.#engine.settings.order, this.#peerOrder)
    if (mismatch !== undefined) this.giveUp(mismatch)
    return mismatch === undefined
  }

  onSyncParam(packet: PacketOf<'P_SYNC_PARAM89'>): void {
    const { settings } = this.#engine
    const volume = this.#engine.volumeOf(packet.volume)
    if (volume !== undefined && volume.state.disk > D_FAILED) volume.io.resync.pacer.adopt(paceOf(packet))
    if (volume?.state.conn !== C_WF_REPORT_PARAMS) return
    if (packet.verifyAlg !== settings.verifyAlg)
      this.giveUp(
        `incompatible "verify-alg" settings: ${settings.verifyAlg || '(none)'} here, ${packet.verifyAlg || '(none)'} on the peer`,
      )
    else if (packet.csumsAlg !== settings.csumsAlg)
      this.giveUp(
        `incompatible "csums-alg" settings: ${settings.csumsAlg || '(none)'} here, ${packet.csumsAlg || '(none)'} on the peer`,
      )
  }

  resetHighest(volume: number): void {
    this.#router.resetHighest(volume)
  }

  // ---- keep-alive ------------------------------------------------------------------------------------------------------------

  #armKeepAlive(inMs: number): void {
    this.#engine.timers.set('keep-alive', this.#engine.nowMs + inMs, () => this.#onKeepAlive())
  }

  #onKeepAlive(): void {
    const { settings, nowMs } = this.#engine
    if (this.#keepAliveOut) {
      if (this.#lastDataMs > this.#keepAliveSentMs) {
        this.#keepAliveSentMs = nowMs
        this.#armKeepAlive(settings.pingTimeoutMs)
      } else this.fail(C_NETWORK_FAILURE, `the peer did not answer a ping within ${settings.pingTimeoutMs} ms`)
      return
    }
    const idleMs = nowMs - Math.max(this.#lastMetaMs, this.#lastDataMs)
    // A millisecond less counts as idle: a rest of a rounding error would re-arm the timer for the same instant, for ever.
    if (idleMs < settings.pingIntMs - 1) {
      this.#armKeepAlive(settings.pingIntMs - idleMs)
      return
    }
    this.#keepAliveOut = true
    this.#keepAliveSentMs = nowMs
    this.#pings.push(undefined)
    this.sendMeta({ type: 'P_PING', volume: 0 })
    this.#armKeepAlive(settings.pingTimeoutMs)
  }

  onPingAck(): void {
    const done = this.#pings.shift()
    if (done !== undefined) done()
    else if (this.#keepAliveOut) {
      this.#keepAliveOut = false
      this.#armKeepAlive(this.#engine.settings.pingIntMs)
    }
  }

  /** A request, or a step of handshake, bitmap exchange or attach, that the peer leaves unanswered for ko-count x timeout ends the connection (1.5). */
  #armRequestTimeout(): void {
    const { settings, timers, nowMs, volumes } = this.#engine
    if (settings.koCount === 0) return
    const limitMs = settings.koCount * settings.timeoutMs
    timers.set('requests', nowMs + Math.min(1000, limitMs / 4), () => {
      const now = this.#engine.nowMs
      const oldest = Math.min(...volumes.map((volume) => volume.io.oldestUnansweredMs))
      const silentSince = Math.max(this.#awaitedSinceMs, this.#lastDataMs)
      if (now - oldest > limitMs || now - silentSince > Math.max(limitMs, SILENT_STREAM_MS))
        this.fail(C_TIMEOUT, `the peer left a request unanswered for ${limitMs} ms`)
      else this.#armRequestTimeout()
    })
  }

  /** Since when something is awaited that comes by the data stream, or infinity: it may be dead while the other one lives. */
  get #awaitedSinceMs(): number {
    let since = this.#pendingChange?.sinceMs ?? Number.POSITIVE_INFINITY
    for (const volume of this.#engine.volumes) {
      since = Math.min(since, volume.io.resync.oldestUnansweredMs, volume.io.resync.sinceEndIsAwaitedMs())
      if (AWAITS_PEER.has(volume.state.conn)) since = Math.min(since, volume.connSinceMs)
      if (volume.state.disk === D_NEGOTIATING) since = Math.min(since, volume.diskSinceMs)
    }
    return since
  }

  // ---- cluster-wide changes of state (9.7) -------------------------------------------------------------------------------------

  /** Asks the peer for consent. `done` gets the reply's code, or 0 if the connection was lost. */
  requestChange(volume: Volume | undefined, change: StateChange, done: (code: number) => void): void {
    if (this.#pendingChange !== undefined) {
      done(SS_CONCURRENT_ST_CHG)
      return
    }
    this.#pendingChange = { volume, done, sinceMs: this.#engine.nowMs }
    if (volume !== undefined)
      this.sendData({ type: 'P_STATE_CHG_REQ', volume: volume.number, mask: change.mask, value: change.value })
    else
      this.sendData({
        type: this.apv >= 100 ? 'P_CONN_ST_CHG_REQ' : 'P_STATE_CHG_REQ',
        volume: 0,
        mask: change.mask,
        value: change.value,
      })
  }

  onChangeReply(code: number): void {
    const pending = this.#pendingChange
    this.#pendingChange = undefined
    if (pending === undefined) this.#engine.log('warn', 'reply to a state change that was not asked for')
    else pending.done(code)
  }

  onVolumeChangeRequest(packet: PacketOf<'P_STATE_CHG_REQ'>, volume: Volume): void {
    const conn = decodeStateWord(packet.mask).conn === 0 ? undefined : decodeStateWord(packet.value).conn
    if (this.apv < 100 && conn === C_DISCONNECTING) {
      this.onConnectionChangeRequest(packet.mask, packet.value, 'P_STATE_CHG_REPLY')
      return
    }
    if (this.resolveConflicts && this.#pendingChange !== undefined) {
      this.sendMeta({ type: 'P_STATE_CHG_REPLY', volume: volume.number, code: SS_CONCURRENT_ST_CHG })
      return
    }
    const session = this.session
    const code = volume.negotiation.onChangeRequest(packet.mask, packet.value)
    const reply = (): void => {
      if (session === this.session) this.sendMeta({ type: 'P_STATE_CHG_REPLY', volume: volume.number, code })
    }
    if (volume.peerMayWrite) volume.io.order.onPeerPromotes(reply)
    else reply()
  }

  /** The peer wants to leave. */
  onConnectionChangeRequest(mask: number, value: number, reply: 'P_CONN_ST_CHG_REPLY' | 'P_STATE_CHG_REPLY'): void {
    const { volumes } = this.#engine
    if (this.resolveConflicts && this.#pendingChange !== undefined) {
      this.sendMeta({ type: reply, volume: 0, code: SS_CONCURRENT_ST_CHG })
      return
    }
    const ownMask = encodeStateWord(translatePeerView(decodeStateWord(mask)))
    const ownValue = encodeStateWord(translatePeerView(decodeStateWord(value)))
    const wanted = volumes.map((volume) =>
      decodeStateWord(((encodeStateWord(volume.state) & ~ownMask) | ownValue) >>> 0),
    )
    for (const [i, volume] of volumes.entries()) {
      const state = wanted[i]
      if (state === undefined) continue
      const code = validate(state, this.#engine.validityContext(volume))
      if (code < SS_SUCCESS && validate(volume.state, this.#engine.validityContext(volume)) !== code) {
        this.sendMeta({ type: reply, volume: 0, code })
        return
      }
    }
    this.sendMeta({ type: reply, volume: 0, code: SS_SUCCESS })
    this.#engine.log('info', 'the peer disconnects')
    this.#tearDown(volumes.map((_, i) => wanted[i]?.pdsk))
  }

  #tearDown(pdsk: readonly (number | undefined)[]): void {
    this.reason = 'the peer disconnected'
    this.#tearingDown = true
    this.conn = C_TEAR_DOWN
    for (const [i, volume] of this.#engine.volumes.entries()) {
      const outdated = pdsk[i] === D_OUTDATED && volume.state.pdsk !== D_OUTDATED
      volume.change({ conn: C_TEAR_DOWN, ...(outdated ? { pdsk: D_OUTDATED } : {}) }, 'the peer disconnects')
    }
    this.#closeStreams()
    this.#setConn(C_UNCONNECTED, 'the peer is gone')
    this.#engine.timers.set('reconnect', this.#engine.nowMs + RECONNECT_AFTER_LOSS_MS, () => this.#startConnecting())
  }

  /** A graceful end from our side; `done` with 1 or the code of the refusal. */
  disconnect(force: boolean, done: (code: number) => void): void {
    this.#part()
    if (!this.established || force) {
      this.#goStandAlone('disconnect')
      done(SS_SUCCESS)
      return
    }
    const volumes = this.#engine.volumes
    const context = volumes.map((volume) =>
      validate({ ...volume.state, conn: C_DISCONNECTING }, this.#engine.validityContext(volume)),
    )
    const outdatePeer = context.some((code) => code < SS_SUCCESS)
    this.#askToLeave(outdatePeer ? REQUEST_DISCONNECT_OUTDATE_PEER : REQUEST_DISCONNECT, outdatePeer, false, done)
  }

  /**
   * Asks the peer for consent to leave. It closes its streams right behind its reply, and the end of the data stream may
   * be seen first: an end while the question is open counts as consent to leave (9.7). It does not count as a promise: the
   * link may have died before the peer was asked, so a peer that was to outdate its disk is taken for unknown.
   */
  #askToLeave(request: StateChange, outdatePeer: boolean, outdateSelf: boolean, done: (code: number) => void): void {
    this.#leaving = (consent) => this.#leave(consent && outdatePeer, outdateSelf, done)
    this.requestChange(undefined, request, (code) => {
      const leaving = this.#leaving
      this.#leaving = undefined
      if (code >= SS_SUCCESS) leaving?.(true)
      // A Primary that stepped back would serve its clients until it hears that the peer has gone on without it.
      else if (outdatePeer || outdateSelf || this.#engine.role === R_PRIMARY) done(code)
      // The peer may not stay behind with a disk that looks as good as its own: step back, then it agrees.
      else this.#askToLeave(REQUEST_DISCONNECT_OUTDATE_SELF, false, true, done)
    })
  }

  #leave(outdatePeer: boolean, outdateSelf: boolean, done: (code: number) => void): void {
    for (const volume of this.#engine.volumes) {
      if (outdateSelf && volume.state.disk > D_OUTDATED)
        volume.change({ conn: C_DISCONNECTING, disk: D_OUTDATED }, 'disconnect')
      else if (outdatePeer) volume.change({ conn: C_DISCONNECTING, pdsk: D_OUTDATED }, 'disconnect')
    }
    this.#goStandAlone('disconnect')
    done(SS_SUCCESS)
  }
}

/** The controller's fields are there from version 95 on. */
function paceOf(packet: PacketOf<'P_SYNC_PARAM89'>): Partial<ResyncPace> {
  const { resyncRateKib, cPlanAhead, cDelayTarget, cFillTarget, cMaxRateKib } = packet
  if (cPlanAhead === undefined || cDelayTarget === undefined || cFillTarget === undefined || cMaxRateKib === undefined)
    return { resyncRateKib }
  return { resyncRateKib, cPlanAhead, cDelayTarget, cFillTarget, cMaxRateKib }
}

function randomBytes(count: number, u32: () => number): Uint8Array {
  const bytes = new Uint8Array(count)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < count; at += 4) view.setUint32(at, u32())
  return bytes
}

function asciiBytes(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff)
}
