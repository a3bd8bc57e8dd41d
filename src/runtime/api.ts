// What a replica offers to its users (the NBD server, the daemon, the simulator) and how it is told what to be. Types only.

import type { BufferPool } from '../base/buffer-pool.ts'
import type { PacketWatcher } from './packet-trace.ts'
import type { Clock, Digests, Disk, Entropy, Handlers, Network } from './ports.ts'

// ---- application requests -------------------------------------------------------------------------------------------

/** Sectors are 512 bytes. Requests are checked against the device size by the replica (`out-of-range`). */
export type ClientRequest =
  | { readonly type: 'read'; readonly volume: number; readonly sector: number; readonly sectors: number }
  /** `data`: a multiple of 512 bytes; must not change before completion. `fua`: durable on both hosts when done. */
  | {
      readonly type: 'write'
      readonly volume: number
      readonly sector: number
      readonly data: Uint8Array
      readonly fua: boolean
    }
  /** Done when all that was completed before is durable on both connected hosts. */
  | { readonly type: 'flush'; readonly volume: number }
  /** Makes the range read as zeroes; `unmap`: the space may be given back (TRIM, or WRITE_ZEROES without NO_HOLE). */
  | {
      readonly type: 'zero'
      readonly volume: number
      readonly sector: number
      readonly sectors: number
      readonly unmap: boolean
      readonly fua: boolean
    }

export type ClientErrorCode = 'io' | 'no-space' | 'out-of-range' | 'not-primary' | 'shutting-down'

export interface ClientError {
  readonly code: ClientErrorCode
  readonly message: string
}

/**
 * `data`: for a read, the bytes in order, in one or more pieces, which belong to the receiver. `dataUnused`: for a write,
 * nobody looks at its data any more, the memory may be used again; false if the replica cannot tell.
 */
export type ClientDone = (error: ClientError | undefined, data?: readonly Uint8Array[], dataUnused?: boolean) => void

// ---- administration -------------------------------------------------------------------------------------------------

export type AdminCommand =
  | { readonly type: 'attach'; readonly volume: number }
  | { readonly type: 'detach'; readonly volume: number; readonly force: boolean }
  | { readonly type: 'connect'; readonly discardMyData: boolean }
  | { readonly type: 'disconnect'; readonly force: boolean }
  | { readonly type: 'primary'; readonly force: boolean }
  | { readonly type: 'secondary' }
  | { readonly type: 'invalidate'; readonly volume: number }
  | { readonly type: 'invalidate-remote'; readonly volume: number }
  | { readonly type: 'new-current-uuid'; readonly volume: number; readonly clearBitmap: boolean }
  /** Compares both disks between two sectors; `stopSector` undefined: to the end. */
  | {
      readonly type: 'verify'
      readonly volume: number
      readonly startSector: number
      readonly stopSector: number | undefined
    }
  /** `sizeSectors` 0: as much as both disks have. */
  | {
      readonly type: 'resize'
      readonly volume: number
      readonly sizeSectors: number
      readonly assumeClean: boolean
    }
  | { readonly type: 'pause-sync'; readonly volume: number }
  | { readonly type: 'resume-sync'; readonly volume: number }
  | { readonly type: 'outdate'; readonly volume: number }
  | { readonly type: 'resume-io' }
  /** Secondary, disconnect, detach: after it the disks are closed. */
  | { readonly type: 'down' }

/**
 * Result of a command with DRBD's own numbers: `code` 0 = done; negative = state change refused (config-and-tools.md 4.4);
 * above 100 = driver error (4.3). `text`: the standard sentence; `detail`: what happened here, if there is more to say.
 */
export interface AdminResult {
  readonly code: number
  readonly text: string
  readonly detail?: string
}

// ---- settings -------------------------------------------------------------------------------------------------------

export type FencingPolicy = 'dont-care' | 'resource-only' | 'resource-and-stonith'
export type OnIoError = 'pass_on' | 'call-local-io-error' | 'detach'
export type OnNoDataAccessible = 'io-error' | 'suspend-io'

