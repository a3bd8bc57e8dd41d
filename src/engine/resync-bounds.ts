// Where a resync begins and ends: which generation each host then has, and what has to be durable before the other one hears
// of it. What happens in between is in resync.ts.

import {
  C_BEHIND,
  C_CONNECTED,
  C_PAUSED_SYNC_T,
  C_SYNC_SOURCE,
  C_SYNC_TARGET,
  C_WF_SYNC_UUID,
  D_INCONSISTENT,
  D_UPTODATE,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'
import { finishUuidsSource, finishUuidsTarget, startUuidsSource, startUuidsTarget } from './generations.ts'
import type { Volume } from './volume.ts'

export class ResyncBounds {
  readonly #volume: Volume
  /** How many resyncs were about to begin here: one may be given up, and another asked for, before it does. */
  #attempts = 0

  constructor(volume: Volume) {
    this.#volume = volume
  }

  /** The disk is lost: what was about to begin does not. */
  forget(): void {
    this.#attempts++
  }

  /** Both bitmaps are merged. */
  beginAsSource(): void {
    const volume = this.#volume
    const { connection, entropy } = volume.engine
    const { session } = connection
    const { conn } = volume.state
    volume.io.resync.aboutToBeSource(volume.uuids.bitmap === 0n && volume.state.pdsk > D_INCONSISTENT)
    volume.setUuids(startUuidsSource(volume.uuids, entropy.u64()))
    // What the crash left is decided; if the end of the resync is missed, rule 43 may not decide by it once more.
    if (connection.coprimePeer) volume.crashedPrimary = false
    const attempt = ++this.#attempts
    const begin = (): void => {
      if (session !== connection.session || volume.state.conn !== conn || this.#attempts !== attempt) return
      connection.sendData({ type: 'P_SYNC_UUID', volume: volume.number, uuid: volume.uuids.bitmap })
      volume.change({ conn: C_SYNC_SOURCE, pdsk: D_INCONSISTENT }, 'bitmaps are exchanged')
    }
    // The target holds this generation from now on: if we forgot it with our power, the two would seem unrelated.
    volume.attached.store.writeSuperblock((error) => {
      if (error === undefined) volume.io.resync.whenSettled(begin)
    })
  }

  onTargetBitmapSent(): void {
    this.#volume.change({ conn: C_WF_SYNC_UUID }, 'bitmap sent')
    this.#volume.negotiation.applyPendingSyncUuid()
  }

  beginAsTarget(syncUuid: bigint): void {
    const volume = this.#volume
    const { connection } = volume.engine
    const { session } = connection
    volume.setUuids(startUuidsTarget(volume.uuids, syncUuid))
    const attempt = ++this.#attempts
    const begin = (): void => {
      const { conn } = volume.state
      if (session !== connection.session || this.#attempts !== attempt) return
      if (conn !== C_WF_SYNC_UUID && conn !== C_BEHIND) return
      volume.change({ conn: C_SYNC_TARGET, disk: D_INCONSISTENT }, 'resync begins')
      // Its requests would tell the source that it has begun.
      if (volume.state.conn === C_PAUSED_SYNC_T && connection.coprimePeer) volume.negotiation.sendState()
    }
    // "Inconsistent" must be durable before the first block is overwritten.
    volume.change({ disk: D_INCONSISTENT }, 'target of a resync')
    volume.attached.store.writeSuperblock((error) => {
      if (error === undefined) volume.io.resync.whenSettled(begin)
    })
  }

  finishAsTarget(failedBits: number): void {
    const volume = this.#volume
    const { connection } = volume.engine
    if (failedBits > 0) {
      const failed = `resync ended with ${failedBits} blocks that could not be copied`
      volume.engine.log('error', failed, volume.number)
      volume.change({ conn: C_CONNECTED }, 'resync ended with failures')
      return
    }
    const { session } = connection
    // Data, bitmap and superblock are durable before the peer hears that this disk is good.
    const { bitmap, store } = volume.attached
    store.writeBitmap(bitmap, 'changed', (error) => {
      if (error !== undefined || session !== connection.session) return
      if (volume.state.conn === C_SYNC_TARGET) this.#becomeUpToDate()
    })
  }

  #becomeUpToDate(): void {
    const volume = this.#volume
    const { connection } = volume.engine
    const { session } = connection
    const peer = volume.negotiation.peerGeneration
    if (peer !== undefined) {
      volume.setUuids(finishUuidsTarget(volume.uuids, peer, volume.state.role === R_PRIMARY))
      volume.negotiation.peerTookOver(volume.uuids)
    }
    volume.attached.store.writeSuperblock((error) => {
      if (error !== undefined || session !== connection.session || volume.state.conn !== C_SYNC_TARGET) return
      volume.change({ conn: C_CONNECTED, disk: D_UPTODATE, pdsk: D_UPTODATE }, 'resync is done')
    })
    const { receivedBytes, holeBytes, equalBytes } = volume.io.resync
    const copied = `${receivedBytes} bytes received in all, ${holeBytes} bytes were holes, ${equalBytes} bytes had equal checksums`
    volume.engine.log('info', `resync is done: ${copied}`, volume.number)
  }

  finishAsSource(): void {
    const volume = this.#volume
    // It has begun, and may have had nothing to ask for.
    volume.io.resync.onTargetAsks()
    volume.setUuids(finishUuidsSource(volume.uuids))
    volume.negotiation.peerTookOver(volume.uuids)
    volume.change({ conn: C_CONNECTED, pdsk: D_UPTODATE }, 'resync is done')
    const { bitmap, store } = volume.attached
    store.writeBitmap(bitmap, 'changed')
  }
}
