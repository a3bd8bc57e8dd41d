// The way of every packet of an established connection to whoever it is for, with the checks that any packet must pass: is
// the volume known, does the range fit into the device, is the digest right, has a write overtaken an acknowledgement
// (sequence numbers, wire-protocol.md 3.4). What a packet means is in the files it goes to.

import { AppError } from '../base/errors.ts'
import { C_NETWORK_FAILURE, ID_SYNCER_WORD, LF_SHARED, OWN_WRITE_HI } from '../wire/drbd/constants.ts'
import type { Packet, PacketOf } from '../wire/drbd/packets.ts'
import type { Connection } from './connection.ts'
import type { Engine } from './engine.ts'
import { REQUEST_BYTES_MAX, ZERO_BYTES_MAX } from './limits.ts'
import { sameBytes } from './peer-io.ts'
import type { Volume } from './volume.ts'

export class PacketRouter {
  readonly #engine: Engine
  readonly #connection: Connection
  /** Newest sequence number seen from the peer, by volume. */
  readonly #highest = new Map<number, number>()
  /** A write that has overtaken an acknowledgement waits here, and with it the whole data stream. */
  #held: Packet | undefined

  constructor(engine: Engine, connection: Connection) {
    this.#engine = engine
    this.#connection = connection
  }

  get isHolding(): boolean {
    return this.#held !== undefined
  }

  /** The connection is gone. */
  reset(): void {
    this.#held = undefined
  }

  // ---- data stream -----------------------------------------------------------------------------------------------------------