/** How fast a kernel is to resync, in the units of the option file; it takes the values that it is told over its own. */
export interface ResyncPace {
  readonly resyncRateKib: number
  readonly cPlanAhead: number
  readonly cDelayTarget: number
  readonly cFillTarget: number
  readonly cMaxRateKib: number
}

export interface VolumeSettings {
  readonly volume: number
  readonly alExtents: number
  /** Cap on the device size in sectors, 0 = none. */
  readonly sizeSectors: number
  readonly onIoError: OnIoError
  /** Upper limit of resync, KiB/s; 0 = none. */
  readonly resyncRateMaxKib: number
  /** Rate to which application I/O may push resync, KiB/s. */
  readonly resyncRateMinKib: number
  /** What the peer is told; absent: DRBD's defaults. */
  readonly resyncPace?: ResyncPace
}

export type OrderName = 'arbitration' | 'coordinator' | 'lock-extents' | 'auto'

/** How writes of two Primaries are ordered (`global-write-order` and its options). */
export interface OrderSettings {
  readonly name: OrderName
  readonly writeNowAcks: boolean
  /** Who coordinates: the holder of the resolve-conflicts flag, or the host that the configuration names. */
  readonly coordinator: 'flag' | 'local' | 'peer'
  /** A power of two, 64 KiB or more. */
  readonly extentBytes: number
  /** Locks that are kept. */
  readonly extentsMax: number
}

/** What a full link means for writes under protocol A; without it they wait (`on-congestion block`). */
export interface CongestionSettings {
  readonly policy: 'pull-ahead' | 'disconnect'
  /** Data sent and not acknowledged, in sectors, that count as congestion; 0: do not. */
  readonly fillSectors: number
  /** Extents of the activity log with such data. */
  readonly extents: number
}

export interface ResourceSettings {
  readonly name: string
  readonly protocol: 'A' | 'B' | 'C'
  readonly allowTwoPrimaries: boolean
  readonly fencing: FencingPolicy
  /** Whether a fence-peer handler is configured. */
  readonly fencePeerHandler: boolean
  /** What a Primary does with requests while neither host has UpToDate data for it. */
  readonly onNoDataAccessible: OnNoDataAccessible
  /** Policy numbers as on the wire (wire-protocol.md 3.12). */
  readonly afterSb0p: number
  readonly afterSb1p: number
  readonly afterSb2p: number
  readonly alwaysAsbp: boolean
  readonly rrConflict: number
  /** '' = none. */
  readonly cramHmacAlg: string
  readonly sharedSecret: string
  readonly dataIntegrityAlg: string
  readonly verifyAlg: string
  readonly csumsAlg: string
  readonly useRle: boolean
  readonly maxEpochSize: number
  readonly congestion?: CongestionSettings
  readonly pingIntMs: number
  readonly pingTimeoutMs: number
  readonly timeoutMs: number
  readonly koCount: number
  readonly connectIntMs: number
  readonly socketCheckTimeoutMs: number
  /** Writes of this resource in flight at most, in bytes; more wait in the clients' sockets. */
  readonly inFlightBytesMax: number
  readonly order: OrderSettings
  readonly volumes: readonly VolumeSettings[]
}

/** The opened devices of a volume. `data` and `meta` are the same object for internal metadata. */
export interface VolumeDevices {
  readonly data: Disk
  readonly meta: Disk
  /** Metadata index: 'internal', 'flexible' (external, whole device) or a slot number of 128 MiB. */
  readonly metaIndex: 'internal' | 'flexible' | number
}

