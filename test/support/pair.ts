// Two replicas in this process behind the real adapters: files, TCP on loopback with a delay, and NBD servers on unix
// sockets. What the lab does with two daemons, this does without daemon, CLI and configuration; and a test may turn a rule
// of the engine off in it, to see that the tests would notice.

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { type DelayedNetwork, delayedNetwork } from '../../src/adapters/delayed-network.ts'
import { type FileDisk, openFileDisk } from '../../src/adapters/file-disk.ts'
import { freePorts } from '../../src/adapters/free-ports.ts'
import { connectNbd, type NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { NbdServer } from '../../src/adapters/nbd-server.ts'
import { PAYLOAD_BUFFERS } from '../../src/adapters/payload-buffers.ts'
import { SystemClock } from '../../src/adapters/system-clock.ts'
import { SystemDigests } from '../../src/adapters/system-digests.ts'
import { SystemEntropy } from '../../src/adapters/system-entropy.ts'
import { TcpNetwork } from '../../src/adapters/tcp-network.ts'
import { defined } from '../../src/base/assert.ts'
import { MIB, SECTOR_BYTES } from '../../src/base/units.ts'
import type { EngineOptions } from '../../src/engine/engine.ts'
import { createMetadata } from '../../src/meta/create.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../src/meta/layout.ts'
import type { NbdExport, NbdExports } from '../../src/nbd/exports.ts'
import type { AdminCommand, AdminResult, ResourceSettings, ResourceStatus } from '../../src/runtime/api.ts'
import type { Handlers, Network } from '../../src/runtime/ports.ts'
import { Replica } from '../../src/runtime/replica.ts'
import { Changes } from './bounded.ts'
import { type DiskPair, otherSide, SIDES, type Side } from './disk-pair.ts'
import { resourceSettings } from './engine-driver.ts'
import { OWN_LOOPBACK } from './loopback.ts'
import { scratchFolder } from './scratch.ts'

export interface PairOptions {
  /** Of the backing files, metadata included. Default 16 MiB. */
  readonly deviceBytes?: number
  readonly linkDelayMs?: number
  readonly alExtents?: number
  readonly settings?: Partial<Omit<ResourceSettings, 'volumes'>>
  readonly engine?: EngineOptions
}

const READY_MS = 15_000
const LOG_LINES_MAX = 2_000
const FENCED = 7
const AL_EXTENTS = 67

/** Ready when it resolves: connected, both UpToDate and Primary. */
export async function startPair(options: PairOptions = {}): Promise<Pair> {
  const ports = await freePorts(2, OWN_LOOPBACK)
  const pair = new Pair(options, { a: ports[0] as number, b: ports[1] as number })
  try {
    await pair.boot()
    return pair
  } catch (error) {
    await pair.stop()
    throw error
  }
}

export class Pair implements DiskPair {
  readonly folder = scratchFolder('coprime-pair-')
  readonly options: PairOptions
  readonly changes = new Changes()
  /** The last lines of both logs. */
  readonly log: string[] = []
  linkDelayMs: number
  readonly #hosts: Readonly<Record<Side, PairHost>>

  constructor(options: PairOptions, ports: Readonly<Record<Side, number>>) {
    this.options = options
    this.linkDelayMs = options.linkDelayMs ?? 0
    this.#hosts = { a: new PairHost(this, 'a', ports), b: new PairHost(this, 'b', ports) }
  }

  host(side: Side): PairHost {
    return this.#hosts[side]
  }

  get sizeBytes(): number {
    const size = this.#hosts.a.status()?.volumes[0]?.sizeSectors ?? this.#hosts.b.status()?.volumes[0]?.sizeSectors
    return defined(size, 'size of the pair') * SECTOR_BYTES
  }

  diskPath(side: Side): string {
    return this.#hosts[side].diskPath
  }

  uri(side: Side): string {
    return `nbd+unix:///r0?socket=${this.#hosts[side].socketPath}`
  }

  connect(side: Side): Promise<NbdConnectionToServer> {
    return connectNbd({ socketPath: this.#hosts[side].socketPath })
  }

  async boot(): Promise<void> {
    for (const side of SIDES) this.#hosts[side].createDisk()
    for (const side of SIDES) await this.#hosts[side].start()
    await this.#until('a connection', (status) => status.connection === 'Connected')
    await this.#hosts.a.command({ type: 'new-current-uuid', volume: 0, clearBitmap: true })
    await this.untilUpToDate()
    for (const side of SIDES) await this.#hosts[side].command({ type: 'primary', force: false })
  }

  /** Both connected, and both disks up to date. */
  untilUpToDate(): Promise<void> {
    return this.#until('both disks UpToDate', ({ volumes: [volume] }) => {
      const inSync = volume?.connection === 'Connected' && volume.outOfSyncBlocks === 0
      return inSync && volume.disk === 'UpToDate' && volume.peerDisk === 'UpToDate'
    })
  }

  async stop(): Promise<void> {
    for (const side of SIDES) await this.#hosts[side].crash()
    this.folder.remove()
  }

  note(line: string): void {
    if (this.log.length === LOG_LINES_MAX) this.log.shift()
    this.log.push(`${performance.now().toFixed(1)} ${line}`)
  }

  describe(): string {
    return SIDES.map((side) => `${side}: ${describeStatus(this.#hosts[side].status())}`).join('\n')
  }

  #until(what: string, holds: (status: ResourceStatus) => boolean): Promise<void> {
    const both = (): boolean =>
      SIDES.every((side) => {
        const status = this.#hosts[side].status()
        return status !== undefined && holds(status)
      })
    return this.changes.until(both, READY_MS, () => `${what}\n${this.describe()}\n${this.log.slice(-40).join('\n')}`)
  }
}