  onDataPacket(packet: Packet): void {
    switch (packet.type) {
      case 'P_DATA':
      case 'P_TRIM':
      case 'P_ZEROES':
      case 'P_WSAME':
        this.#onWrite(packet)
        return
      case 'P_BARRIER':
        this.#connection.receivedEpochs.onBarrier(packet.barrier)
        return
      case 'P_UNPLUG_REMOTE':
      case 'P_DELAY_PROBE':
        return
      case 'P_PROTOCOL':
        this.#connection.onProtocol(packet)
        return
      case 'P_ORDER':
        this.#connection.onOrder(packet)
        return
      case 'P_BOOT_ID':
        this.#connection.onBootId(packet)
        return
      case 'P_PROTOCOL_UPDATE':
        this.#connection.onProtocolUpdate(packet)
        return
      case 'P_CONN_ST_CHG_REQ':
        this.#connection.onConnectionChangeRequest(packet.mask, packet.value, 'P_CONN_ST_CHG_REPLY')
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
      else this.#connection.protocolError(`${nameOf(packet)} for volume ${packet.volume}, which is not configured here`)
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
        this.#connection.onSyncParam(packet)
        break
      case 'P_SYNC_PARAM':
        if (this.#connection.apv === 88)
          this.#connection.onSyncParam({
            ...packet,
            type: 'P_SYNC_PARAM89',
            verifyAlg: packet.verifyAlg ?? '',
            csumsAlg: this.#engine.settings.csumsAlg,
          })
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
      case 'P_OV_REPLY':
        if (this.#checkRange(packet, volume)) io.verify.onReply(packet.sector, packet.sizeBytes, packet.digest)
        break
      case 'P_DATA_REPLY':
        if (this.#checkDigest(packet) && !io.onDataReply(packet.blockIdLo, packet.sector, packet.payload))
          this.#connection.protocolError('P_DATA_REPLY to a request that was not made')
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
        if (this.#connection.coprimePeer) io.peer.onInDoubt(packet.payload)
        else this.#connection.protocolError('P_IN_DOUBT from a peer that did not announce our extension')
        break
      case 'P_APPLIED':
        if (this.#connection.coprimePeer) io.onApplied(packet.payload)
        else this.#connection.protocolError('P_APPLIED from a peer that did not announce our extension')
        break
      case 'P_WRITE_NOW':
        if (!io.asked.onWriteNow(packet)) this.#connection.protocolError('P_WRITE_NOW for a write that does not ask')
        break
      case 'P_LOCK_EXTENT':
        if (!io.order.onLockRequest(packet.extent))
          this.#connection.protocolError(`P_LOCK_EXTENT under the order ${io.order.name}`)
        break
      case 'P_LOCK_EXTENT_ACK':
        if (
          !io.order.onLockGrant(packet.extent, {
            shared: (packet.lockFlags & LF_SHARED) !== 0,
            keptMs: packet.keptUs / 1000,
          })
        )
          this.#connection.protocolError('P_LOCK_EXTENT_ACK that was not asked for')
        break
      case 'P_STATE_CHG_REQ':
        this.#connection.onVolumeChangeRequest(packet, volume)
        break
      default:
        this.#connection.protocolError(`${nameOf(packet)} is not expected on the data stream`)
    }
  }

  #onWrite(packet: PacketOf<'P_DATA'> | PacketOf<'P_TRIM'> | PacketOf<'P_ZEROES'> | PacketOf<'P_WSAME'>): void {
    const volume = this.#engine.volumeOf(packet.volume)
    if (volume === undefined) {
      this.#connection.protocolError(`${packet.type} for volume ${packet.volume}, which is not configured here`)
      return
    }
    const sizeBytes = packet.type === 'P_DATA' ? packet.payload.length : packet.sizeBytes
    const sizeMax = packet.type === 'P_DATA' ? REQUEST_BYTES_MAX : ZERO_BYTES_MAX
    if (sizeBytes % 512 !== 0 || sizeBytes > sizeMax || !volume.inRange(packet.sector, sizeBytes / 512)) {
      this.#connection.protocolError(
        `${packet.type} of ${sizeBytes} bytes at sector ${packet.sector} does not fit into a device of ${volume.sizeSectors} sectors`,
      )
      return
    }
    if ((packet.type === 'P_DATA' || packet.type === 'P_WSAME') && sizeBytes > 0 && !this.#checkDigest(packet)) return
    if (!this.#inSequence(packet.volume, packet.sequence)) {
      this.#held = packet
      const { timers, nowMs, settings } = this.#engine
      timers.set('sequence', nowMs + settings.pingTimeoutMs, () =>
        this.#connection.protocolError('an acknowledgement sent before a write did not arrive in time'),
      )
      return
    }
    volume.io.peer.onData(packet)
  }

  #inSequence(volume: number, sequence: number): boolean {
    const highest = this.#highest.get(volume) ?? 0
    if (this.#connection.resolveConflicts && this.#engine.settings.allowTwoPrimaries && newer(sequence - 1, highest))
      return false
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
    this.onDataPacket(packet)
  }

  #checkDigest(packet: { readonly digest: Uint8Array; readonly payload: Uint8Array }): boolean {
    if (this.#connection.peerIntegrityAlg === '') return true
    if (sameBytes(packet.digest, this.#engine.digests.digest(this.#connection.peerIntegrityAlg, packet.payload)))
      return true
    this.#connection.protocolError('data integrity: the digest of a packet does not match its data')
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
    this.#connection.protocolError(
      `${packet.type} of ${sizeBytes} bytes at sector ${sector} does not fit into a device of ${volume.sizeSectors} sectors`,
    )
    return false
  }

  #checkAlgorithm(packet: string, option: string, algorithm: string): boolean {
    if (algorithm !== '' && this.#engine.digests.sizeBytes(algorithm) !== undefined) return true
    this.#connection.protocolError(`${packet}, but ${option} is not set here`)
    return false
  }

  #guarded(work: () => void): void {
    try {
      work()
    } catch (error) {
      if (error instanceof AppError) this.#connection.protocolError(error.message)
      else throw error
    }
  }

  // ---- meta stream -----------------------------------------------------------------------------------------------------------

  onMetaPacket(packet: Packet): void {
    switch (packet.type) {
      case 'P_PING':
        this.#connection.sendMeta({ type: 'P_PING_ACK', volume: 0 })
        return
      case 'P_PING_ACK':
        this.#connection.onPingAck()
        return
      case 'P_BARRIER_ACK':
        this.#connection.epochs.onBarrierAck(packet.barrier, packet.setSize)
        return
      case 'P_STATE_CHG_REPLY':
      case 'P_CONN_ST_CHG_REPLY':
        this.#connection.onChangeReply(packet.code)
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
        this.#connection.giveUp(`${nameOf(packet)} is not expected on the meta stream`)
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
      this.#connection.fail(
        C_NETWORK_FAILURE,
        `${packet.type} for volume ${packet.volume}, which is not configured here`,
      )
      return
    }
    const highest = this.#highest.get(packet.volume) ?? 0
    if (newer(packet.sequence, highest)) this.#highest.set(packet.volume, packet.sequence)
    const { io } = volume
    const resync = packet.blockIdHi === ID_SYNCER_WORD && packet.blockIdLo === ID_SYNCER_WORD
    const isOwn = packet.blockIdHi === OWN_WRITE_HI && this.#connection.coprimePeer
    let known = true
    switch (packet.type) {
      case 'P_RECV_ACK':
        known = this.#engine.settings.protocol === 'B' && io.onWriteAck('recv', packet.blockIdLo, packet.sector)
        break
      case 'P_WRITE_ACK':
        known = isOwn
          ? io.peer.onConfirmed(packet.blockIdLo, packet.sector, true)
          : io.onWriteAck('written', packet.blockIdLo, packet.sector)
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
        else if (isOwn) known = io.peer.onConfirmed(packet.blockIdLo, packet.sector, false)
        else io.onNegativeAck(packet.blockIdLo, packet.sector, packet.sizeBytes)
        break
      case 'P_NEG_DREPLY':
        known = io.onNegativeReply(packet.blockIdLo, packet.sector)
        break
      case 'P_NEG_RS_DREPLY':
        if (!io.verify.onNegativeReply(packet.sector, packet.sizeBytes))
          io.resync.onNegativeAnswer(packet.sector, packet.sizeBytes, true)
        break
      case 'P_RS_CANCEL':
        io.resync.onNegativeAnswer(packet.sector, packet.sizeBytes, false)
        break
      case 'P_RS_IS_IN_SYNC':
        io.resync.onInSync(packet.sector, packet.sizeBytes)
        break
      case 'P_OV_RESULT':
        io.verify.onResult(packet.sector, packet.sizeBytes / 512, packet.blockIdLo)
        break
    }
    if (!known)
      this.#connection.fail(
        C_NETWORK_FAILURE,
        `${packet.type} for a request that is not in flight (sector ${packet.sector})`,
      )
    else this.#retryHeld()
  }
}

/** Serial numbers modulo 2^32. */
const newer = (a: number, b: number): boolean => ((a - b) | 0) > 0

export const nameOf = (packet: Packet): string =>
  packet.type === 'unknown' ? `unknown packet 0x${packet.command.toString(16)}` : packet.type
