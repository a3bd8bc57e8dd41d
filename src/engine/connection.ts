// The connection to the peer: streams, handshake, keep-alive, and the way of every packet to its volume
// (wire-protocol.md sections 1, 3.4, 4, 9.7). Per-volume meaning is in negotiation.ts, peer-io.ts and resync.ts.

import { AppError } from '../base/errors.ts'
import type { WireContext } from '../wire/drbd/codec.ts'
import {
  C_DISCONNECTING,
  C_NETWORK_FAILURE,
  C_PROTOCOL_ERROR,
  C_STANDALONE,
  C_TEAR_DOWN,
  C_TIMEOUT,
  C_UNCONNECTED,
  C_WF_CONNECTION,
  C_WF_REPORT_PARAMS,
  D_OUTDATED,
  FF_COPRIME_ORDER,
  FF_THIN_RESYNC,
  FF_TRIM,
  FF_WSAME,
  FF_WZEROES,
  ID_SYNCER_WORD,
  SS_CONCURRENT_ST_CHG,
  SS_SUCCESS,
} from '../wire/drbd/constants.ts'
import type { Packet, PacketOf } from '../wire/drbd/packets.ts'
import { decodeStateWord, encodeStateWord } from '../wire/drbd/state-word.ts'
import { Connector, type SocketPair } from './connector.ts'
import type { Engine } from './engine.ts'
import { type EpochHost, type ReceivedEpoch, ReceivedEpochs, SentEpochs } from './epochs.ts'
import type { SocketId } from './events.ts'
import {
  PEER_BYTES_MAX,
  PROTOCOL_MAX,
  PROTOCOL_MIN,
  RECONNECT_AFTER_LOSS_MS,
  RECONNECT_PAUSE_MS,
  REQUEST_BYTES_MAX,
  ZERO_BYTES_MAX,
} from './limits.ts'
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

type Phase = 'idle' | 'connecting' | 'features' | 'challenge' | 'response' | 'established'

interface PendingChange {
  readonly volume: Volume | undefined
  readonly done: (code: number) => void
}

export class Connection implements EpochHost {
  readonly #engine: Engine
  readonly #connector: Connector
  readonly epochs: SentEpochs
  readonly receivedEpochs: ReceivedEpochs
  #phase: Phase = 'idle'
  /** State of the connection as a whole: 0..9, and 9 for as long as it is established. */
  conn = C_STANDALONE
  /** Why it is StandAlone, or why the last attempt failed. */
  reason: string | undefined
  #data: SocketId | undefined
  #meta: SocketId | undefined
  resolveConflicts = false
  apv = 80
  features = 0
  /** Grows with each connection: what belongs to an older one means nothing any more. */
  session = 0
  discardMyData = false
  #challenge: Uint8Array = EMPTY
  #peerIntegrityAlg = ''
  /** Newest sequence number seen from the peer, by volume (3.4). */
  readonly #highest = new Map<number, number>()
  /** A write that has overtaken an acknowledgement waits here, and with it the whole data stream. */
  #held: Packet | undefined
  /** Callbacks of pings in the order sent; undefined: keep-alive. */
  readonly #pings: ((() => void) | undefined)[] = []
  #keepAliveOut = false
  #keepAliveSentMs = 0
  #lastMetaMs = 0
  #lastDataMs = 0
  #pendingChange: PendingChange | undefined
  #tearingDown = false
  /** Set while an own disconnect waits for the peer's consent: carries it out. */
  #leaving: (() => void) | undefined

  constructor(engine: Engine) {
    this.#engine = engine
    this.#connector = new Connector(engine, (pair) => this.#onPair(pair))
    this.epochs = new SentEpochs(this)
    this.receivedEpochs = new ReceivedEpochs(this)
  }

  // ---- what was agreed -----------------------------------------------------------------------------------------------------

  get established(): boolean {
    return this.#phase === 'established'
  }

  get coprimePeer(): boolean {
    return (this.features & FF_COPRIME_ORDER) !== 0
  }

  get strictEpochs(): boolean {
    return !this.coprimePeer
  }

  get hasZeroes(): boolean {
    return (this.features & FF_WZEROES) !== 0
  }

