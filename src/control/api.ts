// What the daemon tells and is told through its control socket: types of requests, replies, reports and events. The
// socket speaks HTTP:
//
//   GET  /status                        HostReport
//   GET  /resources/NAME                ResourceReport
//   POST /resources/NAME/commands       CommandRequest -> CommandReply
//   GET  /resources/NAME/packets       one PacketEvent per line, from now on; not on the dashboard's port
//   GET  /events                        one ControlEvent per line; begins with all resources and `ready`
//   GET  /link, POST /link              LinkReport, LinkRequest -> LinkReport; only with --lab-link
//   GET  /metrics                       Prometheus text
//   GET  /                              a page for people
//
// The dashboard's port has the GET half of it. Numbers of 64 bits are hexadecimal strings.

import type { AdminResult, OrderName, VolumeStatus } from '../runtime/api.ts'
import type { PacketRecord } from '../runtime/packet-trace.ts'

export const COMMAND_NAMES = [
  'up',
  'down',
  'attach',
  'detach',
  'connect',
  'disconnect',
  'primary',
  'secondary',
  'invalidate',
  'invalidate-remote',
  'new-current-uuid',
  'verify',
  'resize',
  'pause-sync',
  'resume-sync',
  'outdate',
  'resume-io',
] as const

export type CommandName = (typeof COMMAND_NAMES)[number]

export interface CommandRequest {
  readonly command: CommandName
  /** Absent: every volume of the resource. Commands of a whole resource pass over it. */
  readonly volume?: number
  /** disconnect, primary, secondary, detach. */
  readonly force?: boolean
  /** connect. */
  readonly discardMyData?: boolean
  /** new-current-uuid. */
  readonly clearBitmap?: boolean
  /** resize: of the device; 0 or absent: as much as both disks have. */
  readonly sizeSectors?: number
  /** resize: the new space holds the same on both disks. */
  readonly assumeClean?: boolean
  /** verify, in sectors of 512 bytes: from, and up to. */
  readonly startSector?: number
  readonly stopSector?: number
}

/** DRBD's numbers, as in `AdminResult`. `volume`: the one that the number is about, if it is about one. */
export interface CommandReply extends AdminResult {
  readonly volume?: number
}

export interface EndReport {
  readonly host: string
  readonly nodeId: number
  readonly family: 'ipv4' | 'ipv6'
  readonly address: string
  readonly port: number
}

export interface VolumeReport extends Omit<VolumeStatus, 'uuids'> {
  readonly minor: number
  /** Name of DRBD's device node. */
  readonly device: string
  readonly backingDisk: string
  readonly exportName: string
  /** Clients that have the export open. */
  readonly openCount: number
  /** 16 hexadecimal digits each. */
  readonly uuids: {
    readonly current: string
    readonly bitmap: string
    readonly history1: string
    readonly history2: string
  }
}

export interface ResourceReport {
  readonly name: string
  /** False: in the configuration only, or after `down`. */
  readonly configured: boolean
  readonly role: string
  readonly peerRole: string
  /** DRBD 8.4's word for the connection. */
  readonly connection: string
  /** Why it is not connected, if known. */
  readonly connectionReason: string | undefined
  readonly protocol: 'A' | 'B' | 'C'
  readonly agreedProtocolVersion: number
  readonly resolveConflicts: boolean
  /** How writes of two Primaries are ordered, and whether this host decides it; undefined: nobody does, or not known. */
  readonly order: OrderName
  readonly coordinates: boolean | undefined
  readonly inFlightBytes: number
  readonly packets: { readonly sent: number; readonly received: number }
  readonly local: EndReport
  readonly peer: EndReport
  /** Where NBD clients are served: paths, or `HOST:PORT`. */
  readonly nbd: readonly string[]
  readonly volumes: readonly VolumeReport[]
}

export interface LinkReport {
  readonly cut: boolean
  readonly delayMs: number
}

export interface LinkRequest {
  readonly cut?: boolean
  readonly delayMs?: number
}

export interface HostReport {
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly configFile: string
  readonly resources: readonly ResourceReport[]
}

export type ControlEvent = { readonly type: 'resource'; readonly resource: ResourceReport } | { readonly type: 'ready' }

/** One line of /resources/NAME/packets. `missed`: the reader was too slow for so many. */
export type PacketEvent = PacketRecord | { readonly missed: number }

/** One line on the daemon's standard output (with --json) once it can be reached. */
export interface DaemonReady {
  readonly host: string
  readonly pid: number
  readonly control: string
  /** URL, or null without one. */
  readonly dashboard: string | null
  readonly resources: readonly string[]
}
