// All that the engine orders: the second half of its contract with the outside. Effects are carried out in order.

import type { AdminResult, ClientError } from '../runtime/api.ts'
import type { DiskError } from '../runtime/ports.ts'
import type { WireContext } from '../wire/drbd/codec.ts'
import type { Packet } from '../wire/drbd/packets.ts'
import type { SocketId } from './events.ts'

/** Whoever ordered a disk operation. The same object comes back in `disk.done`, so no table of tokens is needed. */
export interface DiskOp {
  onDisk(error: DiskError | undefined, data: Uint8Array | undefined): void
}

export type Effect =
  | {
      readonly type: 'client.done'
      readonly id: number
      readonly error: ClientError | undefined
      readonly data: Uint8Array | undefined
      /** Of a write: nobody looks at its data any more. */
      readonly dataUnused: boolean
    }
  | {
      readonly type: 'disk.read'
      readonly volume: number
      readonly offsetBytes: number
      readonly lengthBytes: number
      readonly op: DiskOp
    }
  | {
      readonly type: 'disk.write'
      readonly volume: number
      readonly offsetBytes: number
      readonly data: Uint8Array
      readonly op: DiskOp
      /** Nobody looks at the data after this operation. */
      readonly lastUse?: true
    }
  | {
      readonly type: 'disk.zero'
      readonly volume: number
      readonly offsetBytes: number
      readonly lengthBytes: number
      readonly unmap: boolean
      readonly op: DiskOp
    }
  | { readonly type: 'disk.flush'; readonly volume: number; readonly op: DiskOp }
  | {
      readonly type: 'meta.read'
      readonly volume: number
      readonly offsetBytes: number
      readonly lengthBytes: number
      readonly op: DiskOp
    }
  | {
      readonly type: 'meta.write'
      readonly volume: number
      readonly offsetBytes: number
      readonly data: Uint8Array
      readonly op: DiskOp
    }
  | { readonly type: 'meta.flush'; readonly volume: number; readonly op: DiskOp }
  | { readonly type: 'devices.open'; readonly volume: number }
  | { readonly type: 'devices.close'; readonly volume: number }
  | { readonly type: 'socket.connect'; readonly timeoutMs: number }
  | { readonly type: 'socket.cancel-connect' }
  | { readonly type: 'socket.listen' }
  | { readonly type: 'socket.unlisten' }
  | { readonly type: 'socket.context'; readonly socket: SocketId; readonly context: WireContext }
  /** What is sent to the peer from the next packet on. */
  | { readonly type: 'socket.send-context'; readonly socket: SocketId; readonly context: WireContext }
  /** What the peer sends from its next packet on; what is sent to it stays as it is. */
  | { readonly type: 'socket.receive-context'; readonly socket: SocketId; readonly context: WireContext }
  | { readonly type: 'socket.send'; readonly socket: SocketId; readonly packet: Packet }
  | { readonly type: 'socket.close'; readonly socket: SocketId }
  | { readonly type: 'handler.run'; readonly name: string }
  | { readonly type: 'admin.done'; readonly id: number; readonly result: AdminResult }
  | {
      readonly type: 'log'
      readonly level: 'debug' | 'info' | 'warn' | 'error'
      readonly message: string
      readonly volume?: number
    }
  | { readonly type: 'status' }
