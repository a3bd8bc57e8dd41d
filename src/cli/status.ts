// `coprime status [RES...]`: what is up, in the layout of drbdsetup (config-and-tools.md 3.2) and with --json in its
// structure (3.3); keys that DRBD does not have come last in their object.

import type { ResourceReport, VolumeReport } from '../control/api.ts'
import { connectionWord, isConnected, isSyncing, replicationWord } from '../control/states.ts'
import { type Context, EXIT_CONFIG, EXIT_OK } from './context.ts'

export interface StatusOptions {
  readonly verbose?: boolean
  readonly statistics?: boolean
}

const WIDTH_DEFAULT = 80
const CANNOT_SAY_SECONDS = 987_654_321

export async function runStatus(context: Context, names: readonly string[], options: StatusOptions): Promise<number> {
  const report = await context.client.status()
  const wanted = names.filter((name) => name !== 'all').map((name) => name.split('/')[0] as string)
  const up = report.resources.filter(({ configured }) => configured)
  const shown = wanted.length === 0 ? up : up.filter(({ name }) => wanted.includes(name))
  const missing = wanted.filter((name) => !up.some((resource) => resource.name === name))
  if (context.json) context.print(JSON.stringify(shown.map(resourceJson), undefined, 2))
  else if (shown.length > 0)
    context.print(
      shown
        .map((resource) => `${statusText(resource, options)}\n`)
        .join('\n')
        .trimEnd(),
    )
  else if (missing.length === 0) context.print('# No currently configured DRBD found.')
  for (const name of missing) {
    const known = report.resources.some((resource) => resource.name === name)
    context.printError(`${name}: No such resource${known ? `: it is not up, run: coprime up ${name}` : ''}`)
  }
  return missing.length > 0 ? EXIT_CONFIG : EXIT_OK
}

// ---- text -----------------------------------------------------------------------------------------------------------

/** One resource; a volume is named as soon as there are several, or the only one is not 0. */
export function statusText(resource: ResourceReport, options: StatusOptions = {}): string {
  const verbose = options.verbose ?? false
  const statistics = options.statistics ?? false
  const many = verbose || resource.volumes.length > 1 || resource.volumes[0]?.volume !== 0
  const lines = [...resourceLines(resource, verbose, statistics)]
  for (const volume of resource.volumes) lines.push(...deviceLines(volume, { many, verbose, statistics }))
  lines.push(...connectionLines(resource, verbose))
  if (isConnected(resource.connection) || verbose) {
    for (const volume of resource.volumes) lines.push(...peerDeviceLines(volume, { many, verbose, statistics }))
  }
  return lines.join('\n')
}

interface Shown {
  readonly many: boolean
  readonly verbose: boolean
  readonly statistics: boolean
}

function resourceLines(resource: ResourceReport, verbose: boolean, statistics: boolean): string[] {
  const suspended = suspendedWords(resource)
  const words = [resource.name]
  if (verbose) words.push(`node-id:${resource.local.nodeId}`)
  words.push(`role:${resource.role}`)
  if (verbose || suspended !== 'no') words.push(`suspended:${suspended}`)
  if (verbose) words.push('force-io-failures:no')
  // Only what is not DRBD's own order, so that its text stays as scripts know it.
  if (resource.order !== 'arbitration') words.push(`order:${resource.order}`)
  return [...wrapped(words, 0), ...(verbose && statistics ? ['    write-ordering:flush'] : [])]
}

function suspendedWords(resource: ResourceReport): string {
  const words = new Set(resource.volumes.flatMap((volume) => volume.suspended))
  return words.size === 0 ? 'no' : [...words].join(',')
}

function deviceLines(volume: VolumeReport, { many, verbose, statistics }: Shown): string[] {
  const words: string[] = []
  if (many) words.push(`volume:${volume.volume}`)
  if (verbose) words.push(`minor:${volume.minor}`)
  words.push(`disk:${volume.disk}`)
  if (verbose) words.push(`backing_dev:${volume.backingDisk}`, 'quorum:yes')
  words.push(`open:${yesNo(volume.openCount > 0)}`)
  const { counters } = volume
  const more: string[] = []
  if (statistics) {
    if (verbose) more.push(`size:${volume.sizeSectors / 2}`)
    more.push(`read:${kib(counters.diskReadBytes)}`, `written:${kib(counters.diskWrittenBytes)}`)
    if (verbose) more.push(`al-writes:${counters.activityLogWrites}`, `bm-writes:${counters.bitmapWrites}`)
  }
  return [...wrapped(words, 2), ...wrapped(more, 6)]
}

function connectionLines(resource: ResourceReport, verbose: boolean): string[] {
  const connected = isConnected(resource.connection)
  const words = [resource.peer.host]
  if (verbose) words.push(`node-id:${resource.peer.nodeId}`)
  if (verbose || !connected) words.push(`connection:${connectionWord(resource.connection)}`)
  if (verbose || connected) words.push(`role:${resource.peerRole}`)
  return wrapped(words, 2)
}

