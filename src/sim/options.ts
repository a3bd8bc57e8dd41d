// What a simulated world is made of. A scenario fixes what it is about; the rest is drawn from the seed, so that a hundred
// seeds are a hundred different pairs of machines. All that was drawn is printed before a run.

import type { Prng } from '../base/prng.ts'
import { KIB, MIB } from '../base/units.ts'
import type { OrderName, OrderSettings, ResourceSettings, VolumeSettings } from '../runtime/api.ts'
import type { ClockConfig } from './clock.ts'
import { DISK_DEFAULTS, type DiskConfig } from './disk.ts'
import { HANDLERS_DEFAULTS, type HandlersConfig } from './handlers.ts'
import { type HostName, NETWORK_DEFAULTS, type NetworkConfig } from './network.ts'

export interface WorldOptions {
  readonly seed: number
  /** Size of the backing devices, metadata included. */
  readonly deviceBytes: number
  readonly network: NetworkConfig
  readonly disks: { readonly a: DiskConfig; readonly b: DiskConfig }
  readonly clocks: { readonly a: Omit<ClockConfig, 'startUs'>; readonly b: Omit<ClockConfig, 'startUs'> }
  readonly handlers: HandlersConfig
  readonly settings: ResourceSettings
  /** What one host has otherwise than `settings` says. */
  readonly differences: { readonly a: HostDifferences; readonly b: HostDifferences }
  /** Fresh disks are declared equal, or synchronised as a whole. */
  readonly initialSync: 'skip' | 'full'
  /** Which hosts become Primary as soon as they may. */
  readonly primaries: readonly ('a' | 'b')[]
  /** One step in this many asks what a power cut at that moment would leave; 0: never. */
  readonly powerCutQuestionEvery: number
}

/** Settings that need not be equal on both hosts. */
export type HostDifferences = Partial<
  Pick<
    ResourceSettings,
    | 'pingIntMs'
    | 'pingTimeoutMs'
    | 'timeoutMs'
    | 'koCount'
    | 'connectIntMs'
    | 'inFlightBytesMax'
    | 'maxEpochSize'
    | 'useRle'
  >
> & { readonly volume?: Partial<VolumeSettings> }

/** What a scenario may fix. */
export interface WorldChoice {
  readonly deviceBytes?: number
  readonly network?: Partial<NetworkConfig>
  readonly disk?: Partial<DiskConfig>
  readonly handlers?: Partial<HandlersConfig>
  readonly settings?: Partial<Omit<ResourceSettings, 'volumes'>>
  readonly volume?: Partial<VolumeSettings>
  readonly differences?: { readonly a?: HostDifferences; readonly b?: HostDifferences }
  readonly initialSync?: 'skip' | 'full'
  readonly primaries?: readonly ('a' | 'b')[]
  readonly powerCutQuestionEvery?: number
  /** Default: arbitration. */
  readonly order?: OrderName
}

const FENCING_STONITH = 'resource-and-stonith'

export function drawOptions(seed: number, prng: Prng, choice: WorldChoice): WorldOptions {
  const fork = (name: string): Prng => prng.fork(name)
  const disk = fork('disk')
  const clock = fork('clock')
  const choices = fork('choices')
  return {
    seed,
    deviceBytes: choice.deviceBytes ?? choices.pick([8 * MIB, 8 * MIB + 2560, 24 * MIB]),
    network: { ...drawNetwork(fork('network')), ...choice.network },
    disks: { a: { ...drawDisk(disk), ...choice.disk }, b: { ...drawDisk(disk), ...choice.disk } },
    clocks: { a: drawClock(clock), b: drawClock(clock) },
    handlers: { ...HANDLERS_DEFAULTS, fencingAgent: choices.pick(['kill', 'power-off'] as const), ...choice.handlers },
    settings: drawSettings(fork('settings'), choice),
    differences: { a: choice.differences?.a ?? {}, b: choice.differences?.b ?? {} },
    initialSync: choice.initialSync ?? (choices.chance(1, 8) ? 'full' : 'skip'),
    primaries: choice.primaries ?? ['a', 'b'],
    powerCutQuestionEvery: choice.powerCutQuestionEvery ?? 50,
  }
}

function drawNetwork(prng: Prng): NetworkConfig {
  const delayUsMax = prng.pick([100, 1_000, 1_000, 5_000, 20_000])
  return {
    ...NETWORK_DEFAULTS,
    delayUsMin: prng.intInclusive(10, Math.min(delayUsMax, 2_000)),
    delayUsMax,
    longDelayPerMille: prng.pick([0, 2, 20]),
    longDelayUs: prng.pick([20_000, 150_000]),
    segmentBytesMax: prng.pick([1_460, 16_384, 65_536]),
    bufferBytes: prng.pick([16_384, 262_144, 4 * MIB]),
  }
}

