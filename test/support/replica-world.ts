// Ports for replicas in memory: a clock that the test moves, disks that complete when it says so, links that carry bytes. Nothing
// ever happens inside a call, as ports.ts demands.

import assert from 'node:assert/strict'
import { Prng } from '../../src/base/prng.ts'
import { createMetadata } from '../../src/meta/create.ts'
import { DEFAULT_AL_GEOMETRY, flexibleExternalLayout } from '../../src/meta/layout.ts'
import {
  decodeSuperblock,
  encodeSuperblock,
  MDF_AL_CLEAN,
  MDF_CONSISTENT,
  MDF_WAS_UPTODATE,
} from '../../src/meta/superblock.ts'
import type { ResourceSettings } from '../../src/runtime/api.ts'
import type {
  Clock,
  Disk,
  DiskDone,
  DiskError,
  DiskExtent,
  Link,
  LinkHandler,
  Network,
} from '../../src/runtime/ports.ts'
import { Replica } from '../../src/runtime/replica.ts'
import { SimDigests } from '../../src/sim/digests.ts'
import { PoisoningPool } from '../../src/sim/poisoning-pool.ts'
import { GENERATION, MemoryDisk, resourceSettings, type VolumeOptions } from './engine-driver.ts'

const META_BYTES = 1024 * 1024
const LAYOUT = flexibleExternalLayout(META_BYTES, DEFAULT_AL_GEOMETRY)

export class World implements Clock {
  #nowMs = 1000
  /** A seed for each replica. */
  seeds = 0
  looksAtTheClock = 0
  readonly #tasks: (() => void)[] = []
  #alarms: { readonly atMs: number; readonly fire: () => void }[] = []

  later(task: () => void): void {
    this.#tasks.push(task)
  }

  nowMs(): number {
    this.looksAtTheClock++
    return this.#nowMs
  }

  wakeAt(deadlineMs: number, fire: () => void): { cancel(): void } {
    const alarm = { atMs: deadlineMs, fire }
    this.#alarms.push(alarm)
    return {
      cancel: () => {
        this.#alarms = this.#alarms.filter((other) => other !== alarm)
      },
    }
  }

  get alarms(): number {
    return this.#alarms.length
  }

  /** Everything that is due now. */
  run(): void {
    for (let steps = 0; ; steps++) {
      assert.ok(steps < 100_000, 'the world comes to rest')
      const task = this.#tasks.shift()
      if (task !== undefined) {
        task()
        continue
      }
      const due = this.#alarms.find((alarm) => alarm.atMs <= this.#nowMs)
      if (due === undefined) return
      this.#alarms = this.#alarms.filter((alarm) => alarm !== due)
      due.fire()
    }
  }

  advance(ms: number): void {
    const until = this.#nowMs + ms
    this.run()
    for (;;) {
      const next = Math.min(...this.#alarms.map(({ atMs }) => atMs))
      if (next > until) break
      this.#nowMs = Math.max(this.#nowMs, next)
      this.run()
    }
    this.#nowMs = until
  }
}

interface QueuedOperation {
  readonly text: string
  finish(error?: DiskError): void
}

export class TestDisk implements Disk {
  readonly sizeBytes: number
  readonly discardZeroes = true
  readonly bytes: MemoryDisk
  hold: (text: string) => boolean = () => false
  held: QueuedOperation[] = []
  readonly log: string[] = []
  readonly #world: World
  #closed = false

  constructor(world: World, bytes: MemoryDisk) {
    this.#world = world
    this.bytes = bytes
    this.sizeBytes = bytes.sizeBytes
  }

  read(offsetBytes: number, lengthBytes: number, done: DiskDone): void {
    this.#submit(`read ${offsetBytes}+${lengthBytes}`, done, () => this.bytes.read(offsetBytes, lengthBytes))
  }

  write(offsetBytes: number, data: Uint8Array, done: DiskDone): void {
    this.#submit(`write ${offsetBytes}+${data.length}`, done, () => {
      this.bytes.write(offsetBytes, data)
      return undefined
    })
  }

  zero(offsetBytes: number, lengthBytes: number, _unmap: boolean, done: DiskDone): void {
    this.#submit(`zero ${offsetBytes}+${lengthBytes}`, done, () => {
      this.bytes.zero(offsetBytes, lengthBytes)
      return undefined
    })
  }

  flush(done: DiskDone): void {
    this.#submit('flush', done, () => undefined)
  }

  isHole(offsetBytes: number, lengthBytes: number): boolean {
    return this.bytes.isHole(offsetBytes, lengthBytes)
  }

  extents(_offsetBytes: number, lengthBytes: number): DiskExtent[] {
    return [{ lengthBytes, hole: false }]
  }

  close(): void {
    this.#closed = true
  }

  get closed(): boolean {
    return this.#closed
  }

  #submit(text: string, done: DiskDone, apply: () => Uint8Array | undefined): void {
    this.log.push(text)
    const finish = (error?: DiskError): void =>
      this.#world.later(() => {
        if (this.#closed) return
        if (error !== undefined) done(error)
        else done(undefined, apply())
      })
    if (this.hold(text)) this.held.push({ text, finish })
    else finish()
  }
}

export class TestLink implements Link {
  readonly #world: World
  #handler: LinkHandler | undefined
  #waiting: Uint8Array[] = []
  #paused = false
  other: TestLink | undefined
  closed = false
  queuedBytes = 0
  /** Number of calls of `send`. */
  sends = 0

