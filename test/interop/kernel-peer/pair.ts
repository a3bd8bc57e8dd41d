// One coprime daemon and one kernel as a pair, for all rows of a test file: the guest boots once, each row has its own
// configuration, metadata and daemon.
//
//   coprime (host a) ---- relay ---- guest (host b): drbd.ko 8.4
//   a.img                            vda.img, vdb.img ... (files here, too)
//
// A row ends with `finish`: both are UpToDate and quiet, both go down, and then their disks must be equal byte for byte over
// the data area; the kernel's log must show no protocol error, and coprime's neither.

import assert from 'node:assert/strict'
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { within } from '../../e2e/processes.ts'
import { scratchFolder } from '../../support/scratch.ts'
import { CoprimeHost } from './coprime-host.ts'
import { type ConfSections, coprimeConf, kernelConf, type Options } from './drbd-conf.ts'
import { freePort, Guest } from './guest.ts'
import { KernelHost } from './kernel-host.ts'
import { kernelPeerProblem } from './kernel-image.ts'
import { Relay } from './relay.ts'

export const MIB = 1024 * 1024

/** Disks of the guest. */
export const DEVICES = {
  /** 16 MiB, can discard. */
  main: { device: '/dev/vda', sizeBytes: 16 * MIB, discard: true },
  /** 16 MiB, cannot. */
  noDiscard: { device: '/dev/vdb', sizeBytes: 16 * MIB, discard: false },
  /** 128 MiB: several activity-log extents. */
  large: { device: '/dev/vdc', sizeBytes: 128 * MIB, discard: true },
  /** 4 MiB, for what passes over all of it. */
  small: { device: '/dev/vdd', sizeBytes: 4 * MIB, discard: true },
} as const

export interface RowOptions {
  readonly net?: Options
  readonly disk?: Options
  /** Where the two differ. */
  readonly kernel?: ConfSections
  readonly coprime?: ConfSections
  readonly handlers?: Readonly<Record<string, string>>
  readonly device?: keyof typeof DEVICES
  /** A disk that the guest has made itself, of the size of `device`; its contents cannot be compared here. */
  readonly kernelDisk?: string
}

/** Guests are slow and so may be the machine: nothing is lost for being late, except where a row is about it. */
export const NET: Options = {
  protocol: 'C',
  'ping-timeout': 50,
  'socket-check-timeout': 2,
  timeout: 40,
  'connect-int': 2,
}
/** The kernel's controller begins at 250 KiB a second. */
export const DISK: Options = { 'c-plan-ahead': 0, 'resync-rate': '200M' }

const STORY_CHARACTERS = 20_000

/** What a kernel says when its peer does not keep to the protocol. */
const KERNEL_COMPLAINTS =
  /BAD!|ASSERT|[Uu]nexpected|sock_recvmsg|PingAck did not arrive|short read|magic|Wrong|error receiving|error while|digest|not in sync|protocol error|ProtocolError|Failed to|FAILED|unhandled|unknown packet|Oops|BUG:|Call Trace|bogus|lies beyond|Timed out|ko-count|Barrier ack|incompatible/

export class KernelPair {
  readonly folder: string
  readonly guest: Guest
  readonly relay: Relay
  readonly kernel: KernelHost
  readonly coprime: CoprimeHost
  /** coprime's port, and where the relay listens for each. */
  readonly #ports: { readonly coprime: number; readonly forCoprime: number; readonly forKernel: number }
  #device: (typeof DEVICES)[keyof typeof DEVICES] = DEVICES.main
  #options: RowOptions = {}
  #allowed: RegExp[] = []
  /** The end of the kernel's log that was cleared. */
  #seenLog = ''

  private constructor(folder: string, guest: Guest, relay: Relay, ports: KernelPair['ports']) {
    this.folder = folder
    this.guest = guest
    this.relay = relay
    this.kernel = new KernelHost(guest)
    this.coprime = new CoprimeHost(folder)
    this.#ports = ports
  }

