// A resource of the configuration -> the settings of a replica, and what DRBD refuses about them when it is connected
// (config-and-tools.md 1.10; numbers of policies: wire-protocol.md 3.12).

import type { HostSection, Resource, Volume } from '../config/index.ts'
import { driverErrorText } from '../engine/result-texts.ts'
import type {
  AdminResult,
  CongestionSettings,
  OrderSettings,
  ResourceSettings,
  VolumeSettings,
} from '../runtime/api.ts'
import type { Digests } from '../runtime/ports.ts'
import { StartError } from './errors.ts'

const DECISECOND_MS = 100
const AFTER_SB_0P = [
  'disconnect',
  'discard-younger-primary',
  'discard-older-primary',
  'discard-zero-changes',
  'discard-least-changes',
  'discard-local',
  'discard-remote',
]
const DISCARD_LOCAL = 5
const DISCARD_REMOTE = 6
const AFTER_SB_1P: ReadonlyMap<string, number> = new Map([
  ['disconnect', 0],
  ['consensus', 7],
  ['discard-secondary', 8],
  ['call-pri-lost-after-sb', 9],
  ['violently-as0p', 10],
])
/** `retry-connect` and `auto-discard` are DRBD 9's; its 8.4 compatible meaning is the careful one. */
const RR_CONFLICT: ReadonlyMap<string, number> = new Map([
  ['disconnect', 0],
  ['call-pri-lost', 9],
  ['violently', 10],
])

/** A resource that this host takes part in. */
export interface LocalResource {
  readonly resource: Resource
  readonly local: HostSection
  readonly peer: HostSection
}

/** Throws a StartError, or what the configuration itself says against it. */
export function localResource(resource: Resource): LocalResource {
  const { local, peer, unsupported, name } = resource
  if (unsupported !== undefined) throw unsupported
  if (local === undefined || peer === undefined) {
    throw new StartError('E_RESOURCE_UNUSABLE', `${name}: there is no second host in the configuration`, {
      exitCode: 10,
    })
  }
  return { resource, local, peer }
}

export function resourceSettings(here: LocalResource): ResourceSettings {
  const { resource, local } = here
  const { name, net, handlers, options, coprime } = resource
  return {
    name,
    protocol: net.protocol as ResourceSettings['protocol'],
    allowTwoPrimaries: net.allowTwoPrimaries,
    fencing: net.fencing as ResourceSettings['fencing'],
    fencePeerHandler: (handlers.get('fence-peer') ?? '') !== '',
    onNoDataAccessible: options.onNoDataAccessible as ResourceSettings['onNoDataAccessible'],
    afterSb0p: afterSb0p(net.afterSb0pri, local.hostName),
    afterSb1p: AFTER_SB_1P.get(net.afterSb1pri) ?? 0,
    afterSb2p: AFTER_SB_1P.get(net.afterSb2pri) ?? 0,
    alwaysAsbp: net.alwaysAsbp,
    rrConflict: RR_CONFLICT.get(net.rrConflict) ?? 0,
    cramHmacAlg: net.cramHmacAlg,
    sharedSecret: net.sharedSecret,
    dataIntegrityAlg: net.dataIntegrityAlg,
    verifyAlg: net.verifyAlg,
    csumsAlg: net.csumsAlg,
    useRle: net.useRle,
    maxEpochSize: net.maxEpochSize,
    ...congestionSettings(net),
    pingIntMs: net.pingIntSeconds * 1000,
    pingTimeoutMs: net.pingTimeoutDeciseconds * DECISECOND_MS,
    timeoutMs: net.timeoutDeciseconds * DECISECOND_MS,
    koCount: net.koCount,
    connectIntMs: net.connectIntSeconds * 1000,
    socketCheckTimeoutMs: net.socketCheckTimeoutDeciseconds * DECISECOND_MS,
    inFlightBytesMax: coprime.inFlightMaxBytes,
    order: orderSettings(here),
    volumes: local.volumes.map(volumeSettings),
  }
}