export interface ReplicaPorts {
  readonly clock: Clock
  readonly entropy: Entropy
  /** Another one after each start of the machine, when its disk caches were lost; undefined: not known. */
  readonly bootId?: bigint | undefined
  readonly network: Network
  readonly digests: Digests
  readonly handlers: Handlers
  /** Memory for received payloads. */
  readonly buffers: BufferPool
  /** Opens the devices of a volume for `attach`; failures are DRBD's error numbers (104, 105, 114, ...). */
  openDevices(
    volume: number,
    done: (error: { readonly code: number; readonly message: string } | undefined, devices?: VolumeDevices) => void,
  ): void
  /** One line for the log. */
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, volume?: number): void
  /** Called after each turn in which the status changed. */
  onStatusChange(): void
}

// ---- status ---------------------------------------------------------------------------------------------------------

export type RoleName = 'Primary' | 'Secondary' | 'Unknown'
/** DRBD's words (wire-protocol.md 9.2). */
export type ConnectionStateName = string
export type DiskStateName = string

export interface VolumeStatus {
  readonly volume: number
  readonly disk: DiskStateName
  readonly peerDisk: DiskStateName
  /** State of the volume's replication in 8.4's words: that of the connection, or Connected, SyncSource, ... */
  readonly connection: ConnectionStateName
  /** 0 while unknown. */
  readonly sizeSectors: number
  readonly outOfSyncBlocks: number
  /** Of the resync that is running: blocks at its start and blocks left; 0 and 0 otherwise. */
  readonly resyncTotalBlocks: number
  readonly resyncLeftBlocks: number
  /** Of the online verify that is running; 0 and 0 otherwise. */
  readonly verifyTotalBlocks: number
  readonly verifyDoneBlocks: number
  /**
   * Totals since start, in bytes of the device: what a resync transferred, in either direction, as data or as holes; and of
   * these the holes.
   */
  readonly resyncBytes: number
  readonly resyncHoleBytes: number
  readonly uuids: {
    readonly current: bigint
    readonly bitmap: bigint
    readonly history1: bigint
    readonly history2: bigint
  }
  readonly suspended: readonly ('user' | 'no-data' | 'fencing')[]
  readonly counters: {
    readonly readRequests: number
    readonly writeRequests: number
    readonly sentBytes: number
    readonly receivedBytes: number
    readonly diskReadBytes: number
    readonly diskWrittenBytes: number
    readonly activityLogWrites: number
    readonly bitmapWrites: number
    readonly superseded: number
    readonly retried: number
    /** P_WRITE_NOW sent, lock requests sent, locks handed over, extents that `auto` made shared or took back. */
    readonly writeNows: number
    readonly lockRequests: number
    readonly lockHandovers: number
    readonly orderSwitches: number
  }
}

export interface ResourceStatus {
  readonly name: string
  readonly role: RoleName
  readonly peerRole: RoleName
  readonly connection: ConnectionStateName
  /** Why the connection is StandAlone or cannot be made, if known. */
  readonly connectionReason: string | undefined
  readonly agreedProtocolVersion: number
  readonly resolveConflicts: boolean
  /** The configured order of writes; both hosts have the same while they are connected. */
  readonly order: OrderName
  /** Whether this host coordinates; undefined: nobody does, or not known until it is connected. */
  readonly coordinates: boolean | undefined
  readonly inFlightBytes: number
  /** Packets since start, on both streams, with those of the handshakes. */
  readonly packets: { readonly sent: number; readonly received: number }
  readonly volumes: readonly VolumeStatus[]
}

/** The surface of `runtime/replica.ts`. */
export interface ReplicaApi {
  submit(request: ClientRequest, done: ClientDone): void
  /** Whether new requests are welcome; when false, stop reading from clients until `onAdmission` is called. */
  readonly admits: boolean
  onAdmission(call: () => void): void
  command(command: AdminCommand, done: (result: AdminResult) => void): void
  status(): ResourceStatus
  /** Shows every packet that is sent or received; costs nothing while nobody watches. A packet is valid during the call. */
  watchPackets(watcher: PacketWatcher | undefined): void
  /** Drops everything at once, as a crash would: for tests and for the end of the process. */
  abandon(): void
}
