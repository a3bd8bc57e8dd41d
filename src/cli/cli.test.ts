// Goal: texts, JSON and exit codes that scripts rely on (config-and-tools.md 3.1, 3.2, 3.3, 3.7, 4). Method: reports written
// by hand, in the states of the specification's samples.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { ResourceReport, VolumeReport } from '../control/api.ts'
import { metricsText } from '../control/metrics.ts'
import { statusPage } from '../control/page.ts'
import { connectionWord, isConnected, replicationWord } from '../control/states.ts'
import { exitCodeOf, failureText } from './exit-codes.ts'
import { drawing } from './gi.ts'
import { targetsOf } from './objects.ts'
import { resourceJson, statusText } from './status.ts'

function volume(change: Partial<VolumeReport> = {}): VolumeReport {
  return {
    volume: 0,
    minor: 1,
    device: '/dev/drbd1',
    backingDisk: '/dev/vg/r0',
    exportName: 'r0',
    openCount: 1,
    disk: 'UpToDate',
    peerDisk: 'UpToDate',
    connection: 'Connected',
    sizeSectors: 2_097_016,
    outOfSyncBlocks: 0,
    resyncTotalBlocks: 0,
    resyncLeftBlocks: 0,
    verifyTotalBlocks: 0,
    verifyDoneBlocks: 0,
    resyncBytes: 0,
    resyncHoleBytes: 0,
    uuids: { current: '0'.repeat(16), bitmap: '0'.repeat(16), history1: '0'.repeat(16), history2: '0'.repeat(16) },
    suspended: [],
    counters: {
      readRequests: 3,
      writeRequests: 4,
      sentBytes: 655_360 * 1024,
      receivedBytes: 0,
      diskReadBytes: 2100 * 1024,
      diskWrittenBytes: 1_048_508 * 1024,
      activityLogWrites: 12,
      bitmapWrites: 64,
      superseded: 5,
      retried: 6,
      writeNows: 7,
      lockRequests: 8,
      lockHandovers: 9,
      orderSwitches: 10,
    },
    ...change,
  }
}

function resource(change: Partial<ResourceReport> = {}): ResourceReport {
  return {
    name: 'r0',
    configured: true,
    role: 'Primary',
    peerRole: 'Secondary',
    connection: 'Connected',
    connectionReason: undefined,
    protocol: 'C',
    agreedProtocolVersion: 101,
    resolveConflicts: false,
    order: 'arbitration',
    coordinates: undefined,
    inFlightBytes: 0,
    packets: { sent: 0, received: 0 },
    local: { host: 'alice', nodeId: 0, family: 'ipv4', address: '10.0.0.1', port: 7789 },
    peer: { host: 'bob', nodeId: 1, family: 'ipv4', address: '10.0.0.2', port: 7789 },
    nbd: ['/run/coprime/r0.nbd'],
    volumes: [volume()],
    ...change,
  }
}

const syncing = volume({
  connection: 'SyncSource',
  peerDisk: 'Inconsistent',
  outOfSyncBlocks: 98_287,
  resyncTotalBlocks: 262_099,
  resyncLeftBlocks: 98_287,
})

test('status: in sync, resyncing, away, split brain', () => {
  assert.equal(
    statusText(resource()),
    'r0 role:Primary\n  disk:UpToDate open:yes\n  bob role:Secondary\n    peer-disk:UpToDate',
  )
  assert.match(statusText(resource({ order: 'auto', coordinates: true })), /^r0 role:Primary order:auto$/m)
  assert.equal(
    statusText(resource({ volumes: [syncing] })),
    'r0 role:Primary\n  disk:UpToDate open:yes\n  bob role:Secondary\n    replication:SyncSource peer-disk:Inconsistent done:62.50',
  )
  const away = { peerRole: 'Unknown', volumes: [volume({ connection: 'WFConnection', peerDisk: 'DUnknown' })] }
  assert.equal(
    statusText(resource({ ...away, connection: 'WFConnection' })),
    'r0 role:Primary\n  disk:UpToDate open:yes\n  bob connection:Connecting',
  )
  assert.match(statusText(resource({ ...away, connection: 'StandAlone' })), / bob connection:StandAlone$/)
})

