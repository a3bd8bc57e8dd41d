// Once faults have ended, nothing may wait for ever: every request of a client on a living host is answered, and the two
// hosts find back to each other.

import type { ResourceStatus } from '../../runtime/api.ts'
import type { LoggedRequest } from '../history.ts'

/** A message about the oldest request of `hosts` that has no answer. */
export function checkAnswered(requests: readonly LoggedRequest[], hosts: ReadonlySet<string>): string | undefined {
  let waiting = 0
  let oldest: LoggedRequest | undefined
  for (const request of requests) {
    if (request.outcome !== 'pending' || !hosts.has(request.host)) continue
    waiting++
    oldest = oldest ?? request
  }
  if (oldest === undefined) return undefined
  const { host, kind, sector, sectors, number, invokedAtUs } = oldest
  const since = `${(invokedAtUs / 1000).toFixed(3)} ms`
  return `${waiting} requests wait for ever, the oldest is #${number}, ${kind} ${sector}+${sectors} on ${host}, since ${since}`
}

/** A message if the hosts are not connected with both disks good. */
export function checkConverged(statuses: ReadonlyMap<string, ResourceStatus>): string | undefined {
  for (const [host, status] of statuses) {
    if (status.volumes.length === 0) return `${host} has no volume`
    for (const volume of status.volumes) {
      const state = `${volume.connection} ${volume.disk}/${volume.peerDisk}`
      const isGood = volume.connection === 'Connected' && volume.disk === 'UpToDate' && volume.peerDisk === 'UpToDate'
      if (!isGood)
        return `${host} volume ${volume.volume} stays ${state} (${status.connectionReason ?? 'no reason given'})`
      if (volume.outOfSyncBlocks > 0)
        return `${host} volume ${volume.volume}: ${volume.outOfSyncBlocks} blocks stay out of sync`
      if (volume.suspended.length > 0)
        return `${host} volume ${volume.volume} stays suspended (${volume.suspended.join(', ')})`
    }
  }
  return undefined
}
