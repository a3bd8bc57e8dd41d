// A resource's state and what the configuration says of it, as one report for the control socket.

import type { HostSection } from '../config/index.ts'
import type { EndReport, ResourceReport, VolumeReport } from '../control/api.ts'
import type { ResourceStatus, VolumeStatus } from '../runtime/api.ts'
import type { LocalResource } from './settings.ts'

export interface ResourceFacts {
  readonly status: ResourceStatus
  readonly configured: boolean
  readonly nbd: readonly string[]
  readonly volumes: readonly { readonly volume: number; readonly openCount: number; readonly exportName: string }[]
}

export function resourceReport(here: LocalResource, facts: ResourceFacts): ResourceReport {
  const { resource, local, peer } = here
  const { status } = facts
  return {
    name: resource.name,
    configured: facts.configured,
    role: status.role,
    peerRole: status.peerRole,
    connection: status.connection,
    connectionReason: status.connectionReason,
    protocol: resource.net.protocol as ResourceReport['protocol'],
    agreedProtocolVersion: status.agreedProtocolVersion,
    resolveConflicts: status.resolveConflicts,
    order: status.order,
    coordinates: status.coordinates,
    inFlightBytes: status.inFlightBytes,
    packets: status.packets,
    local: end(here, local),
    peer: end(here, peer),
    nbd: facts.nbd,
    volumes: status.volumes.map((volume) => volumeReport(here, facts, volume)),
  }
}

/** DRBD 9 numbers two `on` hosts by itself in the order of the file. */
function end({ resource }: LocalResource, { hostName, address }: HostSection): EndReport {
  const { hosts } = resource.source
  const index = hosts.findIndex(({ node }) => node.names.some(({ text }) => text === hostName))
  const nodeId = hosts[index]?.node.nodeId?.id ?? Math.max(0, index)
  return { host: hostName, nodeId, family: address.family, address: address.host, port: address.port }
}

function volumeReport({ local }: LocalResource, facts: ResourceFacts, status: VolumeStatus): VolumeReport {
  const configured = local.volumes.find(({ number }) => number === status.volume)
  const known = facts.volumes.find(({ volume }) => volume === status.volume)
  const { current, bitmap, history1, history2 } = status.uuids
  return {
    ...status,
    minor: configured?.minor ?? 0,
    device: configured?.device ?? '',
    backingDisk: configured?.disk ?? '',
    exportName: known?.exportName ?? '',
    openCount: known?.openCount ?? 0,
    uuids: { current: hex64(current), bitmap: hex64(bitmap), history1: hex64(history1), history2: hex64(history2) },
  }
}

const hex64 = (value: bigint): string => value.toString(16).toUpperCase().padStart(16, '0')
