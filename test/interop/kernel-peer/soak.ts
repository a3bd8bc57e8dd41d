// Random operations of coprime and a kernel as a pair, drawn from one seed: writes of all kinds from both sides, also to the
// same blocks, role changes, disconnects, cuts, crashes of the daemon, power failures of the guest, verify, full resyncs. After
// every operation the pair must come back to rest; every few of them, and at the end, the disks are compared byte by byte.
//
// A seed decides what is done, not when: two real systems run. So a seed repeats the operations of a failure, not its timing.

import assert from 'node:assert/strict'
import { Prng } from '../../../src/base/prng.ts'
import { type KernelPair, MIB } from './pair.ts'

const KIB = 1024
const COMPARE_EVERY = 8
/** Of the data that operations touch. */
const SPAN_BYTES = 12 * MIB
/** Where both sides write at the same time. */
const HOT_BYTES = 256 * KIB
/** Of links that this takes away on purpose; and of conflicts, as between two kernels (two-kernels.ts). */
const EXPECTED =
  /sock_recvmsg|short read|error receiving|error while|PingAck|Timed out|Failed to|failed|current_epoch->list not empty|RQ_NET_PENDING/

export interface SoakOptions {
  readonly seed: number
  readonly minutes: number
  print(line: string): void
  /** After each operation that was clean. */
  onOperationEnd?(): void
}

type Operation = (soak: Soak) => Promise<void>

const OPERATIONS: readonly (readonly [weight: number, name: string, run: Operation])[] = [
  [8, 'coprime writes', (soak) => soak.asPrimary('coprime', () => soak.coprimeWrites(40, SPAN_BYTES))],
  [6, 'kernel writes', (soak) => soak.asPrimary('kernel', () => soak.kernelWrites(20, SPAN_BYTES))],
  [8, 'both write the same blocks', (soak) => soak.bothWrite()],
  [3, 'coprime is demoted', (soak) => soak.demote('coprime')],
  [3, 'the kernel is demoted', (soak) => soak.demote('kernel')],
  [4, 'parted and joined by command', (soak) => soak.apart('command')],
  [4, 'the link is cut and healed', (soak) => soak.apart('cut')],
  [3, 'the daemon is killed and restarted', (soak) => soak.crashCoprime()],
  [1, 'the guest loses its power and boots again', (soak) => soak.crashKernel()],
  [1, 'verify', (soak) => soak.verify()],
  [1, 'full resync', (soak) => soak.fullResync()],
]

export class Soak {
  readonly #pair: KernelPair
  readonly #prng: Prng
  readonly #options: SoakOptions
  /** Sides that are Primary now. */
  readonly #primary = new Set<'coprime' | 'kernel'>()
  operations = 0

  constructor(pair: KernelPair, options: SoakOptions) {
    this.#pair = pair
    this.#options = options
    this.#prng = new Prng(options.seed)
  }

  async run(): Promise<void> {
    const pair = this.#pair
    const csumsAlg = this.#prng.pick(['', 'sha1', 'crc32c'])
    await pair.inSync({
      net: {
        'allow-two-primaries': true,
        'verify-alg': 'crc32c',
        ...(csumsAlg === '' ? {} : { 'csums-alg': csumsAlg }),
      },
    })
    pair.allow(EXPECTED)
    const deadlineMs = performance.now() + this.#options.minutes * 60_000
    while (performance.now() < deadlineMs) {
      const [name, run] = this.#draw()
      this.operations++
      this.#options.print(`${this.operations}: ${name}`)
      await run(this)
      await pair.clean()
      await pair.checkLogs({ clear: true })
      this.#options.onOperationEnd?.()
      if (this.operations % COMPARE_EVERY === 0) await this.#compare()
    }
    await pair.finish()
  }

