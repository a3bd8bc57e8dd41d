// Prometheus metrics. Names and labels are those of drbd-reactor wherever it has one for a fact (config-and-tools.md 5), so
// that existing dashboards and alerts fit; state metrics are always given as one series per word ("enums"). What its users
// miss there has names of its own: `coprime_*`.

import { Counter, Gauge, Registry } from 'prom-client'

import type { HostReport, ResourceReport, VolumeReport } from './api.ts'
import { connectionWord, isSyncing, replicationWord } from './states.ts'

const ROLES = ['Primary', 'Secondary', 'Unknown']
const DISK_STATES = [
  'Diskless',
  'Attaching',
  'Detaching',
  'Failed',
  'Negotiating',
  'Inconsistent',
  'Outdated',
  'DUnknown',
  'Consistent',
  'UpToDate',
]
const CONNECTION_STATES = [
  'StandAlone',
  'Disconnecting',
  'Unconnected',
  'Timeout',
  'BrokenPipe',
  'NetworkFailure',
  'ProtocolError',
  'TearDown',
  'Connecting',
  'Connected',
]
const BLOCK_BYTES = 4096

type Labels = Readonly<Record<string, string>>

/** Built for one scrape: the reports are the only state. */
class Page {
  readonly registry = new Registry()
  readonly #gauges = new Map<string, Gauge>()
  readonly #counters = new Map<string, Counter>()

  gauge(name: string, help: string, labels: Labels, value: number | boolean): void {
    let gauge = this.#gauges.get(name)
    if (gauge === undefined) {
      gauge = new Gauge({ name, help, labelNames: Object.keys(labels), registers: [this.registry] })
      this.#gauges.set(name, gauge)
    }
    gauge.set(labels, Number(value))
  }

  counter(name: string, help: string, labels: Labels, value: number): void {
    let counter = this.#counters.get(name)
    if (counter === undefined) {
      counter = new Counter({ name, help, labelNames: Object.keys(labels), registers: [this.registry] })
      this.#counters.set(name, counter)
    }
    counter.inc(labels, value)
  }

  states(name: string, help: string, labels: Labels, words: readonly string[], current: string): void {
    for (const word of words) this.gauge(name, help, { ...labels, [name]: word }, word === current)
  }
}

export function metricsText(report: HostReport): Promise<string> {
  const page = new Page()
  const up = report.resources.filter(({ configured }) => configured)
  page.gauge('drbdreactor_up', 'Whether this daemon answers', {}, 1)
  page.gauge('drbd_version', 'Version of the program', { kmod: `coprime-${report.version}`, utils: report.version }, 1)
  page.gauge('drbd_resource_resources', 'Number of resources', {}, up.length)
  for (const resource of up) addResource(page, resource)
  return page.registry.metrics()
}

function addResource(page: Page, resource: ResourceReport): void {
  const name = { name: resource.name }
  const suspended = resource.volumes.some((volume) => volume.suspended.length > 0)
  page.states('drbd_resource_role', 'Role of this host', name, ROLES, resource.role)
  page.gauge('drbd_resource_suspended', 'Whether I/O is frozen', name, suspended)
  page.gauge('drbd_resource_maypromote', 'Whether it may become Primary here', name, mayPromote(resource))
  const peer = { name: resource.name, conn_name: resource.peer.host, peer_node_id: String(resource.peer.nodeId) }
  const connection = connectionWord(resource.connection)
  page.states('drbd_connection_state', 'State of the connection', peer, CONNECTION_STATES, connection)
  page.gauge('drbd_connection_apinflight_bytes', 'Application data in flight', peer, resource.inFlightBytes)
  page.gauge(
    'coprime_connection_resolves_conflicts',
    'Whether this host wins write conflicts',
    peer,
    resource.resolveConflicts,
  )
  for (const volume of resource.volumes) {
    addDevice(page, resource, volume)
    addPeerDevice(page, { ...peer, volume: String(volume.volume) }, volume)
  }
}