  get ports(): { readonly coprime: number; readonly forCoprime: number; readonly forKernel: number } {
    return this.#ports
  }

  static async start(): Promise<{ readonly pair: KernelPair; stop(): Promise<void> }> {
    const folder = scratchFolder('kp-')
    const disks = Object.values(DEVICES).map(({ device, sizeBytes, discard }) => ({
      path: imageOf(folder.path, device),
      sizeBytes,
      discard,
    }))
    const guest = await Guest.start('b', disks)
    const relay = new Relay()
    const coprime = await freePort()
    const forCoprime = await relay.link('coprime', guest.hostPort)
    const forKernel = await relay.link('kernel', coprime)
    const pair = new KernelPair(folder.path, guest, relay, { coprime, forCoprime, forKernel })
    const stop = async (): Promise<void> => {
      await pair.coprime.kill()
      relay.close()
      await guest.stop()
      folder.remove()
    }
    return { pair, stop }
  }

  /** coprime's backing file. */
  get coprimeImage(): string {
    return join(this.folder, 'a.img')
  }

  /** The kernel's, as a file here. */
  get kernelImage(): string {
    return imageOf(this.folder, this.#device.device)
  }

  // ---- the steps of a row -------------------------------------------------------------------------------------------

  /** Both down and forgotten, both disks empty, new configuration. */
  async begin(options: RowOptions = {}): Promise<void> {
    await this.coprime.kill()
    this.relay.heal()
    await this.#releaseKernel()
    this.#isDown = false
    this.#allowed = []
    this.#seenLog = ''
    this.#device = DEVICES[options.device ?? 'main']
    emptyFile(this.coprimeImage, this.#device.sizeBytes)
    emptyFile(this.kernelImage, this.#device.sizeBytes)
    this.coprime.clearLog()
    await this.configure(options)
    await this.guest.dmesg({ clear: true })
  }

  /** Writes both configurations; a running daemon does not see it before its next start. */
  async configure(options: RowOptions): Promise<void> {
    this.#options = options
    await this.reconfigureKernel()
    this.coprime.configure(this.coprimeConf(this.coprimeImage))
  }

  /** A guest that has booted again has forgotten all. */
  async reconfigureKernel(): Promise<void> {
    const options = this.#options
    const device = options.kernelDisk ?? this.#device.device
    await this.kernel.configure(
      kernelConf({
        device,
        peerPort: this.#ports.forKernel,
        net: { ...NET, ...options.net, ...options.kernel?.net },
        disk: { ...DISK, ...options.disk, ...options.kernel?.disk },
      }),
      device,
    )
  }

  /** With another backing disk, perhaps. */
  coprimeConf(image: string): string {
    const options = this.#options
    return coprimeConf({
      image,
      port: this.#ports.coprime,
      peerPort: this.#ports.forCoprime,
      nbdSocket: this.coprime.nbdSocket,
      net: { ...NET, ...options.net, ...options.coprime?.net },
      disk: { ...DISK, ...options.disk, ...options.coprime?.disk },
      ...(options.handlers === undefined ? {} : { handlers: options.handlers }),
    })
  }

  /** Metadata on both disks, and the daemon runs. */
  async create(): Promise<void> {
    await this.coprime.run('create-md', '--force', 'r0')
    await this.kernel.drbdadm('create-md --force r0')
    await this.coprime.start()
  }

  async up(): Promise<void> {
    await Promise.all([this.kernel.drbdadm('up r0'), this.coprime.command({ command: 'up' })])
  }

  /** Two new disks, both UpToDate, without a resync. */
  async inSync(options: RowOptions = {}): Promise<void> {
    await this.begin(options)
    await this.create()
    await this.up()
    await this.connected()
    await this.kernel.drbdadm('new-current-uuid --clear-bitmap r0/0')
    await this.clean()
  }

  async connected(): Promise<void> {
    await this.coprime.until('connected', ({ volume }) => volume.connection === 'Connected')
    await this.kernel.until('connected', ({ connection }) => connection === 'Connected')
  }

  /** Connected, both UpToDate, nothing out of sync. */
  async clean(timeoutMs = 90_000): Promise<void> {
    await this.coprime.until(
      'in sync',
      ({ volume }) =>
        volume.connection === 'Connected' &&
        volume.disk === 'UpToDate' &&
        volume.peerDisk === 'UpToDate' &&
        volume.outOfSyncBlocks === 0,
      timeoutMs,
    )
    await this.kernel.until(
      'in sync',
      (state) =>
        state.connection === 'Connected' &&
        state.disk === 'UpToDate' &&
        state.peerDisk === 'UpToDate' &&
        state.outOfSyncKib === 0,
      timeoutMs,
    )
  }

  /** Neither is connected; the Primary, if there is one, knows it. */
  async apart(): Promise<void> {
    await this.coprime.until('apart', ({ volume }) => !/^(Connected|Sync|Paused|WFBit)/.test(volume.connection))
    await this.kernel.until('apart', ({ connection }) => !/^(Connected|Sync|Paused|WFBit)/.test(connection))
  }

  /** A complaint that this row is about. */
  allow(...patterns: RegExp[]): void {
    this.#allowed.push(...patterns)
  }

  /** In the state that a row has to leave: demotes, waits, takes both down and compares. */
  async finish(): Promise<void> {
    this.relay.heal()
    await this.clean()
    if ((await this.coprime.state()).role === 'Primary') await this.coprime.secondary()
    if ((await this.kernel.state()).role === 'Primary') await this.kernel.drbdadm('secondary r0')
    await this.clean()
    const sectors = await this.kernel.sizeSectors()
    assert.equal((await this.coprime.state()).volume.sizeSectors, sectors, 'both have the same size')
    assert.ok(sectors > 0)
    await this.kernel.drbdadm('down r0')
    await this.coprime.command({ command: 'down' })
    await this.coprime.stop()
    this.#isDown = true
    this.compareDisks(sectors * 512)
    await this.checkLogs()
  }

  compareDisks(lengthBytes: number): void {
    const offsetBytes = firstDifference(this.coprimeImage, this.kernelImage, lengthBytes)
    assert.equal(offsetBytes, undefined, `the disks differ at byte ${offsetBytes} of ${lengthBytes}`)
  }

  /** `clear`: what was looked at is not looked at again. */
  async checkLogs({ clear = false } = {}): Promise<void> {
    const allowed = (line: string): boolean => this.#allowed.some((pattern) => pattern.test(line))
    const text = await this.guest.dmesg({ clear })
    if (clear) this.#seenLog = (this.#seenLog + text).slice(-STORY_CHARACTERS)
    const kernel = text.split('\n').filter((line) => KERNEL_COMPLAINTS.test(line) && !allowed(line))
    assert.deepEqual(kernel, [], 'complaints of the kernel')
    const coprime = this.coprime.log().filter(({ level, msg }) => /error|fatal/.test(level) && !allowed(msg))
    assert.deepEqual(coprime, [], 'complaints of coprime')
  }

  /** What both have said since the row began, for a failure. */
  async story(): Promise<string> {
    const text = this.#seenLog + (await this.guest.dmesg())
    const kernel = text.split('\n').filter((line) => /drbd|BUG|Oops|fault|CR2|Code:/.test(line))
    const coprime = this.coprime.log().map(({ level, msg }) => `${level}: ${msg}`)
    const proc = (await this.guest.run('cat /proc/drbd')).stdout
    return `--- kernel\n${kernel.slice(-60).join('\n')}\n${proc}\n--- coprime\n${coprime.slice(-60).join('\n')}`
  }

  /** A row that ended well left the kernel down. */
  #isDown = false

  async #releaseKernel(): Promise<void> {
    if (this.#isDown) return
    const { code } = await this.guest.run(
      'drbdadm disconnect --force r0; drbdadm secondary r0; drbdadm down r0',
      20_000,
    )
    if (code === 0 && (await this.kernel.state()).connection === 'Unconfigured') return
    // A row before has left it in a state that it does not come out of.
    await this.guest.powerOff()
    await this.guest.boot()
  }
}

const imageOf = (folder: string, device: string): string => join(folder, `${device.replace('/dev/', '')}.img`)

export function emptyFile(path: string, sizeBytes: number): void {
  const fd = openSync(path, 'a+')
  try {
    ftruncateSync(fd, 0)
    ftruncateSync(fd, sizeBytes)
  } finally {
    closeSync(fd)
  }
}

/** Byte offset; undefined: none in the first `lengthBytes`. */
export function firstDifference(pathA: string, pathB: string, lengthBytes: number): number | undefined {
  const a = readRange(pathA, 0, lengthBytes)
  const b = readRange(pathB, 0, lengthBytes)
  if (a.equals(b)) return undefined
  for (let i = 0; i < lengthBytes; i++) if (a[i] !== b[i]) return i
  return undefined
}

export function readRange(path: string, offsetBytes: number, lengthBytes: number): Buffer {
  const fd = openSync(path, 'r')
  try {
    const bytes = Buffer.alloc(lengthBytes)
    assert.equal(readSync(fd, bytes, 0, lengthBytes, offsetBytes), lengthBytes, `${path} is long enough`)
    return bytes
  } finally {
    closeSync(fd)
  }
}

export function writeRange(path: string, offsetBytes: number, data: Uint8Array): void {
  const fd = openSync(path, 'r+')
  try {
    assert.equal(writeSync(fd, data, 0, data.length, offsetBytes), data.length)
  } finally {
    closeSync(fd)
  }
}

// ---- rows -------------------------------------------------------------------------------------------------------------

const ROW_LIMIT_MS = 300_000
const STORY_LIMIT_MS = 40_000

type Run = (pair: KernelPair) => Promise<void>

export interface RowAdder {
  (name: string, run: Run): void
  /** One of the few that stand for all where there is little time (`npm test`). */
  short(name: string, run: Run): void
}

/**
 * A test file's rows, one after the other with one guest. Where there can be no guest they are skipped with the reason, but
 * not in CI, where nobody would see it. COPRIME_KERNEL_ROWS=short runs the short form.
 */
export function rows(title: string, add: (row: RowAdder) => void): void {
  const problem = kernelPeerProblem()
  const skip = process.env['CI'] === undefined ? problem : false
  const list: { readonly name: string; readonly run: Run }[] = []
  const only = process.env['COPRIME_ROW'] ?? ''
  const isShort = process.env['COPRIME_KERNEL_ROWS'] === 'short'
  const take = (name: string, run: Run): void => {
    if (name.includes(only)) list.push({ name, run })
  }
  const row = (name: string, run: Run): void => {
    if (!isShort) take(name, run)
  }
  add(Object.assign(row, { short: take }))
  if (list.length === 0) return
  test(title, { skip }, async (t: TestContext) => {
    const { pair, stop } = await KernelPair.start()
    try {
      for (const { name, run } of list) {
        await t.test(name, { timeout: ROW_LIMIT_MS }, () => runRow(pair, run))
      }
    } finally {
      await stop()
    }
  })
}

async function runRow(pair: KernelPair, run: (pair: KernelPair) => Promise<void>): Promise<void> {
  try {
    // Not left to the runner: it would tell nothing of where the row stands.
    await within(ROW_LIMIT_MS - STORY_LIMIT_MS, 'the row', run(pair))
  } catch (error) {
    const story = await pair.story().catch((cause: unknown) => `(no story: ${String(cause)})`)
    throw new Error(`${error instanceof Error ? error.message : String(error)}\n${story}`, { cause: error })
  }
}