  get hasThinResync(): boolean {
    return (this.features & FF_THIN_RESYNC) !== 0
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

  /** The data stream is not to be read any further for now. */
  get dataBlocked(): boolean {
    if (this.#held !== undefined) return true
    let bytes = 0
    for (const volume of this.#engine.volumes) bytes += volume.io.peer.pendingBytes
    return bytes > PEER_BYTES_MAX
  }

  // ---- sending -------------------------------------------------------------------------------------------------------------

  sendData(packet: Packet): void {
    if (this.#data !== undefined) this.#engine.emit({ type: 'socket.send', socket: this.#data, packet })
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
    if (socket === this.#data || socket === this.#meta) {
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
      leaving()
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

  /** Drops the connection for good: only the administrator connects again. */
  giveUp(reason: string): void {
    this.#engine.log('error', `connection given up (StandAlone): ${reason}`)
    this.reason = reason
    this.#goStandAlone(reason)
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
    this.#held = undefined
    this.#pings.length = 0
    this.#keepAliveOut = false
    this.session++
    this.epochs.reset()
    this.receivedEpochs.reset()
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
  mayReceive(socket: SocketId): boolean {
    if (socket === this.#data) return !this.dataBlocked
    if (socket === this.#meta) return this.#phase === 'established'
    return this.#connector.isStranger(socket)
  }

  onPacket(socket: SocketId, packet: Packet): void {
    if (socket !== this.#data && socket !== this.#meta) {
      this.#connector.onPacket(socket, packet)
      return
    }
    const now = this.#engine.nowMs
    if (socket === this.#data) {
      this.#lastDataMs = now
      if (this.#phase === 'established') this.#onDataPacket(packet)
      else this.#onHandshakePacket(packet)
    } else {
      this.#lastMetaMs = now
      this.#onMetaPacket(packet)
    }
  }

  onGarbage(socket: SocketId, reason: string): void {
    if (socket === this.#data || socket === this.#meta) this.protocolError(reason)
    else {
      this.#engine.log('warn', `a stranger on the replication port: ${reason}; it was closed`)
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
    this.features = OWN_FEATURES & packet.features
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
    this.#peerIntegrityAlg = settings.dataIntegrityAlg
    this.sendData({
      type: 'P_PROTOCOL',
      volume: 0,
      protocol: PROTOCOL_NUMBER[settings.protocol],
      afterSb0p: settings.afterSb0p,
      afterSb1p: settings.afterSb1p,
      afterSb2p: settings.afterSb2p,
      connFlags: this.discardMyData ? 1 : 0,
      twoPrimaries: settings.allowTwoPrimaries ? 1 : 0,
      integrityAlg: settings.dataIntegrityAlg,
    })
    for (const volume of volumes) volume.negotiation.introduce()
    this.#setConn(C_WF_REPORT_PARAMS, 'handshake')
    this.reason = undefined
    this.#armKeepAlive(settings.pingIntMs)
    this.#armRequestTimeout()
  }

  #onProtocol(packet: PacketOf<'P_PROTOCOL'>): void {
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

  #onSyncParam(packet: { readonly volume: number; readonly verifyAlg: string; readonly csumsAlg: string }): void {
    const { settings } = this.#engine
    if (this.#engine.volumeOf(packet.volume)?.state.conn !== C_WF_REPORT_PARAMS) return
    if (packet.verifyAlg !== settings.verifyAlg)
      this.giveUp(
        `incompatible "verify-alg" settings: ${settings.verifyAlg || '(none)'} here, ${packet.verifyAlg || '(none)'} on the peer`,
      )
    else if (packet.csumsAlg !== settings.csumsAlg)
      this.giveUp(
        `incompatible "csums-alg" settings: ${settings.csumsAlg || '(none)'} here, ${packet.csumsAlg || '(none)'} on the peer`,
      )
  }

  // ---- data stream -----------------------------------------------------------------------------------------------------------

  #onDataPacket(packet: Packet): void {
    switch (packet.type) {
      case 'P_DATA':
      case 'P_TRIM':
      case 'P_ZEROES':
      case 'P_WSAME':
        this.#onWrite(packet)
        return
      case 'P_BARRIER':
        this.receivedEpochs.onBarrier(packet.barrier)
        return
      case 'P_UNPLUG_REMOTE':
      case 'P_DELAY_PROBE':
        return
      case 'P_PROTOCOL':
        this.#onProtocol(packet)
        return
      case 'P_PROTOCOL_UPDATE':
        this.#peerIntegrityAlg = packet.integrityAlg
        return
      case 'P_CONN_ST_CHG_REQ':
        this.#onConnectionChangeRequest(packet.mask, packet.value, 'P_CONN_ST_CHG_REPLY')
        return
      default:
        this.#onVolumePacket(packet)
    }
  }

  #onVolumePacket(packet: Packet): void {
    const volume = this.#engine.volumeOf(packet.volume)
    if (volume === undefined) {
      const skipped = ['P_SYNC_PARAM', 'P_SYNC_PARAM89', 'P_SIZES', 'P_UUIDS', 'P_STATE']
      if (skipped.includes(packet.type))
        this.#engine.log('warn', `${packet.type} for volume ${packet.volume}, which is not configured here`)
      else this.protocolError(`${nameOf(packet)} for volume ${packet.volume}, which is not configured here`)
      return
    }
    const { io, negotiation } = volume
    switch (packet.type) {
      case 'P_SIZES':
        negotiation.onSizes(packet)
        break
      case 'P_UUIDS':
        negotiation.onUuids(packet)
        break
      case 'P_STATE':
        negotiation.onState(packet.state)
        break
      case 'P_SYNC_UUID':
        negotiation.onSyncUuid(packet.uuid)
        break
      case 'P_SYNC_PARAM89':
        this.#onSyncParam(packet)
        break
      case 'P_SYNC_PARAM':
        if (this.apv === 88) this.#onSyncParam({ ...packet, csumsAlg: this.#engine.settings.csumsAlg })
        break
      case 'P_BITMAP':
      case 'P_COMPRESSED_BITMAP':
        this.#guarded(() => io.resync.onBitmapPacket(packet))
        break
      case 'P_OUT_OF_SYNC':
        if (this.#checkRange(packet, volume)) volume.markOutOfSync(packet.sector, packet.sizeBytes / 512)
        break
      case 'P_DATA_REQUEST':
        if (this.#checkRange(packet, volume)) io.peer.onReadRequest('data', packet, undefined)
        break
      case 'P_RS_DATA_REQUEST':
        if (this.#checkRange(packet, volume)) io.peer.onReadRequest('resync', packet, undefined)
        break
      case 'P_RS_THIN_REQ':
        if (this.#checkRange(packet, volume)) io.peer.onReadRequest('thin', packet, undefined)
        break
      case 'P_CSUM_RS_REQUEST':
        if (
          this.#checkRange(packet, volume) &&
          this.#checkAlgorithm(packet.type, 'csums-alg', this.#engine.settings.csumsAlg)
        ) {
          io.peer.onReadRequest('checksum', packet, packet.digest)
        }
        break
      case 'P_OV_REQUEST':
        if (
          this.#checkRange(packet, volume) &&
          this.#checkAlgorithm(packet.type, 'verify-alg', this.#engine.settings.verifyAlg)
        ) {
          io.peer.onReadRequest('verify', packet, undefined)
        }
        break
      case 'P_DATA_REPLY':
        if (this.#checkDigest(packet) && !io.onDataReply(packet.blockIdLo, packet.sector, packet.payload))
          this.protocolError('P_DATA_REPLY to a request that was not made')
        break
      case 'P_RS_DATA_REPLY':
        if (this.#checkDigest(packet) && !io.resync.onAnswer(packet.sector, packet.payload.length, packet.payload)) {
          this.#engine.log('debug', `resync data for sector ${packet.sector} that was not asked for`, volume.number)
        }
        break
      case 'P_RS_DEALLOCATED':
        if (!io.resync.onAnswer(packet.sector, packet.sizeBytes, undefined))
          this.#engine.log('debug', 'deallocated range that was not asked for', volume.number)
        break
      case 'P_IN_DOUBT':
        if (this.coprimePeer) io.peer.onInDoubt(packet.payload)
        else this.protocolError('P_IN_DOUBT from a peer that did not announce our extension')
        break
      case 'P_APPLIED':
        if (this.coprimePeer) io.onApplied(packet.payload)
        else this.protocolError('P_APPLIED from a peer that did not announce our extension')
        break
      case 'P_STATE_CHG_REQ':
        this.#onVolumeChangeRequest(packet, volume)
        break
      default:
        this.protocolError(`${nameOf(packet)} is not expected on the data stream`)
    }
  }

  #onWrite(packet: PacketOf<'P_DATA'> | PacketOf<'P_TRIM'> | PacketOf<'P_ZEROES'> | PacketOf<'P_WSAME'>): void {
    const volume = this.#engine.volumeOf(packet.volume)
    if (volume === undefined) {
      this.protocolError(`${packet.type} for volume ${packet.volume}, which is not configured here`)
      return
    }
    const sizeBytes = packet.type === 'P_DATA' ? packet.payload.length : packet.sizeBytes
    const sizeMax = packet.type === 'P_DATA' ? REQUEST_BYTES_MAX : ZERO_BYTES_MAX
    if (sizeBytes % 512 !== 0 || sizeBytes > sizeMax || !volume.inRange(packet.sector, sizeBytes / 512)) {
      this.protocolError(
        `${packet.type} of ${sizeBytes} bytes at sector ${packet.sector} does not fit into a device of ${volume.sizeSectors} sectors`,
      )
      return
    }
    if ((packet.type === 'P_DATA' || packet.type === 'P_WSAME') && sizeBytes > 0 && !this.#checkDigest(packet)) return
    if (!this.#inSequence(packet.volume, packet.sequence)) {
      this.#held = packet
      const { timers, nowMs, settings } = this.#engine
      timers.set('sequence', nowMs + settings.pingTimeoutMs, () =>
        this.protocolError('an acknowledgement sent before a write did not arrive in time'),
      )
      return
    }
    volume.io.peer.onData(packet)
  }

  #inSequence(volume: number, sequence: number): boolean {
    const highest = this.#highest.get(volume) ?? 0
    if (this.resolveConflicts && this.#engine.settings.allowTwoPrimaries && newer(sequence - 1, highest)) return false
    if (newer(sequence, highest)) this.#highest.set(volume, sequence)
    return true
  }

  resetHighest(volume: number): void {
    this.#highest.set(volume, 0)
  }

  #retryHeld(): void {
    const packet = this.#held
    if (packet === undefined) return
    this.#held = undefined
    this.#engine.timers.clear('sequence')
    this.#onDataPacket(packet)
  }

  #checkDigest(packet: { readonly digest: Uint8Array; readonly payload: Uint8Array }): boolean {
    if (this.#peerIntegrityAlg === '') return true
    if (sameBytes(packet.digest, this.#engine.digests.digest(this.#peerIntegrityAlg, packet.payload))) return true
    this.protocolError('data integrity: the digest of a packet does not match its data')
    return false
  }

  #checkRange(
    packet: { readonly type: string; readonly sector: number; readonly sizeBytes: number },
    volume: Volume,
  ): boolean {
    const { sector, sizeBytes } = packet
    if (
      sizeBytes > 0 &&
      sizeBytes % 512 === 0 &&
      volume.inRange(sector, sizeBytes / 512) &&
      (sizeBytes <= REQUEST_BYTES_MAX || packet.type === 'P_OUT_OF_SYNC')
    )
      return true
    this.protocolError(
      `${packet.type} of ${sizeBytes} bytes at sector ${sector} does not fit into a device of ${volume.sizeSectors} sectors`,
    )
    return false
  }

  #checkAlgorithm(packet: string, option: string, algorithm: string): boolean {
    if (algorithm !== '' && this.#engine.digests.sizeBytes(algorithm) !== undefined) return true
    this.protocolError(`${packet}, but ${option} is not set here`)
    return false
  }

  #guarded(work: () => void): void {
    try {
      work()
    } catch (error) {
      if (error instanceof AppError) this.protocolError(error.message)
      else throw error
    }
  }

  // ---- meta stream -----------------------------------------------------------------------------------------------------------

  #onMetaPacket(packet: Packet): void {
    switch (packet.type) {
      case 'P_PING':
        this.sendMeta({ type: 'P_PING_ACK', volume: 0 })
        return
      case 'P_PING_ACK':
        this.#onPingAck()
        return
      case 'P_BARRIER_ACK':
        this.epochs.onBarrierAck(packet.barrier, packet.setSize)
        return
      case 'P_STATE_CHG_REPLY':
      case 'P_CONN_ST_CHG_REPLY':
        this.#onChangeReply(packet.code)
        return
      case 'P_DELAY_PROBE':
        return
      case 'P_RECV_ACK':
      case 'P_WRITE_ACK':
      case 'P_RS_WRITE_ACK':
      case 'P_SUPERSEDED':
      case 'P_RETRY_WRITE':
      case 'P_NEG_ACK':
      case 'P_NEG_DREPLY':
      case 'P_NEG_RS_DREPLY':
      case 'P_RS_CANCEL':
      case 'P_RS_IS_IN_SYNC':
      case 'P_OV_RESULT':
        this.#onAck(packet)
        return
      default:
        this.giveUp(`${nameOf(packet)} is not expected on the meta stream`)
    }
  }

  #onAck(
    packet: PacketOf<
      | 'P_RECV_ACK'
      | 'P_WRITE_ACK'
      | 'P_RS_WRITE_ACK'
      | 'P_SUPERSEDED'
      | 'P_RETRY_WRITE'
      | 'P_NEG_ACK'
      | 'P_NEG_DREPLY'
      | 'P_NEG_RS_DREPLY'
      | 'P_RS_CANCEL'
      | 'P_RS_IS_IN_SYNC'
      | 'P_OV_RESULT'
    >,
  ): void {
    const volume = this.#engine.volumeOf(packet.volume)
    if (volume === undefined) {
      this.fail(C_NETWORK_FAILURE, `${packet.type} for volume ${packet.volume}, which is not configured here`)
      return
    }
    const highest = this.#highest.get(packet.volume) ?? 0
    if (newer(packet.sequence, highest)) this.#highest.set(packet.volume, packet.sequence)
    const { io } = volume
    const resync = packet.blockIdHi === ID_SYNCER_WORD && packet.blockIdLo === ID_SYNCER_WORD
    let known = true
    switch (packet.type) {
      case 'P_RECV_ACK':
        known = this.#engine.settings.protocol === 'B' && io.onWriteAck('recv', packet.blockIdLo, packet.sector)
        break
      case 'P_WRITE_ACK':
        known = io.onWriteAck('written', packet.blockIdLo, packet.sector)
        break
      case 'P_RS_WRITE_ACK':
        if (resync) io.resync.onTargetAck(packet.sector, packet.sizeBytes, true)
        else known = io.onWriteAck('written-in-sync', packet.blockIdLo, packet.sector)
        break
      case 'P_SUPERSEDED':
        known = io.onWriteAck('superseded', packet.blockIdLo, packet.sector)
        break
      case 'P_RETRY_WRITE':
        known = io.onWriteAck('retry', packet.blockIdLo, packet.sector)
        break
      case 'P_NEG_ACK':
        if (resync) io.resync.onTargetAck(packet.sector, packet.sizeBytes, false)
        else io.onNegativeAck(packet.blockIdLo, packet.sector, packet.sizeBytes)
        break
      case 'P_NEG_DREPLY':
        known = io.onNegativeReply(packet.blockIdLo, packet.sector)
        break
      case 'P_NEG_RS_DREPLY':
        io.resync.onNegativeAnswer(packet.sector, packet.sizeBytes, true)
        break
      case 'P_RS_CANCEL':
        io.resync.onNegativeAnswer(packet.sector, packet.sizeBytes, false)
        break
      case 'P_RS_IS_IN_SYNC':
        io.resync.onInSync(packet.sector, packet.sizeBytes)
        break
      case 'P_OV_RESULT':
        if (packet.blockIdLo === 4712 && volume.inRange(packet.sector, packet.sizeBytes / 512))
          volume.markOutOfSync(packet.sector, packet.sizeBytes / 512)
        break
    }
    if (!known)
      this.fail(C_NETWORK_FAILURE, `${packet.type} for a request that is not in flight (sector ${packet.sector})`)
    else this.#retryHeld()
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

  #onPingAck(): void {
    const done = this.#pings.shift()
    if (done !== undefined) done()
    else if (this.#keepAliveOut) {
      this.#keepAliveOut = false
      this.#armKeepAlive(this.#engine.settings.pingIntMs)
    }
  }

  /** A request that the peer leaves unanswered for ko-count x timeout ends the connection (1.5). */
  #armRequestTimeout(): void {
    const { settings, timers, nowMs, volumes } = this.#engine
    if (settings.koCount === 0) return
    const limitMs = settings.koCount * settings.timeoutMs
    timers.set('requests', nowMs + Math.min(1000, limitMs / 4), () => {
      const oldest = Math.min(...volumes.map((volume) => volume.io.oldestUnansweredMs))
      if (this.#engine.nowMs - oldest > limitMs)
        this.fail(C_TIMEOUT, `the peer left a request unanswered for ${limitMs} ms`)
      else this.#armRequestTimeout()
    })
  }

  // ---- cluster-wide changes of state (9.7) -------------------------------------------------------------------------------------

  /** Asks the peer for consent. `done` gets the reply's code, or 0 if the connection was lost. */
  requestChange(volume: Volume | undefined, change: StateChange, done: (code: number) => void): void {
    if (this.#pendingChange !== undefined) {
      done(SS_CONCURRENT_ST_CHG)
      return
    }
    this.#pendingChange = { volume, done }
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

  #onChangeReply(code: number): void {
    const pending = this.#pendingChange
    this.#pendingChange = undefined
    if (pending === undefined) this.#engine.log('warn', 'reply to a state change that was not asked for')
    else pending.done(code)
  }

  #onVolumeChangeRequest(packet: PacketOf<'P_STATE_CHG_REQ'>, volume: Volume): void {
    const conn = decodeStateWord(packet.mask).conn === 0 ? undefined : decodeStateWord(packet.value).conn
    if (this.apv < 100 && conn === C_DISCONNECTING) {
      this.#onConnectionChangeRequest(packet.mask, packet.value, 'P_STATE_CHG_REPLY')
      return
    }
    if (this.resolveConflicts && this.#pendingChange !== undefined) {
      this.sendMeta({ type: 'P_STATE_CHG_REPLY', volume: volume.number, code: SS_CONCURRENT_ST_CHG })
      return
    }
    const session = this.session
    const code = volume.negotiation.onChangeRequest(packet.mask, packet.value)
    if (session === this.session) this.sendMeta({ type: 'P_STATE_CHG_REPLY', volume: volume.number, code })
  }

  /** The peer wants to leave. */
  #onConnectionChangeRequest(mask: number, value: number, reply: 'P_CONN_ST_CHG_REPLY' | 'P_STATE_CHG_REPLY'): void {
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
   * be seen first: an end while the question is open counts as consent (9.7).
   */
  #askToLeave(request: StateChange, outdatePeer: boolean, outdateSelf: boolean, done: (code: number) => void): void {
    this.#leaving = () => this.#leave(outdatePeer, outdateSelf, done)
    this.requestChange(undefined, request, (code) => {
      const leaving = this.#leaving
      this.#leaving = undefined
      if (code >= SS_SUCCESS) leaving?.()
      else if (outdatePeer || outdateSelf) done(code)
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

/** Serial numbers modulo 2^32. */
const newer = (a: number, b: number): boolean => ((a - b) | 0) > 0

const nameOf = (packet: Packet): string =>
  packet.type === 'unknown' ? `unknown packet 0x${packet.command.toString(16)}` : packet.type

function randomBytes(count: number, u32: () => number): Uint8Array {
  const bytes = new Uint8Array(count)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < count; at += 4) view.setUint32(at, u32())
  return bytes
}

function asciiBytes(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff)
}