test('status: volumes have numbers as soon as there are several, or the only one is not 0', () => {
  const two = [volume(), volume({ volume: 1, disk: 'Inconsistent', connection: 'SyncTarget', openCount: 0 })]
  assert.equal(
    statusText(resource({ volumes: two })),
    `r0 role:Primary
  volume:0 disk:UpToDate open:yes
  volume:1 disk:Inconsistent open:no
  bob role:Secondary
    volume:0 peer-disk:UpToDate
    volume:1 replication:SyncTarget peer-disk:UpToDate done:100.00`,
  )
  assert.match(statusText(resource({ volumes: [volume({ volume: 3 })] })), /volume:3 disk:UpToDate/)
})

test('status: frozen, verbose, with statistics', () => {
  const frozen = resource({ volumes: [volume({ suspended: ['fencing', 'no-data'] })] })
  assert.match(statusText(frozen), /^r0 role:Primary suspended:fencing,no-data\n/)
  const text = statusText(resource({ volumes: [syncing] }), { verbose: true, statistics: true })
  assert.equal(
    text,
    `r0 node-id:0 role:Primary suspended:no force-io-failures:no
    write-ordering:flush
  volume:0 minor:1 disk:UpToDate backing_dev:/dev/vg/r0 quorum:yes open:yes
      size:1048508 read:2100 written:1048508 al-writes:12 bm-writes:64
  bob node-id:1 connection:Connected role:Secondary
    volume:0 replication:SyncSource peer-disk:Inconsistent done:62.50
        received:0 sent:655360 out-of-sync:393148`,
  )
})

test('status as JSON: DRBD 9 keys and units', () => {
  const json = JSON.parse(JSON.stringify(resourceJson(resource({ volumes: [syncing] }))))
  assert.equal(json['node-id'], 0)
  assert.equal(json.suspended, false)
  assert.equal(json.devices[0]['disk-state'], 'UpToDate')
  assert.equal(json.devices[0].size, 1_048_508)
  const [connection] = json.connections
  assert.equal(connection['connection-state'], 'Connected')
  assert.deepEqual(connection.paths[0].this_host, { address: '10.0.0.1', port: 7789, family: 'ipv4' })
  const [peerDevice] = connection.peer_devices
  assert.equal(peerDevice['replication-state'], 'SyncSource')
  assert.equal(peerDevice['out-of-sync'], 393_148)
  assert.equal(peerDevice['percent-in-sync'], 62.5)
  assert.equal(peerDevice['percent-resync-done'], 62.5)
  assert.equal(peerDevice['has-sync-details'], true)
})

test('one word of 8.4 is two of 9', () => {
  assert.deepEqual([connectionWord('WFConnection'), replicationWord('WFConnection')], ['Connecting', 'Off'])
  assert.deepEqual([connectionWord('Unconnected'), replicationWord('Unconnected')], ['Unconnected', 'Off'])
  assert.deepEqual([connectionWord('WFReportParams'), isConnected('WFReportParams')], ['Connected', false])
  assert.deepEqual([connectionWord('Connected'), replicationWord('Connected')], ['Connected', 'Established'])
  assert.deepEqual([connectionWord('SyncTarget'), replicationWord('SyncTarget')], ['Connected', 'SyncTarget'])
})

test('exit codes and texts of refusals', () => {
  const exits = [0, 101, -1, -2, -4, -9, -12, -16, 102, 158].map((code) => exitCodeOf({ code, text: '' }))
  assert.deepEqual(exits, [0, 0, 11, 17, 16, 0, 11, 5, 10, 10])
  assert.equal(failureText('r9', { code: 158, text: 'Unknown resource' }), 'r9: Failure: (158) Unknown resource')
  const detailed = failureText('r0/1', { code: 104, text: 'Cannot open backing device', detail: '/dev/x: gone' })
  assert.equal(detailed, 'r0/1: Failure: (104) Cannot open backing device: /dev/x: gone')
  const refused = failureText('r0', { code: -2, text: 'Need access to UpToDate data' })
  assert.match(refused, /^r0: State change failed: \(-2\) Need access to UpToDate data: /)
})

