// Never two truths (design of the contract, section "fencing"): once a host has gone on alone, which it says by a new current
// generation, the other one must be dead, frozen or no Primary, whether it has noticed the loss or not. Looked at whenever
// the status of either host changes. It holds only with fencing that freezes I/O until the peer is known to be fenced.

import type { ResourceStatus, VolumeStatus } from '../../runtime/api.ts'

/** A message if both hosts serve clients, each from a generation of its own. */
export function checkOneWriter(a: ResourceStatus | undefined, b: ResourceStatus | undefined): string | undefined {
  if (a === undefined || b === undefined || a.role !== 'Primary' || b.role !== 'Primary') return undefined
  for (const volume of a.volumes) {
    const other = b.volumes.find((each) => each.volume === volume.volume)
    if (other === undefined || !serves(volume) || !serves(other)) continue
    if ((volume.uuids.current & ~1n) === (other.uuids.current & ~1n)) continue
    // Connected hosts learn of a new generation a moment later.
    if (isConnected(volume) && isConnected(other)) continue
    return (
      `both hosts are Primary and serve clients, each from a generation of its own: ` +
      `a ${volume.connection} ${volume.disk}/${volume.peerDisk}, b ${other.connection} ${other.disk}/${other.peerDisk}`
    )
  }
  return undefined
}

const serves = (volume: VolumeStatus): boolean => volume.disk === 'UpToDate' && volume.suspended.length === 0

/** States of a volume from Connected on; before them stand those of a connection that is made, lost or given up. */
const UNCONNECTED: ReadonlySet<string> = new Set([
  'StandAlone',
  'Disconnecting',
  'Unconnected',
  'Timeout',
  'BrokenPipe',
  'NetworkFailure',
  'ProtocolError',
  'TearDown',
  'WFConnection',
  'WFReportParams',
])
export const isConnected = (volume: Pick<VolumeStatus, 'connection'>): boolean => !UNCONNECTED.has(volume.connection)
