// All that can happen to the engine: the first half of its contract with the outside (the other is effects.ts).
// Events are past or received. Time comes with every step; an event never carries a promise or a callback.

import type { AdminCommand } from '../runtime/api.ts'
import type { DiskError } from '../runtime/ports.ts'
import type { Packet } from '../wire/drbd/packets.ts'
import type { DiskOp } from './effects.ts'

/** The engine's name for one TCP stream; chosen by the runtime, never reused. */
export type SocketId = number

export type EngineEvent =
  | {
      readonly type: 'client.read'
      readonly id: number
      readonly volume: number
      readonly sector: number
      readonly sectors: number
    }
  | {
      readonly type: 'client.write'
      readonly id: number
      readonly volume: number
      readonly sector: number
      readonly data: Uint8Array
      readonly fua: boolean
    }
  | {
      readonly type: 'client.zero'
      readonly id: number
      readonly volume: number
      readonly sector: number
      readonly sectors: number
      readonly unmap: boolean
      readonly fua: boolean
    }
  | { readonly type: 'client.flush'; readonly id: number; readonly volume: number }
  /** A disk effect is complete; `op` is the object that the effect carried. */
  | {
      readonly type: 'disk.done'
      readonly op: DiskOp
      readonly error: DiskError | undefined
      readonly data: Uint8Array | undefined
    }
  | { readonly type: 'devices.opened'; readonly volume: number; readonly devices: OpenedDevices }
  | { readonly type: 'devices.failed'; readonly volume: number; readonly code: number; readonly message: string }
  | { readonly type: 'socket.connected'; readonly socket: SocketId }
  | { readonly type: 'socket.connect-failed'; readonly reason: string }
  | { readonly type: 'socket.accepted'; readonly socket: SocketId }
  | { readonly type: 'listen.failed'; readonly reason: string }
  | { readonly type: 'socket.packet'; readonly socket: SocketId; readonly packet: Packet }
  /** Bytes that are no packet: the stream cannot be followed any further. */
  | { readonly type: 'socket.garbage'; readonly socket: SocketId; readonly reason: string }
  | { readonly type: 'socket.closed'; readonly socket: SocketId; readonly reason: string }
  | { readonly type: 'handler.done'; readonly name: string; readonly exitCode: number }
  | { readonly type: 'admin'; readonly id: number; readonly command: AdminCommand }
  | { readonly type: 'tick' }

/** What the engine needs to know of the devices it got. */
export interface OpenedDevices {
  readonly dataBytes: number
  readonly metaBytes: number
  readonly metaIndex: 'internal' | 'flexible' | number
  readonly discardZeroes: boolean
  /** Synchronous look at the data device: the range reads as zeroes without being read. */
  isHole(offsetBytes: number, lengthBytes: number): boolean
}