function peerDeviceLines(volume: VolumeReport, { many, verbose, statistics }: Shown): string[] {
  const replication = replicationWord(volume.connection)
  const words: string[] = []
  if (many) words.push(`volume:${volume.volume}`)
  if (verbose || replication !== 'Established') words.push(`replication:${replication}`)
  words.push(`peer-disk:${volume.peerDisk}`)
  if (isSyncing(volume.connection)) words.push(`done:${percentDone(volume).toFixed(2)}`)
  const more: string[] = []
  if (statistics) {
    const { receivedBytes, sentBytes } = volume.counters
    more.push(`received:${kib(receivedBytes)}`, `sent:${kib(sentBytes)}`)
    if (verbose || volume.outOfSyncBlocks > 0) more.push(`out-of-sync:${volume.outOfSyncBlocks * 4}`)
  }
  return [...wrapped(words, 4), ...wrapped(more, 8)]
}

/** Lines wrap at the width of the terminal, counted without the indent. */
function wrapped(words: readonly string[], indent: number): string[] {
  const width = process.stdout.columns ?? WIDTH_DEFAULT
  const lines: string[] = []
  let line = ''
  for (const word of words) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = ''
    }
    line = line === '' ? word : `${line} ${word}`
  }
  if (line !== '') lines.push(line)
  return lines.map((text, i) => ' '.repeat(i === 0 ? indent : indent + 4) + text)
}

const yesNo = (value: boolean): string => (value ? 'yes' : 'no')
const kib = (bytes: number): number => Math.floor(bytes / 1024)

function percentDone({ resyncTotalBlocks: total, resyncLeftBlocks: left }: VolumeReport): number {
  return total === 0 ? 100 : Math.max(0, 100 * (1 - left / total))
}

// ---- JSON -----------------------------------------------------------------------------------------------------------

export function resourceJson(resource: ResourceReport): object {
  const suspended = new Set(resource.volumes.flatMap((volume) => volume.suspended))
  return {
    name: resource.name,
    'node-id': resource.local.nodeId,
    role: resource.role,
    suspended: suspended.size > 0,
    'suspended-user': suspended.has('user'),
    'suspended-no-data': suspended.has('no-data'),
    'suspended-fencing': suspended.has('fencing'),
    'suspended-quorum': false,
    'force-io-failures': false,
    'write-ordering': 'flush',
    devices: resource.volumes.map(deviceJson),
    connections: [connectionJson(resource)],
    nbd: resource.nbd,
  }
}

function deviceJson(volume: VolumeReport): object {
  const { counters } = volume
  return {
    volume: volume.volume,
    minor: volume.minor,
    'disk-state': volume.disk,
    client: false,
    open: volume.openCount > 0,
    quorum: true,
    size: volume.sizeSectors / 2,
    read: kib(counters.diskReadBytes),
    written: kib(counters.diskWrittenBytes),
    'al-writes': counters.activityLogWrites,
    'bm-writes': counters.bitmapWrites,
    'upper-pending': 0,
    'lower-pending': 0,
    'backing-device': volume.backingDisk,
    export: volume.exportName,
    'open-count': volume.openCount,
    superseded: counters.superseded,
    retried: counters.retried,
    'write-nows': counters.writeNows,
    'lock-requests': counters.lockRequests,
    'lock-handovers': counters.lockHandovers,
    'order-switches': counters.orderSwitches,
    uuids: volume.uuids,
  }
}

function connectionJson(resource: ResourceReport): object {
  const { local, peer } = resource
  return {
    'peer-node-id': peer.nodeId,
    name: peer.host,
    'connection-state': connectionWord(resource.connection),
    congested: false,
    'peer-role': resource.peerRole,
    tls: false,
    'ap-in-flight': Math.floor(resource.inFlightBytes / 512),
    'rs-in-flight': 0,
    paths: [
      {
        this_host: { address: local.address, port: local.port, family: local.family },
        remote_host: { address: peer.address, port: peer.port, family: peer.family },
        established: isConnected(resource.connection),
      },
    ],
    peer_devices: resource.volumes.map(peerDeviceJson),
    reason: resource.connectionReason ?? null,
    'protocol-version': resource.agreedProtocolVersion,
    'resolve-conflicts': resource.resolveConflicts,
    'global-write-order': resource.order,
    coordinates: resource.coordinates ?? null,
  }
}

function peerDeviceJson(volume: VolumeReport): object {
  const size = volume.sizeSectors
  const outOfSync = volume.outOfSyncBlocks * 8
  const syncing = isSyncing(volume.connection)
  return {
    volume: volume.volume,
    'replication-state': replicationWord(volume.connection),
    'peer-disk-state': volume.peerDisk,
    'peer-client': false,
    'resync-suspended': 'no',
    received: kib(volume.counters.receivedBytes),
    sent: kib(volume.counters.sentBytes),
    'out-of-sync': outOfSync / 2,
    pending: 0,
    unacked: 0,
    'has-sync-details': syncing,
    'has-online-verify-details': false,
    'percent-in-sync': size === 0 ? 100 : hundredths(100 * Math.max(0, 1 - outOfSync / size)),
    ...(syncing
      ? {
          'rs-total': volume.resyncTotalBlocks * 8,
          'estimated-seconds-to-finish': CANNOT_SAY_SECONDS,
          'percent-resync-done': hundredths(percentDone(volume)),
        }
      : {}),
    'resync-bytes': volume.resyncBytes,
    'resync-hole-bytes': volume.resyncHoleBytes,
  }
}

const hundredths = (value: number): number => Math.floor(value * 100) / 100