/** One host: a file that outlives the replica, and at most one replica with its NBD server. */
export class PairHost {
  readonly diskPath: string
  readonly socketPath: string
  readonly replicationPort: number
  readonly #pair: Pair
  readonly #side: Side
  readonly #ports: Readonly<Record<Side, number>>
  #running: { replica: Replica; server: NbdServer; network: DelayedNetwork; disk: FileDisk | undefined } | undefined

  constructor(pair: Pair, side: Side, ports: Readonly<Record<Side, number>>) {
    this.#pair = pair
    this.#side = side
    this.#ports = ports
    this.replicationPort = ports[side]
    this.diskPath = join(pair.folder.path, `${side}.disk`)
    this.socketPath = join(pair.folder.path, `${side}.sock`)
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  get network(): DelayedNetwork {
    return defined(this.#running, `replica ${this.#side}`).network
  }

  status(): ResourceStatus | undefined {
    return this.#running?.replica.status()
  }

  /** Fresh metadata on a sparse file. */
  createDisk(): void {
    const deviceBytes = this.#pair.options.deviceBytes ?? 16 * MIB
    const fd = openSync(this.diskPath, 'wx')
    ftruncateSync(fd, deviceBytes)
    const layout = internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY)
    const writes = createMetadata({
      layout,
      geometry: DEFAULT_AL_GEOMETRY,
      alExtents: this.#pair.options.alExtents ?? AL_EXTENTS,
      deviceUuid: new SystemEntropy().u64(),
      kind: 'internal',
    })
    for (const { offsetBytes, data } of writes) writeSync(fd, data, 0, data.length, offsetBytes)
    closeSync(fd)
  }

  /** Attaches, begins to connect, and serves clients. */
  async start(): Promise<void> {
    const pair = this.#pair
    const clock = new SystemClock()
    const network = delayedNetwork(this.#tcpNetwork(), () => pair.linkDelayMs, clock)
    const replica = new Replica(
      settingsOf(pair.options),
      {
        clock,
        network,
        entropy: new SystemEntropy(),
        digests: new SystemDigests(),
        handlers: this.#handlers(),
        buffers: PAYLOAD_BUFFERS,
        openDevices: (_volume, done) => {
          setImmediate(() => {
            if (this.#running?.replica !== replica) return
            const disk = openFileDisk(this.diskPath)
            this.#running.disk = disk
            done(undefined, { data: disk, meta: disk, metaIndex: 'internal' })
          })
        },
        log: (level, message) => pair.note(`${this.#side} ${level}: ${message}`),
        onStatusChange: () => pair.changes.tell(),
      },
      pair.options.engine,
    )
    const server = new NbdServer({
      exports: this.#exports(replica),
      listen: [{ type: 'unix', path: this.socketPath }],
      log: (level, message) => pair.note(`${this.#side} nbd ${level}: ${message}`),
    })
    this.#running = { replica, server, network, disk: undefined }
    await this.command({ type: 'attach', volume: 0 })
    await this.command({ type: 'connect', discardMyData: false })
    await server.listen()
    replica.setOpeners(0)
  }

  /** Rejects unless the result is 0. */
  async command(command: AdminCommand): Promise<AdminResult> {
    const { replica } = defined(this.#running, `replica ${this.#side}`)
    const result = await new Promise<AdminResult>((resolve) => replica.command(command, resolve))
    if (result.code === 0) return result
    throw new Error(`${this.#side}: ${command.type}: ${result.code} ${result.text} ${result.detail ?? ''}`)
  }

  /** The replica is dropped as it is, and its clients lose their connections. The file stays. */
  async crash(): Promise<void> {
    const running = this.#running
    if (running === undefined) return
    this.#running = undefined
    running.replica.abandon()
    await running.server.close(0)
    const { disk } = running
    if (disk !== undefined) await new Promise<void>((resolve) => disk.whenReleased(resolve))
    this.#pair.changes.tell()
  }

  #tcpNetwork(): Network {
    return new TcpNetwork({
      local: { address: OWN_LOOPBACK, port: this.#ports[this.#side] },
      bindOutgoing: true,
      peer: { address: OWN_LOOPBACK, port: this.#ports[otherSide(this.#side)] },
    })
  }

  /** The fencing agent makes sure that the other replica is gone. */
  #handlers(): Handlers {
    return {
      run: (name, _environment, done) => {
        this.#pair.note(`${this.#side} handler ${name}`)
        if (name !== 'fence-peer') setImmediate(() => done(0))
        else
          void this.#pair
            .host(otherSide(this.#side))
            .crash()
            .then(() => done(FENCED))
      },
    }
  }

  #exports(replica: Replica): NbdExports {
    return {
      list: () => [{ name: 'r0', description: `side ${this.#side}` }],
      open: (name) => {
        if (name !== '' && name !== 'r0') return { refused: 'unknown', text: `no export ${name}` }
        return this.#openExport(replica)
      },
    }
  }

  #openExport(replica: Replica): NbdExport {
    const sizeSectors = replica.status().volumes[0]?.sizeSectors ?? 0
    return {
      name: 'r0',
      description: '',
      volume: 0,
      sizeBytes: sizeSectors * SECTOR_BYTES,
      readOnly: false,
      blockSize: { minimum: SECTOR_BYTES, preferred: 4096, maximum: 32 * MIB },
      get admits() {
        return replica.admits
      },
      submit: (request, done) => {
        replica.submit(request, done)
        if (!replica.admits) replica.onAdmission(() => this.#running?.server.reviewAdmission())
      },
      extents: (offsetBytes, lengthBytes, extentsMax) =>
        this.#running?.disk?.extents(offsetBytes, lengthBytes, extentsMax) ?? [{ lengthBytes, hole: false }],
      closed: () => {},
    }
  }
}

function settingsOf(options: PairOptions): ResourceSettings {
  const settings = {
    fencing: 'resource-and-stonith',
    cramHmacAlg: 'sha256',
    sharedSecret: 'not a secret',
    verifyAlg: 'crc32c',
    connectIntMs: 1_000,
    socketCheckTimeoutMs: 0,
    inFlightBytesMax: 16 * MIB,
    ...options.settings,
  } as const
  const volume = { alExtents: options.alExtents ?? AL_EXTENTS, resyncRateMinKib: 4_096 }
  return resourceSettings(settings, [{ settings: volume }])
}

export function describeStatus(status: ResourceStatus | undefined): string {
  if (status === undefined) return 'not running'
  const { connection, role, peerRole, volumes, connectionReason } = status
  const states = volumes.map((v) => `${v.connection} ${v.disk}/${v.peerDisk} out-of-sync ${v.outOfSyncBlocks}`)
  return `${connection} ${role}/${peerRole} ${states.join('; ')}${connectionReason === undefined ? '' : ` (${connectionReason})`}`
}