  constructor(world: World) {
    this.#world = world
  }

  get paused(): boolean {
    return this.#paused
  }

  setHandler(handler: LinkHandler): void {
    this.#handler = handler
    this.#deliver()
  }

  send(chunks: readonly Uint8Array[]): void {
    assert.equal(this.closed, false, 'bytes are sent on an open link')
    this.sends++
    const { other } = this
    if (other === undefined || other.closed) return
    other.#waiting.push(Uint8Array.from(Buffer.concat(chunks)))
    this.#world.later(() => other.#deliver())
  }

  pauseReading(): void {
    this.#paused = true
  }

  resumeReading(): void {
    this.#paused = false
    this.#world.later(() => this.#deliver())
  }

  close(): void {
    if (this.closed) return
    this.closed = true
    const { other } = this
    if (other === undefined || other.closed) return
    this.#world.later(() => {
      other.#deliver()
      if (other.closed) return
      other.closed = true
      other.#handler?.onClose('closed by the other side')
    })
  }

  drained(): void {
    this.queuedBytes = 0
    this.#handler?.onDrain()
  }

  #deliver(): void {
    while (!this.closed && !this.#paused && this.#handler !== undefined) {
      const chunk = this.#waiting.shift()
      if (chunk === undefined) return
      this.#handler.onData(chunk)
    }
  }
}

/** The replication port of one host. */
export class TestNetwork implements Network {
  readonly #world: World
  #onLink: ((link: Link) => void) | undefined
  peer: TestNetwork | undefined
  readonly links: TestLink[] = []
  reachable = true

  constructor(world: World) {
    this.#world = world
  }

  get listening(): boolean {
    return this.#onLink !== undefined
  }

  connect(_timeoutMs: number, onUp: (link: Link) => void, onFailure: (reason: string) => void): { cancel(): void } {
    let cancelled = false
    this.#world.later(() => {
      if (cancelled) return
      const { peer } = this
      if (peer === undefined || !peer.reachable || peer.#onLink === undefined) {
        onFailure('connection refused')
        return
      }
      onUp(peer.accept(this))
    })
    return {
      cancel: () => {
        cancelled = true
      },
    }
  }

  listen(onLink: (link: Link) => void): void {
    this.#onLink = onLink
  }

  stopListening(): void {
    this.#onLink = undefined
  }

  /** A connection to this port; returns the end of whoever dialled. */
  accept(from?: TestNetwork): TestLink {
    const here = new TestLink(this.#world)
    const there = new TestLink(this.#world)
    here.other = there
    there.other = here
    this.links.push(here)
    from?.links.push(there)
    this.#onLink?.(here)
    return there
  }
}

export interface TestReplica {
  readonly replica: Replica
  readonly network: TestNetwork
  readonly data: readonly TestDisk[]
  readonly logs: string[]
  /** Runs a command to its end. */
  command(command: Parameters<Replica['command']>[0]): number
}

export function testReplica(
  world: World,
  options: {
    readonly settings?: Partial<Omit<ResourceSettings, 'volumes'>>
    readonly volumes?: readonly VolumeOptions[]
    readonly openError?: { readonly code: number; readonly message: string }
  } = {},
): TestReplica {
  const volumes = options.volumes ?? [{}]
  const network = new TestNetwork(world)
  const logs: string[] = []
  const data = volumes.map((volume) => new TestDisk(world, new MemoryDisk((volume.dataSectors ?? 2048) * 512)))
  const meta = volumes.map((volume) => new TestDisk(world, formatted(volume.dataSectors ?? 2048)))
  const replica = new Replica(resourceSettings(options.settings ?? {}, volumes), {
    clock: world,
    entropy: new Prng(++world.seeds),
    network,
    digests: new SimDigests(),
    buffers: new PoisoningPool(),
    handlers: { run: (_name, _environment, done) => world.later(() => done(7)) },
    openDevices: (volume, done) =>
      world.later(() => {
        const [one, other] = [data[volume], meta[volume]]
        if (options.openError !== undefined || one === undefined || other === undefined) done(options.openError)
        else done(undefined, { data: one, meta: other, metaIndex: 'flexible' })
      }),
    log: (_level, message) => logs.push(message),
    onStatusChange: () => {},
  })
  const command = (what: Parameters<Replica['command']>[0]): number => {
    let code: number | undefined
    replica.command(what, (result) => {
      code = result.code
    })
    world.run()
    assert.ok(code !== undefined, `${what.type} has a result`)
    return code
  }
  return { replica, network, data, logs, command }
}

function formatted(dataSectors: number): MemoryDisk {
  const meta = new MemoryDisk(META_BYTES)
  const creation = { layout: LAYOUT, geometry: DEFAULT_AL_GEOMETRY, alExtents: 67, deviceUuid: 7n } as const
  for (const write of createMetadata({ ...creation, kind: 'flexible' })) meta.write(write.offsetBytes, write.data)
  const created = decodeSuperblock(meta.read(LAYOUT.superblockOffsetBytes, 4096))
  const flags = MDF_AL_CLEAN | MDF_CONSISTENT | MDF_WAS_UPTODATE
  const used = { ...created, current: GENERATION, laSizeSectors: dataSectors, flags }
  meta.write(LAYOUT.superblockOffsetBytes, encodeSuperblock(used))
  return meta
}
