// The order of a volume as the settings want it, and what it knows of the volume.

import type { OrderName } from '../../runtime/api.ts'
import { C_CONNECTED, LF_SHARED } from '../../wire/drbd/constants.ts'
import type { Volume } from '../volume.ts'
import { Arbitration } from './arbitration.ts'
import { Auto } from './auto.ts'
import { Coordinator } from './coordinator.ts'
import { LockExtents } from './lock-extents.ts'
import type { OrderHost, WriteOrder } from './order.ts'

export function createOrder(volume: Volume): WriteOrder {
  return create(volume.engine.settings.order.name, hostOf(volume), volume)
}

function create(name: OrderName, host: OrderHost, volume: Volume): WriteOrder {
  switch (name) {
    case 'coordinator':
      return new Coordinator(host)
    case 'lock-extents':
      return new LockExtents(host, volume.engine.settings.order)
    case 'auto':
      return new Auto(host, volume.engine.settings.order)
    case 'arbitration':
      return new Arbitration(() => volume.engine.connection.resolveConflicts)
  }
}

/** Everything is looked up when it is asked for: orders outlive connections. */
function hostOf(volume: Volume): OrderHost {
  const { engine, number } = volume
  return {
    get nowMs() {
      return engine.nowMs
    },
    get connected() {
      return volume.state.conn >= C_CONNECTED
    },
    get peerMayWrite() {
      return volume.peerMayWrite
    },
    get holdsFlag() {
      return engine.connection.resolveConflicts
    },
    get coordinates() {
      return engine.connection.coordinates
    },
    get isTarget() {
      return volume.isTarget
    },
    get peerWrites() {
      return volume.io.peer.writeRequests
    },
    restart: (write) => volume.io.restart(write),
    sendLockRequest: (extent) => engine.connection.sendData({ type: 'P_LOCK_EXTENT', volume: number, extent }),
    sendLockGrant: (extent, { shared, keptMs }) =>
      engine.connection.sendData({
        type: 'P_LOCK_EXTENT_ACK',
        volume: number,
        extent,
        lockFlags: shared ? LF_SHARED : 0,
        keptUs: Math.min(Math.round(keptMs * 1000), 0xffff_ffff),
      }),
    wakeAt: (atMs, onTime) => engine.timers.set(`order-${number}`, atMs, onTime),
  }
}