  #draw(): readonly [string, Operation] {
    const total = OPERATIONS.reduce((sum, [weight]) => sum + weight, 0)
    let drawn = this.#prng.intInclusive(1, total)
    for (const [weight, name, run] of OPERATIONS) {
      drawn -= weight
      if (drawn <= 0) return [name, run]
    }
    throw new Error('the weights do not add up')
  }

  async #compare(): Promise<void> {
    const sectors = await this.#pair.kernel.sizeSectors()
    this.#pair.compareDisks(sectors * 512)
  }

  // ---- writes -------------------------------------------------------------------------------------------------------

  async asPrimary(side: 'coprime' | 'kernel', run: () => Promise<void>): Promise<void> {
    if (!this.#primary.has(side)) {
      if (side === 'coprime') await this.#pair.coprime.primary()
      else await this.#pair.kernel.drbdadm('primary r0')
      this.#primary.add(side)
    }
    await run()
  }

  async coprimeWrites(count: number, spanBytes: number): Promise<void> {
    const nbd = await this.#pair.coprime.nbd()
    const prng = this.#prng
    const open: Promise<void>[] = []
    for (let i = 0; i < count; i++) {
      const lengthBytes = 512 * prng.pick([1, 3, 8, 8, 16, 64, 255])
      const offsetBytes = 512 * prng.intInclusive(0, (spanBytes - lengthBytes) / 512)
      const kind = prng.intInclusive(0, 9)
      if (kind === 0) open.push(nbd.trim(offsetBytes, lengthBytes))
      else if (kind === 1) open.push(nbd.writeZeroes(offsetBytes, lengthBytes))
      else if (kind === 2) open.push(nbd.flush())
      else {
        const data = new Uint8Array(lengthBytes)
        prng.fill(data)
        open.push(nbd.write(offsetBytes, data, { fua: kind === 3 }))
      }
      if (prng.chance(1, 4)) await Promise.all(open.splice(0))
    }
    await Promise.all(open)
  }

  async kernelWrites(count: number, spanBytes: number): Promise<void> {
    const prng = this.#prng
    const lines: string[] = []
    for (let i = 0; i < count; i++) {
      const lengthBytes = 512 * prng.pick([1, 3, 8, 8, 16, 64])
      const offsetBytes = 512 * prng.intInclusive(0, (spanBytes - lengthBytes) / 512)
      const flags = prng.chance(1, 8) ? 'direct,dsync,seek_bytes' : 'direct,seek_bytes'
      const write = `gdd if=/dev/urandom of=/dev/drbd0 bs=${lengthBytes} count=1 seek=${offsetBytes} oflag=${flags} conv=notrunc status=none`
      const discard = `ublkdiscard -f -o ${offsetBytes} -l ${lengthBytes} /dev/drbd0`
      lines.push(`${prng.chance(1, 8) ? discard : write} || exit 1${prng.chance(1, 3) ? '' : ' &'}`)
    }
    await this.#pair.guest.sh(`${lines.map((line) => line.replace(' || exit 1 &', ' &')).join('\n')}\nwait`, 120_000)
  }

  async bothWrite(): Promise<void> {
    this.#pair.relay.delay(this.#prng.pick([0, 2, 10]))
    await this.asPrimary('coprime', async () => {})
    await this.asPrimary('kernel', async () => {})
    await Promise.all([this.coprimeWrites(200, HOT_BYTES), this.kernelWrites(30, HOT_BYTES)])
    this.#pair.relay.delay(0)
  }

  // ---- roles and connections ------------------------------------------------------------------------------------------

  async demote(side: 'coprime' | 'kernel'): Promise<void> {
    if (!this.#primary.delete(side)) return
    if (side === 'coprime') await this.#pair.coprime.secondary()
    else await this.#pair.kernel.drbdadm('secondary r0')
  }

  /** Who goes on alone: at most one side is Primary then, or their data would part for good. */
  async #leaveOnePrimary(): Promise<'coprime' | 'kernel'> {
    const alone = this.#prng.pick(['coprime', 'kernel'] as const)
    await this.demote(alone === 'coprime' ? 'kernel' : 'coprime')
    return alone
  }

  async apart(how: 'command' | 'cut'): Promise<void> {
    const pair = this.#pair
    const alone = await this.#leaveOnePrimary()
    await this.asPrimary(alone, async () => {})
    if (how === 'cut') pair.relay.cut()
    else if (this.#prng.chance(1, 2)) await pair.coprime.command({ command: 'disconnect' })
    else await pair.kernel.drbdadm('disconnect r0')
    await pair.apart()
    if (this.#prng.chance(3, 4)) {
      if (alone === 'coprime') await this.coprimeWrites(20, SPAN_BYTES)
      else await this.kernelWrites(10, SPAN_BYTES)
    }
    pair.relay.heal()
    if (how === 'cut') return
    if ((await pair.coprime.state()).connection === 'StandAlone') await pair.coprime.command({ command: 'connect' })
    else await pair.kernel.drbdadm('connect r0')
  }

  async crashCoprime(): Promise<void> {
    const pair = this.#pair
    // With a Primary kernel beside it, or alone as Primary: then its own log of hot extents has to do it.
    if (this.#prng.chance(1, 2)) await this.demote('kernel')
    this.#primary.delete('coprime')
    await pair.coprime.kill()
    await pair.kernel.until('alone', ({ connection }) => connection === 'WFConnection')
    if (this.#primary.has('kernel')) await this.kernelWrites(10, SPAN_BYTES)
    await pair.coprime.start()
    await pair.coprime.command({ command: 'up' })
  }

  async crashKernel(): Promise<void> {
    const pair = this.#pair
    await this.demote('coprime')
    this.#primary.delete('kernel')
    const { coprime } = pair
    await pair.guest.powerOff()
    await coprime.until('alone', ({ volume }) => volume.connection !== 'Connected')
    await pair.guest.boot()
    await pair.reconfigureKernel()
    await pair.kernel.drbdadm('up r0')
  }

  async verify(): Promise<void> {
    const pair = this.#pair
    if (this.#prng.chance(1, 2)) await pair.coprime.command({ command: 'verify' })
    else await pair.kernel.drbdadm('verify r0')
    await pair.kernel.until('done', ({ connection }) => connection === 'Connected', 180_000)
    const { volume } = await pair.coprime.until('done', (state) => state.volume.connection === 'Connected')
    assert.equal(volume.outOfSyncBlocks, 0, 'verify found a difference')
  }

  async fullResync(): Promise<void> {
    const target = this.#prng.pick(['coprime', 'kernel'] as const)
    await this.demote(target)
    if (target === 'coprime') await this.#pair.coprime.command({ command: 'invalidate' })
    else await this.#pair.kernel.drbdadm('invalidate r0')
  }
}