test('objects: all, a resource, a volume, a minor', () => {
  const r0 = resource()
  const r1 = resource({ name: 'r1', volumes: [volume({ minor: 7 }), volume({ volume: 1, minor: 8 })] })
  const plain = (objects: string[]): unknown[] =>
    targetsOf(objects, [r0, r1]).map(({ object, resource: name, volume: number }) => [object, name, number])
  assert.deepEqual(plain(['all']), [
    ['r0', 'r0', undefined],
    ['r1', 'r1', undefined],
  ])
  assert.deepEqual(plain(['r1/1', 'minor-8', '7', 'nosuch', 'r9/3']), [
    ['r1/1', 'r1', 1],
    ['minor-8', 'r1', 1],
    ['7', 'r1', 0],
    ['nosuch', 'nosuch', undefined],
    ['r9/3', 'r9', 3],
  ])
  assert.throws(() => plain(['r0/x']), /'r0\/x' is no object/)
})

test('show-gi: every arrow points at its place', () => {
  const gi = 'DEC8A6DFCAA8C7CF:0000000000000000:6A6D3AC7B2F1D5B2:6A6C3AC7B2F1D5B2:1:1:1:1:0:0:0'
  const lines = drawing(gi).split('\n')
  const at = lines.indexOf(gi)
  assert.equal(lines[at - 1], '       V                V                V                V')
  assert.equal(lines[at + 1]?.indexOf('^'), gi.length - 13)
  assert.equal(lines[at + 1]?.length, gi.length)
  assert.equal(lines.filter((line) => line.includes('crashed primary')).length, 1)
})

test('metrics: names of drbd-reactor, and what it lacks', async () => {
  const report = {
    host: 'alice',
    pid: 1,
    version: '0.1.0',
    configFile: '/c',
    resources: [resource({ volumes: [syncing] })],
  }
  const lines = (await metricsText(report)).split('\n')
  for (const line of [
    'drbd_version{kmod="coprime-0.1.0",utils="0.1.0"} 1',
    'drbd_resource_role{name="r0",drbd_resource_role="Primary"} 1',
    'drbd_resource_role{name="r0",drbd_resource_role="Secondary"} 0',
    'drbd_peerdevice_outofsync_bytes{name="r0",conn_name="bob",peer_node_id="1",volume="0"} 402583552',
    'drbd_device_written_bytes_total{name="r0",volume="0",minor="1"} 1073672192',
    'drbd_device_open{name="r0",volume="0",minor="1"} 1',
    'coprime_resync_left_bytes{name="r0",conn_name="bob",peer_node_id="1",volume="0"} 402583552',
    'coprime_device_superseded_total{name="r0",volume="0",minor="1"} 5',
    'coprime_device_retried_total{name="r0",volume="0",minor="1"} 6',
  ]) {
    assert.ok(lines.includes(line), line)
  }
  const none = await metricsText({ ...report, resources: [resource({ configured: false })] })
  assert.match(none, /drbd_resource_resources 0/)
  assert.doesNotMatch(none, /drbd_device_state/)
})

test('the page shows what came from outside as text', () => {
  const report = {
    host: '<b>',
    pid: 1,
    version: '0',
    configFile: '/c',
    resources: [resource({ connectionReason: '<i>&' })],
  }
  const page = statusPage('t', [
    { name: '<b>', report },
    { name: 'gone', report: undefined },
  ])
  assert.doesNotMatch(page, /<b>|<i>/)
  assert.match(page, /&lt;i&gt;&amp;/)
  assert.match(page, /gone<\/h2><p class="bad">does not answer/)
})