function drawDisk(prng: Prng): DiskConfig {
  const latencyUsMax = prng.pick([100, 1_000, 1_000, 10_000])
  return {
    ...DISK_DEFAULTS,
    latencyUsMin: prng.intInclusive(5, 100),
    latencyUsMax,
    slowPerMille: prng.pick([0, 3, 30]),
    slowUs: prng.pick([20_000, 200_000]),
    flushUsMax: prng.pick([200, 5_000, 50_000]),
    discardZeroes: !prng.chance(1, 5),
  }
}

const drawClock = (prng: Prng): Omit<ClockConfig, 'startUs'> => ({
  ratePpm: prng.intInclusive(-500, 500),
  lateUsMax: prng.pick([0, 200, 5_000]),
})

function drawSettings(prng: Prng, choice: WorldChoice): ResourceSettings {
  const volume: VolumeSettings = {
    volume: 0,
    alExtents: prng.pick([67, 67, 257]),
    sizeSectors: 0,
    onIoError: 'detach',
    resyncRateMaxKib: 0,
    resyncRateMinKib: prng.pick([250, 4_096]),
    ...choice.volume,
  }
  return {
    name: 'r0',
    protocol: 'C',
    allowTwoPrimaries: true,
    fencing: FENCING_STONITH,
    fencePeerHandler: true,
    onNoDataAccessible: 'io-error',
    afterSb0p: 0,
    afterSb1p: 0,
    afterSb2p: 0,
    alwaysAsbp: false,
    rrConflict: 0,
    cramHmacAlg: prng.pick(['', '', 'sha1']),
    sharedSecret: 'not a secret',
    dataIntegrityAlg: prng.pick(['', '', 'crc32c']),
    verifyAlg: 'crc32c',
    csumsAlg: prng.pick(['', '', 'sha1']),
    useRle: !prng.chance(1, 4),
    maxEpochSize: prng.pick([1, 8, 2_048, 2_048]),
    pingIntMs: 1_000,
    pingTimeoutMs: 500,
    timeoutMs: 2_000,
    koCount: 3,
    connectIntMs: 1_000,
    socketCheckTimeoutMs: prng.pick([0, 100]),
    inFlightBytesMax: prng.pick([128 * 1024, 4 * MIB]),
    order: drawOrder(prng.fork('order'), choice.order ?? 'arbitration'),
    ...choice.settings,
    volumes: [volume],
  }
}

/** From a generator of its own: other settings of a seed are the same under every order. */
const drawOrder = (prng: Prng, name: OrderName): OrderSettings => ({
  name,
  writeNowAcks: prng.chance(1, 3),
  coordinator: prng.pick(['flag', 'flag', 'local', 'peer'] as const),
  extentBytes: prng.pick([64 * KIB, MIB, 4 * MIB]),
  extentsMax: prng.pick([16, 1237]),
})

/** The settings of one host; the order's are a's, which matters only for who is named as coordinator. */
export function settingsOf({ settings, differences }: WorldOptions, host: HostName): ResourceSettings {
  const { volume, ...own } = differences[host]
  const { coordinator } = settings.order
  const order =
    host === 'a' || coordinator === 'flag'
      ? settings.order
      : { ...settings.order, coordinator: coordinator === 'local' ? ('peer' as const) : ('local' as const) }
  return { ...settings, ...own, order, volumes: settings.volumes.map((each) => ({ ...each, ...volume })) }
}

/** One line for each group, for the head of a run. */
export function describeOptions(options: WorldOptions): string[] {
  const { settings, network, disks, clocks, handlers, differences } = options
  return [
    `device ${options.deviceBytes} bytes, initial sync ${options.initialSync}, primaries ${options.primaries.join(' ')}`,
    `network ${fields(network)}`,
    `disk a ${fields(disks.a)}`,
    `disk b ${fields(disks.b)}`,
    `clock a ${fields(clocks.a)}; b ${fields(clocks.b)}; handlers ${fields(handlers)}`,
    `settings ${fields({ ...settings, order: '', volumes: '' })}`,
    `order ${fields(settings.order)}`,
    ...settings.volumes.map((volume) => `volume ${fields(volume)}`),
    `only a ${JSON.stringify(differences.a)}; only b ${JSON.stringify(differences.b)}`,
  ]
}

const fields = (value: object): string =>
  Object.entries(value)
    .filter(([, field]) => field !== '')
    .map(([name, field]) => `${name}=${field}`)
    .join(' ')