function mayPromote(resource: ResourceReport): boolean {
  if (resource.role === 'Primary' || resource.peerRole === 'Primary') return false
  return resource.volumes.every((volume) => volume.disk === 'UpToDate' || volume.peerDisk === 'UpToDate')
}

function addDevice(page: Page, resource: ResourceReport, volume: VolumeReport): void {
  const labels = { name: resource.name, volume: String(volume.volume), minor: String(volume.minor) }
  const { counters } = volume
  page.states('drbd_device_state', 'State of the disk', labels, DISK_STATES, volume.disk)
  page.gauge('drbd_device_client', 'Whether it has no disk on purpose', labels, 0)
  page.gauge('drbd_device_unintentionaldiskless', 'Whether it lost its disk', labels, volume.disk === 'Diskless')
  page.gauge('drbd_device_open', 'Whether clients have it open', labels, volume.openCount > 0)
  page.gauge('drbd_device_size_bytes', 'Size that clients see', labels, volume.sizeSectors * 512)
  page.counter('drbd_device_read_bytes_total', 'Read from the disk', labels, counters.diskReadBytes)
  page.counter('drbd_device_written_bytes_total', 'Written to the disk', labels, counters.diskWrittenBytes)
  page.counter('drbd_device_alwrites_total', 'Activity log writes', labels, counters.activityLogWrites)
  page.counter('drbd_device_bmwrites_total', 'Bitmap writes', labels, counters.bitmapWrites)
  page.counter('coprime_device_read_requests_total', 'Read requests of clients', labels, counters.readRequests)
  page.counter('coprime_device_write_requests_total', 'Write requests of clients', labels, counters.writeRequests)
  page.counter(
    'coprime_device_superseded_total',
    'Writes that lost against one of the peer',
    labels,
    counters.superseded,
  )
  page.counter('coprime_device_retried_total', 'Writes sent again after one of the peer', labels, counters.retried)
  page.counter('coprime_device_write_nows_total', 'P_WRITE_NOW sent by the coordinator', labels, counters.writeNows)
  page.counter('coprime_device_lock_requests_total', 'Locks of extents asked for', labels, counters.lockRequests)
  page.counter('coprime_device_lock_handovers_total', 'Locks handed over to the peer', labels, counters.lockHandovers)
  page.counter(
    'coprime_device_order_switches_total',
    'Extents that changed between lock and coordinator',
    labels,
    counters.orderSwitches,
  )
}

function addPeerDevice(page: Page, labels: Labels, volume: VolumeReport): void {
  const words = ['Off', 'Established', 'SyncSource', 'SyncTarget', 'PausedSyncS', 'PausedSyncT']
  const { counters } = volume
  const replication = replicationWord(volume.connection)
  page.states('drbd_peerdevice_state', "State of the peer's disk", labels, DISK_STATES, volume.peerDisk)
  page.gauge('drbd_peerdevice_outofsync_bytes', 'Not in sync', labels, volume.outOfSyncBlocks * BLOCK_BYTES)
  page.counter('drbd_peerdevice_sent_bytes', 'Sent to the peer', labels, counters.sentBytes)
  page.counter('drbd_peerdevice_received_bytes', 'Received from the peer', labels, counters.receivedBytes)
  page.states('coprime_peerdevice_replication', 'State of the replication', labels, words, replication)
  page.gauge('coprime_resync_active', 'Whether a resync runs', labels, isSyncing(volume.connection))
  page.gauge(
    'coprime_resync_total_bytes',
    'Size of the resync that runs, at its start',
    labels,
    volume.resyncTotalBlocks * BLOCK_BYTES,
  )
  page.gauge('coprime_resync_left_bytes', 'What is left of it', labels, volume.resyncLeftBlocks * BLOCK_BYTES)
  page.counter('coprime_resync_bytes_total', 'Transferred by resync, as data or as holes', labels, volume.resyncBytes)
  page.counter('coprime_resync_hole_bytes_total', 'Of these, holes', labels, volume.resyncHoleBytes)
}