function congestionSettings(net: Resource['net']): { congestion?: CongestionSettings } {
  const { onCongestion, congestionFillSectors, congestionExtents } = net
  if (onCongestion === 'block') return {}
  const policy = onCongestion as CongestionSettings['policy']
  return { congestion: { policy, fillSectors: congestionFillSectors, extents: congestionExtents } }
}

function orderSettings({ resource, local }: LocalResource): OrderSettings {
  const { globalWriteOrder, writeNowAcks, coordinator, dlExtentSizeBytes, dlExtents } = resource.coprime
  const named = coordinator === local.hostName ? 'local' : 'peer'
  return {
    name: globalWriteOrder as OrderSettings['name'],
    writeNowAcks,
    coordinator: coordinator === '' ? 'flag' : named,
    extentBytes: dlExtentSizeBytes,
    extentsMax: dlExtents,
  }
}

function volumeSettings({ number, diskOptions }: Volume): VolumeSettings {
  const fixedRate = diskOptions.cPlanAheadDeciseconds === 0
  return {
    volume: number,
    alExtents: diskOptions.alExtents,
    sizeSectors: diskOptions.sizeSectors,
    onIoError: diskOptions.onIoError as VolumeSettings['onIoError'],
    resyncRateMaxKib: fixedRate ? diskOptions.resyncRateKibPerSecond : diskOptions.cMaxRateKibPerSecond,
    resyncRateMinKib: diskOptions.cMinRateKibPerSecond,
    resyncPace: {
      resyncRateKib: diskOptions.resyncRateKibPerSecond,
      cPlanAhead: diskOptions.cPlanAheadDeciseconds,
      cDelayTarget: diskOptions.cDelayTargetDeciseconds,
      cFillTarget: diskOptions.cFillTargetSectors,
      cMaxRateKib: diskOptions.cMaxRateKibPerSecond,
    },
  }
}

/** `discard-node-NAME` is translated per host, as 8.4 does. */
function afterSb0p(word: string, hostName: string): number {
  const node = /^discard-node-(.+)$/.exec(word)?.[1]
  if (node !== undefined) return node === hostName ? DISCARD_LOCAL : DISCARD_REMOTE
  return Math.max(0, AFTER_SB_0P.indexOf(word))
}

/** What the driver refuses on one host alone; undefined: nothing. */
export function connectProblem({ net, coprime }: Resource, digests: Digests): AdminResult | undefined {
  const refused = (code: number, detail: string): AdminResult => ({ code, text: driverErrorText(code), detail })
  if (net.allowTwoPrimaries && net.protocol !== 'C') return refused(139, 'allow-two-primaries needs protocol C')
  if (net.onCongestion !== 'block' && net.protocol !== 'A')
    return refused(155, `on-congestion ${net.onCongestion} needs protocol A`)
  const order = coprime.globalWriteOrder
  if (order !== 'arbitration' && net.protocol !== 'C')
    return refused(139, `global-write-order ${order} needs protocol C`)
  if (net.fencing === 'resource-and-stonith' && net.protocol === 'A') {
    return refused(154, 'fencing resource-and-stonith needs protocol B or C')
  }
  const algorithms: readonly (readonly [option: string, algorithm: string, code: number])[] = [
    ['cram-hmac-alg', net.cramHmacAlg, 120],
    ['data-integrity-alg', net.dataIntegrityAlg, 141],
    ['csums-alg', net.csumsAlg, 144],
    ['verify-alg', net.verifyAlg, 146],
  ]
  for (const [option, algorithm, code] of algorithms) {
    if (algorithm === '') continue
    if (digests.sizeBytes(algorithm) === undefined) return refused(code, `${option} ${algorithm} is not known here`)
    if (option === 'cram-hmac-alg' && algorithm === 'crc32c') return refused(121, 'crc32c cannot be keyed')
  }
  return undefined
}
