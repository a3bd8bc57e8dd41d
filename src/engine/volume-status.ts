// What a volume tells of itself.

import type { VolumeStatus } from '../runtime/api.ts'
import { connectionStateName, diskStateName } from '../wire/drbd/constants.ts'
import type { Effect } from './effects.ts'
import { isSyncing, isVerifying } from './state-change.ts'
import type { Volume } from './volume.ts'

/** What is read from and written to the data area. */
export class DiskTraffic {
  readBytes = 0
  writtenBytes = 0

  count(effect: Extract<Effect, { type: 'disk.read' | 'disk.write' }>): void {
    if (effect.type === 'disk.write') this.writtenBytes += effect.data.length
    else this.readBytes += effect.lengthBytes
  }
}

export function volumeStatus(volume: Volume): VolumeStatus {
  const { bitmap, io, state } = volume
  const suspended: ('user' | 'no-data' | 'fencing')[] = []
  if (state.susp) suspended.push('user')
  if (state.suspNod) suspended.push('no-data')
  if (state.suspFen) suspended.push('fencing')
  return {
    volume: volume.number,
    disk: diskStateName(state.disk),
    peerDisk: diskStateName(state.pdsk),
    connection: connectionStateName(state.conn),
    sizeSectors: volume.sizeSectors,
    outOfSyncBlocks: bitmap?.count ?? 0,
    resyncTotalBlocks: isSyncing(state.conn) ? io.resync.totalBits : 0,
    resyncLeftBlocks: isSyncing(state.conn) ? (bitmap?.count ?? 0) : 0,
    verifyTotalBlocks: isVerifying(state.conn) ? io.verify.totalBlocks : 0,
    verifyDoneBlocks: isVerifying(state.conn) ? io.verify.doneBlocks : 0,
    resyncBytes: io.resync.sentBytes + io.resync.receivedBytes + io.resync.holeBytes,
    resyncHoleBytes: io.resync.holeBytes,
    uuids: volume.uuids,
    suspended,
    counters: {
      readRequests: io.readRequests,
      writeRequests: io.writeRequests,
      sentBytes: volume.sentBytes,
      receivedBytes: volume.receivedBytes,
      diskReadBytes: volume.diskTraffic.readBytes,
      diskWrittenBytes: volume.diskTraffic.writtenBytes,
      activityLogWrites: volume.activityLogWrites,
      bitmapWrites: volume.bitmapWrites,
      superseded: io.superseded,
      retried: io.retried,
      writeNows: io.peer.writeNows,
      ...io.order.counters,
    },
  }
}
